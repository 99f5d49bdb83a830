#!/bin/sh
# The whole method in the shapes world: raw prompts in, two aligned models and a report out.
# Usage: [SEED=1] examples/shapes.sh [FOLDER]    If it is interrupted, the same command resumes.
set -eu
here=$(dirname "$0") run=${1:-runs/demo} seed=${SEED:-0}
PATH=$PATH:$here/../.venv/bin # where make puts vpctl

vpctl polish "$here/prompts.txt" --out "$run/prompts.jsonl"
vpctl polish "$here/held-out.txt" --out "$run/held-out.jsonl"

# Draw four pictures per prompt, with two models and with random guidance, as VisionPrefer does: so they differ, and the
# good ones are better than what the model draws without guidance. Judge them on four aspects, and turn the judgements
# into pairs. Pictures that are almost equal make no pair.
vpctl generate "$run/prompts.jsonl" -m shapes -m shapes:small --guidance 1:4 --seed "$seed" \
    --out "$run/images/metadata.jsonl"
vpctl annotate "$run/images/metadata.jsonl" --annotator shapes --seed "$seed" --out "$run/judgements.jsonl"
vpctl merge "$run/judgements.jsonl" --min-margin 0.05 --split train:0.8,validation:0.1,test:0.1 --out "$run/pairs.jsonl"

export OMP_NUM_THREADS=1 # From here on two processes run at the same time, each on a core of its own.
trap 'kill 0' INT # Ctrl-C must also end the process in the background.

# The first way from pairs to a better model needs no reward model. Diffusion-KTO likes one picture of a pair, and
# dislikes the other one. It runs in the background.
vpctl tune-dpo "$run/pairs.jsonl" --algorithm kto -m shapes --beta 300 --learning-rate 1e-3 --batch 64 --accumulate 1 \
    --max-steps 400 --ema 0.95 --preview-every 50 --seed "$seed" --out "$run/kto-lora" &
kto=$!

# The second way needs a reward model, which is trained on the pairs. DiffusionNFT draws pictures, scores them with it,
# and learns from the good and the bad ones; the judge only watches.
vpctl train-rm "$run/pairs.jsonl" --freeze 0 --learning-rate 3e-4 --seed "$seed" --out "$run/vp-score"
vpctl eval accuracy "$run/pairs.jsonl" --split test --reward "vp:$run/vp-score" --out "$run/accuracy.jsonl"
vpctl tune-ppo "$run/prompts.jsonl" --algorithm nft -m shapes --reward "vp:$run/vp-score" --watch shapes \
    --steps 6 --timestep-fraction 0.5 --learning-rate 2e-3 --epochs 50 --prompts-per-epoch 12 --images 8 --batch 32 \
    --packed 3 --old-decay 0 --drift-weight 0 --ema 0.9 --seed "$seed" --out "$run/nft-lora" &
nft=$!

try() { # Draw the held-out prompts, which no model was trained on, and score the pictures. The pixel judge decides; it
    # has not judged pictures of these prompts before: try NAME [--adapter LORA]
    out=$1 && shift
    vpctl generate "$run/held-out.jsonl" -m shapes -n 1 --seed "$seed" "$@" --out "$run/$out/metadata.jsonl"
    vpctl score "$run/$out/metadata.jsonl" -r shapes -r shapes:prompt-following -r "vp:$run/vp-score" \
        --out "$run/$out/scored.jsonl"
}
wait $kto || { kill $nft && exit 1; }
try base
try kto --adapter "$run/kto-lora"
wait $nft
try nft --adapter "$run/nft-lora"
vpctl eval compare "$run/base/scored.jsonl" "$run/kto/scored.jsonl" "$run/nft/scored.jsonl" \
    --run "$run/vp-score" --run "$run/kto-lora" --run "$run/nft-lora" --report "$run/accuracy.jsonl" \
    --html "$run/report.html" --out "$run/compared.jsonl"
