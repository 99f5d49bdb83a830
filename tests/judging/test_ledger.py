from pathlib import Path
from typing import Any, cast

import pytest

from vpctl.judging.ledger import OutputLedger
from vpctl.records import Judgement


def judgement(key: str, scores: list[float], **more: Any) -> Judgement:
    ids = [f"i{number}" for number in range(len(scores))]
    files = [f"{image_id}.png" for image_id in ids]
    record: Any = {"prompt_id": "p", "prompt": "a circle", "aspect": "fidelity", "annotator": "me", "key": key, **more}
    return cast(Judgement, {**record, "image_ids": ids, "file_names": files, "scores": scores})


EARLIER = [
    judgement("tied", [3.0, 5.0, 3.0]),
    judgement("pair", [3.0, 3.0], mode="pair"),
    judgement("failed", [], failed="no JSON"),
    judgement("refused", [], refused="no"),
]


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ({}, set()),
        ({"again": {"failed"}}, {"failed"}),
        ({"again": {"failed", "refused"}}, {"failed", "refused"}),
        ({"refresh": True}, {"tied", "pair", "failed", "refused"}),
    ],
)
def test_a_key_is_claimed_once_and_not_if_its_judgement_is_there(
    tmp_path: Path, how: dict[str, Any], left: set[str]
) -> None:
    out = str(tmp_path / "out.jsonl")
    with OutputLedger(out) as ledger:
        ledger.write(*EARLIER)
    with OutputLedger(out, **how) as ledger:
        assert {one["key"] for one in EARLIER if ledger.claim(one["key"])} == left
        assert not any(ledger.claim(one["key"]) for one in EARLIER)
        assert ledger.claim("new")


def test_it_remembers_ties_only_if_it_is_told_to(tmp_path: Path) -> None:
    out = str(tmp_path / "out.jsonl")
    with OutputLedger(out, ties=True) as ledger:
        ledger.write(*EARLIER)
        assert ledger.ties("tied") == [], "the run that judged them knows their ties"
    with OutputLedger(out) as ledger:
        assert ledger.ties("tied") == []
    with OutputLedger(out, ties=True, late=True) as ledger:
        assert ledger.ties("tied") == [("i0", "i2")]
        assert ledger.ties("pair") == ledger.ties("failed") == ledger.ties("none") == []
        ledger.write(judgement("late", [1.0, 1.0]))
        assert ledger.ties("late") == [("i0", "i1")]
