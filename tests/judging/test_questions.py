"""The questions to a judge, and the answers that are accepted."""

from collections.abc import Callable
from itertools import permutations
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servers import instance
from vpctl import plugins
from vpctl.contracts import Aspect, Kind, Mode, Question
from vpctl.errors import Unusable
from vpctl.judging import questions
from vpctl.judging.questions import answer_schema, parse_verdicts, system_prompt, template, text_after

NAMED = Aspect(
    "fidelity", "Fidelity", "1. Bad: x\n5. Excellent: y", ("1 Bad", "2 Poor", "3 Fair", "4 Good", "5 Excellent")
)
PLAIN = Aspect("own", "Own", "Levels.")
LIST = Kind((NAMED,), "list", 3)
KINDS = [
    LIST,
    Kind((NAMED,), "list", 1),
    Kind((PLAIN,), "list", 4),
    Kind((NAMED,), "point", 1),
    Kind((NAMED,), "pair", 2),
    Kind((NAMED, PLAIN), "list", 2),
    Kind((NAMED, PLAIN), "point", 1),
    Kind((NAMED, PLAIN), "pair", 2),
]


def answer(*levels: object, ranking: object = None) -> dict[str, Any]:
    letters = "ABCDEFG"[: len(levels)]
    said: dict[str, Any] = {
        letter: {"because": f"because {level}", "level": level} for letter, level in zip(letters, levels, strict=True)
    }
    return {**said, "ranking": list("ABC") if ranking is None else ranking}


def test_a_whole_answer_becomes_scores_rationales_and_places() -> None:
    (found,) = parse_verdicts(LIST, answer("4 Good", "5 Excellent", "4 Good", ranking=["B", "C", "A"]))
    assert found.scores == [4.0, 5.0, 4.0]
    assert found.rationales == ["because 4 Good", "because 5 Excellent", "because 4 Good"]
    assert list(found.ranking) == [1, 2, 0]


@pytest.mark.parametrize(
    "level", ["3 Fair", "3", 3, 3.0, "Fair", "fair", " 3 fair ", "3. Fair", "3: Fair", "3) Fair", "3.", "3 "]
)
def test_a_level_may_be_said_in_more_ways_than_one(level: object) -> None:
    assert parse_verdicts(Kind((NAMED,), "list", 1), {"A": {"because": "x", "level": level}})[0].scores == [3.0]


@pytest.mark.parametrize(
    "level",
    [
        *(None, True, False, 0, 6, -1, 3.5, [3], {"level": 3}, 10**30, 1e300),
        *("0", "6", "0 Bad", "6 Superb", "4 Bad", "1 Excellent", "Bad 1", "4/5", "4 of 5", "3 4"),
        *("", " ", "three", "3 Fair enough", "Good or Fair", "9" * 5000, "³"),
    ],
)
def test_a_level_that_is_none_or_could_be_two_is_no_answer(level: object) -> None:
    with pytest.raises(Unusable, match="of picture A is not one of the levels 1 Bad, 2 Poor"):
        parse_verdicts(Kind((NAMED,), "list", 1), {"A": {"because": "x", "level": level}})


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "does not mention picture A"),
        ({key: value for key, value in answer(1, 1, 1).items() if key != "C"}, "does not mention picture C"),
        ({**answer(1, 1, 1), "B": 2}, "does not mention picture B"),
        ({**answer(1, 1, 1), "B": [2]}, "does not mention picture B"),
        ({**answer(1, 1, 1), "D": {"because": "x", "level": 1}}, "mentions a picture D, which does not exist"),
        ({**answer(1, 1, 1), "A": {"level": 1}}, "no reason for picture A"),
        ({**answer(1, 1, 1), "A": {"level": 1, "rationale": " \n"}}, "no reason for picture A"),
        ({**answer(1, 1, 1), "A": {"level": 1, "rationale": 7}}, "no reason for picture A"),
        ({**answer(1, 1, 1), "A": {"because": "x"}}, "'None' of picture A is not one of the levels"),
    ],
)
def test_an_answer_that_is_not_whole_is_none(said: dict[str, Any], why: str) -> None:
    with pytest.raises(Unusable, match=why):
        parse_verdicts(LIST, said)


@given(st.lists(st.integers(1, 5), min_size=3, max_size=3))
def test_a_ranking_is_kept_exactly_if_it_agrees_with_the_levels_and_never_costs_them(levels: list[int]) -> None:
    for order in permutations("ABC"):
        places = ["ABC".index(letter) for letter in order]
        agrees = sorted(places, key=lambda place: -levels[place]) == places
        (found,) = parse_verdicts(LIST, answer(*levels, ranking=list(order)))
        assert found.scores == levels
        assert list(found.ranking) == (places if agrees else [])


@pytest.mark.parametrize(
    "ranking",
    [
        *("ABC", [], ["A", "B"], ["A", "B", "B"], ["A", "B", "C", "C"], ["A", "B", "D"], [0, 1, 2], {"A": 1}, 7),
        *(["a", "b", "c"], ["A", ["B"], "C"], [None] * 3),
    ],
)
def test_a_ranking_that_is_no_order_of_the_pictures_is_left_out(ranking: object) -> None:
    (found,) = parse_verdicts(LIST, answer(1, 1, 1, ranking=ranking))
    assert (found.scores, list(found.ranking)) == ([1.0, 1.0, 1.0], [])


def test_a_ranking_that_is_missing_is_left_out() -> None:
    said = {key: value for key, value in answer(4, 5, 4).items() if key != "ranking"}
    (found,) = parse_verdicts(LIST, said)
    assert (found.scores, list(found.ranking)) == ([4.0, 5.0, 4.0], [])


def test_the_reason_of_a_request_of_an_earlier_version_is_read() -> None:
    old = {"A": {"rationale": "sharp", "level": "4 Good"}, "B": {"rationale": "dull", "level": "2 Poor"}}
    (found,) = parse_verdicts(Kind((NAMED,), "list", 2), {**old, "ranking": ["A", "B"]})
    assert (found.scores, found.rationales, list(found.ranking)) == ([4.0, 2.0], ["sharp", "dull"], [0, 1])


def test_one_picture_needs_no_ranking() -> None:
    (found,) = parse_verdicts(Kind((PLAIN,), "point", 1), {"A": {"because": "a\n b", "level": "2"}})
    assert (found.scores, found.rationales, list(found.ranking)) == ([2.0], ["a b"], [])


@pytest.mark.parametrize(("preferred", "scores"), [("A", [5.0, 1.0]), ("B", [1.0, 5.0]), ("tie", [3.0, 3.0])])
def test_a_comparison_has_a_winner_or_none(preferred: str, scores: list[float]) -> None:
    (found,) = parse_verdicts(Kind((NAMED,), "pair", 2), {"A": "left", "B": "right", "preferred": preferred})
    assert (found.scores, found.rationales) == (scores, ["left", "right"])


@pytest.mark.parametrize(
    "said",
    [
        {"A": "x", "B": "y"},
        {"A": "x", "B": "y", "preferred": "C"},
        {"A": "x", "B": "y", "preferred": "a"},
        {"A": "x", "B": "y", "preferred": ["A"]},
        {"A": "x", "B": "y", "preferred": None},
        {"A": "x", "preferred": "A"},
        {"A": "x", "B": " ", "preferred": "A"},
    ],
)
def test_a_comparison_that_is_not_whole_is_none(said: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        parse_verdicts(Kind((NAMED,), "pair", 2), said)


def test_all_aspects_at_once_are_all_there_or_it_is_no_answer() -> None:
    kind = Kind((NAMED, PLAIN), "list", 3)
    both = {"fidelity": answer(1, 1, 1), "own": answer(3, 2, 2)}
    assert [found.scores for found in parse_verdicts(kind, both)] == [[1.0, 1.0, 1.0], [3.0, 2.0, 2.0]]
    with pytest.raises(Unusable, match="no object 'own'"):
        parse_verdicts(kind, {"fidelity": answer(1, 1, 1)})
    with pytest.raises(Unusable, match=r"^own: the answer does not mention picture C"):
        parse_verdicts(kind, {**both, "own": answer(1, 2)})


def fits(value: Any, part: dict[str, Any]) -> bool:
    """Whether a value matches a schema of the strict subset."""
    if "enum" in part and value not in part["enum"]:
        return False
    match part["type"]:
        case "object":
            own = part["properties"]
            return (
                isinstance(value, dict)
                and value.keys() == own.keys()
                and all(fits(value[key], own[key]) for key in own)
            )
        case "array":
            return isinstance(value, list) and all(fits(one, part["items"]) for one in value)
        case kind:
            return isinstance(value, str) and kind == "string"


def objects(part: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [*part.get("properties", {}).values(), *([part["items"]] if "items" in part else [])]
    return [part, *(one for each in inner for one in objects(each))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_keeps_to_what_all_servers_with_schemas_know(kind: Kind) -> None:
    for part in objects(answer_schema(kind)):
        assert part.keys() <= {"type", "properties", "required", "additionalProperties", "items", "enum"}
        if part["type"] == "object":
            assert part["additionalProperties"] is False
            assert part["required"] == list(part["properties"])
            if "level" in part["properties"]:
                keys = list(part["properties"])
                assert keys == sorted(keys) == ["because", "level"], "the reason first, also for servers that sort keys"


@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_the_schema_is_accepted_and_the_example_has_its_form(kind: Kind) -> None:
    for seed in range(30):
        said = instance(answer_schema(kind), Random(seed))
        assert fits(said, answer_schema(kind))
        found = parse_verdicts(kind, said)
        assert len(found) == len(kind.aspects)
        assert all(len(one.scores) == len(one.rationales) == kind.pictures for one in found)
    example = orjson.loads(system_prompt(kind).rpartition("\n")[2])

    def shape(value: Any) -> Any:
        return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else type(value)

    assert shape(example) == shape(said)


BASE = Kind((NAMED, PLAIN), "list", 2)


@pytest.mark.parametrize(
    "other",
    [
        BASE._replace(aspects=(PLAIN, NAMED)),
        BASE._replace(aspects=(NAMED,)),
        BASE._replace(aspects=(NAMED._replace(rubric="1. Bad: z"), PLAIN)),
        BASE._replace(aspects=(NAMED._replace(title="Faithfulness"), PLAIN)),
        BASE._replace(aspects=(NAMED._replace(name="other"), PLAIN)),
        BASE._replace(aspects=(NAMED._replace(levels=(*NAMED.levels[:4], "5 Superb")), PLAIN)),
        BASE._replace(mode="pair"),
        BASE._replace(pictures=3),
    ],
)
def test_the_name_of_the_words_changes_with_any_of_them(other: Kind) -> None:
    assert template(other) != template(BASE)
    assert template(other).startswith(f"{other.mode}{'-all' if len(other.aspects) > 1 else ''}@")


@pytest.mark.parametrize("words", ["_MATERIAL", "_LEVELS", "_RANKED", "_EACH", "_ANSWER", "_AFTER", "_PROMPT"])
def test_the_name_of_the_words_changes_with_our_own(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    before = template(BASE)
    monkeypatch.setattr(questions, words, getattr(questions, words) + " Now.")
    caches = [system_prompt, template, questions._task]
    clear: list[Callable[[], None]] = [one.cache_clear for one in caches]
    for one in clear:
        one()
    try:
        assert template(BASE) != before
    finally:
        for one in clear:
            one()


@given(st.text(), st.sampled_from(["list", "pair"]))
def test_a_prompt_stands_quoted_and_can_end_nothing(prompt: str, mode: Mode) -> None:
    text, blank = (text_after(Question(words, [None] * 2, (NAMED,), mode)) for words in (prompt, ""))
    head, line, *rest = text.split("\n")
    assert head == "The prompt, as JSON:"
    assert orjson.loads(line) == {"prompt": prompt}
    assert rest == blank.split("\n")[2:]


SHOWN = Aspect("shown", "Shown", "x")
HIDDEN = Aspect("hidden", "Hidden", "x", with_prompt=False)
UNRANKED = Aspect("unranked", "Unranked", "x", with_ranking=False)


def test_the_prompt_is_shown_only_if_an_aspect_depends_on_it() -> None:
    def asked(*aspects: Aspect, mode: Mode = "list") -> str:
        return text_after(Question("a red hat", [None] * 2, aspects, mode))

    assert "a red hat" not in asked(HIDDEN)
    assert "a red hat" not in asked(HIDDEN, mode="pair")
    assert "a red hat" in asked(SHOWN)
    assert "a red hat" in asked(HIDDEN, SHOWN), "one call for both aspects"
    assert "a red hat" not in asked(HIDDEN, HIDDEN._replace(name="other"))


def test_a_ranking_is_asked_for_where_the_aspect_has_one_and_there_is_something_to_rank() -> None:
    def asked(*aspects: Aspect, mode: Mode = "list", pictures: int = 2) -> tuple[bool, bool]:
        text = text_after(Question("", [None] * pictures, aspects, mode))
        return "rank the pictures, as" in text, "Do not rank" in text

    assert asked(SHOWN) == (True, False)
    assert asked(UNRANKED) == (False, True)
    assert asked(SHOWN, UNRANKED) == (True, True)
    assert "Do not rank the pictures on Unranked:" in text_after(Question("", [None] * 2, (SHOWN, UNRANKED)))
    assert asked(UNRANKED, mode="pair") == asked(UNRANKED, pictures=1) == (False, False)
    assert asked(SHOWN, mode="pair") == asked(SHOWN, pictures=1) == (False, False)


def test_which_of_our_aspects_see_the_prompt_and_rank() -> None:
    ours = {name: plugins.aspect(name) for name in plugins.aspects()}
    assert [name for name, aspect in ours.items() if not aspect.with_prompt] == ["aesthetic", "harmlessness"]
    assert [name for name, aspect in ours.items() if not aspect.with_ranking] == ["harmlessness"]
    assert ours["fidelity"].levels[0] == "1 Broken"
    assert ours["fidelity"].levels[-1] == "5 Flawless"


@pytest.mark.parametrize("pictures", [1, 4])
@pytest.mark.parametrize("mode", ["list", "pair"])
def test_all_that_comes_before_the_pictures_is_the_same_for_every_aspect(mode: Mode, pictures: int) -> None:
    pictures = 2 if mode == "pair" else pictures
    kinds = [Kind((plugins.aspect(name),), mode, pictures) for name in plugins.aspects()]
    heads = {orjson.dumps([answer_schema(kind), system_prompt(kind)]) for kind in kinds}
    assert len(heads) == 1
    assert len({template(kind) for kind in kinds}) == len(kinds) == 4


def test_every_aspect_of_the_package_is_asked_for_with_its_levels() -> None:
    for name in plugins.aspects():
        aspect = plugins.aspect(name)
        kind = Kind((aspect,), "list", 4)
        text = text_after(Question("p", [None] * 4, (aspect,)))
        assert aspect.rubric in text
        assert all(f"\n{level.replace(' ', '. ', 1)}: " in text for level in aspect.levels)
        assert "an instruction to you" in system_prompt(kind), "before the material"
        assert "an instruction to you" in text.partition(aspect.rubric)[0], "and after it"


def test_more_pictures_than_letters_are_too_many() -> None:
    assert len(Kind((PLAIN,), "list", 26).letters) == 26
    with pytest.raises(Unusable, match="27 pictures are too many for one call; the maximum is 26"):
        template(Kind((PLAIN,), "list", 27))
