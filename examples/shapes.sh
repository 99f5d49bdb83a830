#!/bin/sh
# The whole method in the shapes world: raw prompts in, two aligned models and a report out.
# Usage: [SEED=1] examples/shapes.sh [FOLDER]    Interrupted, it goes on from where it was.
set -eu
here=$(dirname "$0") run=${1:-runs/demo} seed=${SEED:-0}
export OMP_NUM_THREADS=1 # Models this small gain nothing from a second thread; a second process gains all.

vpctl polish "$here/prompts.txt" --out "$run/prompts.jsonl"
vpctl polish "$here/held-out.txt" --out "$run/held-out.jsonl"

# Four pictures a prompt by two models, judged on four aspects while the next are drawn, and made into pairs.
vpctl generate "$run/prompts.jsonl" -m shapes -m shapes:small --seed "$seed" --out "$run/images/metadata.jsonl"
vpctl annotate "$run/images/metadata.jsonl" --seed "$seed" --out "$run/judgements.jsonl"
vpctl merge "$run/judgements.jsonl" --split train:0.9,test:0.1 --out "$run/pairs.jsonl"

# One way from pairs to a better model goes through a reward model, the other does not.
vpctl train-rm "$run/pairs.jsonl" --freeze 0 --learning-rate 3e-4 --seed "$seed" --out "$run/vp-score"
vpctl eval accuracy "$run/pairs.jsonl" --split test --reward "vp:$run/vp-score" --out "$run/accuracy.jsonl"
vpctl tune-dpo "$run/pairs.jsonl" --seed "$seed" --out "$run/dpo-lora" &
vpctl tune-ppo "$run/prompts.jsonl" --reward "vp:$run/vp-score" --seed "$seed" --out "$run/ppo-lora"
wait $!

# Prompts no model has seen, judged by the pixels, which neither tuning has had on them.
for model in base dpo ppo; do
    adapter=$([ $model = base ] || echo "--adapter $run/$model-lora")
    vpctl generate "$run/held-out.jsonl" -n 1 --seed "$seed" $adapter --out "$run/$model/metadata.jsonl"
    vpctl score "$run/$model/metadata.jsonl" -r shapes -r shapes:prompt-following -r "vp:$run/vp-score" --out "$run/$model/scored.jsonl"
done
vpctl eval compare "$run/base/scored.jsonl" "$run/dpo/scored.jsonl" "$run/ppo/scored.jsonl" --out "$run/compared.jsonl" \
    --run "$run/vp-score" --run "$run/dpo-lora" --run "$run/ppo-lora" --report "$run/accuracy.jsonl" --html "$run/report.html"
