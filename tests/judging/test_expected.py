"""Expected levels, from the probabilities of tokens."""

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.contracts import Aspect, Kind, Verdicts
from vpctl.judging.expected import with_expected_levels
from vpctl.judging.questions import parse_verdicts

PLAIN = Aspect("own", "Own", "Levels.")
NAMED = Aspect("named", "Named", "x", ("1 Bad", "2 Poor", "3 Fair", "4 Good", "5 Excellent"))
POINT = Kind((PLAIN,), "point", 1)
LIST = Kind((PLAIN,), "list", 2)


def split(text: str, pattern: str = r"\d|\w+|\s+|[^\w\s]+") -> list[str]:
    return re.findall(pattern, text)


def choice(tokens: list[str], alternatives: dict[int, dict[str, float]], *, as_bytes: bool = True) -> dict[str, Any]:
    """A choice with these tokens, each certain, except those that have alternatives with probabilities."""

    def entry(token: str, probability: float) -> dict[str, Any]:
        logprob = math.log(probability) if probability else -9999.0
        return {"token": token, "logprob": logprob, "bytes": [*token.encode()] if as_bytes else None}

    content = []
    for number, token in enumerate(tokens):
        among = alternatives.get(number, {token: 1.0})
        content.append(entry(token, among.get(token, 0.0)) | {"top_logprobs": [entry(*one) for one in among.items()]})
    return {"message": {"content": "".join(tokens)}, "logprobs": {"content": content}}


def expected(kind: Kind, found: dict[str, Any]) -> list[Verdicts] | None:
    verdicts = parse_verdicts(kind, json.loads(found["message"]["content"]))
    return with_expected_levels(kind, verdicts, found)


def scores(kind: Kind, found: dict[str, Any]) -> Any:
    made = expected(kind, found)
    return made and [one.scores for one in made]


ONE = '{"A": {"because": "dull", "level": "3"}}'


@pytest.mark.parametrize("as_bytes", [True, False])
def test_the_score_is_the_mean_of_the_levels_weighted_by_their_probabilities(as_bytes: bool) -> None:
    tokens = split(ONE)
    at = tokens.index("3")
    hesitant = {at: {"3": 0.5, "4": 0.25, "2": 0.05, "five": 0.1, "x": 0.1}}
    # 3 x 0.5 + 4 x 0.25 + 2 x 0.05 over 0.8; what is no level does not count.
    assert scores(POINT, choice(tokens, hesitant, as_bytes=as_bytes)) == [[pytest.approx(2.6 / 0.8)]]
    assert scores(POINT, choice(tokens, {}, as_bytes=as_bytes)) == [[3.0]]


@pytest.mark.parametrize(
    ("tokens", "alternatives"),
    [
        (['{"A": {"because": "dull", "level": "', "3", '"}}'], {"3": 0.5, "5": 0.5}),
        (['{"A": {"because": "dull", "level":', ' "3', '"}}'], {' "3': 0.5, ' "5': 0.5}),
        (['{"A": {"because": "dull", "level": ', '"3"}}'], {'"3"}}': 0.5, '"5"}}': 0.25, '"5': 0.25}),
        (['{"A": {"because": "dull", "level": ', "3", "}}"], {"3": 0.5, "5": 0.5}),
        (['{"A":{"because":"\\"level\\": \\"1\\"","level":"', "3", '"}}'], {"3": 0.5, "5": 0.5}),
        (['{"A":{"because":"{[,:","level":"', "3", '"}}'], {"3": 0.5, "5": 0.5}),
        (['{"A":{"x":[{"level":"1"}],"because":"é","level":"', "3", '"}}'], {"3": 0.5, "5": 0.5}),
        (['{"A":{"because":"b","level":"1","level":"', "3", '"}}'], {"3": 0.5, "5": 0.5}),
        (['{"B":{"level":"1"},"A":{"level":"', "3", '","because":"b"}}'], {"3": 0.5, "5": 0.5}),
    ],
)
def test_the_level_is_found_however_the_tokens_are_cut(tokens: list[str], alternatives: dict[str, float]) -> None:
    verdicts = [Verdicts([3.0], ["x"], {})]
    found = with_expected_levels(POINT, verdicts, choice(tokens, {1: alternatives}))
    assert found
    assert found[0].scores == [4.0]
    assert found[0].rationales == ["x"]


def test_characters_that_are_cut_between_tokens_shift_nothing() -> None:
    whole = '{"A": {"because": "日本", "level": "3"}}'
    cut = whole.encode().index("本".encode()) + 1
    content = []
    for part in (
        whole.encode()[:cut],
        whole.encode()[cut : cut + 2],
        *(bytes([one]) for one in whole.encode()[cut + 2 :]),
    ):
        among = {b"3": 0.75, b"1": 0.25} if part == b"3" else {part: 1.0}
        top = [{"token": "?", "bytes": [*one], "logprob": math.log(p)} for one, p in among.items()]
        content.append({"token": "?", "bytes": [*part], "logprob": math.log(among[part]), "top_logprobs": top})
    found = {"message": {"content": whole}, "logprobs": {"content": content}}
    assert scores(POINT, found) == [[pytest.approx(2.5)]]


def test_a_level_by_name_is_found_by_its_beginning() -> None:
    tokens = ['{"A":{"because":"b","level":"', "Fair", '"}}']
    found = choice(tokens, {1: {"Fair": 0.5, "Good": 0.25, "Ex": 0.25, "": 0.0}})
    kind = Kind((NAMED,), "point", 1)
    assert scores(kind, found) == [[3 * 0.5 + 4 * 0.25 + 5 * 0.25]]


def test_each_picture_and_each_aspect_has_its_own() -> None:
    kind = Kind((PLAIN, NAMED), "list", 2)
    parts = []
    for aspect, first, second in (("own", "3", "4"), ("named", "1", "5")):
        for letter, level, end in (("A", first, "},"), ("B", second, "}")):
            begin = f'"{aspect}":{{' if letter == "A" else ""
            parts += [f'{begin}"{letter}":{{"because":"b","level":"', level, f'"{end}']
        parts.append(',"ranking":["B","A"]}' + ("," if aspect == "own" else ""))
    tokens = ["{", *parts, "}"]
    at = [number for number, token in enumerate(tokens) if token.isdigit()]
    hesitant = {at[0]: {"3": 0.5, "4": 0.5}, at[1]: {"4": 0.5, "2": 0.5}, at[3]: {"5": 0.5, "4": 0.5}}
    made = expected(kind, choice(tokens, hesitant))
    assert made
    assert [one.scores for one in made] == [[3.5, 3.0], [1.0, 4.5]]
    assert [list(one.ranking) for one in made] == [[], [1, 0]], "the first ranking contradicts the expected levels"


def test_a_comparison_has_no_levels() -> None:
    verdicts = [Verdicts([5.0, 1.0], ["x", "y"], {})]
    assert with_expected_levels(Kind((PLAIN,), "pair", 2), verdicts, choice(['{"preferred":"A"}'], {})) is None


@pytest.mark.parametrize(
    "logprobs",
    [
        *(None, {}, {"content": None}, {"content": []}, {"content": 3}, {"content": [3]}, [], "x"),
        {"content": [{"token": 3}]},
        {"content": [{"token": ONE[:-5]}, {"token": "3", "logprob": None}, {"token": '"}}'}]},
        {"content": [{"token": ONE[:-5]}, {"token": "3", "logprob": "0"}, {"token": '"}}'}]},
        {"content": [{"token": ONE[:-5]}, {"token": "3", "logprob": float("nan")}, {"token": '"}}'}]},
        {"content": [{"token": ONE[:-5]}, {"token": "3", "logprob": -(10**400)}, {"token": '"}}'}]},
        {"content": [{"token": ONE[:-5]}, {"token": "4", "logprob": 0.0}, {"token": '"}}'}]},
        {"content": [{"token": "so be it", "logprob": 0.0}]},
        {"content": [{"token": '{"A": {"level": "', "logprob": 0.0}]},
        {"content": [{"token": "{" * 3000, "logprob": 0.0}]},
    ],
)
def test_probabilities_that_are_missing_or_belong_to_something_else_change_nothing(logprobs: object) -> None:
    found = {"message": {"content": ONE}, "logprobs": logprobs}
    assert expected(POINT, found) is None
    assert expected(POINT, {"message": {"content": ONE}}) is None


def test_one_level_without_probabilities_leaves_all_of_the_answer_as_it_is() -> None:
    tokens = ['{"A":{"because":"b","level":"', "3", '"},"B":{"because":"b","level":"', "4", '"}}']
    assert scores(LIST, choice(tokens, {1: {"3": 0.5, "4": 0.5}})) == [[3.5, 4.0]]
    assert scores(LIST, choice(tokens, {1: {"3": 0.5, "4": 0.5}, 3: {}})) is None


@given(st.text(), st.lists(st.floats(0.01, 1), min_size=5, max_size=5), st.integers(1, 5))
def test_an_expected_level_is_on_the_scale_whatever_the_reason_is(
    reason: str, weights: list[float], level: int
) -> None:
    text = json.dumps({"A": {"because": f"b{reason}", "level": str(level)}})
    head, tail = text[: -len(f'{level}"}}}}')], '"}}'
    among = {str(one): weight / sum(weights) for one, weight in enumerate(weights, 1)}
    found = scores(POINT, choice([*head, str(level), tail], {len(head): among}))
    assert found == [[pytest.approx(sum(int(one) * p for one, p in among.items()), abs=1e-4)]]
