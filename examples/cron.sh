#!/bin/sh
# Judges new pictures each time that cron starts it. If runs overlap, the first one works and the others end at once.
# Usage: examples/cron.sh FOLDER    FOLDER/images/metadata.jsonl grows; OPENAI_API_KEY comes from FOLDER/key.env
#
#   */10 * * * *  /path/to/vpctl/examples/cron.sh /data/job
#
# Messages go to FOLDER/annotate.log. Cron sends a mail if a person has to do something, for example after a wrong key,
# a broken input or failed judgements. It sends no mail when a limit is reached.
#
# Cron's PATH is short. So this script also looks for vpctl in the .venv of this checkout and in ~/.local/bin. To use
# another vpctl, set VPCTL in the crontab or in FOLDER/key.env.
set -u
job=${1:?name the folder of the job} annotator=${JUDGE:-openai:gpt-4o}
if [ ! -d "$job" ]; then
    echo "$0: $job: no such folder"
    exit 2
fi
if [ -f "$job/key.env" ]; then
    set -a
    # shellcheck source=/dev/null
    . "$job/key.env"
    set +a
fi

PATH=$PATH:$(dirname "$0")/../.venv/bin:${HOME:-}/.local/bin
vpctl=${VPCTL:-vpctl}
if ! command -v "$vpctl" >/dev/null; then
    echo "$0: $vpctl: not found; set VPCTL to its full path, as VPCTL=/opt/vpctl/bin/vpctl in $job/key.env"
    exit 2
fi

"$vpctl" annotate "$job/images/metadata.jsonl" --annotator "$annotator" --out "$job/judgements.jsonl" \
    --max-cost "${MAX_COST:-5}" --max-time "${MAX_TIME:-9m}" 2>>"$job/annotate.log"
code=$?

case $code in
    0) ;;         # done, or nothing to do
    5) ;;         # a limit was reached: the next run resumes
    75) exit 0 ;; # another run is working
    3) echo "vpctl annotate: some judgements failed; $job/annotate.log names them" ;;
    *)
        tail -n 3 "$job/annotate.log"
        exit $code
        ;;
esac

"$vpctl" merge "$job/judgements.jsonl" --split train:0.8,validation:0.1,test:0.1 --out "$job/pairs.jsonl" --quiet
