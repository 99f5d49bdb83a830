#!/bin/sh
# The whole method with Stable Diffusion 1.5 and a judge on a server: raw prompts in, a reward model, two aligned models
# and a report out. If it is interrupted, the same command resumes.
# Usage: OPENAI_API_KEY=... examples/sd15.sh PROMPTS HELD_OUT [FOLDER]
#
# PROMPTS has a prompt in each line; a thousand is a start, VisionPrefer has 179,000. HELD_OUT has others, to compare the
# models on. MAX_COST bounds what the judge may cost, in dollars. MODEL and JUDGE name another model and another judge,
# and GUIDANCE is the range of guidance weights for the pictures that are judged; the default is that of VisionPrefer. For
# SDXL and FLUX see sdxl.sh and flux.sh, which call this script.
#
# Hardware: a GPU with 16 GB. Drawing and judging a thousand prompts takes an hour, and the two tunings a night. These are
# estimates.
set -eu
prompts=${1:?name a file of prompts} held_out=${2:?name a file of held-out prompts} run=${3:-runs/sd15}
model=${MODEL:-diffusion:stable-diffusion-v1-5/stable-diffusion-v1-5} judge=${JUDGE:-openai:gpt-4o}
PATH=$PATH:$(dirname "$0")/../.venv/bin # where make puts vpctl

vpctl polish "$prompts" --out "$run/prompts.jsonl"
vpctl polish "$held_out" --out "$run/held-out.jsonl"

# Four pictures of each prompt, judged on four aspects, become pairs. The reward model learns from the pairs. With random
# guidance the pictures differ more.
vpctl generate "$run/prompts.jsonl" -m "$model" -n 4 --guidance "${GUIDANCE:-3:12}" --out "$run/images/metadata.jsonl"
vpctl annotate "$run/images/metadata.jsonl" --annotator "$judge" --max-cost "${MAX_COST:-20}" --out "$run/judgements.jsonl"
vpctl merge "$run/judgements.jsonl" --min-margin 0.05 --split train:0.9,validation:0.05,test:0.05 --out "$run/pairs.jsonl"
vpctl train-rm "$run/pairs.jsonl" --preset visionprefer --dtype bfloat16 --out "$run/vp-score"

# Two ways to a better model: the pairs themselves, and the gradient of the reward model, while PickScore watches.
# shellcheck disable=SC2086 # Several words each.
vpctl tune-dpo "$run/pairs.jsonl" -m "$model" ${DPO---export kohya} --out "$run/dpo-lora"
# shellcheck disable=SC2086
vpctl tune-ppo "$run/prompts.jsonl" --algorithm refl -m "$model" --reward "vp:$run/vp-score" --learning-rate 1e-4 \
    --watch pickscore --patience 5 ${REFL---export kohya} --out "$run/refl-lora"

draw() { # Draw the held-out prompts and score them: draw NAME [--adapter LORA]
    name=$1 && shift
    vpctl generate "$run/held-out.jsonl" -m "$model" -n 1 "$@" --out "$run/$name/metadata.jsonl"
    vpctl score "$run/$name/metadata.jsonl" -r "vp:$run/vp-score" -r pickscore --out "$run/$name/scored.jsonl"
}
draw base
draw dpo --adapter "$run/dpo-lora"
draw refl --adapter "$run/refl-lora"
vpctl eval compare "$run/base/scored.jsonl" "$run/dpo/scored.jsonl" "$run/refl/scored.jsonl" \
    --html "$run/report.html" --out "$run/compared.jsonl"
