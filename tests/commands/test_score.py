"""What the command writes beside scores: provenance, percentiles, warnings; and what it keeps over a kill."""

import hashlib
import json
import os
import pty
import signal
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.conftest import PATIENCE, Plugin, Run, draw, lines, vpctl, write_lines
from tests.models.test_preprocess import noise
from tests.rewards import peers
from tests.rewards.test_published import write_processor
from tests.surroundings import ENVIRONMENT
from vpctl.commands.score import score
from vpctl.errors import SomeFailed, UserError
from vpctl.images.pictures import Pictures
from vpctl.models import layouts
from vpctl.models.reward import RewardModel
from vpctl.report import calibration
from vpctl.report.calibration import Calibration, Reference

LENGTHS = '''"""The length of the prompt. It says that it reads ten characters."""

import json
import os

from vpctl.contracts import Reward


class Lengths(Reward):
    def __init__(self, argument, dtype):
        self.argument, self.dtype = float(argument or 1), dtype

    def __call__(self, images, prompts):
        if os.path.exists("kill") and any(prompt in open("kill").read().split() for prompt in prompts):
            os.kill(os.getpid(), 9)
        return [len(prompt) * self.argument for prompt in prompts]

    def is_truncated(self, prompt):
        return len(prompt) > 10

    def provenance(self):
        settings = json.load(open("settings.json")) if os.path.exists("settings.json") else {}
        return {"weights": "0", "sizes": (1, 2), "dtype": self.dtype or "float32", **settings}


def load(argument, *, device, dtype=""):
    return Lengths(argument, dtype)
'''
ABANDONED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""For a run that ends with an error after it has opened its input: the process would close it."""
OLD = 1_000_000_000
"""A time in 2001, so that a file counts as older than an output."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the reward `lengths.py`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lengths.py").write_text(LENGTHS)
    return tmp_path


def pictures(prompts: list[str], name: str = "images.jsonl", *, start: int = 0) -> None:
    """A file of records with these prompts, in the working directory. All have the same small picture."""
    Image.new("RGB", (4, 4)).save("one.png")
    write_lines(
        Path(name),
        [
            {"prompt": prompt, "image_id": f"i{number}", "file_name": "one.png"}
            for number, prompt in enumerate(prompts, start)
        ],
    )


def scored(out: str = "scored.jsonl", images: str = "images.jsonl", **options: Any) -> list[dict[str, Any]]:
    score(images, out, reward=["./lengths.py"], **options)
    return lines(Path(out).read_text())


def header() -> Any:
    return json.loads(Path("scored.jsonl.provenance.json").read_text())


# --dtype


def test_the_precision_reaches_the_rewards_that_take_one(place: Path, plugin: Plugin) -> None:
    plugin("plain", "return lambda images, prompts: [1.0] * len(images)")
    pictures(["a"])
    score("images.jsonl", "scored.jsonl", reward=["./plain.py", "./lengths.py"], dtype="bfloat16", provenance=True)
    assert header()["rewards"]["./lengths.py"]["dtype"] == "bfloat16"
    assert header()["rewards"]["./plain.py"] == {"truncated_prompts": 0}


def test_a_precision_that_there_is_not_is_an_error(forked: Run, drawn: Path) -> None:
    ended = forked("score", drawn / "metadata.jsonl", "--dtype", "float64")
    assert ended.code == 2
    assert "--dtype float64: must be one of float32, bfloat16, float16" in ended.err


# --provenance


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small CLIP model and a head of LAION Aesthetic."""
    folder = tmp_path_factory.mktemp("clip")
    layouts.open_clip(peers.open_clip(), where="").save_pretrained(folder)
    write_processor(folder)
    torch.save({"weight": torch.ones(1, 32), "bias": torch.ones(1)}, folder / "head.pth")
    for file in folder.iterdir():
        os.utime(file, (OLD, OLD))
    return folder


def test_the_header_says_how_scores_were_computed(place: Path, clip: Path) -> None:
    draw(place, prompts=1)
    spec = f"aesthetic:{clip}/head.pth"
    score("metadata.jsonl", "scored.jsonl", reward=[spec, f"clip:{clip}"], dtype="bfloat16", provenance=True)
    found = header()
    assert {*found["rewards"]} == {spec, f"clip:{clip}"}
    weights = {
        name: hashlib.sha256((clip / name).read_bytes()).hexdigest() for name in ("head.pth", "model.safetensors")
    }
    assert found["rewards"][spec]["weights"] == weights
    about = found["rewards"][f"clip:{clip}"]
    assert about == {
        "weights": {"model.safetensors": weights["model.safetensors"]},
        "preprocessing": "resize the shorter side to 224, bicubic, 8 bits; crop to 224 × 224 as transformers; mean "
        "0.48145466 0.4578275 0.40821073, std 0.26862954 0.26130258 0.27577711",
        "dtype": "bfloat16",
        "mean": 0.0,
        "std": about["std"],
        "longest_text": 77,
        "truncated_prompts": 0,
    }
    assert about["std"] == pytest.approx(100.0, rel=1e-3), "the logit scale, by which the score was divided"
    assert found["versions"]["torch"] == torch.__version__
    assert {"vpctl", "python", "transformers", "pillow"} < {*found["versions"]}


@ABANDONED
def test_scores_of_other_weights_or_another_precision_do_not_join_finished_ones(place: Path, clip: Path) -> None:
    mine = place / "mine"
    mine.mkdir()
    for file in clip.iterdir():
        (mine / file.name).write_bytes(file.read_bytes())
        os.utime(mine / file.name, (OLD, OLD))
    draw(place, prompts=1)

    def go(dtype: str = "") -> None:
        score("metadata.jsonl", "scored.jsonl", reward=["clip:mine"], dtype=dtype, provenance=True)

    go()
    before = Path("scored.jsonl").read_bytes(), header()
    go()
    with pytest.raises(UserError) as raised:
        go("float16")
    assert str(raised.value) == (
        "scored.jsonl.provenance.json: dtype of clip:mine has changed since the finished scores were computed; it was "
        "float32; name another file with --out"
    )
    state = peers.open_clip(1)
    layouts.open_clip(state, where="").save_pretrained(mine)
    for file in mine.iterdir():
        os.utime(file, (OLD, OLD))  # the time of the file does not show it
    with pytest.raises(UserError, match=r"^scored.jsonl.provenance.json: weights of clip:mine has changed since "):
        go()
    assert (Path("scored.jsonl").read_bytes(), header()) == before


@ABANDONED
def test_a_changed_value_of_the_provenance_is_named(place: Path) -> None:
    pictures(["a"])
    scored(provenance=True)
    assert len(scored(provenance=True)) == 1, "a tuple of a plug-in is a list in the file, and no change"
    Path("settings.json").write_text('{"preprocessing": "crop"}')
    with pytest.raises(UserError, match=r"preprocessing of ./lengths.py has changed .*; it was None; name another"):
        scored(provenance=True)
    Path("settings.json").unlink()
    scored(provenance=True)


@pytest.mark.parametrize(
    "content",
    [None, "", "{}", "[]", '{"rewards": []}', '{"rewards": {"./lengths.py": 5}}', '{"rewards": {"x": {}}}', "\0"],
)
def test_finished_scores_without_their_header_are_not_gone_on_with(
    place: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(["a"])
    scored(provenance=True)
    file = Path("scored.jsonl.provenance.json")
    file.unlink() if content is None else file.write_text(content)
    monkeypatch.setattr("vpctl.plugins.load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=r"^scored.jsonl.provenance.json: does not say how .*; name another file with"):
        scored(provenance=True)


def test_another_reward_of_the_header_stays_in_it(place: Path) -> None:
    pictures(["a"])
    score("images.jsonl", "scored.jsonl", reward=["./lengths.py", "./lengths.py:2"], provenance=True)
    both = header()
    scored(provenance=True)
    assert header() == both


def test_a_header_that_is_there_stays_true_without_the_option(place: Path, forked: Run) -> None:
    pictures(["a"])
    scored(provenance=True, dtype="float16")
    pictures(["a", "b"])
    ended = forked("score", "images.jsonl", "-r", "./lengths.py", "-o", "scored.jsonl", "--dtype", "bfloat16")
    assert ended.code == 2
    assert "dtype of ./lengths.py has changed since the finished scores were computed" in ended.err
    pictures(["a", "x" * 1000])
    assert len(scored(dtype="float16")) == 2
    assert header()["rewards"]["./lengths.py"]["truncated_prompts"] == 1


def test_there_is_no_header_beside_a_stream(place: Path) -> None:
    pictures(["a"])
    with pytest.raises(UserError, match="--provenance: is written beside the output; name a file with --out"):
        score("images.jsonl", "-", reward=["./lengths.py"], provenance=True)


# prompts that are too long


def test_pictures_of_truncated_prompts_are_counted_in_a_warning(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(["short", "much too long", "much too long", "also too long"])
    scored()
    said = "warning: --reward ./lengths.py: read only the beginning of the prompts of 3 pictures\n"
    assert said in capsys.readouterr().err
    scored(provenance=True, out="again.jsonl")
    assert said in capsys.readouterr().err
    pictures(["short"])
    scored(out="short.jsonl")
    assert "beginning" not in capsys.readouterr().err


def test_truncated_prompts_are_counted_once_over_a_kill_a_resume_and_duplicates(run: Run, place: Path) -> None:
    prompts = ["short", "long-long-long-1", "long-long-long-2", "s", "long-long-long-3", "last"]
    pictures(prompts)
    records = lines(Path("images.jsonl").read_text())
    write_lines(Path("images.jsonl"), [*records[:2], records[1], *records[2:], records[2]])
    command = ("score", "images.jsonl", "-r", "./lengths.py", "--provenance", "--batch", "1", "--out")
    whole = run(*command, "whole.jsonl")
    assert whole.code == 0, whole.err
    Path("kill").write_text("long-long-long-3")
    assert run(*command, "scored.jsonl").code == -signal.SIGKILL
    assert header()["rewards"]["./lengths.py"]["truncated_prompts"] == 0, "the file of before the first score"
    assert 2 <= len(lines(Path("scored.jsonl").read_text())) < len(prompts)
    Path("kill").unlink()
    assert run(*command, "scored.jsonl").code == 0
    assert header()["rewards"]["./lengths.py"]["truncated_prompts"] == 3
    for name in ("{}.jsonl", "{}.jsonl.provenance.json"):
        assert Path(name.format("scored")).read_bytes() == Path(name.format("whole")).read_bytes()


# what goes to a terminal


def test_a_record_on_a_terminal_begins_on_a_line_of_its_own(place: Path) -> None:
    """Both streams are one terminal, so the bar and the records share it."""
    pictures(["a", "aa", "aaa"])
    ours, theirs = pty.openpty()
    command = vpctl("score", "images.jsonl", "-r", "./lengths.py", "--batch", "1")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=ENVIRONMENT) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux says so that nobody writes to the terminal any more
            while some := os.read(ours, 1 << 16):
                shown += some
    os.close(ours)
    assert process.returncode == 0, shown
    records = [line for line in shown.decode().split("\n") if '"prompt"' in line]
    assert len(records) == 3
    for line in records:
        before, _, _ = line.partition("{")
        assert before.rpartition("\r")[2].strip() == "", "the bar has been wiped off the line"
    assert b"score:" in shown, "there was a bar"


def test_what_is_not_a_file_of_pictures_is_told_with_a_way_out(forked: Run, place: Path) -> None:
    pictures(["a"])
    Path("one").mkdir()
    Path("one/metadata.jsonl").write_text(Path("images.jsonl").read_text())
    Path("none").mkdir()
    Path("prompts.txt").write_text("a red circle\n")
    shared: dict[str, Any] = {"prompt_id": "p", "prompt": "a"}
    files = {"chosen_file_name": "a.png", "rejected_file_name": "b.png"}
    write_lines(Path("pairs.jsonl"), [{**shared, **files, "margin": 1}])
    judged = {"aspect": "x", "annotator": "me", "image_ids": [], "file_names": [], "scores": []}
    write_lines(Path("judgements.jsonl"), [{**shared, **judged}])
    for source, said in (
        ("one", "one: is a folder; name its file of records, one/metadata.jsonl"),
        ("none", "none: is a folder; name a file of records"),
        ("prompts.txt", "prompts.txt:1: is plain text, not a record of a picture; generate draws pictures of prompts"),
        (
            "pairs.jsonl",
            "pairs.jsonl:1: an image needs 'file_name'; "
            "this is a pair, which train-rm, tune-dpo and eval accuracy read",
        ),
        (
            "judgements.jsonl",
            "judgements.jsonl:1: an image needs 'file_name'; this is a judgement, which merge and eval judgements read",
        ),
    ):
        assert forked("score", source, "-r", "./lengths.py").err == f"vpctl score: error: {said}\n"


def test_a_file_that_is_no_picture_is_not_said_to_be_worth_another_try(forked: Run, place: Path) -> None:
    pictures(["a"])
    Path("one.png").write_text("text")
    ended = forked("score", "images.jsonl", "-r", "./lengths.py")
    assert ended.code == 3
    assert "1 failed; mend what the warnings name, then run the same command again" in ended.err


# --calibrate


def test_a_reward_is_measured_and_then_gives_percentiles(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores 1, 2, 3, 4 and 5: a quarter lies below 2, half below 3, and an eighth below 1.5."""
    pictures(["x" * length for length in (3, 1, 4, 2, 5)])
    assert all("percentiles" not in record for record in scored("reference.jsonl", calibrate="file.json"))
    said = "added the distribution of ./lengths.py over 5 pictures to file.json; use the same file to add percentiles"
    few = "./lengths.py is measured on only 5 pictures, so its percentiles are coarse; measure it on 100 or more"
    err = capsys.readouterr().err
    assert said in err
    assert f"warning: --calibrate file.json: {few}\n" in err
    entry = json.loads(Path("file.json").read_text())["./lengths.py"]
    assert (entry["n"], entry["mean"], len(entry["quantiles"])) == (5, 3.0, 101)
    assert entry["std"] == pytest.approx(2.5**0.5)
    assert [entry["quantiles"][percent] for percent in (0, 10, 25, 50, 90, 100)] == pytest.approx(
        [1, 1.4, 2, 3, 4.6, 5]
    )
    before = Path("file.json").read_bytes()
    pictures(["x" * length for length in (1, 2, 3, 5, 9)] + [""])
    found = scored(calibrate="file.json")
    assert [record["percentiles"]["./lengths.py"] for record in found] == [0, 25, 50, 100, 100, 0]
    assert Path("file.json").read_bytes() == before


def test_an_equal_score_counts_half() -> None:
    reference = Reference.of([1.0] * 25 + [2.0] * 50 + [3.0] * 25, "")
    assert [round(reference.percentile(score), 6) for score in (0.5, 1, 2, 3, 3.5)] == [0, 12, 50, 88, 100]


def test_rewards_of_one_run_are_measured_or_give_percentiles_each_for_itself(place: Path) -> None:
    pictures(["a", "aa", "aaa"])
    scored(calibrate="file.json")
    score("images.jsonl", "both.jsonl", reward=["./lengths.py", "./lengths.py:10"], calibrate="file.json")
    found = lines(Path("both.jsonl").read_text())
    assert [record["percentiles"] for record in found] == [{"./lengths.py": percent} for percent in (0.0, 50.0, 100.0)]
    known = json.loads(Path("file.json").read_text())
    assert {spec: one["mean"] for spec, one in known.items()} == {"./lengths.py": 2.0, "./lengths.py:10": 20.0}


def test_a_resumed_run_measures_the_pictures_of_before(run: Run, place: Path) -> None:
    pictures(["a", "aa", "aaa", "aaaa", "stop-here"])
    command = ("score", "images.jsonl", "-r", "./lengths.py", "--batch", "1", "--calibrate")
    assert run(*command, "whole.json", "--out", "whole.jsonl").code == 0
    Path("kill").write_text("stop-here")
    assert run(*command, "file.json", "--out", "scored.jsonl").code == -signal.SIGKILL
    assert not Path("file.json").exists()
    Path("kill").unlink()
    assert run(*command, "file.json", "--out", "scored.jsonl").code == 0
    assert Path("file.json").read_bytes() == Path("whole.json").read_bytes()


def test_a_run_that_measured_can_be_run_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a picture failed, and after more were added, its output stays the reference, and gets no percentiles."""
    pictures(["a", "aa", "aaa"])
    records = lines(Path("images.jsonl").read_text())
    write_lines(Path("images.jsonl"), [*records, {**records[0], "image_id": "i3", "file_name": "later.png"}])
    with pytest.raises(SomeFailed):
        scored(calibrate="file.json")
    assert json.loads(Path("file.json").read_text())["./lengths.py"]["n"] == 3
    Image.new("RGB", (4, 4)).save("later.png")
    assert not any("percentiles" in record for record in scored(calibrate="file.json"))
    assert json.loads(Path("file.json").read_text())["./lengths.py"]["n"] == 4
    before = Path("file.json").read_bytes()
    capsys.readouterr()
    assert len(scored(calibrate="file.json")) == 4
    assert "file.json" not in capsys.readouterr().err, "nothing was added"
    assert Path("file.json").read_bytes() == before


def test_finished_pictures_without_percentiles_are_not_mixed_with_others(place: Path) -> None:
    pictures(["a", "aa"], "reference.jsonl")
    scored("measured.jsonl", "reference.jsonl", calibrate="file.json")
    pictures(["a", "aaa"])
    scored()
    with pytest.raises(UserError) as raised:
        scored(calibrate="file.json")
    assert str(raised.value) == (
        "scored.jsonl: holds pictures without a percentile of ./lengths.py; name another file with --out"
    )


def test_a_reward_that_changed_since_it_was_measured_gives_no_percentiles(place: Path) -> None:
    pictures(["a", "aa"])
    scored("measured.jsonl", calibrate="file.json")
    (place / "lengths.py").write_text(LENGTHS + "\n")
    with pytest.raises(UserError) as raised:
        scored(calibrate="file.json")
    assert str(raised.value) == (
        "--calibrate file.json: ./lengths.py has changed since it was measured; remove its entry, or name another file"
    )


def test_rewards_without_a_spread_are_not_added(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(["a", "b"])
    score("images.jsonl", "scored.jsonl", reward=["./lengths.py"], calibrate="file.json")
    assert (
        "warning: --calibrate file.json: ./lengths.py gave fewer than two different scores, so it was not added\n"
        in (capsys.readouterr().err)
    )
    pictures(["a", "bb"])
    score("images.jsonl", "large.jsonl", reward=["./lengths.py:1e307"], calibrate="file.json")
    assert "./lengths.py:1e307 gave a score beyond 1e+100, so it was not added\n" in capsys.readouterr().err
    assert not Path("file.json").exists()


GOOD: dict[str, Any] = {
    "n": 2,
    "mean": 0.5,
    "std": 1.0,
    "quantiles": [float(n) for n in range(101)],
    "fingerprint": "x",
}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "5",
        '{"./lengths.py": 5}',
        '{"./lengths.py": {}}',
        "<page>",
        "[" * 100_000,
        json.dumps({"./lengths.py": {**GOOD, "quantiles": [1.0] * 7}}),
        json.dumps({"./lengths.py": {**GOOD, "quantiles": GOOD["quantiles"][::-1]}}),
        json.dumps({"./lengths.py": {**GOOD, "quantiles": [float("nan")] * 101}}),
        json.dumps({"./lengths.py": {**GOOD, "quantiles": [10**400] * 101}}),
        json.dumps({"./lengths.py": {**GOOD, "quantiles": "0" * 101}})[:-9],
        json.dumps({"./lengths.py": {**GOOD, "n": float("inf")}}),
        '{"prompt": "a", "file_name": "one.png"}',
        "\ud800",
    ],
)
def test_a_file_that_is_no_calibration_is_an_error_before_anything_is_loaded(place: Path, content: str) -> None:
    pictures(["a"])
    Path("file.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError) as raised:
        score("images.jsonl", "scored.jsonl", reward=["./lengths.py"], calibrate="file.json")
    assert str(raised.value) == ("--calibrate file.json: is not a file that score --calibrate wrote; name another file")
    assert not Path("scored.jsonl").exists()


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (".", "--calibrate .: cannot be read: is a directory"),
        ("-", "--calibrate -: is not a regular file; name one"),
        ("/dev/zero", "--calibrate /dev/zero: is not a regular file; name one"),
        ("fifo", "--calibrate fifo: is not a regular file; name one"),
        ("images.jsonl/x", "--calibrate images.jsonl/x: cannot be read: not a directory"),
        ("scored.jsonl", "--calibrate scored.jsonl: is written by this run for another purpose; name another file"),
        (
            "./scored.jsonl.provenance.json",
            "--calibrate ./scored.jsonl.provenance.json: is written by this run for another purpose; name another file",
        ),
    ],
)
def test_a_file_that_cannot_be_a_calibration_is_an_error(place: Path, file: str, reason: str) -> None:
    pictures(["a"])
    os.mkfifo("fifo")
    with pytest.raises(UserError) as raised:
        score("images.jsonl", "scored.jsonl", reward=["./lengths.py"], calibrate=file, provenance=True)
    assert str(raised.value) == reason


def test_a_folder_that_nobody_may_write_to_is_an_error_before_the_work(forked: Run, place: Path) -> None:
    pictures(["a"])
    Path("closed").mkdir(mode=0o555)
    ended = forked("score", "images.jsonl", "-r", "./lengths.py", "--calibrate", "closed/file.json", "-o", "out.jsonl")
    assert (ended.code, ended.err) == (2, "vpctl score: error: --calibrate closed/file.json: permission denied\n")
    assert not Path("out.jsonl").exists()


def test_runs_that_end_at_the_same_time_lose_no_entry_of_each_other(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run comes to its end while the first has read the file and not yet written it."""
    runs = [Calibration("file.json", [f"./lengths.py:{number}"]) for number in range(2)]
    for number, one in enumerate(runs):
        for value in (1.0, 2.0 + number):
            one.percentiles({f"./lengths.py:{number}": value})
    read = calibration._read
    other = threading.Thread(target=runs[1].save)

    def slow(path: str) -> dict[str, Reference]:
        found = read(path)
        if threading.current_thread() is not other:
            other.start()
            other.join(0.3)
            assert other.is_alive(), "it waits"
        return found

    monkeypatch.setattr(calibration, "_read", slow)
    runs[0].save()
    other.join(PATIENCE)
    assert {spec: one.mean for spec, one in read("file.json").items()} == {"./lengths.py:0": 1.5, "./lengths.py:1": 2.0}
    assert not Path("file.json.part").exists()


def test_the_first_of_two_runs_that_measure_one_reward_is_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [Calibration("file.json", ["./lengths.py"]) for _ in range(2)]
    for number, one in enumerate(runs):
        for value in (1.0, 2.0 + number):
            one.percentiles({"./lengths.py": value})
        one.save()
    assert "warning: --calibrate file.json: another run has added ./lengths.py meanwhile; it is kept\n" in (
        capsys.readouterr().err
    )
    assert calibration._read("file.json")["./lengths.py"].mean == 1.5


# the pass over the pictures


def test_a_picture_is_decoded_and_encoded_once_for_all_rewards(
    place: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[str] = Counter()
    encoded: list[int] = []
    open_picture, encode = Pictures.open, RewardModel.image_features

    def counted(self: Pictures, path: str) -> Image.Image:
        opened[os.path.basename(path)] += 1
        return open_picture(self, path)

    def counted_too(self: RewardModel, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(Pictures, "open", counted)
    monkeypatch.setattr(RewardModel, "image_features", counted_too)
    records = draw(place, prompts=3)
    specs = [f"clip:{clip}", f"pickscore:{clip}", f"vp:{clip}", f"aesthetic:{clip}/head.pth"]
    score("metadata.jsonl", "together.jsonl", reward=specs, batch=4)
    assert opened == Counter(record["file_name"] for record in records)
    assert encoded == [4, 2]
    together = [record["scores"] for record in lines(Path("together.jsonl").read_text())]
    for spec in specs:
        score("metadata.jsonl", "alone.jsonl", reward=[spec], batch=3)
        alone = [record["scores"][spec] for record in lines(Path("alone.jsonl").read_text())]
        assert alone == pytest.approx([scores[spec] for scores in together], abs=1e-4)
        Path("alone.jsonl").unlink()


def test_a_picture_that_cannot_be_decoded_is_named_and_no_other_takes_its_place(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(["a", "aa", "aaa"])
    noise(64, 64).save("two.png")
    data = Path("two.png").read_bytes()
    Path("two.png").write_bytes(data[: len(data) // 2])
    records = lines(Path("images.jsonl").read_text())
    write_lines(Path("images.jsonl"), [records[0], {**records[1], "file_name": "two.png"}, records[2]])
    with pytest.raises(SomeFailed):
        scored()
    assert "two.png: cannot be decoded: " in capsys.readouterr().err
    found = lines(Path("scored.jsonl").read_text())
    assert [(record["image_id"], record["scores"]) for record in found] == [
        ("i0", {"./lengths.py": 1.0}),
        ("i2", {"./lengths.py": 3.0}),
    ]


WATCHED = """
import os
def score(images, prompts):
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    with open("memory", "a") as file:
        file.write(f"{pages * os.sysconf('SC_PAGE_SIZE')}\\n")
    if os.path.exists("kill") and any(prompt.startswith("900 ") for prompt in prompts):
        os.kill(os.getpid(), 9)
    return [image.getpixel((0, 0))[0] + len(prompt) for image, prompt in zip(images, prompts)]
return score
"""


@pytest.fixture
def many(place: Path, plugin: Plugin) -> tuple[str, ...]:
    """The command that scores 1,500 pictures, which would take 74 MB together, and writes its memory to a file."""
    plugin("watched", WATCHED)
    for number in range(10):
        Image.new("RGB", (128, 128), (number, 0, 0)).save(f"{number}.png")
    records = ({"prompt": f"{n} cats", "image_id": f"i{n}", "file_name": f"{n % 10}.png"} for n in range(1500))
    write_lines(place / "images.jsonl", records)
    return ("score", "images.jsonl", "-r", "./watched.py", "--calibrate", "{}.json", "--provenance", "-o", "{}.jsonl")


def test_memory_stays_constant_and_a_killed_run_resumes_to_the_same_bytes(place: Path, many: tuple[str, ...]) -> None:
    def go(out: str) -> int:
        command = vpctl(*(word.format(out) for word in many))
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=PATIENCE).returncode

    assert go("whole") == 0
    memory = [int(line) for line in Path("memory").read_text().split()]
    assert len(memory) == 47
    early, late = max(memory[:12]), max(memory[12:])
    assert late < early + (12 << 20), f"{early >> 20} MiB, later {late >> 20}"
    Path("kill").touch()
    assert go("killed") == -signal.SIGKILL
    assert 0 < len(lines(Path("killed.jsonl").read_text())) < 900
    Path("kill").unlink()
    assert go("killed") == 0
    for name in ("{}.json", "{}.jsonl", "{}.jsonl.provenance.json"):
        assert Path(name.format("killed")).read_bytes() == Path(name.format("whole")).read_bytes()
