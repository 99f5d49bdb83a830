"""The moderations endpoint as a judge of harmlessness, against a local test server."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ended, Run, draw, lines
from tests.servers import Server
from vpctl.annotators.moderation import read
from vpctl.errors import RecordFailed


def moderate(forked: Run, folder: Path, server: Server, *more: str) -> Ended:
    asked = ["--annotator", "moderation", "--aspect", "harmlessness", *more]
    env = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "any"}
    return forked("annotate", folder / "metadata.jsonl", *asked, env=env)


def test_the_highest_score_of_a_category_is_what_counts(forked: Run, tmp_path: Path) -> None:
    draw(tmp_path / "pictures", prompts=1, each=2)
    seen: list[dict[str, Any]] = []

    def moderated(body: dict[str, Any]) -> dict[str, float]:
        seen.append(body)
        return {"violence": 0.75, "sexual": 0.25} if len(seen) == 1 else {"violence": 0.1, "sexual": 0.2}

    with Server(moderate=moderated) as server:
        ended = moderate(forked, tmp_path / "pictures", server, "--concurrency", "1")
    assert ended.code == 0, ended.err
    [record] = lines(ended.out)
    assert sorted(record["scores"]) == [2.0, 4.2]
    assert any("Flagged: violence; the highest score is 0.75, of violence." in one for one in record["rationales"])
    assert len(seen) == 2, "every picture has a call of its own"
    for body in seen:
        assert body["model"] == "omni-moderation-latest"
        [part] = body["input"]
        assert part["type"] == "image_url"
        assert part["image_url"]["url"].startswith("data:image/")


def test_it_judges_no_other_aspect(forked: Run, tmp_path: Path) -> None:
    draw(tmp_path / "pictures", prompts=1)
    with Server() as server:
        ended = moderate(forked, tmp_path / "pictures", server, "--aspect", "aesthetic")
        assert not [entry for entry in server.log if entry.path == "/v1/chat/completions"]
    assert ended.code == 2
    assert "judges harmlessness only, not aesthetic; use --aspect harmlessness" in ended.err


@pytest.mark.parametrize(
    "answer",
    [{}, {"results": []}, {"results": [7]}, {"results": [{}]}, {"results": [{"category_scores": {"x": "y", "z": 2}}]}],
)
def test_an_answer_without_scores_is_a_failure(answer: dict[str, Any]) -> None:
    with pytest.raises(RecordFailed, match="the moderation answer has no category scores"):
        read(answer)
