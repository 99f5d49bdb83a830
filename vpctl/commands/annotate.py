"""Judge pictures with a multimodal model."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from itertools import takewhile
from typing import Annotated, Any, cast

from .. import plugins, progress
from ..configs import PictureConfig, ScoringConfig, ServerConfig
from ..contracts import Aspect
from ..errors import SomeFailed, UserError
from ..judging.ledger import OutputLedger
from ..options import STDIO, Device, Input, MaxPictures, Output, Roots, Seed, option, options, plugin
from ..records import MODES, Image
from ..streams.joins import ConsistencyChecker
from ..streams.places import folder_of, hidden_beside, is_stream
from ..streams.reading import count, located
from ..voting.address import LOOPBACK, Doorway, Listen, listen_of
from ..voting.ballots import OVERALL
from ..voting.people import PERSON, people
from ..voting.room import Poll, Room, VoteLedger

AGAIN = ("failed", "refused")


@options(PictureConfig, "pictures")
@options(ServerConfig, "server")
@options(ScoringConfig, "scoring")
def annotate(
    images: Input,
    out: Output = STDIO,
    *,
    annotator: Annotated[
        str,
        plugin(
            "annotator",
            group="Model",
            help="Annotator that judges the pictures: a model, or human:NAME, a person who votes on a page.",
            show_default="shapes, the pixel judge",
        ),
    ] = "",
    aspect: Annotated[
        list[str] | None,
        plugin(
            "aspect",
            group="Judging",
            help="Aspect to judge: a name, or your own Markdown file; repeatable.",
            show_default="all aspects; for people preference, which picture is better all in all",
        ),
    ] = None,
    mode: Annotated[
        str,
        option(
            "--mode",
            choices=MODES,
            group="Judging",
            help="How pictures are shown to the annotator. list: all pictures of a prompt in one call. point: one "
            "picture per call. pair: two pictures per call, and a second call with the two in the other order; the "
            "annotator says which picture is better. A person ranks, gives levels, or compares each pair once.",
        ),
    ] = "list",
    passes: Annotated[
        int,
        option(
            metavar="K",
            min=1,
            max=1000,
            group="Judging",
            help="Number of passes over the pictures. Each pass judges all pictures again; --mode list shows them in a "
            "different order in each pass.",
        ),
    ] = 1,
    all_aspects: Annotated[
        bool,
        option(
            "--all-aspects",
            group="Judging",
            help="Ask about all aspects in one call, not in one call per aspect: cheaper, but the aspects may "
            "influence each other.",
        ),
    ] = False,
    break_ties: Annotated[
        bool,
        option(
            "--break-ties",
            group="Judging",
            help="Resolve ties: also compare pictures with equal scores, as with --mode pair.",
        ),
    ] = False,
    refresh: Annotated[
        bool,
        option(
            "--refresh",
            group="Judging",
            help="Judge all pictures again, including those that the output already has judgements of.",
        ),
    ] = False,
    retry: Annotated[
        list[str] | None,
        option(
            "--retry",
            choices=AGAIN,
            group="Judging",
            help="Judge pictures again if their judgement failed, or if it was refused; repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        option(
            "--dry-run",
            group="Budget",
            help="Make no call, except those of --sample. Only print how many calls the run would make, and estimate "
            "their tokens and cost. A second amount allows for calls that may follow, to break ties and to ask again "
            "after unusable answers, and for reasoning.",
        ),
    ] = False,
    sample: Annotated[
        int,
        option(
            metavar="N",
            min=0,
            max=1_000_000,
            group="Budget",
            help="With --dry-run: first make about this number of calls, write their judgements, and base the estimate "
            "on them.",
        ),
    ] = 0,
    batch_api: Annotated[
        bool,
        option(
            "--batch-api",
            group="Batch",
            help="Use the server's Batch API, at batch prices. The run writes the judgements of finished batches to "
            "--out, submits new requests, and ends. Run the same command again, for example hours later, to collect "
            "their answers.",
        ),
    ] = False,
    batch_file: Annotated[
        str,
        option(
            "--batch-file",
            metavar="FILE",
            group="Batch",
            help="Write the requests to this file, such as requests.jsonl, and send nothing. Process the file with "
            "vllm run-batch, or upload it to a server. Save the results as requests.out.jsonl beside it, and run the "
            "same command again to read them. No API key is needed.",
            show_default="none",
        ),
    ] = "",
    listen: Annotated[
        str,
        option(
            "--listen",
            metavar="[HOST:]PORT",
            group="Judging",
            help="Address of the page on which people vote, such as 8080, or 0.0.0.0:8080 for a phone in the same "
            "network.",
            show_default="this machine only, any free port",
        ),
    ] = "",
    scoring: ScoringConfig,
    server: ServerConfig,
    pictures: PictureConfig,
    max_pictures: MaxPictures = 100,
    root: Roots = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Judge pictures with a multimodal model.

    An annotator judges the pictures: it gives each picture a score on each aspect, with a reason. By default there is
    one call for each prompt and aspect. It shows all pictures of the prompt, in a shuffled order. The records of one
    prompt must be consecutive; otherwise they are judged in separate calls, and a warning says for how many prompts.

    All aspects of a pass see the pictures in the same order, and a call begins with the pictures and ends with the
    aspect. A server that keeps what it has read, as OpenAI's does, then reads the pictures once for all aspects. The
    first call about some pictures is answered before the others begin. Each pass shows them in another order. vpctl
    eval judgements shows whether an annotator prefers a place.

    The aspects, their five levels, and the separate call for each aspect follow VisionPrefer (Wu et al. 2024, arXiv
    2404.15100).

    A record needs `prompt` and `file_name`. A missing `prompt_id` is computed from the prompt. A missing `image_id` is
    computed from the bytes of the file, so identical files have the same `image_id`. If consecutive records of one
    prompt have identical files and no `image_id`, only the first is used; a warning names the others. If they have the
    same `image_id` in the input, the command ends with an error. If one picture of a prompt cannot be opened, the
    whole prompt is left out, in every --mode; a warning names the picture.

    A language model answers with levels from 1 to 5, so many pictures tie. --logprobs records the expected level, from
    the probabilities of the levels that the model could have written: two pictures on one level then tie only if the
    server gives no probabilities. --samples K asks for K answers at a --temperature and records their mean, in steps of
    1/K. With both, the mean of the expected levels is recorded. Passes are different: they show the pictures in other
    orders, and each is a judgement of its own. A pass that would repeat the same questions at --temperature 0 is
    refused, or left out for prompts with too few pictures.

    Each judgement is written as soon as it is complete. With --out FILE, an interrupted run is resumed, and a run
    with more input judges only the new pictures. Each judgement has a key: a hash of everything that could change the
    answer, including the server and the bytes of the pictures. If any of this changes, the pictures are judged again.
    --max-side is a part of the key of larger pictures only. `asked` says how a model on a server was asked, and when.
    If an annotator judged the same pictures again in the same order and pass, the output holds both judgements; merge
    and eval use only the last one.

    If the annotator refuses to judge, the reason is recorded in `refused`. If an answer is unusable, a second call asks
    the same question again; for an answer that was cut off, with twice --max-tokens. If that answer is unusable, too,
    the reason is recorded in `failed`. Only --retry tries refused and failed judgements again. If the server fails,
    nothing is recorded, and the next run tries again. If it rejects the requests of several prompts in a row for the
    same reason, or if the first answers about four prompts cannot be used, the run ends with one line that says what to
    change. Before the first usable answer, such a run records nothing as failed. The exit code is 3 if any record
    failed, and 5 if a limit was reached, or the account on the server is exhausted: its credit, or its quota of the
    day.

    The first call shows what the server can do, and a line says it. If its pictures do not reach the model, the run
    ends: some servers drop pictures without a word. This shows in the tokens that the server reports. If they are few,
    the first question is asked once more without its pictures, to compare.

    With --batch-api the command does not wait for answers. Run the same command again, for example from cron, until
    it says that no batches are pending. Before a batch is submitted, it is recorded in the folder .OUTPUT.batches
    beside the output, so that nothing is paid for twice. --max-cost also counts the pending batches of earlier runs,
    at their maximum cost.

    With --annotator human:anna, a person votes on a web page, whose address the command prints. With human:anna,ben
    these two vote, each in an order of their own, from the same address. With human, anyone votes who gives a name, and
    Ctrl-C ends the command. The page hides models, files and scores, and pictures are sent without what their files say
    about them. The order of the prompts and of the pictures is random for each person. --mode pair shows two pictures
    side by side, each pair once: the judgement has no `order`, and counts for both. --mode list asks for a ranking, in
    which pictures may tie; --mode point asks for a level from 1 to 5. If no --aspect is named, people are asked which
    picture is better all in all. The aspect is then `preference`. Each vote is on disk before the page goes on.
    If a vote is changed, the output holds both, and merge and eval use the last one. `refused` says that a person
    cannot judge the pictures, or finds them harmful. After an interruption, the same command asks only for what is
    left, and a page that was left open continues.

    Only who has the printed address can vote, and the page opens only on this machine. --listen 0.0.0.0:8080 opens it
    to the network. The connection is not encrypted: outside of a network that you trust, use ssh -L.

    Examples:

        vpctl annotate images/metadata.jsonl --annotator openai:gpt-4o
            --max-cost 20 --out judgements.jsonl

        vpctl annotate images/metadata.jsonl --annotator human:anna
            --mode pair --out judgements.jsonl

        vpctl generate prompts.jsonl | vpctl annotate -
            | vpctl merge - > pairs.jsonl
    """
    spec = plugins.check("annotator", annotator or "shapes")
    by_people = plugins.split(spec)[0] == PERSON
    if listen and not by_people:
        raise UserError(f"--listen {listen}: is for people who vote; name them with --annotator {PERSON}:NAME")
    aspects = tuple(_aspect(name, by_people) for name in aspect or _all_aspects(by_people))
    if twice := [name for name, times in Counter(one.name for one in aspects).items() if times > 1]:
        raise UserError(f"--aspect {twice[0]}: is named twice; name it once")
    if break_ties and mode != "list":
        raise UserError(f"--break-ties: needs --mode list; with --mode {mode} there are no scores to tie")
    if scoring.logprobs and mode == "pair":
        raise UserError("--logprobs: needs --mode list or point; a comparison has no levels")
    if sample and (not dry_run or is_stream(images)):
        raise UserError(f"--sample {sample}: needs --dry-run, and a FILE that can be read twice")
    _check_output(out, batch_api=batch_api, batch_file=batch_file)
    again = {*(retry or [])}
    if by_people:
        own = {"all-aspects": all_aspects, "break-ties": break_ties, "dry-run": dry_run, "batch-api": batch_api}
        own |= {"batch-file": bool(batch_file), "device": device != "auto"}
        _check_for_people(spec, own, replace(server, max_time=None), pictures, scoring)
        names = people(plugins.split(spec)[1])
        poll = Poll(aspects, cast(Any, mode), passes, seed)
        _ask_people(images, out, names, poll, listen, root, max_pictures, again, refresh, server.max_time)
        return
    if not annotator:
        progress.note("no --annotator given: using the pixel judge of the built-in shapes world")
    by_batch = bool(batch_api or batch_file)
    with OutputLedger(out, again=again, refresh=refresh, ties=break_ties, late=by_batch, optional=dry_run) as ledger:
        from ..images.hashes import ContentHasher
        from ..images.pictures import Pictures
        from ..judging import live
        from ..judging.estimate import estimate
        from ..judging.plan import Group, Plan
        from ..judging.plan import group_by_prompt as by_prompt
        from ..judging.run import Tally, judging_context

        folder = folder_of(images)
        opener = Pictures([folder, *(root or [])], piped=is_stream(images))
        how = {"server": server, "pictures": pictures, "scoring": scoring, "folder": folder}
        loaded = plugins.load("annotator", spec, device=device, **how)
        plan = Plan(aspects, cast(Any, mode), passes, all_aspects, break_ties, seed)
        context = judging_context(loaded, spec, opener, ledger)
        _check_scoring(spec, scoring)
        if passes > 1 and mode != "list" and context.annotator.deterministic():
            raise UserError(
                f"--passes {passes}: with --mode {mode} each pass would ask the same questions, and get the same "
                "answers; use --mode list, or a server with a --temperature above 0"
            )
        if not (dry_run and not sample) and not batch_file:
            context.annotator.check()
        contents = ContentHasher(
            opener,
            hidden_beside(out, "contents"),
            max_side=context.annotator.max_side,
            opened=not dry_run or bool(sample),
        )
        with closing(contents):
            tally = Tally()
            checker = ConsistencyChecker()

            def grouped() -> Iterator[Group]:
                nonlocal checker
                checker = ConsistencyChecker(max_pictures=max_pictures)
                return by_prompt(checker.images(located(images, Image)), contents)

            if mode != "point":
                progress.warn_at_end(lambda: _scattered(len(checker.scattered), images))

            pending = os.path.exists(hidden_beside(out, "batches"))
            if by_batch or pending:
                from ..judging import offline  # which imports the client of servers
            if pending and (dry_run or not batch_api) and (requests := offline.claim_pending(ledger)):
                asked = progress.plural(requests, "request")
                progress.note(f"{asked} left out, in pending batches; collect the answers with --batch-api")
            if dry_run:
                if sample:
                    some = takewhile(lambda _: tally.begun < sample, grouped())
                    tally.input_pictures = count(images)
                    live.judge(some, plan, context, tally, server, ledger)
                share = offline.batch_price_fraction(context) if by_batch else 1.0
                estimate(grouped(), plan, context, opener, share=share)
            elif by_batch:
                retries = "failed" in again
                offline.judge(grouped(), plan, context, tally, server, ledger, file=batch_file, retry=retries)
            else:
                tally.input_pictures = count(images)
                live.judge(grouped(), plan, context, tally, server, ledger)
    if tally.lost or tally.failed:
        raise SomeFailed


def _aspect(name: str, by_people: bool) -> Aspect:
    """The aspect of this name. Only people can be asked which picture they prefer, all in all."""
    return OVERALL if by_people and name == OVERALL.name else plugins.aspect(name)


def _all_aspects(by_people: bool) -> list[str]:
    """The aspects that are judged if none is named."""
    return [OVERALL.name] if by_people else [*plugins.aspects()]


def _ask_people(
    images: str,
    out: str,
    names: tuple[str, ...],
    poll: Poll,
    listen: str,
    root: list[str] | None,
    max_pictures: int,
    again: set[str],
    refresh: bool,
    max_time: float | None,
) -> None:
    """Serve the page on which these people, or all who give a name, vote on the pictures."""
    address = listen_of(listen) if listen else Listen(LOOPBACK, 0)
    with (
        VoteLedger(out, again=again, refresh=refresh) as ledger,
        closing(Doorway(address, hidden_beside(out, "page"))) as doorway,
    ):
        from ..images.hashes import ContentHasher
        from ..images.pictures import Pictures
        from ..judging.plan import group_by_prompt
        from ..voting.collect import collect

        opener = Pictures([folder_of(images), *(root or [])], piped=is_stream(images))
        checker = ConsistencyChecker(max_pictures=max_pictures)
        if poll.mode != "point":
            progress.warn_at_end(lambda: _scattered(len(checker.scattered), images))
        with closing(ContentHasher(opener, hidden_beside(out, "contents"))) as contents:
            groups = group_by_prompt(checker.images(located(images, Image)), contents)
            lost = collect(groups, Room(poll, ledger, names), ledger, doorway, opener.open, max_time)
    if lost:
        raise SomeFailed


def _check_for_people(spec: str, own: dict[str, bool], *configs: ServerConfig | PictureConfig | ScoringConfig) -> None:
    """Raise `UserError` if an option was given that is for models only. `own` are options of the command by name."""
    given = [name for name, is_given in own.items() if is_given]
    for config in configs:
        usual = asdict(type(config)())
        given += [name.replace("_", "-") for name, value in asdict(config).items() if value != usual[name]]
    if given:
        raise UserError(f"--{given[0]}: is for models; leave it out with --annotator {spec}")


def _scattered(prompts: int, images: str) -> str:
    """The warning that the records of some prompts do not stand together; empty if there are none."""
    if not prompts:
        return ""
    return (
        f"{images}: the pictures of {progress.plural(prompts, 'prompt')} were judged in separate calls, because their "
        "records are not consecutive; sort the records, for example with: jq -sc 'sort_by(.prompt_id, .prompt)[]'"
    )


def _check_scoring(spec: str, scoring: ScoringConfig) -> None:
    """Raise `UserError` if an option for answers of a server was given and the annotator does not know it."""
    given = [f"--{name}" for name, value in asdict(scoring).items() if value != getattr(ScoringConfig(), name)]
    if given and not plugins.accepts("annotator", spec, "scoring"):
        raise UserError(
            f"{given[0]}: --annotator {spec} does not know it; it is for models on a server, such as openai:"
        )


def _check_output(out: str, *, batch_api: bool, batch_file: str) -> None:
    """Raise `UserError` if the options do not work with this output."""
    is_a_file = bool(hidden_beside(out, "batches"))
    if batch_api and batch_file:
        raise UserError("--batch-api: cannot be used with --batch-file; leave one of them out")
    if (batch_api or batch_file) and not is_a_file:
        raise UserError(f"--batch-{'file' if batch_file else 'api'}: needs --out FILE, where the answers are collected")
