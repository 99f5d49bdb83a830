"""webdataset: tar shards, those of others and our own."""

import io
import json
import os
import pickle
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset
from datasets import load_dataset
from PIL import Image as PIL

from tests.conftest import write_lines
from tests.formats.test_tables import png
from vpctl import plugins, sources
from vpctl.commands.merge import merge
from vpctl.errors import RecordFailed, UserError
from vpctl.records import Image, Judgement, Pair, Prompt, Rating
from vpctl.streams.reading import located, located_preferences


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sources.begin()
    return tmp_path


def shard(path: str, *members: tuple[str, bytes] | tarfile.TarInfo) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def records(spec: str, kind: Any = Image) -> list[dict[str, Any]]:
    return [{**record} for _, record in located(spec, kind)]


def faults(spec: str, kind: str = "image") -> list[str]:
    return [f"{where}: {row}" for where, row in plugins.load("format", spec)(kind) if isinstance(row, RecordFailed)]


def shade(path: str) -> int:
    """How red a picture is, from 0 to 255."""
    return PIL.open(path).tobytes()[0]


def test_pictures_with_captions_are_read_as_public_sets_have_them(here: Path) -> None:
    about = json.dumps({"caption": "not this", "url": "https://x/1.jpg", "width": 8, "key": "0001"}).encode()
    shard("d/b.tar", ("0001.json", about), ("0001.png", png(1)), ("0001.txt", b"a cat,\nasleep\n"))
    shard(
        "d/a.tar",
        ("./deep.er/7.JSON", b'{"caption": "a dog"}'),
        ("./deep.er/7.PNG", png(2)),
        ("README", b"?"),
        ("8.caption", "\ufeffa bird".encode()),
        ("8.mask.pyd", pickle.dumps(os.getcwd)),
        ("8.mask.png", png(4)),
        ("8.png", png(3)),
        ("7.json", b'{"prompt": null, "text": "a cow"}'),
        ("7.png", png(2)),
        ("9.json", b'{"prompt": "a fish", "text": "kept"}'),
        ("9.png", png(1)),
    )
    found = records("webdataset:d")
    assert not sources.some_left_out()
    assert [(one["prompt"], shade(one["file_name"])) for one in found] == [
        ("a dog", 2),
        ("a bird", 3),
        ("a cow", 2),
        ("a fish", 1),
        ("a cat, asleep", 1),
    ]
    assert found[3]["text"] == "kept"
    assert (found[4]["url"], found[4]["width"]) == ("https://x/1.jpg", 8)
    assert [one["prompt"] for one in records("webdataset:d/a.tar", Prompt)] == ["a dog", "a bird", "a cow", "a fish"]


def test_a_picture_becomes_a_file_once_and_only_if_it_is_needed(here: Path) -> None:
    members = [(f"{number}.{suffix}", content) for number in range(3) for suffix, content in
               (("png", png(number % 2)), ("txt", b"a cat"))]  # fmt: skip
    shard("a.tar", *members)
    assert records("webdataset:a.tar", Prompt) == [{"prompt": "a cat"}], "neighbours share it"
    assert not (here / "a.pictures").exists()
    found = records("webdataset:a.tar")
    assert len({one["file_name"] for one in found}) == len([*(here / "a.pictures").glob("*/*")]) == 2


@pytest.mark.parametrize("path", ["s", "s/*.tar", "s/part-{0..1}.tar"])
def test_several_shards_are_one_data_set(here: Path, path: str) -> None:
    for number in range(2):
        shard(f"s/part-{number}.tar", ("0.png", png(number)), ("0.txt", f"p{number}".encode()))
    found = [*located(f"webdataset:{path}", Image)]
    assert [record["prompt"] for _, record in found] == ["p0", "p1"]
    assert found[1][0].endswith("part-1.tar:0")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("pipe:touch run; cat a.tar", "names no file on this machine; download the shards first"),
        ("https://x.org/{00..09}.tar", "names no file on this machine; download the shards first"),
        ("s/{0..5}.tar", "s/1.tar: there is no such file"),
        ("s/{0.tar", "a brace is not closed"),
        ("s/*.tgz", "there is no file that ends in .tar"),
        ("empty", "there is no file that ends in .tar"),
        ("none", "none: there is no such file"),
        ("linked", "linked/a.tar: is a link to a file outside of linked; name that file, or copy it"),
    ],
)
def test_what_is_no_shard_is_told(here: Path, path: str, said: str) -> None:
    shard("s/0.tar", ("0.png", png()), ("0.txt", b"x"))
    for folder in ("empty", "linked"):
        (here / folder).mkdir()
    (here / "linked/a.tar").symlink_to(here / "s/0.tar")
    with pytest.raises(UserError) as raised:
        records(f"webdataset:{path}")
    assert said in str(raised.value)
    assert not (here / "run").exists()


def info(name: str, **values: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(member, key, value)
    return member


GOOD = (("z.png", png(9)), ("z.txt", b"good"))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("../x.png", png()), ("../x.txt", b"x")], "../x: the name ../x.png leads out of the shard"),
        ([("/x.png", png()), ("/x.txt", b"x")], "/x: the name /x.png leads out of the shard"),
        ([("x.png", png())], "x: has no prompt; it needs a .txt, or a .json with prompt or caption"),
        ([("x.txt", b"x")], "x: has no picture"),
        ([("x.png", png()), ("x.jpg", png()), ("x.txt", b"x")], "x: has 2 pictures, and not one"),
        ([("x.png", png()), ("x.PNG", png()), ("x.txt", b"x")], "x: has two files .png"),
        ([("x.png", png()), ("x.json", b"[]")], "x: its .json is not a JSON object"),
        ([("x.png", png()), ("x.json", b'{"a":')], "x: its .json: not JSON: "),
        ([("x.png", png()), ("x.json", b'{"prompt":"x","file_name":3}')], ""),
        ([("x.png", png()), ("x.txt", b"\xff")], "x: its .txt is not UTF-8 text"),
        ([("x.png", b"<svg>"), ("x.txt", b"x")], "x: its picture is not in a format that vpctl reads"),
        ([("x.txt", b"x"), info("x.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "x: x.png is not a regular"),
        ([(f"x.{number}", b"") for number in range(1001)], "x: has more than 1000 files"),
    ],
)
def test_a_malformed_sample_is_told_and_the_others_are_read(here: Path, members: list[Any], said: str) -> None:
    shard("a.tar", *members, *GOOD)
    told = faults("webdataset:a.tar")
    assert len(told) == bool(said)
    assert "".join(told).startswith(said)
    assert [one["prompt"] for one in records("webdataset:a.tar")][-1] == "good"


@pytest.mark.parametrize("cut", [0, 700, 1024, 1100, 2048, 2200, 3072, -9000])
def test_a_torn_shard_is_told_and_what_is_whole_is_read(here: Path, cut: int) -> None:
    """Also where it is cut between two files, and where only its end is missing."""
    files = (("png", png(0)), ("txt", b"x"))
    shard("a/0.tar", *((f"{number}.{suffix}", content) for number in range(2) for suffix, content in files))
    shard("a/1.tar", *GOOD)
    whole = (here / "a/0.tar").read_bytes()
    (here / "a/0.tar").write_bytes(whole[:cut])
    (fault,) = faults("webdataset:a")
    assert fault.startswith("0.tar:")
    assert "the shard is damaged here, or ends early: " in fault
    found = records("webdataset:a")
    assert [one["prompt"] for one in found] == ["x"] * (len(found) - 1) + ["good"]
    (here / "a/0.tar").write_bytes(whole.replace(b"1.png\0", b"1.pnG\0", 1))  # a checksum that is wrong
    assert faults("webdataset:a") == [
        "0.tar:0: the shard is damaged here, or ends early: the end of the archive is missing"
    ]


def test_a_header_that_promises_too_much_is_not_believed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file of a terabyte takes a few bytes in the archive, and an endless one goes backwards."""
    monkeypatch.setattr("vpctl.formats.webdataset.MAX_PICTURE", 1 << 20)
    sparse = info("x.png", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)})
    shard("a.tar", ("x.txt", b"x"), sparse, *GOOD)
    assert faults("webdataset:a.tar") == ["x: its .png has more than 1 MiB"]
    shard("b.tar", *GOOD)
    content = bytearray((here / "b.tar").read_bytes())
    content[124:136] = b"\xff" * 10 + b"\xf6\x00"  # a size of less than zero
    content[148:156] = b"        "
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (here / "b.tar").write_bytes(content)
    (fault,) = faults("webdataset:b.tar")
    assert "the shard is damaged here, or ends early: " in fault


def test_names_that_are_not_text_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard("a.tar", *GOOD, ("b\n\udcff.png", png()))
    assert [one["prompt"] for one in records("webdataset:a.tar")] == ["good"]
    assert "warning: a.tar:b\\n\ufffd: has no prompt;" in capsys.readouterr().err
    assert sources.some_left_out()


@pytest.fixture
def judged(here: Path) -> list[dict[str, Any]]:
    """Judgements of four prompts with two pictures each; the picture a is better. One is a JPEG in part."""
    judgements = []
    for number in range(4):
        names = [f"{number}a.png", f"{number}b.png"]
        for name, red in zip(names, (200, 10), strict=True):
            PIL.new("RGB", (4, 4), (red, number, 0)).save(name)
        about = {"prompt_id": f"p{number}", "prompt": f"draw {number}", "split": "train"}
        what = {"aspect": "fidelity", "annotator": "human", "image_ids": names, "file_names": names}
        judgements.append({**about, **what, "scores": [4.0, 2.0], "note": None})
    write_lines(here / "j.jsonl", judgements)
    return judgements


@pytest.mark.parametrize(("kind", "name"), [(Pair, "pairs"), (Judgement, "judgements"), (Rating, "ratings")])
def test_records_come_back_with_their_pictures(
    judged: list[dict[str, Any]], here: Path, kind: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpctl.formats.webdataset.SHARD_SAMPLES", 3)
    merge(["j.jsonl"], f"{name}.jsonl", to=[name])
    merge(["j.jsonl"], to=[name, "webdataset:out"])
    plain, back = records(f"{name}.jsonl", kind), records("webdataset:out", kind)
    assert len(back) == len(plain)
    for one, other in zip(back, plain, strict=True):
        for key, value in other.items():
            if not key.endswith(("file_name", "file_names")):
                assert one[key] == value
            elif isinstance(value, list):
                assert [*map(shade, one[key])] == [*map(shade, value)]
            else:
                assert shade(one[key]) == shade(value)
    shards = sorted(path.name for path in (here / "out").glob("*.tar"))
    assert shards == [f"shard-{number:06}.tar" for number in range(-(-len(plain) // 3))]
    if name != "judgements":
        assert [dict(one) for _, one in located_preferences("webdataset:out")] == back


def test_shards_end_at_their_size_and_the_same_records_give_the_same_bytes(
    judged: list[dict[str, Any]], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpctl.formats.webdataset.SHARD_BYTES", 1)
    merge(["j.jsonl"], to=["webdataset:out"])
    merge(["j.jsonl"], to=["webdataset:again"])
    assert sorted(os.listdir("out")) == [f"shard-{number:06}.tar" for number in range(4)]
    assert [(here / "out" / name).read_bytes() for name in os.listdir("out")] == [
        (here / "again" / name).read_bytes() for name in os.listdir("out")
    ]
    monkeypatch.undo()
    monkeypatch.chdir(here)
    merge(["j.jsonl"], to=["webdataset:out"])
    assert os.listdir("out") == ["shard-000000.tar"], "an older one is replaced"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves its shard open
def test_the_library_and_datasets_open_what_is_written(judged: list[dict[str, Any]], here: Path) -> None:
    merge(["j.jsonl"], to=["webdataset:out"])
    samples = [*webdataset.WebDataset("out/shard-000000.tar", shardshuffle=False)]
    assert [sample["__key__"] for sample in samples] == [f"{number:09}" for number in range(4)]
    for sample in samples:
        pair = json.loads(sample["json"])
        assert pair["chosen_file_name"] == f"{sample['__key__']}.chosen.png"
        (here / "chosen.png").write_bytes(sample["chosen.png"])
        assert shade(str(here / "chosen.png")) == 200
    merge(["j.jsonl"], to=["ratings", "webdataset:rated"])
    opened = load_dataset(
        "webdataset", data_files=str(here / "rated/*.tar"), split="train", cache_dir=str(here / "cache")
    )
    assert [row["json"]["label"] for row in opened] == [row["png"].getpixel((0, 0))[0] == 200 for row in opened]
    assert len(opened) == 8


def test_what_the_library_writes_is_read(here: Path) -> None:
    with webdataset.ShardWriter("part-%02d.tar", maxcount=2, verbose=0) as writer:
        for number in range(3):
            writer.write({"__key__": f"s{number}", "png": PIL.new("RGB", (4, 4), (number, 0, 0)), "txt": f"p{number}"})
    found = records("webdataset:part-*.tar")
    assert [(one["prompt"], shade(one["file_name"])) for one in found] == [("p0", 0), ("p1", 1), ("p2", 2)]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mixed", "is a folder with other files, such as note.txt, which merge would remove; name a new"),
        ("j.jsonl", "is read by this command"),
        ("a.tar", "is written as a folder of shards; name a folder"),
        ("link", "is not a folder; name another path"),
    ],
)
def test_nothing_else_is_replaced(judged: list[dict[str, Any]], here: Path, target: str, said: str) -> None:
    (here / "mixed").mkdir()
    (here / "mixed/note.txt").touch()
    (here / "link").symlink_to(here / "mixed")
    with pytest.raises(UserError, match=said):
        merge(["j.jsonl"], to=[f"webdataset:{target}"])
    assert (here / "mixed/note.txt").exists()


def test_a_file_that_is_no_picture_leaves_nothing(judged: list[dict[str, Any]], here: Path) -> None:
    (here / "3b.png").write_bytes(b"secret")
    with pytest.raises(UserError, match="its picture is not in a format that vpctl reads; leave its record out"):
        merge(["j.jsonl"], to=["webdataset:out"])
    assert not [name for name in os.listdir(here) if "out" in name]
    with pytest.raises(UserError, match="there are no records, so there is nothing to write"):
        plugins.load("format", "webdataset:out").write([])


def test_what_needs_the_library_says_so(
    judged: list[dict[str, Any]], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard("0.tar", *GOOD)
    for name in ("webdataset.writer", "braceexpand"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (lambda: merge(["j.jsonl"], to=["webdataset:out"]), lambda: records("webdataset:{0..0}.tar")):
        with pytest.raises(UserError, match=r"needs the package webdataset: pip install 'vpctl\[webdataset\]'"):
            call()
    assert not (here / "out").exists()
    assert records("webdataset:0.tar")[0]["prompt"] == "good", "one shard can be read without it"
