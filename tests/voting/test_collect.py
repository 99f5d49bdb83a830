"""annotate --annotator human, as a command: what is left out, what is refused, and what merge makes of the votes."""

import os
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import draw, lines, write_lines
from vpctl.cli import main
from vpctl.errors import UserError
from vpctl.images.hashes import ContentHasher
from vpctl.images.pictures import Pictures
from vpctl.judging.plan import Group, group_by_prompt
from vpctl.judging.preferences import Preferences, Scale, without_replaced
from vpctl.records import Image, Judgement
from vpctl.streams.reading import read
from vpctl.voting.address import LOOPBACK, Doorway, Listen, listen_of
from vpctl.voting.ballots import OVERALL, Ballot, ballots_of, cast_of, judgement_of, said_of
from vpctl.voting.collect import collect
from vpctl.voting.room import Poll, Room, VoteLedger


def group(pictures: int) -> Group:
    names = [f"{number}.png" for number in range(pictures)]
    images: list[Image] = [
        {"prompt": "a cat", "prompt_id": "p", "image_id": f"i{name}", "file_name": name} for name in names
    ]
    return Group(images, names)


@given(st.data(), st.sampled_from(["list", "pair", "point"]), st.integers(2, 5), st.text(max_size=3), st.integers(0, 9))
def test_a_vote_is_read_back_from_its_record_as_it_was_said(
    data: Any, mode: Any, pictures: int, voter: str, seed: int
) -> None:
    ballot = data.draw(st.sampled_from([*ballots_of(group(pictures), [OVERALL], mode, 2)]))
    shown = ballot.shown(voter, seed)
    said: Any = {
        "list": lambda: data.draw(st.lists(st.integers(1, pictures), min_size=pictures, max_size=pictures)),
        "pair": lambda: data.draw(st.sampled_from(["left", "right", "tie"])),
        "point": lambda: data.draw(st.integers(1, 5)),
    }[mode]()
    record = judgement_of(cast_of(said, ballot, shown), ballot, "human:x", shown, "now")
    again = cast_of(said, ballot, shown)._replace(scores=dict(zip(record["image_ids"], record["scores"], strict=True)))
    expected = [sorted({*said}).index(rank) + 1 for rank in said] if mode == "list" else said
    assert said_of(again, ballot, shown) == expected


def test_every_pair_is_asked_once_and_sides_and_turns_are_random() -> None:
    ballots = [*ballots_of(group(5), [OVERALL], "pair", 1)]
    assert len(ballots) == 10
    sides = Counter(
        ballot.shown(f"voter {number}", 0)[0]["image_id"] == ballot.ids[0] for ballot in ballots for number in range(40)
    )
    assert 160 < sides[True] < 240

    def turns(voter: str, seed: int = 0) -> list[Ballot]:
        return sorted(ballots, key=lambda ballot: ballot.turn(voter, seed))

    assert turns("anna") == turns("anna") != turns("ben")
    assert turns("anna") != turns("anna", 1)


def test_a_comparison_counts_for_both_orders_and_only_itself_replaces_it(tmp_path: Path) -> None:
    ballots = [*ballots_of(group(3), [OVERALL], "pair", 1)]
    records = []
    for ballot in ballots:
        for said in ("tie", "left"):
            shown = ballot.shown("anna", 0)
            records.append(judgement_of(cast_of(said, ballot, shown), ballot, "human:anna", shown, "now"))
    kept = [*without_replaced(read(str(write_lines(tmp_path / "votes.jsonl", records)), Judgement), Counter())]
    assert [record["scores"] for record in kept] == [[5.0, 1.0]] * 3
    preferences = Preferences()
    for record in kept:
        preferences.add(record, Scale(1, 5))
    for record in kept:
        assert preferences.difference(*record["image_ids"]) == 1


def room_of(folder: Path, ledger: VoteLedger, mode: Any, *names: str) -> Room:
    return Room(Poll((OVERALL,), mode), ledger, names)


def test_a_picture_that_cannot_be_opened_leaves_its_prompt_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path, prompts=4)
    records = lines((tmp_path / "metadata.jsonl").read_text())
    (tmp_path / "0-1.png").write_bytes((tmp_path / "0-1.png").read_bytes()[:90])
    (tmp_path / "1-0.png").unlink()
    records[4]["file_name"] = "../elsewhere.png"
    write_lines(tmp_path / "metadata.jsonl", [*records[:6], records[6]])
    opener = Pictures([str(tmp_path)])
    groups = group_by_prompt(read(str(tmp_path / "metadata.jsonl"), Image), ContentHasher(opener))
    with VoteLedger(str(tmp_path / "votes.jsonl")) as ledger:
        room = room_of(tmp_path, ledger, "pair", "anna")
        with closing(Doorway(Listen(LOOPBACK, 0))) as doorway:
            lost = collect(groups, room, ledger, doorway, opener.open, None)
    said = capsys.readouterr().err
    assert lost == 3
    assert "0-1.png: cannot be decoded" in said
    assert "there is no such picture" in said
    assert "is outside the allowed folders" in said
    assert "has one picture, which cannot be compared" in said
    assert "vote at" not in said, "there is nothing to vote on"


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (words, f"{words.split()[0]}: is for models; leave it out with --annotator human:anna")
        for words in (
            *("--max-cost 3", "--batch-api", "--batch-file r.jsonl", "--logprobs", "--samples 2", "--all-aspects"),
            *("--break-ties", "--dry-run", "--temperature 1", "--concurrency 2", "--max-side 9", "--device cpu"),
        )
    ]
    + [
        ("--listen x:y", "--listen x:y: is no address; write PORT or HOST:PORT, such as 8080 or 0.0.0.0:8080"),
        ("--listen 65536", "--listen 65536: is no address; write PORT or HOST:PORT, such as 8080 or 0.0.0.0:8080"),
        ("--annotator human:a,A", "--annotator human:a,A: names a twice; name each person once"),
        ("--annotator shapes --listen 8080", "--listen 8080: is for people who vote; name them with --annotator human"),
        ("--annotator human:../x", "--annotator human:../x: a name has at most 40 letters, digits, '-', '_' and '.'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_at_once(
    option: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["annotate", "none.jsonl", "--annotator", "human:anna", "--out", "votes.jsonl", *option.split()]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_a_judge_cannot_be_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vpctl import plugins

    with pytest.raises(UserError, match="only annotate asks people"):
        plugins.load("annotator", "human:anna").check()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8080", "127.0.0.1", 8080),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("localhost", "localhost", 0),
        ("[::1]:7", "::1", 7),
        ("[::1]", "::1", 0),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert listen_of(text) == (host, port)


def test_the_secret_is_for_the_user_only_and_a_leaked_one_is_replaced(tmp_path: Path) -> None:
    kept = tmp_path / ".page"
    before = Doorway(Listen(LOOPBACK, 0), str(kept))
    assert kept.stat().st_mode & 0o777 == 0o600
    assert before.token not in kept.read_text()
    before.close()
    same = Doorway(Listen(LOOPBACK, 0), str(kept))
    assert same.url == before.url
    other = Doorway(Listen(LOOPBACK, 0), str(kept))  # the port is taken
    assert (other.port != same.port, other.token) == (True, same.token)
    same.close()
    other.close()
    kept.chmod(0o644)
    new = Doorway(Listen(LOOPBACK, 0), str(kept))
    assert new.token != before.token
    new.close()
    for damaged in (b"", b"[]", b'{"secret": "x", "port": 1}', b'{"secret": "00", "port": "a"}'):
        kept.write_bytes(damaged)
        kept.chmod(0o600)
        made = Doorway(Listen(LOOPBACK, 0), str(kept))
        assert made.token != new.token
        made.close()
