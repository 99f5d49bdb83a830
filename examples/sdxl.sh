#!/bin/sh
# The whole method with Stable Diffusion XL; see sd15.sh.
# Usage: OPENAI_API_KEY=... examples/sdxl.sh PROMPTS HELD_OUT [FOLDER]
#
# Hardware: a GPU with 40 GB. Batches are smaller than for Stable Diffusion 1.5, so that they fit. These are estimates.
export MODEL="${MODEL:-diffusion:stabilityai/stable-diffusion-xl-base-1.0}"
export DPO="${DPO:---export kohya --batch 1 --accumulate 32 --gradient-checkpointing}"
export REFL="${REFL:---export kohya --batch 1 --gradient-checkpointing}"
exec "$(dirname "$0")/sd15.sh" "$1" "$2" "${3:-runs/sdxl}"
