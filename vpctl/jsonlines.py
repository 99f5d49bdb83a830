"""JSON Lines as bytes: one line parsed or written, and what a file holds that is not JSON Lines.

Lines come from strangers. Whatever is wrong with one is a `UserError` of one line that says how to mend it.
"""

import csv
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import orjson

from .errors import UserError

LONGEST_LINE = 1 << 26
"""Bytes of a line; a file without newlines would otherwise fill the memory."""
DEEPEST = 200
"""Levels of lists and objects; orjson reads 1024 of them but writes 254."""
NOT_UTF_8 = "not UTF-8 text; convert the file first, e.g. with iconv"

_LONG_NUMBER = re.compile(rb"\d{19}")
"""What orjson may read as a float: an integer of more than 64 bits has at least 19 digits."""
_NO_NUMBER = re.compile(r"-?(?:NaN|nan|Infinity|inf)\b")
_FROM_CSV = "python3 -c 'import csv, json, sys; [print(json.dumps(row)) for row in csv.DictReader(sys.stdin{})]'"
_SUFFIXES = {
    ".csv": f"CSV; convert it to JSON Lines first: {_FROM_CSV.format('')} < {{name}}",
    ".tsv": f"TSV; convert it to JSON Lines first: {_FROM_CSV.format(', delimiter=chr(9)')} < {{name}}",
    ".parquet": "Parquet; convert it to JSON Lines first, e.g. with pandas.read_parquet(…).to_json(…, "
    "orient='records', lines=True)",
}
_MAGIC = {
    b"\x1f\x8b": "compressed by gzip; unpack it first: gunzip -c {name} | vpctl …",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first: zstd -dc {name} | vpctl …",
    b"BZh": "compressed by bzip2; unpack it first: bunzip2 -c {name} | vpctl …",
    b"\xfd7zXZ": "compressed by xz; unpack it first: xz -dc {name} | vpctl …",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"PAR1": _SUFFIXES[".parquet"],
    b"\xff\xfe": "UTF-16 text; convert it first: iconv -f UTF-16 -t UTF-8 {name}",
    b"\xfe\xff": "UTF-16 text; convert it first: iconv -f UTF-16 -t UTF-8 {name}",
}
_ONE_A_LINE = "JSON Lines have one record on each line; convert JSON with jq -c {} {{name}}"
_ARRAY = _ONE_A_LINE.format("'.[]'")
_SPREAD = _ONE_A_LINE.format(".")
_PROMPT_COLUMNS = frozenset(["prompt", "prompts", "text", "caption"])


def parse(line: bytes, where: str) -> Any:
    """The value of a line of JSON; integers of any size are exact.

    Raises `UserError`, beginning with `where`, for what is not JSON, NaN and Infinity included, and for nesting deeper
    than `DEEPEST`.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UserError(f"{where}: {_what_is_wrong(line, error)}") from None
    if _LONG_NUMBER.search(line):
        value = json.loads(line)
    if line.count(b"[") + line.count(b"{") > DEEPEST and depth(value) > DEEPEST:
        raise UserError(f"{where}: is nested more than {DEEPEST} levels deep")
    return value


def _what_is_wrong(line: bytes, error: orjson.JSONDecodeError) -> str:
    if "UTF-8" in error.msg:
        return NOT_UTF_8
    text = line.decode()
    if found := _NO_NUMBER.match(text, error.pos):
        return f"{found[0]} is not JSON; write null, or leave the key out"
    reason = f"not JSON: {error.msg.split(': line')[0]}, column {error.colno}"
    if not line.endswith(b"\n"):
        return f"{reason}; the line does not end, so the file may have been cut off here"
    if text.lstrip().startswith("["):
        return f"{reason}; {_ARRAY.format(name='FILE')}"
    return f"{reason}; {_SPREAD.format(name='FILE')}" if text.rstrip().endswith(("{", "[", ",")) else reason


def depth(value: object) -> int:
    """The number of levels of lists and objects in a value. It counts level by level: a recursion has limits too."""
    levels, level = 0, [value]
    while level := [one for one in level if isinstance(one, list | dict)]:
        levels += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return levels


def dump(record: Mapping[str, object]) -> bytes:
    """The record as a line of JSON. Integers of more than 64 bits, which orjson refuses, are written as they are."""
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def foreign(name: str, beginning: bytes) -> str:
    """What a file is that begins so and is not JSON Lines or plain text, with the way out; empty if nothing shows."""
    found = next((what for magic, what in _MAGIC.items() if beginning.startswith(magic)), "")
    found = found or _SUFFIXES.get(os.path.splitext(name)[1].lower(), "")
    return f"is {found.format(name='FILE' if name == 'stdin' else name)}" if found else ""


def not_prompts(line: bytes, name: str, *, first: bool) -> str:
    """Why a line is no plain text with one prompt: it is JSON, CSV or TSV. Empty if it may be a prompt."""
    text = line.strip()
    if text.startswith(b"{") and text.endswith(b"}"):
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            return ""
        return "is a JSON record among lines of plain text; name the file .jsonl, and put a record on every line"
    if not first:
        return ""
    if re.match(rb'\[\s*(?:[{"]|$)', text):
        return f"is the beginning of a JSON array; {_ARRAY.format(name=name)}"
    cells = next(csv.reader([text.decode(errors="replace")], delimiter="\t" if b"\t" in text else ","))
    columns = {cell.strip().lower() for cell in cells} & _PROMPT_COLUMNS
    kind = ".tsv" if b"\t" in text else ".csv"
    if columns and (len(cells) > 1 or columns == {"prompt"}):
        return f"is the header of {_SUFFIXES[kind].format(name=name)}"
    if kind == ".tsv":
        return "has a tab in it, as TSV has; keep only the column of the prompts: cut -f 1"
    return ""
