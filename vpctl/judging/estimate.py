"""Estimates what judging would use, in calls, tokens and dollars, without asking any question."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from .. import progress
from ..contracts import Kind
from ..errors import RecordFailed
from ..images.pictures import Pictures
from .plan import Call, Group, Plan
from .run import LOST, JudgingContext, Tally, claim_calls

TIED = 0.2
"""Fraction of pairs that tie, for estimates: that of five levels that are equally frequent."""
ORDERS = 2
"""Calls that break a tie: the two pictures are compared in both orders."""


def estimate(
    groups: Iterable[Group], plan: Plan, context: JudgingContext, pictures: Pictures, *, share: float = 1.0
) -> None:
    """Print an estimate for the calls that are still to be made, and an allowance for the calls that may follow.

    `share` is the fraction of the price that they cost, for example 0.5 in the Batch API.
    """
    tally = Tally()
    usage: Counter[str] = Counter()
    allowed: Counter[str] = Counter()
    calls_in_all, breaks = 0, 0.0

    def add(to: Counter[str], kind: Kind, prompt: str, shown: Sequence[tuple[int, int]], times: float) -> None:
        judge = context.annotator
        expected, allowance = judge.expected(kind, prompt, shown), judge.allowance(kind, prompt, shown)
        to.update({name: value * times for name, value in expected.items()})
        allowed.update({name: value * times for name, value in allowance.items()})

    for group in progress.track(groups, "prompts"):
        calls = list(claim_calls(group, plan, context, tally))
        try:
            sizes = {place: pictures.size(group.images[place]["file_name"]) for call in calls for place in call.shown}
        except RecordFailed as failure:
            tally.lost += 1
            progress.warn_each(LOST, f"{group.images[0]['prompt'][:60]!r}: {failure}")
            continue
        calls_in_all += len(calls)
        prompt = group.images[0]["prompt"]
        for call in calls:
            add(usage, call.kind, prompt, [sizes[place] for place in call.shown], 1.0)
            for kind in _tie_breaks(call, plan):
                for pair in combinations(call.shown, 2):
                    add(allowed, kind, prompt, [sizes[place] for place in pair], TIED * ORDERS)
                    breaks += TIED * ORDERS
    told = f"{progress.plural(calls_in_all, 'call')} to make"
    if usage:
        told += f", about {_amount(usage)}" + (f", {_dollars(usage['cost'] * share)}" if "cost" in usage else "")
    if any(allowed.values()):
        total = usage + allowed
        told += "; allow up to " + (_dollars(total["cost"] * share) if "cost" in usage else _amount(total))
    why = [f"1 pair in {1 / TIED:.0f} ties, for about {progress.plural(round(breaks), 'call')} more"] if breaks else []
    why += [context.annotator.assumptions()] if usage else []
    told += f"; assumed: {reasons}" if (reasons := ", ".join(filter(None, why))) else ""
    broken = f"; {progress.plural(tally.lost, 'prompt')} with pictures that cannot be judged" if tally.lost else ""
    progress.note(f"dry run: {told}{broken}")


def _tie_breaks(call: Call, plan: Plan) -> list[Kind]:
    """The kinds of comparisons that may follow a call, to break the ties of its judgements."""
    if not plan.break_ties or call.kind.mode != "list":
        return []
    pending = {judgement["aspect"] for judgement in call.judgements if judgement["key"] in call.pending_keys}
    return [Kind((aspect,), "pair", 2) for aspect in call.kind.aspects if aspect.name in pending]


def _dollars(amount: float) -> str:
    return f"{amount:.4f} USD" if 0 < amount < 0.1 else f"{amount:.2f} USD"


def _amount(usage: Mapping[str, float]) -> str:
    return f"{usage['prompt_tokens']:.0f} prompt tokens and {usage['completion_tokens']:.0f} answer tokens"
