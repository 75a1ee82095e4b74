#!/usr/bin/env bash
# Figure 2 of the paper: noise learned on a ViT's patch embeddings, over its sampling limit, beside its controls.
#
#   examples/figure2.sh [VITNULL OPTION...]                          the embedded model and drawings, offline
#   DATA=imagenette2 MODEL=vit_small_patch32_224 LEARN= examples/figure2.sh --device cuda
#
# DATA has train/ and val/ with class folders. LEARN holds options of learn-noise; without any, its defaults are CPAL's.
set -euo pipefail
DEMO="--fraction 0.5 --rounds 4 --step-images 50 --lr 0.1" # quick, and for noise of this size
: "${DATA:=demo}" "${MODEL:=demo}" "${OUT:=figures}" "${LIMITS:=1 2 4 8}" "${LEARN=$DEMO}"

# shellcheck disable=SC2046,SC2086
vitnull learn-noise "$MODEL" --data "$DATA" --level encoder $(printf -- '--limit %s ' $LIMITS) $LEARN \
    --transform squash --out-dir "$OUT" --resume "$@"
vitnull eval "$MODEL" "$OUT"/*.encoder.lim*.noise.safetensors --data "$DATA" --transform squash \
    --out "$OUT/figure2.json" --csv "$OUT/figure2.csv" --plot "$OUT/figure2.png" --force "$@"
