"""What all evaluations share: their options, and the table, page and gate of their reports."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, NamedTuple, cast

from ... import progress
from ...configs import STEP_SUMMARY, GateConfig
from ...errors import GateFailed, OutputClosed, UserError
from ...options import option
from ...records import Judgement, Report, prompt_key
from ...report.comparing import Side, scores_of, side_by_side
from ...report.gates import (
    MetricGate,
    annotation,
    append_summary,
    check_junit,
    markdown,
    outcomes,
    parse,
    regressions,
    write_junit,
)
from ...report.tables import print_reports, warn_of_few
from ...streams.places import is_stream
from ...streams.reading import read, read_prompts
from ...streams.writing import Replacement

Html = Annotated[
    str, option("--html", metavar="FILE", group="Output", help="Also write the reports as an HTML page in one file.")
]


def publish(
    reports: list[Report], out: Replacement, *, title: str, labels: Mapping[str, str] | None = None, digits: int = 3
) -> None:
    """Write the reports, and print them as a table. `labels` are short names for long ones.

    If the reader of the output has closed its pipe, the table is printed and the gate decides all the same.
    """
    write(reports, out)
    print_reports(reports, title=title, labels=labels or {}, digits=digits)
    warn_of_few(reports)


def write(reports: Iterable[Report], out: Replacement) -> None:
    """Write the reports, until the reader of the output closes its pipe."""
    with contextlib.suppress(OutputClosed):
        for report in reports:
            out.write(report)


def read_suite(suite: str) -> dict[str, Mapping[str, object]]:
    """The prompts of --suite with all their keys, by their ids; empty without a file."""
    return {prompt_key(one): cast(Mapping[str, object], one) for one in (read_prompts(suite) if suite else ())}


def check_page(html: str, others: list[str], *, runs: Sequence[str] = ()) -> None:
    """If `html` names a page, raise `UserError` if the file or one of `runs` cannot be used; see `pages.check`."""
    if html:
        from ...pages import html as pages

        pages.check(html, runs, others)


def write_page(
    html: str,
    *,
    title: str,
    reports: list[Report],
    sides: Mapping[str, Side] | None = None,
    judgements: Sequence[Judgement] = (),
    with_judged: bool = False,
    runs: Sequence[str] = (),
    folders: Sequence[str] = (),
) -> int:
    """If `html` names a file, write the page, with pictures from `folders`. Returns the number of missing pictures.

    `sides` has the pictures of each model, the base first, and `judgements` what annotators said of them. With
    `with_judged`, the page also shows judged pictures of other prompts.
    """
    if not html:
        return 0
    from ...images.pictures import Pictures
    from ...judging.remarks import Remarks
    from ...pages import page
    from ...pages.gallery import judged_rows

    remarks = Remarks(judgements)
    known = {prompt for side in (sides or {}).values() for prompt in side}
    return page.write(
        html,
        title=title,
        reports=reports,
        rows=side_by_side(sides or {}),
        scores=scores_of(sides or {}),
        remarks=remarks.of,
        judged=judged_rows(judgements, remarks, known) if with_judged else [],
        runs=runs,
        pictures=Pictures(folders),
    )


class CheckedGates(NamedTuple):
    """The gates that the options set, and the reports of the earlier run, read before this one replaces them."""

    config: GateConfig
    limits: list[MetricGate]
    previous: list[Report]


def check_gates(config: GateConfig, metrics: Sequence[str], others: Sequence[str]) -> CheckedGates:
    """The gates that the options set. `metrics` are those that this evaluation can report, the headline first.

    Raises `UserError` if an option cannot be used, if the file of --previous cannot be read, or if that of --junit is
    one of `others`, files that the command reads or writes.
    """
    limits = [
        *parse(config.fail_under or [], metrics, is_most=False),
        *parse(config.fail_over or [], metrics, is_most=True),
    ]
    if config.junit and not (limits or config.previous):
        raise UserError(f"--junit {config.junit}: holds the outcomes of gates; set one, such as --fail-under 0.5")
    if config.junit:
        check_junit(config.junit, [*others, config.previous])
    if config.previous and not (is_stream(config.previous) or os.path.exists(config.previous)):
        raise UserError(
            f"--previous {config.previous}: there is no such file; the first time, leave the option out, and keep the "
            "output of the run under this name"
        )
    return CheckedGates(config, limits, [*read(config.previous, Report)] if config.previous else [])


def decide(gates: CheckedGates, reports: Sequence[Report], *, title: str, gated: Sequence[Report]) -> None:
    """Tell CI how the gates stand. Raises `GateFailed` if any of them is not met. They look only at `gated` reports."""
    config = gates.config
    found = outcomes(gated, gates.limits, on=config.gate_on)
    if config.previous:
        found += regressions(gated, gates.previous, source=config.previous)
    if config.junit:
        write_junit(config.junit, title, found)
    failed = [one for one in found if one.failure]
    if config.github:
        for one in failed:
            progress.line(annotation(one))
        if STEP_SUMMARY.value:
            append_summary(STEP_SUMMARY.value, markdown(title, reports, found))
    for one in failed:
        progress.warn(f"{one.what}: {one.failure}")
    if failed:
        raise GateFailed
