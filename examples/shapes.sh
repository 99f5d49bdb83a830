#!/bin/sh
# The whole method in the shapes world: raw prompts in, two aligned models and a report out.
# Usage: [SEED=1] examples/shapes.sh [FOLDER]    If it is interrupted, the same command resumes.
set -eu
here=$(dirname "$0") run=${1:-runs/demo} seed=${SEED:-0}
PATH=$PATH:$here/../.venv/bin # where make puts vpctl
export OMP_NUM_THREADS=1 # Models this small gain nothing from a second thread; a second process gains all.
trap 'kill 0' INT # What runs in the background would not hear of Ctrl-C.

vpctl polish "$here/prompts.txt" --out "$run/prompts.jsonl"
vpctl polish "$here/held-out.txt" --out "$run/held-out.jsonl"

# Four pictures a prompt by two models, judged on four aspects and made into pairs; what is all but equal is left out.
vpctl generate "$run/prompts.jsonl" -m shapes -m shapes:small --seed "$seed" --out "$run/images/metadata.jsonl"
vpctl annotate "$run/images/metadata.jsonl" --annotator shapes --seed "$seed" --out "$run/judgements.jsonl"
vpctl merge "$run/judgements.jsonl" --min-margin 0.05 --split train:0.9,test:0.1 --out "$run/pairs.jsonl"

draw() { # Prompts no model has seen: draw FOLDER [--adapter LORA]
    out=$1 && shift
    vpctl generate "$run/held-out.jsonl" -m shapes -n 1 --seed "$seed" "$@" --out "$run/$out/metadata.jsonl"
}

# One way from pairs to a better model needs no reward model ...
{
    vpctl tune-dpo "$run/pairs.jsonl" -m shapes --beta 1000 --learning-rate 5e-4 --batch 32 --accumulate 1 \
        --max-steps 300 --preview-every 50 --seed "$seed" --out "$run/dpo-lora"
    draw base
    draw dpo --adapter "$run/dpo-lora"
} &

# ... the other goes through one.
vpctl train-rm "$run/pairs.jsonl" --freeze 0 --learning-rate 3e-4 --seed "$seed" --out "$run/vp-score"
vpctl eval accuracy "$run/pairs.jsonl" --split test --reward "vp:$run/vp-score" --out "$run/accuracy.jsonl"
vpctl tune-ppo "$run/prompts.jsonl" -m shapes --reward "vp:$run/vp-score" --learning-rate 1e-3 --epochs 40 \
    --prompts-per-epoch 16 --batch 32 --seed "$seed" --out "$run/ppo-lora"
draw ppo --adapter "$run/ppo-lora"
wait $!

# The pixel judge decides, which neither tuning has had on these prompts.
for model in base dpo ppo; do
    vpctl score "$run/$model/metadata.jsonl" -r shapes -r shapes:prompt-following -r "vp:$run/vp-score" \
        --out "$run/$model/scored.jsonl"
done
vpctl eval compare "$run/base/scored.jsonl" "$run/dpo/scored.jsonl" "$run/ppo/scored.jsonl" \
    --run "$run/vp-score" --run "$run/dpo-lora" --run "$run/ppo-lora" --report "$run/accuracy.jsonl" \
    --html "$run/report.html" --out "$run/compared.jsonl"
