#!/bin/sh
# The whole method with FLUX.1-dev; see sd15.sh. Its weights are behind a licence: accept it on the hub, and log in there.
# Usage: OPENAI_API_KEY=... examples/flux.sh PROMPTS HELD_OUT [FOLDER]
#
# Hardware: a GPU with 80 GB. The transformer alone takes 48 GB, in float32. These are estimates. For Stable Diffusion 3.5
# set MODEL=diffusion:stabilityai/stable-diffusion-3.5-medium and GUIDANCE=3:7; it needs 40 GB.
export MODEL="${MODEL:-diffusion:black-forest-labs/FLUX.1-dev}"
export GUIDANCE="${GUIDANCE:-1.5:5}" # an input of this model, which was distilled with weights like these
export DPO="${DPO:---batch 1 --accumulate 32 --gradient-checkpointing --beta 100 --learning-rate 1e-5}"
export REFL="${REFL:---batch 1 --gradient-checkpointing --steps 20 --guidance 3.5}"
exec "$(dirname "$0")/sd15.sh" "$1" "$2" "${3:-runs/flux}"
