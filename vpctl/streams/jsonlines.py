"""JSON Lines as bytes: parse one line, write one line, and recognise files in other formats.

Lines come from other people. Any fault in a line is a `UserError` of one line that says how to fix it.
"""

import csv
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import orjson

from ..errors import UserError

MAX_LINE_BYTES = 1 << 26
"""Maximum length of a line in bytes. Without it, a file without newlines would fill the memory."""
MAX_DEPTH = 200
"""Maximum nesting of lists and objects. orjson reads 1024 levels but writes only 254."""
NOT_UTF_8 = "not UTF-8 text; convert the file first, e.g. with iconv"

_LONG_NUMBER = b"0" * 19
"""What an integer that orjson may read as a float looks like: one of more than 64 bits has at least 19 digits."""
_ALL_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
"""Turns every digit into a zero. To search for zeros then is ten times as fast as to search for digits."""
_NO_NUMBER = re.compile(r"-?(?:NaN|nan|Infinity|inf)\b")
_FROM_CSV = (
    "python3 -c 'import csv, json; [print(json.dumps({row})) for row in "
    'csv.DictReader(open(0, encoding="utf-8-sig", newline=""){delimiter})]\''
)
_SUFFIXES = {".csv": "CSV", ".tsv": "TSV", ".parquet": "Parquet"}
_FORMATS = {"CSV": "csv", "TSV": "csv", "Parquet": "parquet"}
"""The format of data sets that reads a file of this kind."""
_FROM_PARQUET = "pandas.read_parquet(…).to_json(…, orient='records', lines=True)"
_MAGIC = {
    b"\x1f\x8b": "compressed by gzip; unpack it first: gunzip -c {name} | vpctl …",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first: zstd -dc {name} | vpctl …",
    b"BZh": "compressed by bzip2; unpack it first: bunzip2 -c {name} | vpctl …",
    b"\xfd7zXZ": "compressed by xz; unpack it first: xz -dc {name} | vpctl …",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\x89PNG": "a picture; name a file of records that lists pictures",
    b"\xff\xd8\xff": "a picture; name a file of records that lists pictures",
    b"\xff\xfe": "UTF-16 text; convert it first: iconv -f UTF-16 -t UTF-8 {name}",
    b"\xfe\xff": "UTF-16 text; convert it first: iconv -f UTF-16 -t UTF-8 {name}",
}
_MAC = "convert the line ends first: tr '\\r' '\\n' < {name}"
_MAC_RECORDS = re.compile(rb"\}\s*\r\s*\{")
"""Finds two records that a carriage return separates instead of a newline."""
_ARRAY = "JSON Lines have one record on each line; convert JSON with jq -c '.[]' {name}"
_SPREAD = "JSON Lines have one record on each line; convert JSON with jq -c . {name}"
_PROMPTS = ("prompt", "prompts", "text", "caption")
"""Possible names of a column of prompts, the most likely first."""
_OTHERS = frozenset(
    "category file_name height id image image_id label model path prompt_id seed split url width".split()
)
"""Names of other columns. Without one of them in a header, "text" and "caption" may be words of a prompt."""
_HEADER = 4096
"""Number of bytes at the start of a line that are searched for column names."""


def parse(line: bytes, where: str) -> Any:
    """Return the value of a line of JSON. Integers of any size are exact.

    Raises `UserError`, which begins with `where`, if the line is not JSON (NaN and Infinity are not), or if it is
    nested more than `MAX_DEPTH` levels deep.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        name = where.rpartition(":")[0]
        raise UserError(f"{where}: {_what_is_wrong(line, error, 'FILE' if name == 'stdin' else name)}") from None
    if _LONG_NUMBER in line.translate(_ALL_ZERO):
        value = json.loads(line)
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and depth(value) > MAX_DEPTH:
        raise UserError(f"{where}: is nested more than {MAX_DEPTH} levels deep")
    return value


def _what_is_wrong(line: bytes, error: orjson.JSONDecodeError, name: str) -> str:
    if "UTF-8" in error.msg:
        return NOT_UTF_8
    text = line.decode()
    if found := _NO_NUMBER.match(text, error.pos):
        return f"{found[0]} is not JSON; write null, or leave the key out"
    if "infinity" in error.msg:
        return f"a number is too large, column {error.colno}"
    reason = f"not JSON: {error.msg.split(': line')[0]}, column {error.colno}"
    if _MAC_RECORDS.search(line):
        return f"{reason}; carriage returns separate its records; {_MAC.format(name=name)}"
    if not line.endswith(b"\n"):
        return f"{reason}; the line does not end, so the file may have been cut off here"
    if text.lstrip().startswith("["):
        return f"{reason}; {_ARRAY.format(name=name)}"
    return f"{reason}; {_SPREAD.format(name=name)}" if text.rstrip().endswith(("{", "[", ",")) else reason


def depth(value: object) -> int:
    """The number of nested levels of lists and objects. It uses a loop, because recursion would hit its own limit."""
    levels, level = 0, [value]
    while level := [one for one in level if isinstance(one, list | dict)]:
        levels += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return levels


def dump(record: Mapping[str, object]) -> bytes:
    """Return the record as a line of JSON.

    Integers of more than 64 bits, which orjson refuses, are written by `json`.
    """
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def foreign_format(name: str, beginning: bytes) -> str:
    """What other format a file has, judged by its name and first line, and how to read or convert it.

    Empty if neither the name nor the line shows another format.
    """
    shown = "FILE" if name == "stdin" else name
    for magic, what in _MAGIC.items():
        if beginning.startswith(magic):
            return f"is {what.format(name=shown)}"
    kind = "Parquet" if beginning.startswith(b"PAR1") else _SUFFIXES.get(os.path.splitext(name)[1].lower(), "")
    if kind and shown == name:
        return f"is {kind}; read it as {_FORMATS[kind]}:{name}"
    if kind == "Parquet":
        return f"is Parquet; convert it to JSON Lines first, e.g. with {_FROM_PARQUET}"
    return f"is {kind}; {_conversion(beginning, kind, shown)}" if kind else ""


def not_prompts(line: bytes, name: str, *, first: bool) -> str:
    """Why a line is not a plain-text prompt: it is JSON, CSV or TSV, or several lines. Empty if it may be a prompt."""
    text = line.strip()
    if text.startswith(b"{") and text.endswith(b"}"):
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            return ""
        return "is a JSON record among lines of plain text; name the file .jsonl, and put a record on every line"
    if first and re.match(rb'\[\s*(?:[{"\]]|$)', text):
        return f"is the beginning of a JSON array; {_ARRAY.format(name=name)}"
    kind = "TSV" if b"\t" in text else "CSV"
    if first and _prompt_column(text, kind):
        how = f"read it as {_FORMATS[kind]}:{name}" if name != "FILE" else _conversion(text, kind, name)
        return f"is the header of {kind}; {how}"
    if b"\r" in text:
        return f"has a carriage return in it, which separates lines in old Mac files; {_MAC.format(name=name)}"
    if kind == "TSV":
        return "has a tab in it, as TSV has; keep the column of prompts with cut -f, or replace tabs: tr '\\t' ' '"
    return ""


def _prompt_column(line: bytes, kind: str, *, known: bool = False) -> str:
    """The name of the column of prompts, if the line is a header that has one; otherwise empty.

    Unless the line is `known` to be a header, it may also be a prompt that is a list of words.
    """
    header = _header(line)
    try:
        cells = next(csv.reader([header], delimiter=_delimiter(header, kind)))
    except csv.Error:
        return ""
    columns = {cell.lower(): cell for cell in cells}
    name = next((name for name in _PROMPTS if name in columns), "")
    if known and name:
        return columns[name]
    if any(cell != cell.strip() for cell in cells):
        return ""
    certain = name.startswith("prompt") if len(cells) > 1 else name == "prompt"
    return columns[name] if certain or (name and not _OTHERS.isdisjoint(columns)) else ""


def _delimiter(header: str, kind: str) -> str:
    """The column separator. Spreadsheet programs write a semicolon in many countries."""
    return "\t" if kind == "TSV" else ";" if ";" in header and "," not in header else ","


def _header(line: bytes) -> str:
    """The text up to the first line end. Old Mac files end lines with a carriage return, as Excel still can."""
    return re.split(r"[\r\n]", line[:_HEADER].decode("utf-8-sig", "replace").strip(), maxsplit=1)[0]


def _conversion(header: bytes, kind: str, name: str) -> str:
    column = _prompt_column(header, kind, known=True)
    row = "row" if column in ("", "prompt") else f"dict(row, prompt=row[{json.dumps(column)}])"
    delimiter = _delimiter(_header(header), kind)
    command = _FROM_CSV.format(row=row, delimiter="" if delimiter == "," else f", delimiter=chr({ord(delimiter)})")
    return f"convert it to JSON Lines first: {command} < {name}"
