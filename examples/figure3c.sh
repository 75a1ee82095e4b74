#!/usr/bin/env bash
# Figure 3c of the paper: a ViT's input-level noise on other models. Pixels are what they share.
#
#   examples/figure3c.sh [VITNULL OPTION...]                         the embedded models and drawings, offline
#   DATA=imagenette2 MODEL=vit_small_patch32_224 LEARN= \
#       OTHERS="vit_base_patch32_224 resnet50 efficientnet_b0 mobilenetv3_small_100 swin_tiny_patch4_window7_224" \
#       examples/figure3c.sh --device cuda
set -euo pipefail
DEMO="--fraction 0.5 --rounds 4 --step-images 50 --lr 0.1" # quick, and for noise of this size
: "${DATA:=demo}" "${MODEL:=demo}" "${OTHERS:=demo-cnn}" "${OUT:=figures}" "${LIMITS:=1 2 4 8}"
: "${LEARN=$DEMO}"

# shellcheck disable=SC2046,SC2086
vitnull learn-noise "$MODEL" --data "$DATA" --level input $(printf -- '--limit %s ' $LIMITS) $LEARN \
    --transform squash --out-dir "$OUT" --resume "$@"
results=()
for other in $MODEL $OTHERS; do
    document=$OUT/${MODEL//\//_}-on-${other//\//_}.json
    vitnull eval "$other" "$OUT/${MODEL//\//_}".input.lim*.noise.safetensors --data "$DATA" --transform squash \
        --controls shuffle --out "$document" --force "$@"
    results+=(--results "$document")
done
vitnull eval "${results[@]}" --plot "$OUT/figure3c.png" --force
