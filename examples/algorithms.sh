#!/bin/sh
# Tries the algorithms of tune-ppo and tune-dpo in the shapes world. It also tries DPO on pairs with swapped labels, and
# ReFL with settings that invite it to exploit the reward.
# Usage: [SEED=1] examples/algorithms.sh [FOLDER]    If it is interrupted, the same command resumes. FOLDER is one in
# which shapes.sh has ended with the same SEED. The results are in FOLDER/algorithms.
set -eu
run=${1:-runs/demo} seed=${SEED:-0}
PATH=$PATH:$(cd "$(dirname "$0")" && pwd)/../.venv/bin # where make puts vpctl
export OMP_NUM_THREADS=1 # Such small models gain nothing from a second thread, but a second process uses a second core.
trap 'kill 0' INT # Ctrl-C must also end the process in the background.
mkdir -p "$run/algorithms"
cd "$run/algorithms"

try() { # Tune, draw the held-out prompts and score the pictures: try NAME COMMAND INPUT [OPTION...]
    name=$1 command=$2 input=$3 && shift 3
    (
        vpctl "$command" "$input" -m shapes "$@" --preview-every 0 --seed "$seed" --out "$name-lora"
        times >"$name.cpu" # The second line is the user and system time of the tuning.
    )
    vpctl generate ../held-out.jsonl -m shapes -n 1 --seed "$seed" --adapter "$name-lora" --out "$name/metadata.jsonl"
    vpctl score "$name/metadata.jsonl" -r shapes -r shapes:prompt-following -r vp:../vp-score --out "$name/scored.jsonl"
}
online() { # The algorithms that draw pictures, with the reward model: online NAME COMMAND [OPTION...]
    name=$1 command=$2 && shift 2
    try "$name" "$command" ../prompts.jsonl --algorithm "${name%-*}" --reward vp:../vp-score "$@"
}
pairs="--beta 1000 --learning-rate 5e-4 --batch 32 --accumulate 1 --max-steps 330"
likes="--beta 300 --learning-rate 1e-3 --batch 64 --accumulate 1 --max-steps 300 --ema 0.95" # as many pictures in a step

sed 's/"chosen_/"tmp_/g; s/"rejected_/"chosen_/g; s/"tmp_/"rejected_/g' ../pairs.jsonl >../swapped.jsonl
{
    # shellcheck disable=SC2086 # Several words.
    try dpo tune-dpo ../pairs.jsonl $pairs
    # shellcheck disable=SC2086
    try kto tune-dpo ../pairs.jsonl --algorithm kto $likes
    # shellcheck disable=SC2086
    try swapped tune-dpo ../swapped.jsonl $pairs
    online d3po tune-dpo --steps 10 --guidance 1 --learning-rate 1e-3 --batch 16 --accumulate 2 --max-steps 20
} &
vpctl score ../base/metadata.jsonl -r shapes -r shapes:prompt-following -r vp:../vp-score --out base/scored.jsonl
online ddpo tune-ppo --steps 10 --learning-rate 1e-3 --epochs 30 --prompts-per-epoch 16 --batch 32
online refl tune-ppo --steps 10 --eta 0 --late-share 0.6 --reward-threshold 3 --learning-rate 1e-3 --epochs 180 \
    --prompts-per-epoch 24 --batch 24
online nft tune-ppo --steps 6 --timestep-fraction 0.5 --learning-rate 2e-3 --epochs 50 --prompts-per-epoch 12 \
    --images 8 --batch 32 --packed 3 --old-decay 0 --drift-weight 0 --ema 0.9
# The judge watches a gradient through two steps, without a threshold. If its curve falls, the reward is exploited.
online refl-exploited tune-ppo --steps 10 --eta 0 --late-share 0.6 --grad-steps 2 --reward-threshold 1000 \
    --learning-rate 2e-3 --epochs 200 --prompts-per-epoch 24 --batch 24 --watch shapes --watch shapes:prompt-following
wait $!

vpctl eval compare base/scored.jsonl ddpo/scored.jsonl refl/scored.jsonl nft/scored.jsonl dpo/scored.jsonl \
    kto/scored.jsonl d3po/scored.jsonl swapped/scored.jsonl refl-exploited/scored.jsonl --run refl-exploited-lora \
    --root .. --html report.html --out compared.jsonl
tail -n 1 ./*.cpu # The tunings should have taken about the same time.
