import fcntl
import gzip
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import (
    FAIR,
    JSON,
    ONE,
    PATIENCE,
    Ended,
    Plugin,
    Run,
    as_anyone,
    bash,
    draw,
    lines,
    vpctl,
    write_lines,
)
from tests.surroundings import ENVIRONMENT
from vpctl.errors import UserError
from vpctl.records import MAX_PROMPT_CHARS, Image, Pair, Prompt, prompt_key, prompt_too_long
from vpctl.streams import jsonlines
from vpctl.streams.places import beside
from vpctl.streams.reading import count, read, read_prompts
from vpctl.streams.writing import Out, Replacement

NAME = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"), min_size=1).filter(
    lambda name: name not in (".", "..")
)


def out(target: Path) -> Out:
    return Out(str(target), Prompt, prompt_key)


def prompts(target: Path) -> list[str]:
    return [record["prompt"] for record in lines(target.read_text())]


def complaint(work: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        work()
    return str(raised.value)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder that is also the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def standard(stream: int, file: int) -> Iterator[None]:
    """Replace standard input or output by another file while the context is active."""
    kept = os.dup(stream)
    os.dup2(file, stream)
    try:
        yield
    finally:
        os.dup2(kept, stream)
        os.close(kept)


@settings(max_examples=40)
@given(
    st.lists(st.dictionaries(st.text(), JSON).map(lambda more: {**more, "prompt": "x", "split": "train"}), max_size=4)
)
def test_what_is_written_is_what_is_read(records: list[Any]) -> None:
    named = [{k: v for k, v in one.items() if not k.endswith(("file_name", "file_names"))} for one in records]
    named = [{k: v for k, v in one.items() if k not in ("prompt_id", "source_prompt", "unsafe")} for one in named]
    with tempfile.TemporaryDirectory() as folder:
        target = f"{folder}/out.jsonl"
        with Out(target, Prompt, prompt_key) as sink:
            for record in named:
                sink.write(record)
        assert list(read(target, Prompt)) == named
        with Replacement(target) as whole:
            for record in named:
                whole.write(record)
        assert list(read(target, Prompt)) == named


@settings(max_examples=40)
@given(NAME, st.lists(NAME, min_size=1, max_size=3), st.lists(NAME, max_size=3))
def test_names_of_files_are_relative_to_the_file_they_stand_in(name: str, below: list[str], beside: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "a", "b", "in.jsonl")
        record = {"prompt": "x", "file_name": "/".join([*below, name]), "file_names": ["../" + name]}
        record |= {"chosen_file_name": name, "my_file_names": [name], "file_name_of": name}
        write_lines(first, [record])
        (found,) = read(str(first), Prompt)
        absolute: Any = {
            **record,
            "file_name": str(first.parent.joinpath(*below, name)),
            "file_names": [str(first.parent.parent / name)],
            "chosen_file_name": str(first.parent / name),
            "my_file_names": [str(first.parent / name)],
        }
        assert found == absolute
        second = Path(folder, "elsewhere", *[part[:40] for part in beside], "out.jsonl")
        with out(second) as sink:
            sink.write(found)
        (written,) = lines(second.read_text())
        assert not os.path.isabs(written["file_name"])
        assert list(read(str(second), Prompt)) == [absolute]


def test_on_a_pipe_names_of_files_are_relative_to_the_working_folder(here: Path) -> None:
    source = write_lines(here / "deep" / "in.jsonl", [{"prompt": "x", "file_name": "../i.png"}])
    shown, to_shown = os.pipe()
    with standard(1, to_shown), Out("-", Prompt, prompt_key) as sink:
        for record in read(str(source), Prompt):
            sink.write(record)
    os.close(to_shown)
    with os.fdopen(shown, "rb") as piped:
        text = piped.read()
    assert orjson.loads(text) == {"prompt": "x", "file_name": "i.png"}
    given_back, to_give = os.pipe()
    os.write(to_give, text)
    os.close(to_give)
    with standard(0, given_back):
        assert list(read("-", Prompt)) == [{"prompt": "x", "file_name": str(here / "i.png")}]
    os.close(given_back)


def test_what_is_no_name_of_a_file_is_left_as_it_is(tmp_path: Path) -> None:
    record = {"prompt": "x", "my_file_name": 5, "other_file_names": [1, None, ["a"]], "third_file_names": "b"}
    source = write_lines(tmp_path / "in.jsonl", [record])
    assert list(read(str(source), Prompt)) == [record]


def test_blank_lines_and_a_byte_order_mark_are_no_records_and_lines_are_counted_with_them(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\n  \t\n{"prompt": "b"}\n\n{"prompt": 1}\n')
    reader = read(str(source), Prompt)
    assert [next(reader), next(reader)] == [{"prompt": "a"}, {"prompt": "b"}]
    assert complaint(lambda: next(reader)) == f"{source}:6: 'prompt' of a prompt is text, not 1"
    source.write_bytes(b"\xef\xbb\xbf\n")
    assert list(read(str(source), Prompt)) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', "not JSON: .*, column 15; the line does not end, so the file may have been cut off here"),
        ('{"prompt": NaN}\n', "NaN is not JSON; write null, or leave the key out"),
        ('{"prompt": "a", "score": Infinity}\n', "Infinity is not JSON; write null, or leave the key out"),
        ('{"prompt": "a", "score": [-Infinity]}\n', "Infinity is not JSON; write null, or leave the key out"),
        (
            '{"prompt": "a",\n',
            "not JSON: .*; JSON Lines have one record on each line; convert JSON with jq -c . .*in.jsonl",
        ),
        ('[{"prompt": "a"},\n', r"not JSON: .* jq -c '\.\[\]' .*in.jsonl"),
        ('{"prompt": "a", "b": ' + "[" * 300 + "]" * 300 + "}\n", "is nested more than 200 levels deep"),
        ('{"prompt": "a", "b": ' + "[" * 2000 + "]" * 2000 + "}\n", "not JSON: depth limit exceeded, column [0-9]+"),
        ('{"prompt": "a", "n": ' + "1" * 5000 + "}\n", "a number is too large, column 22"),
        ('{"prompt": "a", "score": 1e999}\n', "a number is too large, column [0-9]+"),
        ("{'prompt': 'a'}\n", "not JSON: .*, column 2"),
        ("a red circle\n", "not JSON: .*, column 1"),
        ('{"prompt": "a"}{"prompt": "b"}\n', "not JSON: .*, column 16"),
        (
            "[1]\n",
            r"a record is a JSON object on one line; this is a list; write one record on each line, .* jq -c '\.\[\]'",
        ),
    ],
)
def test_a_line_that_is_no_record_is_named_and_those_before_it_count(tmp_path: Path, line: str, message: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(f'{{"prompt": "first"}}\n{line}')
    reader = read(str(source), Prompt)
    assert next(reader) == {"prompt": "first"}
    said = complaint(lambda: next(reader))
    assert re.fullmatch(re.escape(f"{source}:2: ") + message, said), said


def test_a_reader_can_be_told_what_else_will_not_do(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    reader = read(str(source), Prompt, lambda prompt: "b is not for me" if prompt["prompt"] == "b" else "")
    assert next(reader) == {"prompt": "a"}
    assert complaint(lambda: next(reader)) == f"{source}:2: b is not for me"


def test_a_file_is_opened_before_anything_heavy_is_loaded_for_it(tmp_path: Path) -> None:
    for missing in (lambda: read(f"{tmp_path}/none.jsonl", Prompt), lambda: read_prompts(f"{tmp_path}/none.jsonl")):
        assert complaint(missing) == f"{tmp_path}/none.jsonl: no such file or directory"
    assert complaint(lambda: read(str(tmp_path), Prompt)) == f"{tmp_path}: is a folder; name a file of records"


def test_prompts_are_read_from_plain_text_too(tmp_path: Path) -> None:
    plain = tmp_path / "in.txt"
    plain.write_bytes("\ufeff a red circle \r\n\n{a red|a blue} brace}\n«blue»\n".encode())
    texts = ["a red circle", "{a red|a blue} brace}", "«blue»"]
    assert [one["prompt"] for one in read_prompts(str(plain))] == texts
    plain.write_bytes(b"fine\n\xff\xfe\n")
    reader = read_prompts(str(plain))
    next(reader)
    assert complaint(lambda: next(reader)) == f"{plain}:2: not UTF-8 text; convert the file first, e.g. with iconv"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b'{"prompt": "a"}\n', ["a"]), (b"a\nb\n", ["a", "b"]), (b'\n {"prompt": "a"}', ["a"]), (b"", [])],
)
def test_the_first_line_of_standard_input_tells_records_from_plain_text(text: bytes, expected: list[str]) -> None:
    given_back, to_give = os.pipe()
    os.write(to_give, text)
    os.close(to_give)
    with standard(0, given_back):
        assert [one["prompt"] for one in read_prompts("-")] == expected
    os.close(given_back)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            'a red circle\n{"prompt": "a"}\n',
            "FILE:2: is a JSON record among lines of plain text; name the file .jsonl, ",
        ),
        ('[{"prompt": "a"}]\n', "FILE:1: is the beginning of a JSON array; "),
        ('[\n{"prompt": "a"}\n]\n', "FILE:1: is the beginning of a JSON array; "),
        ("prompt,seed\na red circle,1\n", "FILE:1: is the header of CSV; "),
        ('"id","Prompt"\n1,a\n', "FILE:1: is the header of CSV; "),
        ("prompt\na red circle\n", "FILE:1: is the header of CSV; "),
        ("seed\tprompt\n1\ta\n", "FILE:1: is the header of TSV; "),
        ("id,caption\n1,a\n", "FILE:1: is the header of CSV; "),
        ("a red circle\na blue one\t1\n", "FILE:2: has a tab in it, as TSV has; "),
        ("a red circle\t1\n", "FILE:1: has a tab in it, as TSV has; "),
        ("a cat\ra dog\r", "FILE:1: has a carriage return in it, which separates lines in old Mac files; "),
        ("a cat\na dog\ra fox\n", "FILE:2: has a carriage return in it, which separates lines in old Mac files; "),
        ("prompt,seed\ra cat,1\r", "FILE:1: is the header of CSV; "),
        ("a cat\ra d\xf6g\r".encode("latin-1"), "FILE:1: not UTF-8 text; "),
    ],
)
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_what_is_neither_json_lines_nor_plain_text_does_not_become_prompts(
    here: Path, text: str | bytes, reason: str, kind: str
) -> None:
    (here / "in.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with (here / "in.txt").open() as opened:
        source = "in.txt" if kind == "file" else f"/dev/fd/{opened.fileno()}"
        said = complaint(lambda: [*read_prompts(source)])
    assert said.startswith(reason.replace("FILE", source))


@pytest.mark.parametrize(
    "text",
    [
        "[portrait] of a cat",
        "a cat, a dog",
        "((prompt)), best",
        '"a cat"',
        "{a|b}",
        "1girl, solo, text, smile",
        "text,cat,smile",
        "text, a prompt",
        "x" * 300_000,
        "a,b" * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_prompts_that_only_look_a_little_like_data_are_prompts(tmp_path: Path, text: str) -> None:
    (tmp_path / "in.txt").write_text(text)
    assert [one["prompt"] for one in read_prompts(str(tmp_path / "in.txt"))] == [text.strip()]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("in.csv", b"prompt\na\n", "is CSV; read it as csv:"),
        ("in.csv", b"prompt,seed\ra,1\r", "is CSV; read it as csv:"),
        ("in.csv", b"a cat\ra dog\r", "is CSV; read it as csv:"),
        ("in.jsonl", b'{"prompt": "a"}\r{"prompt": "b"}\r', "convert the line ends first: tr '\\r' '\\n' < "),
        ("in.tsv", b"prompt\na\n", "is TSV; read it as csv:"),
        ("in.jsonl.gz", gzip.compress(b"{}\n", mtime=0), "is compressed by gzip; unpack it first: gunzip -c "),
        ("in.jsonl", gzip.compress(b"{}\n", mtime=0), "is compressed by gzip; unpack it first: gunzip -c "),
        ("in.parquet", b"PAR1\0\0", "is Parquet; read it as parquet:"),
        (
            "in.jsonl",
            '{"prompt": "a"}\n'.encode("utf-16"),
            "is UTF-16 text; convert it first: iconv -f UTF-16 -t UTF-8 ",
        ),
        ("in.json", b'[\n {"prompt": "a"}\n]\n', "JSON Lines have one record on each line; convert JSON with jq"),
        ("in.json", b'{\n "prompt": "a"\n}\n', "JSON Lines have one record on each line; convert JSON with jq"),
        ("prompts", b"a red circle\n", "plain text is read from a .txt file or from a pipe"),
    ],
)
def test_a_file_of_another_format_is_told_what_to_do(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    source = tmp_path / name
    source.write_bytes(content)
    assert reason in complaint(lambda: [*read_prompts(str(source))])


@pytest.mark.parametrize("header", ["prompt,id", "Prompt,id", "text,artist", "caption;id", "\ufeffprompt;id"])
def test_what_the_message_says_turns_csv_into_prompts(here: Path, header: str) -> None:
    (here / "in.csv").write_text(f'{header}\n"a red circle, large"{";" if ";" in header else ","}1\n', "utf-8")
    _, _, data_set = complaint(lambda: [*read_prompts("in.csv")]).partition("read it as ")
    ended = bash(f"vpctl polish {data_set}", here)
    assert [one["prompt"] for one in lines(ended.out)] == ["a red circle, large"]
    if header.isascii() and "text" not in header:
        told = bash("vpctl polish - < in.csv", here).err
        convert = told.partition("first: ")[2].strip().replace("< FILE", "< in.csv")
        ended = bash(f"{convert} | vpctl polish -", here)
        assert [one["prompt"] for one in lines(ended.out)] == ["a red circle, large"]


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonlines, "MAX_LINE_BYTES", 1 << 20)
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"prompt": "a"}\n' + b"x" * (1 << 21))
    reader = read(str(source), Prompt)
    next(reader)
    assert complaint(lambda: next(reader)) == f"{source}:2: is longer than 1 MiB; is this a file of lines?"


def test_integers_of_any_size_pass_through_and_are_refused_where_they_count(tmp_path: Path) -> None:
    numbers = [2**64, -(2**63) - 1, 10**40, 2**64 - 1, 0.1, 12345678901234567890.5]
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "a", "own": numbers, "long": "1" * 40}) + "\n")
    with out(tmp_path / "out.jsonl") as sink:
        for record in read(str(tmp_path / "in.jsonl"), Prompt):
            sink.write(record)
    assert json.loads((tmp_path / "out.jsonl").read_text())["own"] == numbers
    (tmp_path / "in.jsonl").write_text(f'{{"prompt": "a", "clip_tokens": {2**64}}}\n')
    said = complaint(lambda: [*read(str(tmp_path / "in.jsonl"), Prompt)])
    assert said.endswith(
        ":1: 'clip_tokens' of a prompt is a whole number, not 18446744073709551616 (more than 64 bits)"
    )


def test_null_in_an_optional_key_is_absence(tmp_path: Path) -> None:
    record = {"prompt": "a", "split": None, "prompt_id": None, "own": None}
    assert [*read(str(write_lines(tmp_path / "in.jsonl", [record])), Prompt)] == [{"prompt": "a", "own": None}]


@pytest.mark.parametrize(
    ("target", "end"),
    [
        ("-", "> told.jsonl"),
        ("/dev/stdout", "| cat"),
        ("/dev/stdout", "> told.jsonl"),
        ("/dev/fd/1", "| cat"),
        (">(cat)", ""),
    ],
)
def test_a_stream_is_a_stream_by_whatever_name(here: Path, plugin: Plugin, target: str, end: str) -> None:
    """Even if the shell redirects it to a file: names are relative to the working directory."""
    draw(here / "deep", prompts=1)
    plugin("fair", FAIR)
    ended = bash(f"vpctl annotate deep/metadata.jsonl --annotator ./fair.py --out {target} {end}", here)
    found = lines((here / "told.jsonl").read_text() if "told" in end else ended.out)
    assert {name.split("/")[0] for one in found for name in one["file_names"]} == {"deep"}


@pytest.mark.parametrize(("source", "from_file"), [("/dev/stdin", True), ("/dev/stdin", False), ("/dev/fd/0", True)])
def test_standard_input_is_read_by_whatever_name(here: Path, plugin: Plugin, source: str, from_file: bool) -> None:
    """File names are relative to the working directory, not to /dev."""
    draw(here / "deep", prompts=1)
    plugin("fair", FAIR)
    records = lines((here / "deep" / "metadata.jsonl").read_text())
    write_lines(here / "in.jsonl", [{**one, "file_name": f"deep/{one['file_name']}"} for one in records])
    command = f"vpctl annotate {source} --annotator ./fair.py"
    ended = bash(f"{command} < in.jsonl" if from_file else f"cat in.jsonl | {command}", here)
    assert (ended.code, len(lines(ended.out))) == (0, 4), ended.err


def test_pictures_do_not_go_below_dev(here: Path, plugin: Plugin) -> None:
    plugin("grey", "from PIL import Image\nreturn lambda prompts, *_: [Image.new('L', (8, 8), 128) for _ in prompts]")
    ended = bash("vpctl generate <(echo a red circle) -m ./grey.py -n 1 --out /dev/stdout | cat", here)
    (record,) = lines(ended.out)
    assert record["file_name"].startswith("images/")
    assert (here / record["file_name"]).is_file()


@pytest.mark.parametrize("name", ["out.csv", "out.tsv"])
def test_an_output_of_another_format_is_refused(here: Path, name: str) -> None:
    for opened in (lambda: out(Path(name)), lambda: Replacement(name)):
        assert complaint(opened) == f"{name}: vpctl writes JSON Lines; name a .jsonl file"


def test_lines_are_counted_where_they_can_be_read_twice(tmp_path: Path) -> None:
    assert count(str(write_lines(tmp_path / "in.jsonl", [{"a": 1}] * 3))) == 3
    assert count("-") is None
    assert count(str(tmp_path)) is None


def test_an_output_goes_on_and_claims_what_it_holds(tmp_path: Path) -> None:
    target = write_lines(tmp_path / "new" / "out.jsonl", [{"prompt": "a", "more": [1]}, {"prompt": "b"}])
    before = target.read_bytes()
    with out(target) as sink:
        assert sink.resumed == 2
        assert not sink.claim(prompt_key({"prompt": "a"}))
        assert sink.claim(prompt_key({"prompt": "c"}))
        assert not sink.claim(prompt_key({"prompt": "c"})), "it has just been claimed"
        sink.write({"prompt": "c"})
    assert target.read_bytes() == before + b'{"prompt":"c"}\n'


@pytest.mark.parametrize("torn", [b'{"prompt": "b', b"{", b"\0" * 70_000])
@pytest.mark.parametrize("held", [b"", b'{"prompt":"a"}\n', b'{"prompt":"a"}\n' * 9000])
def test_a_torn_last_line_is_cut_off_and_done_again(tmp_path: Path, held: bytes, torn: bytes) -> None:
    target = tmp_path / "out.jsonl"
    target.write_bytes(held + torn)
    with out(target) as sink:
        assert target.read_bytes() == held
        assert sink.claim(prompt_key({"prompt": "b"}))
        sink.write({"prompt": "b"})
    assert target.read_bytes() == held + b'{"prompt":"b"}\n'


def test_a_whole_record_that_lacks_its_newline_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_bytes(b'{"prompt":"a"}\n{"prompt":"b"}')
    with out(target) as sink:
        assert sink.resumed == 2
        assert not sink.claim(prompt_key({"prompt": "b"}))
        sink.write({"prompt": "c"})
    assert target.read_bytes() == b'{"prompt":"a"}\n{"prompt":"b"}\n{"prompt":"c"}\n'


@pytest.mark.parametrize(
    "precious", [b"x", b"a red circle\na blue star", b'{"api": "config"}', b'{"prompt":"a"}\nnotes', b"\x89PNG\r\n\x1a"]
)
def test_what_is_no_file_of_records_is_not_touched(tmp_path: Path, precious: bytes) -> None:
    target = tmp_path / "precious"
    target.write_bytes(precious)
    with pytest.raises(UserError):
        out(target)
    assert target.read_bytes() == precious


def test_an_output_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    target.write_text("buy milk\n")
    assert complaint(lambda: out(target)).startswith(f"{target}:1: not JSON: ")
    assert target.read_text() == "buy milk\n"


def test_a_record_is_on_its_way_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with out(tmp_path / "out.jsonl") as sink:
        sink.write({"prompt": "a" * 100_000})
        assert prompts(tmp_path / "out.jsonl") == ["a" * 100_000]


def test_a_new_output_is_taken_away_if_nothing_got_into_it(tmp_path: Path) -> None:
    old = write_lines(tmp_path / "old.jsonl", [])
    for target in (old, tmp_path / "new.jsonl"):
        with pytest.raises(RuntimeError), out(target):
            raise RuntimeError
    assert old.exists()
    assert not (tmp_path / "new.jsonl").exists()
    with out(tmp_path / "empty.jsonl"):
        pass
    assert (tmp_path / "empty.jsonl").read_bytes() == b"", "a run that ends well leaves its output, empty or not"


def test_an_optional_output_is_taken_away_if_nothing_is_in_it(tmp_path: Path) -> None:
    for target in ("new.jsonl", "killed.jsonl", "held.jsonl"):
        (tmp_path / "held.jsonl").write_text('{"prompt": "a cat"}\n')
        (tmp_path / "killed.jsonl").touch()
        with Out(str(tmp_path / target), Prompt, prompt_key, optional=True):
            assert (tmp_path / target).exists()
        assert (tmp_path / target).exists() == (target == "held.jsonl")


def test_a_file_beside_another_is_named_for_it() -> None:
    assert beside("run/prompts.jsonl", "dropped") == "run/prompts.dropped.jsonl"
    assert beside("prompts", "dropped") == "prompts.dropped"
    assert beside("-", "dropped") == beside("/dev/null", "dropped") == ""


def test_one_output_has_one_writer(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    for kind in (out, lambda target: Replacement(str(target))):
        with kind(target):
            assert (
                complaint(lambda: kind(target))  # noqa: B023
                == f"{target}: another run is writing it; wait for it to end or name another file"
            )
        with kind(target):
            pass


HOLD = """
import sys
from vpctl.records import Prompt, prompt_key
from vpctl.streams.writing import Out, Replacement
kind, target = sys.argv[1:]
with Out(target, Prompt, prompt_key) if kind == "Out" else Replacement(target) as sink:
    sink.write({"prompt": "of the first"})
    print("holding", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(kind: str, target: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process holds the output and has written a record."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"holding\n"
        yield holder
        holder.kill()


@pytest.mark.parametrize("kind", ["Out", "Replacement"])
def test_a_killed_run_holds_nothing_and_a_live_one_lets_nobody_in(run: Run, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out.jsonl"
    command = ["merge"] if kind == "Replacement" else ["polish", "--similarity", "1", "--polisher", "./same.py"]
    (tmp_path / "same.py").write_text("def load(argument, *, device): raise AssertionError('too late')")
    with held(kind, target) as holder:
        way_out = "another run is writing it; wait for it to end or name another file"
        refused = Ended(75, "", f"vpctl {command[0]}: out.jsonl: {way_out}\n")
        assert run(*command, "-", "--out", "out.jsonl") == refused
        assert holder.poll() is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with out(target) if kind == "Out" else Replacement(str(target)) as sink:
            sink.write({"prompt": "of the second"})
    assert prompts(target) == (["of the first"] if kind == "Out" else []) + ["of the second"]


def test_a_replacement_comes_whole_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text('{"prompt":"old"}\n')
    with Replacement(str(target)) as sink:
        sink.write({"prompt": "new"})
        assert prompts(target) == ["old"]
    assert prompts(target) == ["new"]
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_the_old_file_survives_an_error_and_a_kill_and_what_they_leave_does_not_disturb(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text('{"prompt":"old"}\n')
    with pytest.raises(TypeError), Replacement(str(target)) as sink:
        sink.write({"prompt": "new", "not for JSON": object()})
    assert os.listdir(tmp_path) == ["out.jsonl"]
    with held("Replacement", target):
        pass
    assert prompts(target) == ["old"]
    assert sorted(os.listdir(tmp_path)) == [".out.jsonl.part", "out.jsonl"]
    with Replacement(str(target)) as sink:
        sink.write({"prompt": "x"})
    assert target.read_text() == '{"prompt":"x"}\n'
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_a_replacement_takes_the_place_of_records_only(tmp_path: Path) -> None:
    for name, content in {"a.png": b"\x89PNG\r\n", "notes.jsonl": b"notes\n", "list.json": b"[1]\n"}.items():
        (tmp_path / name).write_bytes(content)
        reason = "holds something other than records; name another file with --out"
        assert complaint(partial(Replacement, str(tmp_path / name))) == f"{tmp_path / name}: {reason}"
        assert (tmp_path / name).read_bytes() == content
    for content in (b"", b" \n", b'{"a": 1}\n'):
        (tmp_path / "out.jsonl").write_bytes(content)
        with Replacement(str(tmp_path / "out.jsonl")) as sink:
            sink.write({"prompt": "new"})
        assert prompts(tmp_path / "out.jsonl") == ["new"]


def test_a_replacement_goes_where_a_link_points(tmp_path: Path) -> None:
    real = write_lines(tmp_path / "real" / "pairs.jsonl", [{"prompt": "old"}])
    (tmp_path / "link.jsonl").symlink_to(real)
    with Replacement(str(tmp_path / "link.jsonl")) as sink:
        sink.write({"prompt": "new"})
    assert (tmp_path / "link.jsonl").is_symlink()
    assert prompts(real) == ["new"]


def test_a_replacement_does_not_replace_what_it_is_made_from(tmp_path: Path, run: Run) -> None:
    source = write_lines(tmp_path / "in.jsonl", [])
    (tmp_path / "link.jsonl").symlink_to(source)
    for target in ("in.jsonl", "./in.jsonl", "link.jsonl"):
        ended = run("merge", "in.jsonl", "--out", target)
        assert ended.code == 2
        assert ended.err == f"vpctl merge: error: {target}: is read by this command; name another file with --out\n"


@pytest.mark.parametrize("fate", ["moved", "removed"])
def test_a_lock_on_a_file_that_is_no_longer_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    """Between opening and locking, the run that held the lock may end, and rename or remove the file."""
    target = tmp_path / "out.jsonl"
    part = tmp_path / ".out.jsonl.part"
    really = fcntl.flock
    others: list[int] = []

    def flock(file: int, how: int) -> None:
        if not others:
            others.append(file)
            part.write_text("of the first\n")
            part.replace(target) if fate == "moved" else part.unlink()
        really(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Replacement(str(target)) as sink:
        assert not target.exists() or target.read_text() == "of the first\n"
        sink.write({"prompt": "of the second"})
    assert prompts(target) == ["of the second"]


def test_an_output_that_cannot_be_is_refused_in_one_line(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    closed = tmp_path / "closed"
    closed.mkdir()
    write_lines(closed / "old.jsonl", []).chmod(0o444)
    closed.chmod(0o555)
    write_lines(tmp_path / "in.jsonl", [])
    for target, reason in {
        "folder": "is a folder; name a file in it, such as folder/out.jsonl",
        "file/out.jsonl": "file is a file, not a folder",
        "file/deep/out.jsonl": "file/deep is a file, not a folder",
        "closed/new.jsonl": "permission denied",
        "closed/old.jsonl": "permission denied",
        "closed/deep/new.jsonl": "permission denied",
    }.items():
        for command in ("merge", "annotate") if "deep" not in target else ("merge",):
            said = f"vpctl {command}: error: {target}: {reason}\n"
            assert run(command, "in.jsonl", "-q", "--out", target) == (2, "", said)
    assert os.listdir(closed) == ["old.jsonl"]


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, drawn: Path, plugin: Plugin) -> None:
    plugin("fair", FAIR)
    command = f"vpctl annotate {drawn}/metadata.jsonl --annotator ./fair.py --aspect fidelity"
    said = "no space left on device\n"
    assert bash(f"{command} > /dev/full", tmp_path) == (2, "", f"vpctl annotate: error: stdout: {said}")
    assert bash(f"{command} --out /dev/full", tmp_path) == (2, "", f"vpctl annotate: error: /dev/full: {said}")
    bash(f"{command} > judgements.jsonl", tmp_path)
    for what in ("--out /dev/full", "> /dev/full"):
        ended = bash(f"vpctl merge judgements.jsonl {what}", tmp_path)
        assert ended.code == 2
        assert ended.err.endswith(said)
        assert ended.err.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_that_finds_no_room_is_told_in_one_line(tmp_path: Path, unbuffered: str) -> None:
    for words, name in {
        "--help": "vpctl",
        "--version": "vpctl",
        "--plugins": "vpctl",
        "score --help": "vpctl score",
        "eval": "vpctl eval",
    }.items():
        ended = bash(f"vpctl {words} > /dev/full", tmp_path, PYTHONUNBUFFERED=unbuffered)
        assert ended == (2, "", f"{name}: error: stdout: no space left on device\n"), words


def test_what_fits_on_a_full_disk_is_kept_and_the_same_command_goes_on(tmp_path: Path, plugin: Plugin) -> None:
    draw(tmp_path, prompts=12)
    plugin("fair", FAIR)
    command = vpctl(
        "annotate", "metadata.jsonl", "--annotator", "./fair.py", "--concurrency", "1", "--aspect", "fidelity"
    )
    target = tmp_path / "judgements.jsonl"

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    def judge(before: Callable[[], None] | None, target: Path) -> "subprocess.CompletedProcess[str]":
        environment = {**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [*command, "--out", str(target)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            preexec_fn=before,
        )

    ended = judge(full, target)
    assert ended.returncode == 2
    kept = "earlier records are kept; run the same command again to resume"
    assert ended.stderr == f"vpctl annotate: error: {target}: file too large; {kept}\n"
    assert target.stat().st_size == 1500
    whole = target.read_text().splitlines()[:-1]
    assert 2 <= len(whole) < 12
    ended = judge(None, target)
    assert ended.returncode == 0
    assert f"{12 - len(whole)} judgements written to {target}; {len(whole)} were already there" in ended.stderr
    assert judge(None, tmp_path / "uninterrupted.jsonl").returncode == 0
    everything = (tmp_path / "uninterrupted.jsonl").read_bytes()
    assert sorted(target.read_bytes().splitlines()) == sorted(everything.splitlines())


def many_judgements(target: Path) -> None:
    """More judgements than a pipe buffer holds, and also more than it holds as pairs."""
    write_lines(
        target,
        (
            {
                "prompt_id": str(number),
                "prompt": "a red circle" * 10,
                "aspect": "fidelity",
                "annotator": "human",
                "image_ids": ["a", "b"],
                "file_names": ["a.png", "b.png"],
                "scores": [1, 2],
            }
            for number in range(1000)
        ),
    )


def test_a_reader_that_has_gone_is_no_error_and_worth_no_word(tmp_path: Path, drawn: Path, plugin: Plugin) -> None:
    many_judgements(tmp_path / "in.jsonl")
    plugin("fair", FAIR)
    plugin("one", ONE)
    plugin("same", "from vpctl.contracts import Polished\nreturn lambda prompts: [*map(Polished, prompts)]")
    (tmp_path / "in.txt").write_text("".join(f"{'a red circle ' * 10}{number}\n" for number in range(1000)))
    draw(tmp_path, prompts=60)
    for command in (
        "vpctl merge in.jsonl",
        "vpctl annotate metadata.jsonl --annotator ./fair.py",
        "vpctl score metadata.jsonl --reward ./one.py --batch 1",
        "vpctl polish in.txt --polisher ./same.py --similarity 1",
    ):
        ended = bash(f'{command} | head -1; echo "${{PIPESTATUS[0]}}"', tmp_path)
        assert ended.err == "", command
        first, status = ended.out.splitlines()
        assert lines(first), command
        assert status == "0", command
    for command in ("vpctl --help", "vpctl --plugins", "vpctl merge --help", "vpctl --version"):
        ended = bash(f'{command} | true; echo "${{PIPESTATUS[0]}}"', tmp_path)
        assert ended == (0, "0\n", ""), command


def test_a_closed_stream_is_no_reason_for_a_traceback(tmp_path: Path) -> None:
    many_judgements(tmp_path / "in.jsonl")
    said = "vpctl merge: error: stdout: bad file descriptor\n"
    assert bash("vpctl merge in.jsonl >&-", tmp_path) == (2, "", said)
    assert bash("vpctl merge - <&-", tmp_path) == (2, "", "vpctl merge: error: stdin: bad file descriptor\n")
    silent = bash("vpctl merge in.jsonl 2>&-", tmp_path)
    assert silent.code == 0
    assert len(lines(silent.out)) == 1000, "no word to people may get among the records"
    gone = bash('{ vpctl merge in.jsonl 2>&1 >out.jsonl; echo "$?" >code; } | true', tmp_path)
    assert gone.err == ""
    assert (tmp_path / "code").read_text() == "0\n"
    assert len(lines((tmp_path / "out.jsonl").read_text())) == 1000


@pytest.mark.parametrize("command", ["merge", "annotate", "polish"])
def test_a_terminal_is_no_input(tmp_path: Path, command: str) -> None:
    ours, terminal = pty.openpty()
    ended = subprocess.run(
        vpctl(command, "-", "--quiet"),
        stdin=terminal,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        timeout=PATIENCE,
    )
    os.close(ours)
    os.close(terminal)
    said = "no input: name a FILE, or pipe records into this command; see --help"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"vpctl {command}: error: {said}\n")


def test_an_input_that_is_none_is_told_in_one_line(tmp_path: Path, run: Run) -> None:
    write_lines(tmp_path / "secret.jsonl", []).chmod(0)
    for source, reason in {
        "none.jsonl": "no such file or directory",
        ".": "is a folder; name a file of records",
        "secret.jsonl": "permission denied",
    }.items():
        assert run("merge", source) == (2, "", f"vpctl merge: error: {source}: {reason}\n")


def test_what_a_record_says_cannot_break_lines_or_move_the_cursor(tmp_path: Path, run: Run) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"a\nb": 1, "\x1b[2J": 2}])
    ended = run("merge", source)
    assert ended.err == (
        f"vpctl merge: error: {source}:1: a judgement needs 'prompt_id', 'prompt', 'aspect', 'annotator', "
        "'image_ids', 'file_names' and 'scores'; this one has a\\nb, \\x1b[2J\n"
    )


def test_records_flow_while_the_input_is_still_open(tmp_path: Path, plugin: Plugin) -> None:
    """Each record is written before the next one is read, so that the stages of a pipe run at the same time."""
    draw(tmp_path, prompts=2, each=1)
    plugin("one", ONE)
    text = (tmp_path / "metadata.jsonl").read_bytes().splitlines(keepends=True)
    with subprocess.Popen(
        vpctl("score", "-", "--reward", "./one.py", "--batch", "1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=ENVIRONMENT,
        preexec_fn=as_anyone,
    ) as stage:
        assert stage.stdin
        assert stage.stdout
        for line in text:
            stage.stdin.write(line)
            stage.stdin.flush()
            assert orjson.loads(stage.stdout.readline()) == {**orjson.loads(line), "scores": {"./one.py": 1.0}}
        stage.stdin.close()
        assert stage.wait() == 0


def test_kinds_are_told_apart_when_a_file_is_read(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}])
    for kind, word in ((Image, "an image needs 'file_name'"), (Pair, "a pair needs 'prompt_id'")):
        reader = read(str(source), kind)
        assert complaint(partial(next, reader)).startswith(f"{source}:1: {word}")


@pytest.mark.parametrize(
    ("record", "what"),
    [({"aspect": "fidelity"}, "a judgement"), ({"image_id": "i"}, "a picture"), ({"chosen_file_name": "a"}, "a pair")],
)
def test_prompts_are_not_added_to_a_file_of_something_else(tmp_path: Path, record: dict[str, str], what: str) -> None:
    target = write_lines(tmp_path / "paid.jsonl", [{"prompt": "a cat", "prompt_id": "p", **record}])
    before = target.read_bytes()
    assert complaint(lambda: out(target)) == (f"{target}:1: this is {what}, not a prompt; name another file with --out")
    assert target.read_bytes() == before


def test_a_prompt_oversized_to_draw_or_judge_is_refused_where_it_is_not_polished(tmp_path: Path, run: Run) -> None:
    long = "x" * (MAX_PROMPT_CHARS + 1)
    write_lines(tmp_path / "in.jsonl", [{"prompt": "x" * MAX_PROMPT_CHARS}, {"prompt": long}])
    reason = "the prompt has 10001 characters; the maximum is 10000: shorten it, or leave the record out"
    reader = read_prompts(str(tmp_path / "in.jsonl"), prompt_too_long)
    assert len(next(reader)["prompt"]) == MAX_PROMPT_CHARS
    assert complaint(lambda: next(reader)) == f"{tmp_path}/in.jsonl:2: {reason}"
    image = {"prompt": long, "prompt_id": "p", "image_id": "i", "file_name": "i.png", "model": "m", "seed": 1}
    source = write_lines(tmp_path / "images.jsonl", [image])
    assert complaint(lambda: [*read(str(source), Image)]) == f"{source}:1: {reason}"
    ended = run("generate", "in.jsonl", "-m", "shapes", "--out", "out/metadata.jsonl")
    assert (ended.code, ended.err) == (2, f"vpctl generate: error: in.jsonl:2: {reason}\n")
