"""The six record types of vpctl: their keys, the meaning of each key, and the keys that identify a record."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NotRequired, Required, TypedDict, TypeGuard, get_args, get_origin, get_type_hints

import orjson

from .errors import UserError

PromptText = Annotated[str, "Text that describes the picture to draw."]
PromptId = Annotated[
    str,
    "Sixteen hex digits: the hash of the original prompt. polish keeps it when it changes the prompt. The second "
    "record that --keep-original writes has this id followed by `-original`.",
]
Source = Annotated[str, "The prompt before polish rewrote it."]
Split = Annotated[str, "Part of the data, such as `train` or `test`. All records of one prompt are in the same part."]
Aspects = Annotated[
    dict[str, float], "Margin on each aspect. It is negative if the rejected picture is better on this aspect."
]


class Prompt(TypedDict):
    """A prompt to draw. Written by you and polish; read by polish, generate, tune-ppo and tune-dpo --algorithm d3po."""

    prompt: PromptText
    prompt_id: NotRequired[PromptId]
    source_prompt: NotRequired[Source]
    unsafe: NotRequired[Annotated[str, "Why polish considers the prompt unsafe."]]
    prompt_nsfw: NotRequired[
        Annotated[
            float,
            "How toxic or sexually explicit the original prompt is, from 0 to 1. DiffusionDB has this key, and polish "
            "--unsafe-model computes it.",
        ]
    ]
    template: NotRequired[Annotated[str, "Name and hash of polish's instructions for the language model."]]
    rejected: NotRequired[
        Annotated[str, "Why the language model's rewrite was rejected. The rules polished the prompt instead."]
    ]
    clip_tokens: NotRequired[Annotated[int, "Length of `prompt` in CLIP tokens. Stable Diffusion reads at most 75."]]
    dropped: NotRequired[
        Annotated[str, "Why polish dropped the prompt. Only records in the file of dropped prompts have this key."]
    ]
    split: NotRequired[Split]


class Image(TypedDict):
    """A picture of a prompt. Written by you, generate and score; read by annotate, score and eval."""

    prompt: PromptText
    file_name: Annotated[str, "The picture's file."]
    prompt_id: NotRequired[PromptId]
    image_id: NotRequired[
        Annotated[
            str,
            "Identity of the picture. generate writes the hash of everything that determines the picture: prompt, "
            "model, adapter, seed and settings. If it is missing, annotate and score compute it from the bytes of the "
            "file.",
        ]
    ]
    model: NotRequired[Annotated[str, "Generator that drew the picture, as given to `--model`."]]
    seed: NotRequired[Annotated[int, "Seed of the initial noise."]]
    source_prompt: NotRequired[Source]
    split: NotRequired[Split]
    guidance_scale: NotRequired[Annotated[float, "Weight of classifier-free guidance; 1 turns it off."]]
    num_inference_steps: NotRequired[Annotated[int, "Denoising steps."]]
    width: NotRequired[Annotated[int, "Width in pixels."]]
    height: NotRequired[Annotated[int, "Height in pixels."]]
    negative_prompt: NotRequired[Annotated[str, "Text that describes what the picture must not show."]]
    adapter: NotRequired[
        Annotated[
            str,
            "Folder of the LoRA that the picture was drawn with, as given to `--adapter`. Several are separated by "
            "commas.",
        ]
    ]
    scheduler: NotRequired[Annotated[str, "Class of the scheduler in diffusers, if `--scheduler` names one."]]
    revised_prompt: NotRequired[
        Annotated[str, "Prompt that the model on a server has drawn, if the server says that it has changed it."]
    ]
    usage: NotRequired[
        Annotated[
            dict[str, float],
            "Of a picture from a server: `prompt_tokens`, `completion_tokens`, and `cost` in dollars, as far as they "
            "are known.",
        ]
    ]
    asked: NotRequired[
        Annotated[
            dict[str, str],
            "How a server was asked for the picture. `server`: its address, or the name of --server-name. `model`: the "
            "one that it names in its answer, if it names one. `without`: what was left out of the request, because "
            "the server does not accept it. Without a seed, the picture cannot be drawn again. `time` of the answer, "
            "in UTC.",
        ]
    ]
    failed: NotRequired[
        Annotated[
            str,
            "Why there is no picture. Only records in the file of failed pictures have this key; there is no file of "
            "the name in `file_name`.",
        ]
    ]
    scores: NotRequired[
        Annotated[dict[str, float], "Raw score of each reward, by the SPEC of the reward; higher is better."]
    ]
    percentiles: NotRequired[
        Annotated[
            dict[str, float],
            "By the SPEC of the reward: percentage of reference pictures with a lower score; see score --calibrate.",
        ]
    ]


class Judgement(TypedDict):
    """One annotator's scores for pictures of one prompt. Written by annotate and people; read by merge and eval."""

    prompt_id: PromptId
    prompt: PromptText
    aspect: Annotated[str, "Aspect that was judged, such as `aesthetic`."]
    annotator: Annotated[
        str, "Annotator that judged: a SPEC such as `openai:gpt-4o`, or `human:` and the name of a person."
    ]
    image_ids: Annotated[list[str], "Ids of the pictures that were judged together."]
    file_names: Annotated[list[str], "Files of the pictures, in the same order."]
    scores: Annotated[list[float], "Scores, in the same order; higher is better. Empty if `refused` or `failed`."]
    rationales: NotRequired[Annotated[list[str], "Reason for each score, in the same order."]]
    order: NotRequired[
        Annotated[
            list[int],
            "Order in which the pictures were shown to the annotator: indices into `image_ids`. A comparison by a "
            "person has none: both pictures were seen at once, the first of `image_ids` on the left.",
        ]
    ]
    ranking: NotRequired[Annotated[list[int], "Pictures from best to worst: indices into `image_ids`."]]
    mode: NotRequired[
        Annotated[
            str,
            "How the pictures were shown. `list`: all in one call; this is the default. `point`: one per call. `pair`: "
            "two per call; the picture with the higher score is preferred, and equal scores are a tie. The annotators "
            "of vpctl give the preferred picture 5 and the other 1; in a tie they give 3 to both.",
        ]
    ]
    repeat: NotRequired[Annotated[int, "Number of the pass, counted from 1. The default is 1."]]
    template: NotRequired[Annotated[str, "Name and hash of the instructions for the annotator's model."]]
    key: NotRequired[
        Annotated[str, "Hash of everything that could change the answer, including the bytes of the pictures."]
    ]
    usage: NotRequired[
        Annotated[
            dict[str, float],
            "`prompt_tokens` and the `cached_tokens` among them, `completion_tokens` and the `reasoning_tokens` among "
            "them; `cost`, in dollars; `calls`, if there was more than one. If one call gave several judgements, its "
            "usage is the sum over them.",
        ]
    ]
    asked: NotRequired[
        Annotated[
            dict[str, str],
            "How a model on a server was asked. `server`: its address, or the name of --server-name. `model`: the one "
            "that the server names in its answer, if it names one. `format` of the answer: json_schema, json_object or "
            "text. `without`: parts of a usual request that were left out, because the server does not accept them. "
            "`time` of the answer, in UTC. For a person it has only the `time` of the vote.",
        ]
    ]
    refused: NotRequired[
        Annotated[str, "Why the annotator refused to judge. A person says `cannot judge` or `harmful`."]
    ]
    failed: NotRequired[Annotated[str, "Why the annotator's answer was unusable."]]
    raw: NotRequired[Annotated[str, "Unusable answer of a failed judgement."]]
    source_prompt: NotRequired[Source]
    split: NotRequired[Split]


class Pair(TypedDict):
    """Two pictures of one prompt, one preferred. Written by merge; read by train-rm, tune-dpo and eval."""

    prompt_id: PromptId
    prompt: PromptText
    chosen_file_name: Annotated[str, "File of the preferred picture."]
    rejected_file_name: Annotated[str, "File of the rejected picture."]
    margin: Annotated[
        float,
        "Strength of the preference, from 0 to 1. 0 is a tie: neither picture is preferred. vpctl-merge(1) describes "
        "how it is computed.",
    ]
    chosen_image_id: NotRequired[Annotated[str, "Id of the preferred picture."]]
    rejected_image_id: NotRequired[Annotated[str, "Id of the rejected picture."]]
    aspects: NotRequired[Aspects]
    annotators: NotRequired[Annotated[list[str], "Annotators whose judgements were used."]]
    source_prompt: NotRequired[Source]
    split: NotRequired[Split]


class Rating(TypedDict):
    """A picture that is liked or disliked. Written by you and merge --to ratings; read by tune-dpo --algorithm kto."""

    prompt: PromptText
    file_name: Annotated[str, "The picture's file."]
    label: Annotated[bool, "Whether the picture is liked. Data sets for KTO have this key, too."]
    image_id: NotRequired[Annotated[str, "Id of the picture."]]
    margin: NotRequired[
        Annotated[float, "How far the picture is above or below the other pictures of the prompt, from 0 to 1."]
    ]
    prompt_id: NotRequired[PromptId]
    source_prompt: NotRequired[Source]
    split: NotRequired[Split]


class Report(TypedDict):
    """One measured number with its 95 % interval. Written by eval and train-rm; read by you and by eval compare."""

    name: Annotated[str, "What was measured: a reward, an annotator or a file of pictures."]
    metric: Annotated[
        str,
        "`accuracy`, `win_rate`, `elo`, `agreement`, `ties` and others. The other definitions of accuracy begin with "
        "`accuracy_`, and a difference from a baseline ends in `_difference`.",
    ]
    value: Annotated[float, "The number."]
    low: Annotated[float, "Lower end of its interval."]
    high: Annotated[float, "Upper end of its interval."]
    n: Annotated[int, "Number of items that the value is a mean of, such as pairs."]
    prompts: NotRequired[Annotated[int, "Number of prompts, if it is below 10. The interval is then wide."]]
    data: NotRequired[Annotated[str, "In accuracy, with several files: the file that was measured on."]]
    by: NotRequired[Annotated[str, "In accuracy and compare: the key of --group-by whose `group` was measured."]]
    group: NotRequired[Annotated[str, "Value of the key `by` in the records that were measured."]]
    baseline: NotRequired[
        Annotated[str, "What `name` is compared with: the file of the base model, a reward, or an annotator."]
    ]
    confidence: NotRequired[Annotated[float, "Coverage of the interval, such as 0.95."]]
    reward: NotRequired[Annotated[str, "In compare: the reward whose scores are compared, or the annotator."]]
    wins: NotRequired[Annotated[int, "In compare: number of comparisons in which the tuned model's picture is better."]]
    ties: NotRequired[
        Annotated[
            int,
            "In compare: number of comparisons with equal scores. In agreement: number of pairs that are left out "
            "because an annotator gave a tie. In accuracy: number of pairs with equal scores.",
        ]
    ]
    pairs: NotRequired[Annotated[int, "In accuracy: number of pairs."]]
    chance: NotRequired[
        Annotated[
            float,
            "In accuracy: the expected value for a reward that orders pictures at random, and that "
            "has equal scores as often.",
        ]
    ]
    threshold: NotRequired[
        Annotated[
            float,
            "In accuracy, for the metric `accuracy_tie_aware`: the value of --tie-threshold; in train-rm, the best one "
            "on the validation pairs.",
        ]
    ]
    losses: NotRequired[
        Annotated[int, "In compare: number of comparisons in which the base model's picture is better."]
    ]
    p_value: NotRequired[
        Annotated[
            float,
            "In compare: p-value of the two-sided sign test over prompts, for the hypothesis that both models win "
            "equally many prompts.",
        ]
    ]
    unjudged: NotRequired[
        Annotated[int, "In compare: number of pictures that the annotator did not compare, or in one order only."]
    ]
    split: NotRequired[Annotated[str, "In accuracy, with --split: the part of the data that was measured on."]]
    among: NotRequired[
        Annotated[list[str], "In compare, for the metric `elo`: the files of all models in the ranking."]
    ]
    verdict: NotRequired[
        Annotated[str, "In claims: `holds`, `opposite` or `undecided`. `name` is the comparison, `group` its table."]
    ]
    paired: NotRequired[Annotated[bool, "In claims: true if the difference was measured on the same items."]]
    selected_by: NotRequired[Annotated[str, "In compare: the rewards of --by that selected the pictures."]]
    mean: NotRequired[Annotated[float, "In compare: mean score of the tuned model's pictures."]]
    baseline_mean: NotRequired[Annotated[float, "In compare: mean score of the base model's pictures."]]
    aspect: NotRequired[
        Annotated[str, "In agreement and judgements: the aspect that was judged. In train-rm: that of the head."]
    ]
    slot: NotRequired[
        Annotated[int, "In agreement, for the metric `slot_preferred`: place in the order shown, counted from 1."]
    ]
    mode: NotRequired[Annotated[str, "In judgements: how the pictures were shown, as in a judgement."]]
    level: NotRequired[
        Annotated[int, "In judgements, for the metric `level`: the level, 1 to 5, whose share is the value."]
    ]
    difference: NotRequired[
        Annotated[
            float,
            "In judgements, for the metric `first_preferred`: mean over the judgements of the score of the picture "
            "that was shown first, minus the score of the picture that was shown last.",
        ]
    ]


MAX_PROMPT_CHARS = 10_000
"""Maximum length of a prompt in characters. CLIP reads 77 tokens, and other text encoders some hundreds."""

MODES = ("list", "point", "pair")
"""How an annotator sees pictures: all pictures of a prompt in one call, one per call, or two per call."""
_SAMPLE = 1 << 20

RECORDS: tuple[Any, ...] = (Prompt, Image, Judgement, Pair, Rating, Report)


def digest(value: object) -> str:
    """Sixteen hex digits of the SHA-256 hash of a value that JSON can represent. The order of keys does not matter."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def fingerprint(path: str) -> str:
    """Sixteen hex digits that identify the content of a file or a folder.

    They are a hash of the names, the sizes, and the first and last mebibyte of every file. This detects in milliseconds
    that weights of many gigabytes were replaced under the same name.
    """
    files = sorted(one for one in Path(path).rglob("*") if one.is_file()) if Path(path).is_dir() else [Path(path)]
    found = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        name = os.fsencode(file.relative_to(path)) if file != Path(path) else b""
        found.update(b"%s\0%d\0" % (name, size))
        with file.open("rb") as content:
            found.update(content.read(_SAMPLE))
            content.seek(max(_SAMPLE, size - _SAMPLE))
            found.update(content.read())
    return found.hexdigest()[:16]


ORIGINAL_SUFFIX = "-original"
"""Suffix of the id of an original prompt. Its polished form has the same id without the suffix."""


def prompt_key(record: Mapping[str, Any]) -> str:
    """The `prompt_id` of a record, or else the hash of the original prompt."""
    return str(record.get("prompt_id") or digest(record.get("source_prompt") or record["prompt"]))


def image_key(image: Image) -> str:
    """The identity of a picture that has an `image_id`: the key of its prompt and the `image_id`."""
    return f"{prompt_key(image)} {image['image_id']}"


def judgement_key(judgement: Judgement) -> str:
    """The `key` of the judgement, or else a hash of its prompt, aspect, annotator and set of pictures.

    The hash does not depend on the order of the pictures.
    """
    if key := judgement.get("key"):
        return key
    pictures = sorted(judgement["image_ids"])
    return digest([judgement["prompt_id"], judgement["aspect"], judgement["annotator"], pictures])


def is_pair(record: "Pair | Rating | Judgement") -> TypeGuard[Pair]:
    """Whether a record of a preference is a pair, and not a rating or a judgement."""
    return "chosen_file_name" in record


def split_of(prompt_id: str, shares: Mapping[str, float]) -> str:
    """The part of the data that a prompt belongs to, by the hash of its id: it stays the same when the data grow.

    Both forms of a prompt, original and polished, are in the same part. Otherwise a model could be tested on a
    rewording of a prompt it was trained on.
    """
    place = int(digest(["split", prompt_id.removesuffix(ORIGINAL_SUFFIX)])[:8], 16) / 16**8 * sum(shares.values())
    names = list(shares)
    for name in names:
        place -= shares[name]
        if place < 0:
            return name
    return names[-1]


@cache
def schema(kind: Any) -> dict[str, tuple[bool, Any, str]]:
    """For every key of a record type: whether it is required, its type, and its meaning."""
    keys = {}
    for key, hint in get_type_hints(kind, include_extras=True).items():
        meaning = ""
        while get_origin(hint) in (Annotated, NotRequired, Required):
            if get_origin(hint) is Annotated:
                meaning = hint.__metadata__[0]
            hint = get_args(hint)[0]
        keys[key] = (key in kind.__required_keys__, hint, meaning)
    return keys


def check(record: object, kind: Any, where: str) -> dict[str, Any]:
    """Return `record` if it is a valid record of this kind. Unknown keys are ignored.

    An optional key is removed if it is null or a list that holds only nulls, and so is a null in its object: `datasets`
    writes these where another record has the key.

    Raises `UserError`, which begins with `where`, if the record is not an object, if a key is missing or has the wrong
    type, if the prompt is too long (except in a `Prompt`, which polish may drop), if the margin of a pair is not from 0
    to 1, or if the pictures, scores, `mode` and `order` of a judgement do not fit together. A judgement
    needs one score for each picture, unless it was refused or failed.
    """
    if not isinstance(record, dict):
        way_out = "; write one record on each line, e.g. with jq -c '.[]'" if isinstance(record, list) else ""
        raise UserError(f"{where}: a record is a JSON object on one line; this is {_found(record)}{way_out}")
    if not _fits(record, kind):
        _mend_keys(record, kind, where)
    if kind is not Prompt and "prompt" in schema(kind) and (reason := prompt_too_long(record)):
        raise UserError(f"{where}: {reason}")
    if kind is Judgement:
        _check_pictures(record, where)
    if kind is Pair and not 0 <= record["margin"] <= 1:
        raise UserError(f"{where}: 'margin' of a pair must be from 0 to 1, not {_found(record['margin'])}")
    return record


def _fits(record: dict[str, Any], kind: Any) -> bool:
    """Whether no key is missing and each value is of its type, as in nearly all records. It is quick to find out."""
    required, types = _types(kind)
    if not required <= record.keys():
        return False
    for key, value in record.items():
        if (expected := types.get(key)) is None:
            continue
        allowed, within = expected
        kind_of_value = type(value)
        if kind_of_value not in allowed:
            return False
        if within is not None:
            found = {*map(type, value.values() if kind_of_value is dict else value)}
            if not found <= within or (int in found and not _conforms(value, schema(kind)[key][1])):
                return False
        elif kind_of_value is int and _too_large(value):
            return False
    return True


@cache
def _types(kind: Any) -> tuple[set[str], dict[str, tuple[set[type], set[type] | None]]]:
    """The required keys, and for every key the types of its value and, in a list or an object, of what is inside."""
    known = schema(kind)
    types: dict[str, tuple[set[type], set[type] | None]] = {}
    for key, (_, expected, _) in known.items():
        if expected in _TYPES:
            types[key] = _TYPES[expected], None
        else:
            container, within = _parts(expected)
            types[key] = {container}, within
    return {key for key, (required, _, _) in known.items() if required}, types


def _mend_keys(record: dict[str, Any], kind: Any, where: str) -> None:
    """Remove the nulls from a record, or raise `UserError` if it does not fit its kind for another reason."""
    known = schema(kind)
    name = _with_article(kind.__name__.lower())
    if missing := [key for key, (required, _, _) in known.items() if required and key not in record]:
        of_others = (what for keys, what in _READERS.items() if record.keys() >= keys and not known.keys() >= keys)
        known_as = next(of_others, "")
        found = f"is {known_as}" if known_as else f"one has {', '.join(record) or 'no keys'}"
        raise UserError(f"{where}: {name} needs {listing(map(repr, missing))}; this {found}")
    for key, (required, expected, _) in known.items():
        if not required and key in record:
            _drop_null(record, key)
        if key in record and not _conforms(record[key], expected):
            raise UserError(f"{where}: {key!r} of {name} is {in_words(expected)}, not {_found(record[key], expected)}")


def prompt_too_long(record: Mapping[str, Any]) -> str:
    """Why a record's prompt is too long to draw or to judge, or an empty text. polish drops such prompts."""
    length = len(record["prompt"])
    if length <= MAX_PROMPT_CHARS:
        return ""
    return f"the prompt has {length} characters; the maximum is {MAX_PROMPT_CHARS}: shorten it, or leave the record out"


def _drop_null(record: dict[str, Any], key: str) -> None:
    value = record[key]
    if value is None or (isinstance(value, list) and value and all(one is None for one in value)):
        del record[key]
    elif isinstance(value, dict) and None in value.values():
        record[key] = {name: one for name, one in value.items() if one is not None}


def _check_pictures(judgement: dict[str, Any], where: str) -> None:
    """Raise `UserError` if the pictures, scores, mode and order of a judgement do not fit together."""
    pictures, mode, order = len(judgement["image_ids"]), judgement.get("mode"), judgement.get("order")
    if "refused" not in judgement and "failed" not in judgement:
        lengths = {key: len(judgement[key]) for key in ("image_ids", "file_names", "scores")}
        if len(set(lengths.values())) > 1:
            numbers = ", ".join(f"{number} {key}" for key, number in lengths.items())
            raise UserError(
                f"{where}: a judgement must have equal numbers of image_ids, file_names and scores, not {numbers}"
            )
    if mode is not None and mode not in MODES:
        raise UserError(f"{where}: 'mode' of a judgement must be one of {', '.join(MODES)}, not {_found(mode)}")
    if mode == "pair" and pictures != 2:
        raise UserError(f"{where}: a judgement of mode 'pair' must have two pictures, not {pictures}")
    if order is not None and sorted(order) != [*range(pictures)]:
        raise UserError(f"{where}: 'order' of a judgement must have every index into its {pictures} image_ids once")


_READERS = {
    frozenset(["image_ids"]): "a judgement, which merge and eval judgements read",
    frozenset(["chosen_file_name"]): "a pair, which train-rm, tune-dpo and eval accuracy read",
    frozenset(["metric"]): "a report, which eval compare reads with --report",
    frozenset(["file_name", "label"]): "a rating, which tune-dpo --algorithm kto reads",
    frozenset(["file_name"]): "a picture, which score and annotate read",
}
"""By the keys that show the kind of a record: the kind, and the commands that read it."""
_MARKS = {"aspect": "a judgement", "image_id": "a picture", "chosen_file_name": "a pair", "metric": "a report"}
"""Keys that show the kind of a record that has a prompt but is not a `Prompt`."""


def of_another_kind(kind: Any, record: Mapping[str, object]) -> str:
    """Why prompts cannot be added to a file that holds this record, which is of another kind.

    Empty if they can, or if `kind` is not `Prompt`.
    """
    found = next((what for key, what in _MARKS.items() if key in record), "") if kind is Prompt else ""
    if kind is Prompt and "file_name" in record and "prompt_id" not in record:  # polish always writes a prompt_id
        found = "a picture"
    return f"this is {found}, not a prompt; name another file with --out" if found else ""


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_PLURALS = {str: "texts", int: "whole numbers", float: "numbers"}


def in_words(expected: Any) -> str:
    """The type of a key in the words of messages and man pages, such as ``a list of numbers``."""
    if get_origin(expected) is list:
        return f"a list of {_PLURALS[get_args(expected)[0]]}"
    if get_origin(expected) is dict:
        return f"an object of {_PLURALS[get_args(expected)[1]]}"
    return _WORDS[expected]


_TYPES: dict[type, set[type]] = {str: {str}, int: {int}, float: {int, float}, bool: {bool}}
"""The Python types of valid JSON values for each type of key. A bool is not a number."""


def _conforms(value: object, expected: Any) -> bool:
    if expected in _TYPES:
        return type(value) in _TYPES[expected] and not _too_large(value)
    origin, within = _parts(expected)
    if not isinstance(value, origin):
        return False
    values = value if origin is list else value.values()
    return within.issuperset(map(type, values)) and not (int in within and any(map(_too_large, values)))


def _too_large(value: object) -> bool:
    """Whether it is an integer of more than 64 bits. Only keys that are unknown to vpctl may hold one."""
    return type(value) is int and not -(1 << 63) <= value < 1 << 64


@cache
def _parts(expected: Any) -> tuple[Any, set[type]]:
    """The container (list or dict) of a key's type, and the set of types allowed inside it. Cached."""
    return get_origin(expected), _TYPES[get_args(expected)[-1]]


def _found(value: object, expected: Any = None) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        within = value if isinstance(value, list) else [*value.values()]
        own = get_origin(expected) is type(value)
        wrong = [one for one in within if own and not _conforms(one, get_args(expected)[-1])]
        holding = f" with {_found(wrong[0])} in it" if wrong else ""
        return f"{'a list' if isinstance(value, list) else 'an object'}{holding}"
    return f"{value}"[:40] + " (more than 64 bits)" if _too_large(value) else orjson.dumps(value).decode()[:40]


def listing(items: Iterable[str]) -> str:
    """The items as a list in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    *before, last = items
    return f"{', '.join(before)} and {last}" if before else last


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
