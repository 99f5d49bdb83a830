#!/bin/sh
# Tables and figures of VisionPrefer (Wu et al. 2024, arXiv 2404.15100) in the shapes world, in the paper's order, on one
# page. `claims.toml` says what the paper concludes from each; the page says whether it holds here.
# Usage: [SEED=1] examples/paper.sh [FOLDER]    If it is interrupted, the same command resumes.
set -eu
here=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd) run=${1:-runs/paper} seed=${SEED:-0}
PATH=$PATH:$here/../.venv/bin # where make puts vpctl
export OMP_NUM_THREADS=1
mkdir -p "$run"
cp "$here/simulated_judges.py" "$here/overall.md" "$here/claims.toml" "$run"
CDPATH="" cd -- "$run"
two() { # Runs vpctl with the arguments on each line of the input, two at a time, each on a core of its own.
    xargs -P 2 -L 1 vpctl || {
        echo "$0: a command failed, see above; the same command resumes" >&2
        exit 1
    }
}
aspects="prompt-following aesthetic fidelity harmlessness"

# Section 3: the data. Models draw, and language models and people judge. The language models are simulated, with errors
# of three sizes. The people are those of three public data sets: as many agree with each other as there, and they have
# judged as many pictures, in proportion.
vpctl polish "$here/prompts.txt" --out prompts.jsonl
vpctl polish "$here/held-out.txt" --out held-out.jsonl
sed -n 's/.*"source_prompt":"\([^"]*\)".*/\1/p' prompts.jsonl >raw.txt
sed -n 's/^{"prompt":"\([^"]*\)".*/\1/p' prompts.jsonl >polished.txt
two <<LINES
generate prompts.jsonl -m shapes -m shapes:small --guidance 1:4 --seed $seed --out images/metadata.jsonl
generate held-out.jsonl -m shapes -m shapes:small --guidance 1:4 --seed $seed --out test/metadata.jsonl
LINES
prompts=$(wc -l <prompts.jsonl)
share() { # The pictures of the first prompts: share NAME PERCENT
    head -n $((prompts * $2 / 100 * 4)) images/metadata.jsonl >"images/$1.jsonl"
}
share imagereward 11
share hpd 66
share pickapic 49
{
    for people in imagereward hpd pickapic; do
        echo "annotate images/$people.jsonl --annotator simulated_judges.py:$people-1 --aspect overall.md --out $people.jsonl"
        for person in 2 3; do
            echo "annotate test/metadata.jsonl --annotator simulated_judges.py:$people-$person --aspect overall.md" \
                "--out test/$people-$person.jsonl"
        done
    done
    for model in gpt gemini llava; do
        echo "annotate images/metadata.jsonl --annotator simulated_judges.py:$model --out $model.jsonl"
        echo "annotate test/metadata.jsonl --annotator simulated_judges.py:$model --out test/$model.jsonl"
    done
    for temperature in 0.5 1 2; do
        echo "annotate test/metadata.jsonl --annotator simulated_judges.py:gpt-$temperature --passes 2" \
            "--out test/gpt-$temperature.jsonl"
    done
    echo "annotate test/metadata.jsonl --annotator simulated_judges.py:gpt-0 --passes 2 --out test/gpt-0.jsonl"
    echo "annotate test/metadata.jsonl --annotator simulated_judges.py:gpt --mode pair --out test/gpt-pair.jsonl"
} | two

merge() { # Judgements to pairs, without ties: merge NAME JUDGEMENTS [OPTION...]
    name=$1 judgements=$2 && shift 2
    vpctl merge "$judgements.jsonl" --split train:0.9,validation:0.1 "$@" --out "pairs/$name.jsonl"
}
mkdir -p pairs
for people in imagereward hpd pickapic; do merge $people $people; done
for model in gpt gemini llava; do merge $model $model; done
for aspect in $aspects; do
    set --
    for other in $aspects; do [ "$other" = "$aspect" ] || set -- "$@" --weight "$other=0"; done
    merge "only-$aspect" gpt "$@"
done

# Section 4.1: reward models. VP-Score learns from the judgements of gpt. The last ones are those of the ablations.
settings="--freeze 0 --root . --seed $seed"
trained="$settings --learning-rate 3e-4"
{
    echo "train-rm pairs/gpt.jsonl $trained --out vp-score"
    echo "train-rm pairs/gpt.jsonl $settings --learning-rate 0 --epochs 1 --data-fraction 0.2 --out clip"
    echo "train-rm pairs/imagereward.jsonl $trained --out imagereward"
    echo "train-rm pairs/hpd.jsonl $trained --out hps"
    echo "train-rm pairs/pickapic.jsonl $trained --out pickscore"
    for aspect in $aspects; do
        echo "train-rm pairs/only-$aspect.jsonl $trained --out only-$aspect"
        echo "train-rm pairs/gpt.jsonl $trained --without $aspect --out without-$aspect"
    done
    for model in gemini llava; do echo "train-rm pairs/$model.jsonl $trained --out from-$model"; done
    for percent in 10 30; do
        echo "train-rm pairs/gpt.jsonl $trained --data-fraction 0.$percent --out $percent-percent"
    done
    # The BLIP of the shapes world has learnt from captions, and there is no such CLIP: both begin with random weights.
    for backbone in blip clip; do
        echo "train-rm pairs/gpt.jsonl $settings --backbone new:$backbone --learning-rate 3e-4 --epochs 8 --out new-$backbone"
    done
} | two

mkdir -p reports
set --
for model in vp-score clip imagereward hps pickscore new-blip new-clip from-gemini from-llava 10-percent 30-percent; do
    set -- "$@" --reward "vp:$model"
done
for aspect in $aspects; do set -- "$@" --reward "vp:only-$aspect" --reward "vp:without-$aspect"; done
vpctl score test/metadata.jsonl "$@" --out test/scored.jsonl
vpctl eval accuracy test/imagereward-2.jsonl test/hpd-2.jsonl test/pickapic-2.jsonl --scores test/scored.jsonl \
    --baseline vp:vp-score --out reports/accuracy.jsonl
paired() { # Differences that are not from VP-Score: paired REPORT BASELINE REWARD...
    report=$1 baseline=$2 && shift 2
    for reward in "$@"; do
        shift
        set -- "$@" --reward "vp:$reward"
    done
    vpctl eval accuracy test/imagereward-2.jsonl test/hpd-2.jsonl test/pickapic-2.jsonl --scores test/scored.jsonl \
        --baseline "vp:$baseline" "$@" --out "reports/$report.jsonl"
}
paired annotators from-gemini vp-score from-llava
paired amounts 30-percent vp-score 10-percent
paired backbones new-clip new-blip

# Section 4.2: ReFL, which the paper calls PPO, with each reward model. And Diffusion-DPO, with the pairs of each data
# set: D3PO, which the paper names, cannot learn from pictures that other models drew.
refl="tune-ppo prompts.jsonl -m shapes --algorithm refl --steps 10 --eta 0 --late-share 0.6 --reward-threshold 3"
refl="$refl --learning-rate 1e-3 --epochs 100 --prompts-per-epoch 24 --batch 24 --preview-every 0 --seed $seed"
dpo="-m shapes --beta 1000 --learning-rate 5e-4 --batch 32 --accumulate 1 --max-steps 200 --preview-every 0 --root ."
rivals="clip imagereward hps pickscore only-aesthetic"
{
    echo "$refl --reward vp:vp-score --watch vp:imagereward --watch vp:hps --watch vp:pickscore --watch vp:only-aesthetic" \
        "--watch shapes --watch-every 20 --out tuned/vp-score"
    for model in $rivals; do echo "$refl --reward vp:$model --out tuned/$model"; done
    for aspect in $aspects; do echo "$refl --reward vp:without-$aspect --out tuned/without-$aspect"; done
    for people in gpt imagereward hpd pickapic; do
        echo "tune-dpo pairs/$people.jsonl $dpo --seed $seed --out tuned/dpo-$people"
    done
} | two

# The held-out prompts, which nothing was trained on, drawn by every model; and prompts that ask for harm.
grep 'hate symbol' "$here/prompts.txt" | cut -d , -f 1 | LC_ALL=C sort -u | head -n 14 >unsafe.txt
head -n 100 held-out.jsonl >study.jsonl
draw() { # draw NAME [ADAPTER]
    adapter=${2:+--adapter tuned/$2}
    echo "generate held-out.jsonl -m shapes -n 1 $adapter --seed $seed --out drawn/$1/metadata.jsonl"
}
tuned="vp-score $rivals dpo-gpt dpo-imagereward dpo-hpd dpo-pickapic"
for aspect in $aspects; do tuned="$tuned without-$aspect"; done
{
    draw base
    for model in $tuned; do draw "$model" "$model"; done
    for guidance in 2 3 4; do
        echo "generate held-out.jsonl -m shapes -n 1 --guidance $guidance --seed $seed" \
            "--out drawn/guidance-$guidance/metadata.jsonl"
    done
    echo "generate held-out.jsonl -m shapes:small -n 1 --guidance 3 --seed $seed --out drawn/small/metadata.jsonl"
    for model in vp-score without-harmlessness hps pickscore; do
        echo "generate unsafe.txt -m shapes -n 30 --adapter tuned/$model --seed $seed --out unsafe/$model/metadata.jsonl"
    done
    # Eight pictures for each prompt, of which three are kept. The paper draws 64.
    echo "generate study.jsonl -m shapes -n 8 --seed $seed --out study/base/metadata.jsonl"
    for model in vp-score $rivals; do
        echo "generate study.jsonl -m shapes -n 8 --adapter tuned/$model --seed $seed --out study/$model/metadata.jsonl"
    done
} | two

# Here the pixel judge stands for the people who decide: it sees what is in a picture, without an error.
measured="-r shapes"
for aspect in $aspects; do measured="$measured -r shapes:$aspect"; done
rewards=
for model in vp-score imagereward hps pickscore only-aesthetic; do rewards="$rewards -r vp:$model"; done
{
    for model in base vp-score; do # for Figure 3
        echo "score drawn/$model/metadata.jsonl $measured $rewards --out drawn/$model/scored.jsonl"
    done
    for model in small guidance-2 guidance-3 guidance-4 ${tuned#vp-score}; do
        echo "score drawn/$model/metadata.jsonl $measured --out drawn/$model/scored.jsonl"
    done
    echo "score study/base/metadata.jsonl -r shapes -r vp:vp-score --out study/base/scored.jsonl"
    for model in vp-score $rivals; do
        echo "score study/$model/metadata.jsonl -r shapes -r vp:$model --out study/$model/scored.jsonl"
    done
    for model in vp-score without-harmlessness hps pickscore; do
        echo "annotate unsafe/$model/metadata.jsonl --annotator shapes --aspect harmlessness --out unsafe/$model.jsonl"
    done
} | two

compare() { # Win rates against the first set of pictures: compare REPORT BASE TUNED... [OPTION...]
    report=$1 && shift
    vpctl eval compare "$@" --out "reports/$report.jsonl"
}
at() { # The scored pictures that a model has drawn.
    echo "drawn/$1/scored.jsonl"
}
compare figure-3 "$(at base)" "$(at vp-score)" -r vp:vp-score -r vp:imagereward -r vp:hps -r vp:pickscore \
    -r vp:only-aesthetic
set --
for model in vp-score $rivals; do
    set -- "$@" --by "vp:$model"
    if [ "$model" != vp-score ]; then
        compare "figure-4-$model" "study/$model/scored.jsonl" study/vp-score/scored.jsonl \
            --select top-3 --by "vp:$model" --by vp:vp-score -r shapes
        compare "unselected-$model" "$(at "$model")" "$(at vp-score)" -r shapes
        compare "aesthetic-$model" "$(at "$model")" "$(at vp-score)" -r shapes:aesthetic
    fi
done
compare table-4 study/base/scored.jsonl study/vp-score/scored.jsonl study/clip/scored.jsonl \
    study/imagereward/scored.jsonl study/hps/scored.jsonl study/pickscore/scored.jsonl study/only-aesthetic/scored.jsonl \
    --select top-3 --by vp:vp-score "$@" -r shapes
for people in imagereward hpd pickapic; do
    compare "figure-6-$people" "$(at dpo-$people)" "$(at dpo-gpt)" -r shapes
done
compare against-untuned "$(at base)" "$(at dpo-gpt)" "$(at dpo-imagereward)" "$(at dpo-hpd)" "$(at dpo-pickapic)" -r shapes
for aspect in $aspects; do
    compare "without-$aspect" "$(at "without-$aspect")" "$(at vp-score)" -r "shapes:$aspect"
done
for aspect in prompt-following fidelity; do
    compare "$aspect-hps" "$(at hps)" "$(at vp-score)" -r "shapes:$aspect"
done
for guidance in 2 3 4; do compare "figure-23-guidance-$guidance" "$(at base)" "$(at guidance-$guidance)" -r shapes; done
compare figure-23-model "$(at small)" "$(at guidance-3)" -r shapes
for model in vp-score without-harmlessness hps pickscore; do
    vpctl eval judgements "unsafe/$model.jsonl" --out "reports/unsafe-$model.jsonl"
done
vpctl eval judgements gpt.jsonl --out reports/levels.jsonl

# Section 5: how well the annotators agree with people, and with themselves.
people="test/imagereward-2.jsonl test/imagereward-3.jsonl test/hpd-2.jsonl test/hpd-3.jsonl test/pickapic-2.jsonl \
test/pickapic-3.jsonl"
# shellcheck disable=SC2086 # Several words.
vpctl eval agreement test/gpt.jsonl test/gemini.jsonl test/llava.jsonl $people --out reports/agreement.jsonl
# shellcheck disable=SC2086
vpctl eval agreement test/gpt-pair.jsonl $people --out reports/ranks.jsonl
for temperature in 0 0.5 1 2; do
    vpctl eval agreement "test/gpt-$temperature.jsonl" test/imagereward-2.jsonl test/hpd-2.jsonl \
        --out "reports/temperature-$temperature.jsonl"
done

vpctl eval claims claims.toml --html report.html --out claims.jsonl
