"""Text for a terminal: made harmless, measured in columns, cut, wrapped and aligned.

A model's answer is hostile input here. A character that could move the cursor, change a colour, reverse the reading
direction, hide itself or grow beyond its line is shown as an escape. So a person reads the text that is there.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

ELLIPSIS = "…"
NEWLINE = "⏎"
UNBROKEN = "\xa0"

# Marks (accents) have no width of their own, so a limit on columns never cuts a pile of them. Three on one letter are
# enough for every living script (Vietnamese, pointed Hebrew, Thai).
_MARKS_PER_LETTER = 3

# Cc: controls, C0 and C1 (ESC, CSI); Cf: bidi overrides, zero-width joiners, tags; Zl, Zp: line separators;
# Cs: halves of surrogate pairs, which cannot be written as UTF-8; Co, Cn: characters of unknown width.
_ESCAPED = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"})


def escape(character: str) -> str:
    """Return the Python escape of one character: ``\\x1b``, ``\\u202e``, ``\\U000e0041``."""
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible(text: str) -> str:
    """Return `text` on one line, all of it visible: newlines as ``⏎``, controls and the like as escapes."""
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    marks = 0
    for character in text.replace("\r\n", "\n"):
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if character == "\n":
            shown.append(NEWLINE)
        elif category in _ESCAPED or marks > _MARKS_PER_LETTER:
            shown.append({"\t": "\\t", "\r": "\\r"}.get(character) or escape(character))
        elif category == "Zs":
            shown.append(" ")  # no-break, ideographic and other spaces would spoil the alignment
        else:
            shown.append(character)
    return "".join(shown)


def redacted(text: str) -> str:
    """Return what may be shown of a secret text: its length in characters and the start of its SHA-256."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"[{len(text)} characters, sha256 {digest[:8]}]"


def columns(text: str) -> int:
    """Return the width of `text` in terminal columns (Unicode Annex 11: wide and full-width count two)."""
    if text.isascii():
        return len(text)
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cut(text: str, width: int) -> str:
    """Return `text` in at most `width` columns. A text that is cut ends with an ellipsis."""
    if columns(text) <= width:
        return text
    if width < 1:
        return ""
    return _prefix(text, width - 1).rstrip() + ELLIPSIS


def _prefix(text: str, width: int) -> str:
    used = 0
    for index, character in enumerate(text):
        used += _width(character)
        if used > width:
            return text[:index]
    return text


def pad(text: str, width: int, align: str = "<") -> str:
    """Return `text` filled with spaces to `width` columns; `align` is ``<`` or ``>``."""
    fill = " " * max(0, width - columns(text))
    return fill + text if align == ">" else text + fill


def wrap(text: str, width: int, *, first: str = "", rest: str | None = None) -> list[str]:
    """Return `text` as lines of at most `width` columns, broken at spaces, or inside a word that is too long.

    `first` precedes the first line, and `rest` the others; by default it is as many spaces. No line is broken at a
    no-break space (`UNBROKEN`), which becomes an ordinary space.
    """
    rest = " " * columns(first) if rest is None else rest
    lines: list[str] = []
    line, empty = first, True
    for word in text.split(" "):
        if not word:
            continue
        if not empty and columns(line) + 1 + columns(word) > width:
            lines.append(line)
            line, empty = rest, True
        line += word if empty else f" {word}"
        empty = False
        while columns(line) > width:
            # Every line gets one character at least, even where the indent leaves no room.
            head = _prefix(line, width)
            if len(head) <= len(rest):
                head = line[: len(rest) + 1]
            lines.append(head.rstrip())
            line = rest + line[len(head) :].lstrip()
            empty = line == rest
    if not empty or not lines:
        lines.append(line.rstrip())
    return [line.replace(UNBROKEN, " ").rstrip() for line in lines]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    When a table is too wide, the columns with the highest `drop` are dropped first; one with 0 is never dropped. A
    column with a `shrink` is first narrowed to that width. It is narrowed further only when there is nothing left to
    drop.
    """

    title: str
    align: str = "<"
    drop: int = 0
    shrink: int = 0


@dataclass(frozen=True)
class Layout:
    """The layout of a table: the columns that are shown, the width of each, and the width of a line."""

    head: tuple[Column, ...]
    kept: tuple[int, ...]
    widths: tuple[int, ...]
    width: int
    indent: int
    gap: int

    def line(self, cells: Sequence[str]) -> str:
        """Return one row, its cells cut and aligned."""
        shown = (pad(cut(cells[i], self.widths[i]), self.widths[i], self.head[i].align) for i in self.kept)
        return cut((" " * self.indent + (" " * self.gap).join(shown)).rstrip(), self.width)

    def header(self) -> str:
        return self.line([column.title for column in self.head])


_NARROWEST = 8


def layout(
    head: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int, indent: int = 2, gap: int = 2
) -> Layout:
    """Return the layout in which the header and every row fit into `width` columns."""
    widths = [max([columns(column.title), *(columns(row[i]) for row in rows)]) for i, column in enumerate(head)]
    kept = list(range(len(head)))

    def excess() -> int:
        return indent + sum(widths[i] for i in kept) + gap * (len(kept) - 1) - width

    while excess() > sum(max(0, widths[i] - head[i].shrink) for i in kept if head[i].shrink):
        droppable = [i for i in kept if head[i].drop]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda i: (head[i].drop, i)))
    flexible = sorted((i for i in kept if head[i].shrink), key=lambda i: -head[i].drop)
    for narrowest in (None, _NARROWEST):
        for i in flexible:
            room = widths[i] - (head[i].shrink if narrowest is None else narrowest)
            widths[i] -= max(0, min(room, excess()))
    return Layout(tuple(head), tuple(kept), tuple(widths), width, indent, gap)


def table(
    head: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int, indent: int = 2, gap: int = 2
) -> list[str]:
    """Return the header line and one line for each row, aligned, none wider than `width` columns."""
    form = layout(head, rows, width=width, indent=indent, gap=gap)
    return [form.header(), *(form.line(row) for row in rows)]
