#!/usr/bin/env bash
# A mark made with each Pillow, read with each: how much of the model's input differs from the source's.
#
#   examples/pillow_versions.sh PICTURE [VERSION...]     Pillow's versions are fetched; the rest is the environment's
set -euo pipefail
PICTURE="$1" && shift
: "${OUT:=pillows}"
[ $# -gt 0 ] || set -- 11.0.0 11.3.0 12.0.0 12.3.0 13.0.0

for version in "$@"; do
    [ -d "$OUT/$version" ] || python -m pip install --quiet --no-deps --target "$OUT/$version" "pillow==$version"
done
echo "| made with | $(printf 'read with %s | ' "$@")"
echo "| --- |$(printf ' --- |%.0s' "$@")"
for made in "$@"; do
    marked="$OUT/$made.png"
    PYTHONPATH="$OUT/$made:${PYTHONPATH:-}" vitnull watermark "$PICTURE" --text "(c) 2026" --out "$marked" --force >&2
    row="| $made |"
    for read in "$@"; do
        report="$(PYTHONPATH="$OUT/$read" python "$(dirname "$0")/readers.py" "$PICTURE" "$marked")"
        [ "${report%%$'\n'*}" = "Pillow $read" ] || { echo "not read with Pillow $read" >&2 && exit 1; }
        row+="$(grep "model's own" <<< "$report" | cut -d '|' -f 3) |"
    done
    echo "$row"
done
