#!/bin/sh
# What a reward model learns from, in the shapes world: the backbone, the aspects and the amount of data, as in Table 6,
# Figure 10e and Figure 15 of VisionPrefer (Wu et al. 2024, arXiv 2404.15100).
# Usage: [SEED=1] examples/ablations.sh [FOLDER]    If it is interrupted, the same command resumes. In the folder of
# shapes.sh, with the same SEED, it uses the pictures and judgements that are there. The results are in FOLDER/ablations.
set -eu
here=$(cd "$(dirname "$0")" && pwd) run=${1:-runs/ablations} seed=${SEED:-0}
PATH=$PATH:$here/../.venv/bin # where make puts vpctl
export OMP_NUM_THREADS=1 # Such small models gain nothing from a second thread, but a second process uses a second core.
trap 'kill 0' INT # Ctrl-C must also end the process in the background.
aspects="prompt-following aesthetic fidelity harmlessness"
mkdir -p "$run/ablations"
cd "$run/ablations"

# Draw and judge as shapes.sh does, and then four pictures for each held-out prompt too. No training sees these prompts.
vpctl polish "$here/prompts.txt" --out ../prompts.jsonl
vpctl polish "$here/held-out.txt" --out ../held-out.jsonl
vpctl generate ../prompts.jsonl -m shapes -m shapes:small --guidance 1:4 --seed "$seed" --out ../images/metadata.jsonl
vpctl generate ../held-out.jsonl -m shapes -m shapes:small --guidance 1:4 --seed "$seed" --out images/metadata.jsonl
vpctl annotate ../images/metadata.jsonl --annotator shapes --seed "$seed" --out ../judgements.jsonl
vpctl annotate images/metadata.jsonl --annotator shapes --seed "$seed" --out judgements.jsonl

merge() { # Turn judgements into pairs to train on: merge NAME [OPTION...]
    name=$1 && shift
    vpctl merge ../judgements.jsonl --min-margin 0.05 --split train:0.9,validation:0.1 "$@" --out "$name.jsonl"
}
merge mean # of the four aspects
for aspect in $aspects; do
    set --
    for other in $aspects; do [ "$other" = "$aspect" ] || set -- "$@" --weight "$other=0"; done
    merge "only-$aspect" "$@"
done
vpctl merge judgements.jsonl --min-margin 0.05 --out test.jsonl

train() { # Train a reward model: train NAME PAIRS [OPTION...]
    name=$1 pairs=$2 && shift 2
    vpctl train-rm "$pairs.jsonl" --root .. --freeze 0 --learning-rate 3e-4 --seed "$seed" "$@" --out "$name"
}

# About half of the trainings run in the background. They start from the BLIP of the shapes world, which was trained with
# captions. There is no such CLIP: both kinds are compared from random weights, and need more epochs.
{
    for aspect in $aspects; do train "only-$aspect" "only-$aspect"; done
    train new-blip mean --backbone new:blip --epochs 12
} &
train mean mean
for share in 10 30; do train "$share-percent" mean --data-fraction "0.$share"; done
for aspect in $aspects; do train "without-$aspect" mean --without "$aspect"; done
train new-clip mean --backbone new:clip --epochs 12
wait $!

# All are measured on the same held-out pairs, which are those of the mean, whatever a model has learnt from.
# The intervals are over prompts. Another SEED can move an accuracy by 0.02: to tell smaller differences, run several.
vpctl eval accuracy test.jsonl --reward vp:new-blip --baseline vp:new-clip --out backbones.jsonl
set --
for share in 10 30; do set -- "$@" --reward "vp:$share-percent"; done
for aspect in $aspects; do set -- "$@" --reward "vp:only-$aspect" --reward "vp:without-$aspect"; done
vpctl eval accuracy test.jsonl "$@" --baseline vp:mean --out accuracy.jsonl
