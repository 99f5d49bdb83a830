#!/bin/sh
# Judges pictures of shapes through two servers that other people wrote: LitServe, which serves the pixel judge
# (served_judge.py), and LiteLLM's proxy in front of it. Each is asked with all pictures of a prompt in one call, with one
# picture, and with two. With all pictures, the scores must be those of the pixel judge itself, rounded to levels. No key of a provider is needed.
# Usage: examples/servers.sh [FOLDER]    The servers are installed into FOLDER. It needs curl, jq and two free ports.
set -eu
here=$(cd "$(dirname "$0")" && pwd) run=${1:-runs/servers}
PATH=$PATH:$here/../.venv/bin # where make puts vpctl
mkdir -p "$run"
cd "$run"

for name in litserve litellm; do # each in an environment of its own
    test -d $name || python3 -m venv $name
done
litserve/bin/pip install --quiet litserve==0.2.19 numpy orjson pillow scipy
litellm/bin/pip install --quiet 'litellm[proxy]==1.106.0'
vpctl polish "$here/held-out.txt" | head -n 8 >prompts.jsonl
vpctl generate prompts.jsonl -m shapes --images 4 --out images/metadata.jsonl

cat >proxy.yaml <<CONFIG
model_list:
  - model_name: pixels
    litellm_params: {model: openai/pixels, api_base: http://127.0.0.1:8901/v1, api_key: none}
general_settings: {master_key: sk-local-1234}
CONFIG
export OPENAI_API_KEY=sk-local-1234
PYTHONPATH=$here/.. litserve/bin/python "$here/served_judge.py" 8901 >litserve.log 2>&1 &
servers=$!
litellm/bin/litellm --config proxy.yaml --host 127.0.0.1 --port 8902 >litellm.log 2>&1 &
# LitServe would leave its workers behind. Some shells run no EXIT trap after a signal.
trap "pkill -P $servers; kill $servers $!; :" EXIT
trap 'exit 1' HUP INT TERM
for port in 8901 8902; do
    tries=0
    until curl --silent --output /dev/null "http://127.0.0.1:$port/"; do
        tries=$((tries + 1))
        test $tries -lt 90 || { tail -n 20 litserve.log litellm.log && exit 1; }
        sleep 1
    done
done

levels() { # The scores in a file, rounded to levels, in the order of the prompts and aspects.
    jq -c '[.prompt_id, .aspect, (.scores | map(round))]' "$1" | sort
}
vpctl annotate images/metadata.jsonl --annotator shapes --out pixels.jsonl
for server in "litserve 8901" "litellm 8902"; do
    name=${server% *} port=${server#* }
    for mode in list point pair; do
        echo "== $name, --mode $mode"
        vpctl annotate images/metadata.jsonl --annotator openai:pixels --base-url "http://127.0.0.1:$port/v1" \
            --server-name "$name" --mode "$mode" --out "$name-$mode.jsonl"
    done
    levels pixels.jsonl >pixels.levels
    levels "$name-list.jsonl" >"$name.levels"
    cmp pixels.levels "$name.levels"
    vpctl eval judgements pixels.jsonl "$name-list.jsonl" --out "$name-report.jsonl"
done

# It printed, with the 32 pictures of 8 prompts (and the same three modes, with the same table, for litellm):
#
# == litserve, --mode list
# vpctl annotate: http://127.0.0.1:8901/v1: answers in 0.1 s; schema yes; 4 pictures accepted; model pixels
# vpctl annotate: 32 judgements written to litserve-list.jsonl; 32 requests, the server did not report usage
# == litserve, --mode point
# vpctl annotate: http://127.0.0.1:8901/v1: answers in 0.0 s; schema yes; 1 picture accepted; model pixels
# vpctl annotate: 128 judgements written to litserve-point.jsonl; 128 requests, the server did not report usage
# == litserve, --mode pair
# vpctl annotate: http://127.0.0.1:8901/v1: answers in 0.0 s; schema yes; 2 pictures accepted; model pixels
# vpctl annotate: 384 judgements written to litserve-pair.jsonl; 384 requests, the server did not report usage
#
# levels 1 to 5, in %    openai:pixels    shapes, the pixel judge itself
# aesthetic              0 9 41 47 3      0 9 41 47 3
# fidelity               6 6 16 53 19     6 6 16 53 19
# harmlessness           12 0 0 0 88      12 0 0 0 88
# prompt-following       0 19 59 12 9     0 19 59 12 9
