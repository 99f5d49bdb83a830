import re
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import JSON
from vpctl.errors import UserError
from vpctl.records import (
    RECORDS,
    Image,
    Judgement,
    Pair,
    Prompt,
    Report,
    check,
    digest,
    fingerprint,
    image_key,
    in_words,
    judgement_key,
    prompt_key,
    schema,
    split_of,
)

IMAGE = {"prompt": "a red circle", "prompt_id": "p", "image_id": "i", "file_name": "i.png", "model": "m", "seed": 7}
JUDGEMENT = {
    "prompt_id": "p",
    "prompt": "a red circle",
    "aspect": "fidelity",
    "annotator": "human",
    "image_ids": ["i", "j"],
    "file_names": ["i.png", "j.png"],
    "scores": [1, 4.5],
}


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def complaint(record: object, kind: Any) -> str:
    with pytest.raises(UserError) as raised:
        check(record, kind, "in.jsonl:7")
    return str(raised.value)


@pytest.mark.parametrize(
    ("record", "kind", "message"),
    [
        (
            [],
            Prompt,
            "a record is a JSON object on one line; this is a list; write one record on each line, e.g. with jq -c "
            "'.[]'",
        ),
        (None, Prompt, "a record is a JSON object on one line; this is null"),
        ("a red circle", Prompt, 'a record is a JSON object on one line; this is "a red circle"'),
        ({}, Prompt, "a prompt needs 'prompt'; this one has no keys"),
        ({"text": "x", "id": 1}, Prompt, "a prompt needs 'prompt'; this one has text, id"),
        (
            without(IMAGE, "file_name"),
            Image,
            "an image needs 'file_name'; this one has prompt, prompt_id, image_id, model, seed",
        ),
        (
            {"caption": "x", "prompt_id": 5},
            Image,
            "an image needs 'prompt' and 'file_name'; this one has caption, prompt_id",
        ),
        (
            {"prompt": "x", "margin": 1, "prompt_id": "p"},
            Pair,
            "a pair needs 'chosen_file_name' and 'rejected_file_name'; this one has prompt, margin, prompt_id",
        ),
        ({"prompt": 5}, Prompt, "'prompt' of a prompt is text, not 5"),
        ({"prompt": None}, Prompt, "'prompt' of a prompt is text, not null"),
        ({"prompt": {"text": "x"}}, Prompt, "'prompt' of a prompt is text, not an object"),
        ({"prompt": "x", "split": False}, Prompt, "'split' of a prompt is text, not false"),
        ({**IMAGE, "seed": 7.5}, Image, "'seed' of an image is a whole number, not 7.5"),
        ({**IMAGE, "seed": True}, Image, "'seed' of an image is a whole number, not true"),
        ({**IMAGE, "guidance_scale": "7"}, Image, "'guidance_scale' of an image is a number, not \"7\""),
        ({**IMAGE, "guidance_scale": True}, Image, "'guidance_scale' of an image is a number, not true"),
        ({**IMAGE, "scores": [1]}, Image, "'scores' of an image is an object of numbers, not a list"),
        (
            {**IMAGE, "seed": 2**64},
            Image,
            "'seed' of an image is a whole number, not 18446744073709551616 (more than 64 bits)",
        ),
        (
            {**JUDGEMENT, "scores": [1, None]},
            Judgement,
            "'scores' of a judgement is a list of numbers, not a list with null in it",
        ),
        ({**JUDGEMENT, "scores": 3}, Judgement, "'scores' of a judgement is a list of numbers, not 3"),
        (
            {**JUDGEMENT, "scores": [1, "4"]},
            Judgement,
            "'scores' of a judgement is a list of numbers, not a list with \"4\" in it",
        ),
        (
            {**JUDGEMENT, "scores": [1, False]},
            Judgement,
            "'scores' of a judgement is a list of numbers, not a list with false in it",
        ),
        (
            {**JUDGEMENT, "image_ids": ["i", ["j"]]},
            Judgement,
            "'image_ids' of a judgement is a list of texts, not a list with a list in it",
        ),
        (
            {**JUDGEMENT, "order": [0, 1.0]},
            Judgement,
            "'order' of a judgement is a list of whole numbers, not a list with 1.0 in it",
        ),
        (
            {**JUDGEMENT, "order": [1, 2]},
            Judgement,
            "'order' of a judgement must have every index into its 2 image_ids once",
        ),
        (
            {**JUDGEMENT, "scores": [], "refused": "no", "order": [7]},
            Judgement,
            "'order' of a judgement must have every index into its 2 image_ids once",
        ),
        (
            {**JUDGEMENT, "mode": "pair", "image_ids": [*"abc"], "file_names": [*"abc"], "scores": [1, 2, 3]},
            Judgement,
            "a judgement of mode 'pair' must have two pictures, not 3",
        ),
        (
            {**JUDGEMENT, "scores": [1]},
            Judgement,
            "a judgement must have equal numbers of image_ids, file_names and scores, not 2 image_ids, 2 "
            "file_names, 1 scores",
        ),
    ],
)
def test_a_record_that_is_none_is_told_why(record: object, kind: Any, message: str) -> None:
    assert complaint(record, kind) == f"in.jsonl:7: {message}"


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"prompt": ""}, Prompt),
        ({"prompt": "x", "split": "train", "unsafe": "why"}, Prompt),
        (IMAGE, Image),
        ({"prompt": "x", "file_name": "x.png"}, Image),
        ({**IMAGE, "guidance_scale": 7, "scores": {"clip": 1, "vp": -0.5}}, Image),
        (JUDGEMENT, Judgement),
        ({**JUDGEMENT, "scores": [], "refused": "no"}, Judgement),
        ({**JUDGEMENT, "usage": {"prompt_tokens": 3}, "rationales": ["", ""], "order": [1, 0]}, Judgement),
        (
            {
                "prompt_id": "p",
                "prompt": "x",
                "chosen_file_name": "a.png",
                "rejected_file_name": "b.png",
                "margin": 1,
                "aspects": {"fidelity": -1},
            },
            Pair,
        ),
        ({"name": "n", "metric": "accuracy", "value": 1, "low": 0, "high": 1, "n": 3}, Report),
    ],
)
def test_a_record_is_itself_and_whole_numbers_are_numbers(record: dict[str, Any], kind: Any) -> None:
    assert check(record, kind, "here") is record


def test_a_null_within_an_optional_object_is_absence() -> None:
    record = check({**IMAGE, "scores": {"clip": None, "vp": 1.5}, "width": None}, Image, "in.jsonl:7")
    assert record == {**IMAGE, "scores": {"vp": 1.5}}


@given(st.dictionaries(st.text(), JSON))
def test_keys_a_record_does_not_know_are_kept(more: dict[str, Any]) -> None:
    record = {**{key: value for key, value in more.items() if key not in schema(Image)}, **IMAGE}
    before = dict(record)
    assert check(record, Image, "here") == before


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: str(kind.__name__))
def test_every_key_has_a_type_that_can_be_said_and_a_meaning(kind: Any) -> None:
    known = schema(kind)
    assert set(known) == set(kind.__annotations__)
    for key, (required, expected, meaning) in known.items():
        assert required == (key in kind.__required_keys__)
        assert in_words(expected)
        assert re.fullmatch(r"[A-Z`].*[.…]", meaning), f"{key}: {meaning}"


def test_what_each_record_cannot_do_without() -> None:
    needed = {kind.__name__: [key for key, (required, _, _) in schema(kind).items() if required] for kind in RECORDS}
    assert needed == {
        "Prompt": ["prompt"],
        "Image": ["prompt", "file_name"],
        "Judgement": ["prompt_id", "prompt", "aspect", "annotator", "image_ids", "file_names", "scores"],
        "Pair": ["prompt_id", "prompt", "chosen_file_name", "rejected_file_name", "margin"],
        "Rating": ["prompt", "file_name", "label"],
        "Report": ["name", "metric", "value", "low", "high", "n"],
    }


@given(st.dictionaries(st.text(), JSON), st.randoms(use_true_random=False))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, Any], chance: Any) -> None:
    keys = list(value)
    chance.shuffle(keys)
    assert digest({key: value[key] for key in keys}) == digest(value)
    assert digest(orjson.loads(orjson.dumps(value))) == digest(value)


def test_a_digest_tells_values_apart_and_stays_what_it_is() -> None:
    values: list[object] = ["1", 1, [1], {"1": 1}, None, True, [], {}, "", ["a", "b"], ["b", "a"], ["ab"]]
    assert len({digest(value) for value in values}) == len(values)
    assert digest("a red circle") == "07eba4b16872dcf7", "the ids in everybody's files would change"


def test_the_identities_of_records() -> None:
    first: Prompt = {"prompt": "a red circle"}
    polished: Prompt = {"prompt": "a circle", "source_prompt": "a red circle"}
    assert prompt_key(first) == prompt_key(polished) == digest("a red circle")
    assert prompt_key({"prompt": "a circle", "prompt_id": "mine"}) == "mine"
    assert image_key(cast(Image, IMAGE)) == "p i"
    assert image_key(cast(Image, {**IMAGE, "prompt_id": "q"})) != image_key(cast(Image, IMAGE))


@given(st.permutations([("i", "i.png", 1.0), ("j", "j.png", 2.0), ("k", "k.png", 3.0)]))
def test_a_judgement_is_the_same_in_whatever_order_its_pictures_stand(shown: list[tuple[str, str, float]]) -> None:
    ids, files, scores = map(list, zip(*shown, strict=True))
    one: Any = {**JUDGEMENT, "image_ids": ids, "file_names": files, "scores": scores}
    same: Any = {**one, "image_ids": ["i", "j", "k"], "scores": []}
    assert judgement_key(one) == judgement_key(same)


@pytest.mark.parametrize("key", ["prompt_id", "aspect", "annotator", "image_ids"])
def test_a_judgement_is_another_if_prompt_aspect_annotator_or_pictures_are(key: str) -> None:
    other = {**JUDGEMENT, key: ["i", "k"] if key == "image_ids" else "other"}
    assert judgement_key(cast(Judgement, other)) != judgement_key(cast(Judgement, JUDGEMENT))


@given(st.text(), st.dictionaries(st.text(min_size=1), st.floats(0.01, 100), min_size=1))
def test_a_prompt_falls_into_one_of_the_parts(prompt_id: str, shares: dict[str, float]) -> None:
    assert split_of(prompt_id, shares) in shares
    assert split_of(f"{prompt_id}-original", shares) == split_of(prompt_id, shares), "both forms stay together"


def test_a_prompt_stays_in_its_part_from_run_to_run() -> None:
    shares = {"train": 0.5, "test": 0.5}
    assert "".join(split_of(f"prompt {number}", shares)[1] for number in range(10)) == "reeerereee"


def test_the_parts_have_their_shares_whatever_these_sum_to() -> None:
    prompts = [f"prompt {number}" for number in range(20_000)]
    for shares in ({"train": 0.8, "validation": 0.05, "test": 0.15}, {"train": 16, "validation": 1, "test": 3}):
        found = [split_of(prompt, shares) for prompt in prompts]
        for name, share in shares.items():
            expected = share / sum(shares.values())
            allowed = 4 * (expected * (1 - expected) / len(prompts)) ** 0.5
            assert abs(found.count(name) / len(prompts) - expected) < allowed


def test_a_part_without_a_share_is_empty() -> None:
    assert {split_of(str(number), {"train": 1, "none": 0}) for number in range(1000)} == {"train"}


def test_a_larger_share_only_adds_prompts() -> None:
    small, large = {"train": 0.2, "test": 0.8}, {"train": 0.3, "test": 0.7}
    prompts = [str(number) for number in range(1000)]
    chosen = {prompt for prompt in prompts if split_of(prompt, small) == "train"}
    assert chosen < {prompt for prompt in prompts if split_of(prompt, large) == "train"}


MEGABYTE = 1 << 20


def weights(path: Path, size: int, *, change_at: int | None = None) -> str:
    """The fingerprint of a file of zeros, in which one byte may differ."""
    with path.open("wb") as file:
        file.truncate(size)
        if change_at is not None:
            file.seek(change_at)
            file.write(b"\1")
    return fingerprint(str(path))


@pytest.mark.parametrize("size", [10, MEGABYTE, MEGABYTE + 1, 2 * MEGABYTE])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999999])
def test_every_byte_of_a_file_of_up_to_two_megabytes_counts(tmp_path: Path, size: int, place: float) -> None:
    same = weights(tmp_path / "a", size)
    assert weights(tmp_path / "b", size) == same
    assert weights(tmp_path / "a", size, change_at=int(place * size)) != same


@pytest.mark.parametrize(
    ("place", "seen"), [(0, True), (MEGABYTE - 1, True), (MEGABYTE, False), (-MEGABYTE - 1, False), (-MEGABYTE, True)]
)
def test_of_a_larger_file_the_first_and_the_last_megabyte_count(tmp_path: Path, place: int, seen: bool) -> None:
    size = 5 * MEGABYTE
    same = weights(tmp_path / "a", size)
    assert (weights(tmp_path / "a", size, change_at=place % size) != same) is seen
    assert weights(tmp_path / "a", size + 1) != same


def test_a_folder_is_known_by_its_files_names_sizes_and_content_and_not_by_its_place(tmp_path: Path) -> None:
    def folder(name: str, **files: str) -> str:
        for file, content in files.items():
            path = tmp_path / name / file.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return fingerprint(str(tmp_path / name))

    same = folder("one", unet__weights="abc", config="{}")
    assert folder("two", config="{}", unet__weights="abc") == same
    others = [
        folder("renamed", unet__model="abc", config="{}"),
        folder("moved", vae__weights="abc", config="{}"),
        folder("changed", unet__weights="abd", config="{}"),
        folder("shorter", unet__weights="ab", config="{}"),
        folder("fewer", unet__weights="abc"),
        folder("swapped", unet__weights="{}", config="abc"),
    ]
    assert len({same, *others}) == 7
