"""Measure how often a reward prefers the chosen picture."""

from itertools import chain
from typing import Annotated

from ... import plugins, progress
from ...errors import UserError
from ...images.folders import Folders
from ...options import STDIO, BatchSize, Device, Pairs, Roots, Whole, option, plugin
from ...records import Pair, prompt_key
from ...report.statistics import mean_report, preferred
from ...streams.joins import ConsistencyChecker
from ...streams.places import folder_of, is_stream
from ...streams.reading import located
from ...streams.writing import Replacement
from ._reports import FailUnder, Html, check_page, gate, publish, write_page


def accuracy(
    pairs: Pairs,
    out: Whole = STDIO,
    *,
    reward: Annotated[
        list[str] | None,
        plugin(
            "reward",
            "--reward",
            "-r",
            group="Model",
            help="Reward to measure; repeatable.",
            show_default="shapes, the pixel judge",
        ),
    ] = None,
    split: Annotated[
        str,
        option(
            metavar="NAME",
            offered=("train", "test"),
            group="Input",
            help="Use only the pairs of this part of the data, such as test.",
            show_default="all pairs",
        ),
    ] = "",
    fail_under: FailUnder = None,
    html: Html = "",
    root: Roots = None,
    batch: BatchSize = 32,
    device: Device = "auto",
) -> None:
    """Measure how often a reward prefers the chosen picture.

    Each pair has a chosen picture, which is the preferred one, and a rejected picture. A pair counts 1 if the chosen
    picture scores higher, 0.5 if both score the same, and 0 if the chosen picture scores lower. The accuracy is the
    mean over the pairs. Its interval comes from a bootstrap over prompts, and not over pairs, because the pairs of one
    prompt share their pictures. The percentiles are expanded as in Hesterberg (2015, arXiv 1411.5279, section 5.3). All
    intervals of eval are computed in this way.

    Examples:

        vpctl eval accuracy pairs.jsonl --reward vp:vp-score/ --split test
            --fail-under 0.65
    """
    specs = [plugins.check("reward", spec) for spec in reward or ["shapes"]]
    check_page(html, [pairs, out])
    joined = ConsistencyChecker().pairs(located(pairs, Pair))
    wanted = [pair for pair in joined if not split or pair.get("split") == split]
    if not wanted:
        raise UserError(f"{pairs}: there are no pairs" + (f" of split {split!r}" if split else ""))
    sides = chain.from_iterable((pair["chosen_file_name"], pair["rejected_file_name"]) for pair in wanted)
    prompts = chain.from_iterable((pair["prompt"],) * 2 for pair in wanted)
    asked = dict.fromkeys(zip(prompts, sides, strict=True))
    Folders([folder_of(pairs), *(root or [])], piped=is_stream(pairs)).check(path for _, path in asked)
    with Replacement(out, [pairs]) as sink:
        from ...images.pictures import Pictures
        from ...models.scoring import load_batches

        records = [{"prompt": prompt, "file_name": path} for prompt, path in asked]
        rewards = {spec: plugins.load("reward", spec, device=device) for spec in dict.fromkeys(specs)}
        pictures = Pictures([folder_of(pairs), *(root or [])])
        scores: dict[tuple[str, str], dict[str, float]] = {}
        with progress.Counter("pictures", len(records)) as counter:
            for some in load_batches(records, pictures, rewards, most=batch):
                found, failures = some.scored(rewards)
                if failures:
                    raise UserError(str(failures[0]))
                for record, by_reward in found:
                    scores[record["prompt"], record["file_name"]] = by_reward
                counter(some.size)
        reports = []
        for name in rewards:
            values = [
                preferred(
                    scores[pair["prompt"], pair["chosen_file_name"]][name],
                    scores[pair["prompt"], pair["rejected_file_name"]][name],
                )
                for pair in wanted
            ]
            reports.append(mean_report(values, [*map(prompt_key, wanted)], name=name, metric="accuracy"))
        publish(reports, sink, title=f"Accuracy on {progress.plural(len(wanted), 'pair')}")
    write_page(html, title="Accuracy of rewards", reports=reports)
    gate(reports, fail_under)
