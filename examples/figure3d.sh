#!/usr/bin/env bash
# Figure 3 once more, with noise that nobody has to learn: what first layers do not read, of ViTs and of CNNs, whose
# overlapping windows the paper leaves out. Exact where there is any, else near: what is read by at most RTOL of the most.
#
#   examples/figure3d.sh [VITNULL OPTION...]                         the embedded models and drawings, offline
#   DATA=imagenette2 MODELS=$'vit_small_patch32_224\nresnet50 --model-kwargs num_classes=0' examples/figure3d.sh
set -euo pipefail
: "${DATA:=demo}" "${MODELS:=$'demo\ndemo-cnn'}" "${OUT:=figures}" "${SIGMAS:=0.01 0.03 0.1 0.3 1}" "${RTOLS:=0.1 0.04}"

mkdir -p "$OUT"
results=()
while read -r model options; do # a model and its options a line
    # shellcheck disable=SC2206
    given=("$model" $options "$@")
    stem=$OUT/${model//\//_} files=() code=0
    vitnull basis "${given[@]}" --no-preview --force --out "$stem.exact.safetensors" || code=$?
    if [ $code -eq 0 ]; then
        files=("$stem.exact.safetensors")
    elif [ $code -eq 5 ]; then
        for rtol in $RTOLS; do
            near=$stem.near$rtol.safetensors
            vitnull basis "${given[@]}" --rtol "$rtol" --no-check --no-preview --force --out "$near" && files+=("$near")
        done
    fi
    [ ${#files[@]} -gt 0 ] || exit "$code"
    # shellcheck disable=SC2046,SC2086
    vitnull eval "${given[@]}" "${files[@]}" --data "$DATA" $(printf -- '--sigma %s ' $SIGMAS) --controls uniform \
        --out "$stem.null.json" --force
    results+=(--results "$stem.null.json")
done <<<"$MODELS"
vitnull eval "${results[@]}" --plot "$OUT/figure3d.png" --force
