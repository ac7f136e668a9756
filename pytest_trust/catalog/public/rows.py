"""Rows of a benchmark's original files: csv, tsv, json, jsonl and plain lines, gzipped or not.

A file gives all of its rows or a one-line error. Every error is an InvalidInput that names the file, the row (counted
from 1, without the header) and the column.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pytest_trust.errors import InvalidInput

FIELD_LIMIT: Final = 10_000_000
"""Most characters of one field; a longer field is a broken quote or a decompression bomb."""
FILE_LIMIT: Final = 1_000_000_000
"""Most bytes of one file, decompressed."""

# lone surrogates: from errors="surrogateescape" for bytes that are not UTF-8, and from JSON escapes of half a character
_NOT_TEXT = re.compile("[\ud800-\udfff]")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class File:
    """An original file: its name, and the folders below the data folder that may hold it.

    name: without `.gz`; the file may have it.
    columns: the columns that every row must have.
    header: the columns of a file without a header line.
    member: the keys that lead through JSON objects to the list of rows.
    nested: for JSON objects in objects, the column for each level's keys, and last the column of the innermost value.
    """

    name: str
    folders: tuple[str, ...]
    columns: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    member: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()


Reader = Callable[[Path, str, File], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, and the file and number that it comes from.

    The methods give a column as a checked type, or raise InvalidInput.
    """

    source: str
    number: int
    values: Mapping[str, Any]

    def error(self, column: str, message: str) -> InvalidInput:
        return InvalidInput(f"{self.source}: row {self.number}, column {column}: {message}")

    def get(self, column: str) -> Any:
        """A column's value; a dotted name reaches into nested objects (`prompt.text`)."""
        value: Any = self.values
        for part in column.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise self.error(column, f"is missing, expected one of the columns {', '.join(map(str, self.values))}")
            value = value[part]
        return value

    def has(self, column: str) -> bool:
        return column in self.values

    def text(self, column: str, *, empty: bool = False) -> str:
        """A string without blanks around it; `empty` lets it be ""."""
        value = self.get(column)
        if not isinstance(value, str):
            raise self.error(column, f"is {_shown(value)}, expected text")
        value = value.strip()
        if not value and not empty:
            raise self.error(column, "is empty, expected text")
        return value

    def label(self, column: str, known: Collection[str]) -> str:
        """One of the known labels; numbers and booleans are compared by how they are written."""
        value = self.get(column)
        written = str(value).strip()
        if isinstance(value, bool | int | str) and written in known:
            return written
        raise self.error(column, f"is {_shown(value)}, an unknown label; expected one of {', '.join(sorted(known))}")

    def whole(self, column: str) -> int:
        value = self.get(column)
        try:
            if isinstance(value, int | str) and not isinstance(value, bool):
                return int(value)
        except ValueError:
            pass
        raise self.error(column, f"is {_shown(value)}, expected a whole number")

    def number_in(self, column: str, low: float, high: float) -> float:
        value = self.get(column)
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise self.error(column, f"is {_shown(value)}, expected a number from {low:g} to {high:g}")
        return number

    def strings(self, column: str, *, least: int = 1) -> tuple[str, ...]:
        value = self.get(column)
        if not isinstance(value, list) or len(value) < least or not all(isinstance(item, str) for item in value):
            raise self.error(column, f"is {_shown(value)}, expected a list of at least {least} strings")
        return tuple(item.strip() for item in value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def read_rows(path: Path, file: File) -> list[Row]:
    """All rows of a file. The suffix before `.gz` tells its kind:

    - `.csv`, `.tsv`: a header (unless the adapter states one), then rows of the same width.
    - `.jsonl`: one object per line.
    - `.json`: a list of objects, perhaps inside objects (`File.member`), or objects in objects (`File.nested`).
    - `.txt`: one row per line, under the column `line`; blank lines are left out.

    Raises InvalidInput for a missing column, an empty file, text that is not UTF-8, and a field over FIELD_LIMIT.
    """
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind not in _READERS:
        raise InvalidInput(f"{path}: unknown kind of file, expected {', '.join(_READERS)}, or one of them with .gz")
    text = read_text(path)
    source = " ".join((str(path), *file.member))
    rows = [Row(source, number, values) for number, values in enumerate(_READERS[kind](path, text, file), 1)]
    if not rows:
        raise InvalidInput(f"{source}: is empty, expected rows")
    for row in rows:
        for column in file.columns:
            row.get(column)
        check_fields(row)
    return rows


def read_text(path: Path) -> str:
    """The whole file as text. Bytes that are not UTF-8 become lone surrogates, so `check_fields` can name their row."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path}: cannot be read: {error}") from None
    if len(data) > FILE_LIMIT:
        raise InvalidInput(f"{path}: holds more than {FILE_LIMIT / 1e6:.0f} MB, expected a benchmark's own file")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InvalidInput(f"{path}: row 1, column 1: is UTF-16, expected UTF-8: convert the file")
    if not data.strip():
        raise InvalidInput(f"{path}: is empty, expected rows")
    return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def check_fields(row: Row) -> None:
    """Raise InvalidInput for a field at any depth that is too long or is no Unicode text."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, str):
            if len(value) > FIELD_LIMIT:
                raise row.error(
                    name,
                    f"holds {len(value):,} characters, expected at most {FIELD_LIMIT:,}: look for a quote that is "
                    "not closed",
                )
            broken = _NOT_TEXT.search(value)
            if broken:
                raise row.error(
                    name,
                    f"is not UTF-8 (character {broken.start() + 1}): the file mixes encodings; convert it to UTF-8",
                )
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                check(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(value, list):
            for inner in value:
                check(name, inner)

    check("", row.values)


def _separated(delimiter: str) -> Reader:
    def read(path: Path, text: str, file: File) -> Iterable[Mapping[str, Any]]:
        limit = csv.field_size_limit(len(text) + 1)  # `check_fields` has the limit, and names the row and the column
        try:
            # the benchmarks' tsv files quote nothing
            quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
            lines = list(
                csv.reader(
                    io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=delimiter != "\t"
                )
            )
        except csv.Error as error:
            raise InvalidInput(
                f"{path}: cannot be read as {'tsv' if delimiter == chr(9) else 'csv'}: {error}"
            ) from None
        finally:
            csv.field_size_limit(limit)
        header, *rest = [list(file.header), *lines] if file.header else lines
        if len(set(header)) != len(header):
            raise InvalidInput(f"{path}: the header names a column twice: {', '.join(header)}")
        rows = []
        for number, line in enumerate((line for line in rest if line), 1):
            if len(line) != len(header):
                column = header[len(line)] if len(line) < len(header) else f"{len(header) + 1}"
                raise InvalidInput(
                    f"{path}: row {number}, column {column}: has {len(line)} fields, expected {len(header)} as in "
                    "the header"
                )
            rows.append(dict(zip(header, line, strict=True)))
        return rows

    return read


def _json_lines(path: Path, text: str, file: File) -> Iterable[Mapping[str, Any]]:
    del file
    rows = []
    for number, line in enumerate((line for line in text.split("\n") if line.strip()), 1):
        rows.append(_json_object(path, number, _parsed(path, f"row {number}, ", line)))
    return rows


def _json_list(path: Path, text: str, file: File) -> Iterable[Mapping[str, Any]]:
    document = _parsed(path, "", text)
    for part in file.member:
        if not isinstance(document, Mapping) or part not in document:
            raise InvalidInput(f"{path}: row 1, column {part}: is missing, expected a list of objects there")
        document = document[part]
    if file.nested:
        return list(_flattened(path, document, file.nested))
    if not isinstance(document, list):
        where = f"column {file.member[-1]}" if file.member else "column 1"
        raise InvalidInput(f"{path}: row 1, {where}: holds {type(document).__name__}, expected a list of objects")
    return [_json_object(path, number, item) for number, item in enumerate(document, 1)]


def _flattened(path: Path, document: Any, columns: Sequence[str]) -> Iterable[Mapping[str, Any]]:
    if len(columns) == 1:
        yield {columns[0]: document}
        return
    for number, (key, inner) in enumerate(_json_object(path, 1, document).items(), 1):
        if len(columns) > 2 and not isinstance(inner, dict):
            raise InvalidInput(
                f"{path}: row {number}, column {key}: holds {type(inner).__name__}, expected an object by {columns[1]}"
            )
        for row in _flattened(path, inner, columns[1:]):
            yield {columns[0]: key, **row}


def _parsed(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where or f"line {error.lineno}, "
        raise InvalidInput(f"{path}: {place}column {error.colno}: is not JSON ({error.msg})") from None
    except RecursionError:
        raise InvalidInput(f"{path}: {where}column 1: is nested too deeply, expected a flat object") from None


def _json_object(path: Path, number: int, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: row {number}, column 1: holds {type(value).__name__}, expected an object")
    return value


def _plain_lines(path: Path, text: str, file: File) -> Iterable[Mapping[str, Any]]:
    del path, file
    return [{"line": line.strip("\r")} for line in text.split("\n") if line.strip()]


_READERS: Final[Mapping[str, Reader]] = {
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".json": _json_list,
    ".jsonl": _json_lines,
    ".txt": _plain_lines,
}
