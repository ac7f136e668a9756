from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_trust.report.text import Column, columns, cut, layout, pad, redacted, table, visible, wrap

TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("日本語 \n\t\x1b\u202e\u0301é👩")), max_size=60)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("two\nlines\r\nthree", "two⏎lines⏎three"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\tb\rc\x00\x7f", "a\\tb\\rc\\x00\\x7f"),
        ("\x9b2J", "\\x9b2J"),  # the one-character form of ESC [
        ("abc\u202edcba\u2066x", "abc\\u202edcba\\u2066x"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("line\u2028separator", "line\\u2028separator"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("lone \ud800 half", "lone \\ud800 half"),
        ("no\u00a0break", "no break"),
        ("日本語 and 👍", "日本語 and 👍"),
        ("cafe\u0301", "cafe\u0301"),
        ("z" + "\u0301" * 5, "z" + "\u0301" * 3 + "\\u0301\\u0301"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


@settings(deadline=None)
@given(TEXTS)
def test_visible_text_moves_no_cursor_and_hides_nothing(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(character) for character in shown} & {
        "Cc",
        "Cf",
        "Cs",
        "Zl",
        "Zp",
        "Co",
        "Cn",
    }
    shown.encode("utf-8")
    assert visible(shown) == shown


@pytest.mark.parametrize(
    ("text", "width"),
    [("abc", 3), ("日本語", 6), ("ｆｕｌｌ", 8), ("cafe\u0301", 4), ("👍", 2), ("…⏎Δ±", 4), ("", 0)],
)
def test_columns(text: str, width: int) -> None:
    assert columns(text) == width


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("ab cdef", 4, "ab…"),  # no space before the ellipsis
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),  # half a character does not fit
        ("日本語", 1, "…"),
        ("abc", 0, ""),
    ],
)
def test_cut(text: str, width: int, shown: str) -> None:
    assert cut(text, width) == shown


@settings(deadline=None)
@given(TEXTS.map(visible), st.integers(0, 40))
def test_cut_and_pad_keep_to_the_width(text: str, width: int) -> None:
    assert columns(cut(text, width)) <= width
    assert columns(pad(cut(text, width), width)) == width


def test_pad_aligns_wide_characters() -> None:
    assert pad("日本", 6) == "日本  "
    assert pad("日本", 6, ">") == "  日本"


def test_wrap_breaks_at_spaces_and_inside_long_words() -> None:
    assert wrap("one two three", 8) == ["one two", "three"]
    assert wrap("one two three", 12, first="label  ") == ["label  one", "       two", "       three"]
    assert wrap("/a/very/long/path end", 8) == ["/a/very/", "long/pat", "h end"]
    assert wrap("日本語日本語", 5) == ["日本", "語日", "本語"]
    assert wrap("", 8, first="label") == ["label"]
    assert wrap("one two\xa0three", 9) == ["one", "two three"]


@settings(deadline=None)
@given(TEXTS.map(visible), st.integers(12, 60), st.integers(0, 8))
def test_wrap_keeps_to_the_width_and_loses_no_character(text: str, width: int, indent: int) -> None:
    lines = wrap(text, width, first=" " * indent)
    assert all(columns(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_redacted_shows_length_and_hash_only() -> None:
    assert redacted("account 12345") == "[13 characters, sha256 66a05c67]"
    assert redacted("\ud800") != redacted("\udfff")


HEAD = (Column("name", shrink=6), Column("n", ">", drop=1), Column("verdict"))


def test_table_aligns_and_drops_what_does_not_fit() -> None:
    rows = [["harmful", "1,200", "held"], ["日本語", "4", "regressed"]]
    assert table(HEAD, rows, width=40) == [
        "  name         n  verdict",
        "  harmful  1,200  held",
        "  日本語       4  regressed",
    ]
    assert table(HEAD, rows, width=24) == [
        "  name     verdict",
        "  harmful  held",
        "  日本語   regressed",
    ]


def test_layout_narrows_a_column_before_it_drops_one_and_further_when_none_is_left() -> None:
    rows = [["n" * 20, "1,200", "regressed"]]
    assert layout(HEAD, rows, width=30).kept == (0, 1, 2)
    assert layout(HEAD, rows, width=30).widths[0] == 10
    assert layout(HEAD, rows, width=20).kept == (0, 2)
    head = (Column("name", shrink=12), HEAD[2])
    assert layout(head, [["n" * 20, "regressed"]], width=22).widths == (9, 9)
