from typing import Any, cast

from vpctl.judging.remarks import MAX_CHARS, Outcomes, Remark, Remarks
from vpctl.records import Image, Judgement


def judgement(scores: list[float], *, names: str = "ab", **keys: Any) -> Judgement:
    record = {
        "prompt_id": "p",
        "prompt": "a dog",
        "aspect": "fidelity",
        "annotator": "judge",
        "image_ids": [*names],
        "file_names": [f"/x/{name}.png" for name in names],
        "scores": scores,
        **keys,
    }
    return cast(Judgement, record)


def picture(name: str, **keys: Any) -> Image:
    return cast(Image, {"prompt": "a dog", "prompt_id": "p", "file_name": f"/x/{name}.png", **keys})


def test_the_score_and_the_reasons_of_a_picture() -> None:
    found = Remarks(
        [
            judgement([4, 2], rationales=["sharp", "blurred"]),
            judgement([5, 2], rationales=["sharp", ""], repeat=2),
            judgement([1, 3], aspect="aesthetic", annotator="ben"),
        ]
    )
    assert found.of(picture("a")) == [
        Remark("judge", "fidelity", 4.5, None, ["sharp"]),
        Remark("ben", "aesthetic", 1.0, None, []),
    ]
    assert found.of(picture("elsewhere", image_id="b"))[0].reasons == ["blurred"]
    assert found.of(picture("c")) == []


def test_comparisons_of_two_are_counted_as_wins() -> None:
    duels = [
        judgement([5, 1], mode="pair", order=[0, 1], rationales=["left", "no"]),
        judgement([3, 3], mode="pair", order=[1, 0]),
        judgement([1, 5], mode="pair", names="ac", order=[0, 1]),
    ]
    assert Remarks(duels).of(picture("a")) == [Remark("judge", "fidelity", 0.5, Outcomes(1, 1, 1), ["left"])]


def test_refused_and_replaced_judgements() -> None:
    refused = judgement([], refused="unsafe")
    assert Remarks([refused]).of(picture("a")) == [Remark("judge", "fidelity", None, None, [])]
    asked_again = [judgement([score, 1], key=str(score), order=[0, 1]) for score in (2, 4)]
    assert Remarks(asked_again).of(picture("a"))[0].score == 4


def test_a_long_reason_is_cut_off() -> None:
    said = judgement([1, 2], rationales=["x" * 1000, ""])
    (reason,) = Remarks([said]).of(picture("a"))[0].reasons
    assert len(reason) == MAX_CHARS
    assert reason.endswith("x…")
