"""Estimates what judging would use, in calls, tokens and dollars, without asking any question."""

from collections import Counter
from collections.abc import Iterable

from .. import progress
from ..errors import RecordFailed
from ..images.pictures import Pictures
from .plan import Group, Plan
from .run import LOST, JudgingContext, Tally, claim_calls


def estimate(
    groups: Iterable[Group], plan: Plan, context: JudgingContext, pictures: Pictures, *, share: float = 1.0
) -> None:
    """Print an estimate for the calls that are still to be made.

    `share` is the fraction of the price that they cost, for example 0.5 in the Batch API.
    """
    tally = Tally()
    usage: Counter[str] = Counter()
    calls_in_all = 0
    for group in progress.track(groups, "prompts"):
        calls = list(claim_calls(group, plan, context, tally))
        try:
            sizes = {place: pictures.size(group.images[place]["file_name"]) for call in calls for place in call.shown}
        except RecordFailed as failure:
            tally.lost += 1
            progress.warn_each(LOST, f"{group.images[0]['prompt'][:60]!r}: {failure}")
            continue
        calls_in_all += len(calls)
        for call in calls:
            shown = [sizes[place] for place in call.shown]
            usage.update(context.annotator.expected(call.kind, group.images[0]["prompt"], shown))
    tokens = f"about {usage['prompt_tokens']:.0f} prompt tokens and {usage['completion_tokens']:.0f} answer tokens"
    cost = f", {usage['cost'] * share:.2f} USD" if "cost" in usage else ""
    broken = f"; {progress.plural(tally.lost, 'prompt')} with pictures that cannot be judged" if tally.lost else ""
    progress.note(
        f"dry run: {progress.plural(calls_in_all, 'call')} to make{f', {tokens}{cost}' if usage else ''}{broken}"
    )
