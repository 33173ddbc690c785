"""Read rows from a .json, .jsonl, .csv or .parquet file; what is wrong is named with its row, counted from 1.

In a .jsonl file the row's number is the line's; in a .csv file the header is not counted.
"""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.errors import InputError, problem

NAMED = 10  # rows named in one message; a file with a thousand bad rows is described by the first ten and the count
ENDS_EARLY = "the file ends within the list"
LFS_POINTER = "version https://git-lfs.github.com/spec/"
Numbered = tuple[int, dict[str, Any]]


def read_file(path: Path) -> list[Numbered]:
    """The rows of a file, each with its number. Raises InputError where it is no file of rows."""
    readers: dict[str, Callable[[Path], list[Numbered]]] = {
        ".json": read_json, ".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(problem(path, "", f"ends in {path.suffix or 'nothing'}", f"give {', '.join(readers)}"))
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(problem(path, "", "is empty", "copy it again, or give the file that holds the rows"))
    try:
        rows = reader(path)
    except OSError as error:
        raise InputError(unreadable(path, error)) from None
    if not rows:
        raise InputError(problem(path, "", "holds no rows", "give the file that holds the rows"))
    return rows


def unreadable(path: Path, error: OSError) -> str:
    """The message for a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return problem(path, "", "there is no such file", "correct the path, or give DATA=file on the make line")
    fix = "give the path of a file" if isinstance(error, IsADirectoryError) else "make it readable for this user"
    return problem(path, "", f"cannot be read: {error.strerror or error}", fix)


def named_rows(numbers: list[int]) -> str:
    """`row 3`, `rows 3, 17`, or `rows 1, 2, … (10 of 57)`."""
    shown = ", ".join(map(str, numbers[:NAMED]))
    if len(numbers) > NAMED:
        return f"rows {shown}, … ({NAMED} of {len(numbers)})"
    return f"row{'s' if len(numbers) > 1 else ''} {shown}"


def read_text(path: Path) -> str:
    """The file's text without a byte order mark. Raises InputError where it is not UTF-8."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        kind = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        fix = f"convert it: iconv -f {kind} -t utf-8 {path.name} > utf8-{path.name}"
        what = f"is not UTF-8: byte 0x{data[error.start]:02x} on line {line}"
        raise InputError(problem(path, "", what, fix)) from None
    if text.startswith(LFS_POINTER):
        raise InputError(problem(path, "", "is a Git LFS pointer, not the rows themselves", "fetch it: git lfs pull"))
    return text


def read_json(path: Path) -> list[Numbered]:
    """The rows of a .json file: a list of objects, or JSON lines under that name."""
    text = read_text(path)
    start = text.lstrip()[:1]
    if start == "":
        return []
    if start == "{":
        return single_or_lines(path, text)
    if start != "[":
        what = f"begins with {start}, which begins neither a list of objects nor a line of JSON"
        raise InputError(problem(path, "", what, 'write [{"…": …}, …], or one object a line'))
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(broken_element(path, text)) from None
    return objects_only(path, list(enumerate(values, start=1)))


def single_or_lines(path: Path, text: str) -> list[Numbered]:
    """The rows of a .json file that begins with `{`: JSON lines, but never one object for the whole file."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return parse_lines(path, text)
    lists = [key for key, inner in value.items() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
    fix = "write a list of objects, or name a file of one object a line .jsonl"
    if lists:
        fix = f"the rows seem to lie under {lists[0]}; take them out: jq .{lists[0]} {path.name} > rows.json"
    raise InputError(problem(path, "", "is a single object instead of a list of rows", fix))


def broken_element(path: Path, text: str) -> str:
    """The message that names the first element at which a list is not JSON."""
    decoder, number = json.JSONDecoder(), 1
    position = skip_space(text, text.index("[") + 1)
    while True:
        try:
            _, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            return not_json(path, number, text, error)
        position = skip_space(text, position)
        mark = text[position : position + 1]
        if mark == "]":
            line = text.count("\n", 0, position) + 1
            return problem(path, "", f"goes on after the list's end on line {line}", "remove what follows the ]")
        if mark != ",":
            reason = ENDS_EARLY if not mark else "no comma follows it"
            return not_json(path, number, text, ValueError(f"{reason} (line {text.count(chr(10), 0, position) + 1})"))
        position, number = skip_space(text, position + 1), number + 1


def skip_space(text: str, position: int) -> int:
    """The position of the next character that is no white space."""
    while text[position : position + 1] in (" ", "\n", "\r", "\t"):
        position += 1
    return position


def not_json(path: Path, number: int, text: str, error: Exception) -> str:
    """The message for a row that is not JSON."""
    reason = str(error)
    if isinstance(error, json.JSONDecodeError):
        reason = f"{error.msg} (line {error.lineno}, character {error.colno})"
    if isinstance(error, RecursionError):
        reason = "nested too deep"
    at = error.pos if isinstance(error, json.JSONDecodeError) else 0
    cut = at >= len(text.rstrip()) - 1 or reason.startswith(ENDS_EARLY)
    fix = "the file seems to be cut off: copy it again" if cut else "correct the row, or remove it"
    return problem(path, f"row {number}", f"is not JSON: {reason}", fix)


def read_jsonl(path: Path) -> list[Numbered]:
    """The rows of a .jsonl file, numbered by their lines."""
    return parse_lines(path, read_text(path))


def parse_lines(path: Path, text: str) -> list[Numbered]:
    """One JSON value a line; empty lines are passed over. Raises InputError with every line that is none."""
    values, problems, lines = [], [], text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} (character {error.colno})" if isinstance(error, json.JSONDecodeError) else error
            last = number == len(lines)
            fix = "the file seems to be cut off: copy it again" if last else "correct the line, or remove it"
            problems.append(problem(path, f"row {number}", f"is not JSON: {reason}", fix))
    if len(problems) > NAMED:
        more = problem(path, "", f"{len(problems) - NAMED} more rows are not JSON", "write one object a line")
        problems = [*problems[:NAMED], more]
    if problems:
        raise InputError(problems)
    return objects_only(path, values)


def objects_only(path: Path, values: list[tuple[int, Any]]) -> list[Numbered]:
    """The values, where all are objects. Raises InputError otherwise."""
    wrong = [(number, value) for number, value in values if not isinstance(value, dict)]
    if wrong:
        what = f"{'is' if len(wrong) == 1 else 'are'} no JSON object but {json.dumps(wrong[0][1])[:60]}"
        fix = 'write each row as {"field": "text", …}'
        raise InputError(problem(path, named_rows([number for number, _ in wrong]), what, fix))
    return values


def read_csv(path: Path) -> list[Numbered]:
    """The rows of a .csv file with a header; every value is text."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows, problems = [], []
    try:
        header = next(reader, [])
        check_header(path, header)
        for number, values in enumerate((record for record in reader if record), start=1):
            if len(values) != len(header):
                what = f"has {len(values)} fields where the header has {len(header)} (line {reader.line_num})"
                fix = "quote a field that holds a comma or a line break"
                problems.append(problem(path, f"row {number}", what, fix))
            # A column without name is what pandas makes of its index; it is nobody's field.
            rows.append((number, {name: value for name, value in zip(header, values, strict=False) if name.strip()}))
    except csv.Error as error:
        fix = "close every quote, and double a quote within a quoted field"
        problems.append(problem(path, f"row {len(rows) + 1}", f"is not CSV: {error} (line {reader.line_num})", fix))
    if problems:
        raise InputError(problems[:NAMED])
    return rows


def check_header(path: Path, header: list[str]) -> None:
    """Raise InputError for a header that names a column twice."""
    twice = sorted({name for name in header if header.count(name) > 1 and name})
    if twice:
        raise InputError(problem(path, "header", f"names {', '.join(twice)} twice", "give every column its own name"))


def read_parquet(path: Path) -> list[Numbered]:
    """The rows of a .parquet file."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            values = file.read().to_pylist()
    except pyarrow.ArrowException as error:
        first = str(error).splitlines()[0]
        raise InputError(problem(path, "", f"is not a whole Parquet file: {first}", "copy or write it again")) from None
    return list(enumerate(values, start=1))
