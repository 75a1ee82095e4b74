#!/usr/bin/env bash
# Figures 3a and 3b of the paper: ViTs beside CNNs, noise learned on the patch embeddings (a) or on the image (b, CNNs).
#
#   examples/figure3.sh [VITNULL OPTION...]                          the embedded models and drawings, offline
#   DATA=imagenette2 VITS="vit_small_patch32_224 vit_base_patch32_224" CNNS="resnet50 convnext_tiny" LEARN= \
#       examples/figure3.sh --device cuda
set -euo pipefail
DEMO="--fraction 0.5 --rounds 4 --step-images 50 --lr 0.1" # quick, and for noise of this size
: "${DATA:=demo}" "${VITS:=demo}" "${CNNS:=demo-cnn}" "${OUT:=figures}" "${LIMITS:=1 2 4 8}"
: "${LEARN=$DEMO}"

measure() { # MODEL LEVEL [OPTION...]
    local model=$1 level=$2 stem
    shift 2
    stem=$OUT/${model//\//_}
    # shellcheck disable=SC2046,SC2086
    vitnull learn-noise "$model" --data "$DATA" --level "$level" $(printf -- '--limit %s ' $LIMITS) $LEARN \
        --transform squash --out-dir "$OUT" --resume "$@"
    vitnull eval "$model" "$stem.$level".lim*.noise.safetensors --data "$DATA" --transform squash \
        --controls shuffle --out "$stem.$level.json" --force "$@"
}

a=() b=()
for model in $VITS; do
    measure "$model" encoder "$@"
    a+=(--results "$OUT/${model//\//_}.encoder.json")
done
for model in $VITS $CNNS; do
    measure "$model" input "$@"
    b+=(--results "$OUT/${model//\//_}.input.json")
done
for model in $CNNS; do
    a+=(--results "$OUT/${model//\//_}.input.json")
done
vitnull eval "${a[@]}" --plot "$OUT/figure3a.png" --force
vitnull eval "${b[@]}" --plot "$OUT/figure3b.png" --force
