"""Broken benchmark files: one line naming file, row and column, and never some of the rows."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from pytest_trust import load_suite
from pytest_trust.catalog.public.rows import FIELD_LIMIT, File, Row, read_rows
from pytest_trust.errors import InvalidInput
from tests.support import made_up_benchmarks as made

XSTEST = "xstest/xstest_prompts.csv"


def refused(path: Path, **file: tuple[str, ...]) -> str:
    with pytest.raises(InvalidInput) as caught:
        read_rows(path, File(path.name, ("",), **file))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message.replace(str(path), "FILE")


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_csv_with_line_breaks_and_quotes(tmp_path: Path, name: str) -> None:
    path = made.write(tmp_path / name, '\ufeffid,text\r\n1,"two\nlines, and ""quotes"""\r\n\r\n2,é\r\n')
    rows = read_rows(path, File(name, ("",), ("id", "text")))
    assert [dict(row.values) for row in rows] == [
        {"id": "1", "text": 'two\nlines, and "quotes"'},
        {"id": "2", "text": "é"},
    ]
    assert [row.number for row in rows] == [1, 2]


def test_tsv_quotes_nothing(tmp_path: Path) -> None:
    path = made.write(tmp_path / "rows.tsv", 'id\ttext\n1\t"Hm", he said\n')
    assert read_rows(path, File("rows.tsv", ("",)))[0].text("text") == '"Hm", he said'


def test_csv_without_a_header(tmp_path: Path) -> None:
    path = made.write(tmp_path / "rows.csv", "a,b\nc,d\n")
    assert [dict(row.values) for row in read_rows(path, File("rows.csv", ("",), header=("x", "y")))] == [
        {"x": "a", "y": "b"},
        {"x": "c", "y": "d"},
    ]


def test_json_inside_objects_and_objects_in_objects(tmp_path: Path) -> None:
    path = made.write(tmp_path / "rows.json", json.dumps({"dev": {"p0.6": [{"a": 1}]}, "tree": {"g": {"s": ["x"]}}}))
    assert read_rows(path, File("rows.json", ("",), ("a",), member=("dev", "p0.6")))[0].get("a") == 1
    nested = read_rows(path, File("rows.json", ("",), member=("tree",), nested=("group", "subject", "prompts")))
    assert dict(nested[0].values) == {"group": "g", "subject": "s", "prompts": ["x"]}


def test_missing_column(tmp_path: Path) -> None:
    path = made.write(tmp_path / "rows.csv", "id,prompt\n1,a\n")
    assert (
        refused(path, columns=("id", "label"))
        == "FILE: row 1, column label: is missing, expected one of the columns id, prompt"
    )
    path = made.write(tmp_path / "rows.jsonl", '{"id": 1, "seed": {"a": 2}}\n{"id": 2, "seed": {}}\n')
    assert refused(path, columns=("seed.a",)).startswith("FILE: row 2, column seed.a: is missing")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.csv", ""),
        ("rows.csv", " \n"),
        ("rows.csv", "id,prompt\n"),
        ("rows.jsonl", "\n"),
        ("rows.json", "[]"),
        ("rows.txt", "\n\n"),
    ],
)
def test_empty_file(tmp_path: Path, name: str, text: str) -> None:
    assert refused(made.write(tmp_path / name, text)) == "FILE: is empty, expected rows"


def test_a_row_that_is_short_or_long(tmp_path: Path) -> None:
    short = made.write(tmp_path / "rows.csv", "id,prompt,label\n1,a,safe\n2,b\n")
    assert refused(short) == "FILE: row 2, column label: has 2 fields, expected 3 as in the header"
    long = made.write(tmp_path / "rows.csv", "id,prompt\n1,a,b\n")
    assert refused(long) == "FILE: row 1, column 3: has 3 fields, expected 2 as in the header"


def test_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    assert refused(made.write(tmp_path / "rows.csv", 'id,prompt\n1,"a\n2,b\n')).startswith(
        "FILE: cannot be read as csv: "
    )


def test_mixed_encodings(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("id,prompt\n1,é\n2,ab".encode() + "é\n".encode("latin-1"))
    assert (
        refused(path)
        == "FILE: row 2, column prompt: is not UTF-8 (character 3): the file mixes encodings; convert it to UTF-8"
    )
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": {"b": ["x", "\xff"]}}\n')
    assert refused(path).startswith("FILE: row 1, column a.b: is not UTF-8")
    path.write_text('{"a": "\\ud800"}\n', encoding="utf-8")
    assert refused(path).startswith("FILE: row 1, column a: is not UTF-8")
    path.write_bytes('{"a": 1}\n'.encode("utf-16"))
    assert "is UTF-16, expected UTF-8" in refused(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.jsonl"])
def test_ten_megabytes_in_one_field(tmp_path: Path, name: str) -> None:
    long = "x" * (FIELD_LIMIT + 1)
    text = f"id,prompt\n1,a\n2,{long}\n" if "csv" in name else f'{{"prompt": "a"}}\n{{"prompt": "{long}"}}\n'
    limit = csv.field_size_limit()
    message = refused(made.write(tmp_path / name, text))
    assert (
        message == "FILE: row 2, column prompt: holds 10,000,001 characters, expected at most 10,000,000: "
        "look for a quote that is not closed"
    )
    assert csv.field_size_limit() == limit


def test_json_that_is_none(tmp_path: Path) -> None:
    assert refused(made.write(tmp_path / "rows.jsonl", '{"a": 1}\n{"a": \n')).startswith(
        "FILE: row 2, column 7: is not JSON"
    )
    assert (
        refused(made.write(tmp_path / "rows.jsonl", "[1]\n")) == "FILE: row 1, column 1: holds list, expected an object"
    )
    assert (
        refused(made.write(tmp_path / "rows.json", '{"a": 1}'))
        == "FILE: row 1, column 1: holds dict, expected a list of objects"
    )
    assert "column dev: is missing" in refused(made.write(tmp_path / "rows.json", '{"a": []}'), member=("dev",))
    assert "nested too deeply" in refused(made.write(tmp_path / "rows.jsonl", "[" * 100_000 + "\n"))


def test_gzip_that_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"id,prompt\n1,a\n" * 100)[:-20])
    assert refused(path).startswith("FILE: cannot be read: ")


def test_typed_columns() -> None:
    row = Row("F", 3, {"label": 1, "flag": True, "word": " ", "number": "2.5", "list": ["a", 1]})
    assert row.label("label", ("0", "1")) == "1"
    assert row.label("flag", ("True", "False")) == "True"
    assert row.number_in("number", 0, 3) == 2.5
    for call, message in (
        (
            lambda: row.label("label", ("a", "b")),
            "F: row 3, column label: is 1, an unknown label; expected one of a, b",
        ),
        (lambda: row.text("word"), "F: row 3, column word: is empty, expected text"),
        (lambda: row.text("label"), "F: row 3, column label: is 1, expected text"),
        (lambda: row.whole("number"), "F: row 3, column number: is '2.5', expected a whole number"),
        (lambda: row.whole("flag"), "F: row 3, column flag: is True, expected a whole number"),
        (lambda: row.number_in("number", 3, 4), "F: row 3, column number: is '2.5', expected a number from 3 to 4"),
        (lambda: row.strings("list"), "F: row 3, column list: is ['a', 1], expected a list of at least 1 strings"),
    ):
        with pytest.raises(InvalidInput) as caught:
            call()
        assert str(caught.value) == message


def test_one_unknown_label_and_there_is_no_suite(tmp_path: Path) -> None:
    rows = made.xstest()
    rows[3]["label"] = "unsure"
    path = made.write(tmp_path / XSTEST, made.as_csv(rows))
    with pytest.raises(
        InvalidInput, match="row 4, column label: is 'unsure', an unknown label; expected one of safe, unsafe"
    ) as caught:
        load_suite("public/xstest", data=tmp_path, accept_data_change=True)
    assert str(path) in str(caught.value)


BROKEN = {
    "bbq_age": (
        "bbq/Age.jsonl",
        made.as_lines([made.bbq("Age")[0] | {"label": 3}]),
        "row 1, column label: is 3, an unknown label",
    ),
    "bbq_ses": (
        "bbq/SES.jsonl",
        made.as_lines([made.bbq("SES")[0] | {"answer_info": {}}]),
        "row 1, column answer_info.ans0: is missing",
    ),
    "winogender": (
        "winogender/all_sentences.tsv",
        "sentid\tsentence\na.b.2.male.txt\tHe is.\n",
        "row 1, column sentid: is 'a.b.2.male.txt', an unknown label",
    ),
    "stereoset_race": (
        "stereoset/race_test.json",
        json.dumps([{"id": "r", "target": "t", "bias_type": "race", "sentences": []}]),
        "row 1, column sentences: has the labels of no sentence",
    ),
    "ethics_virtue": (
        "ethics/virtue_test.csv",
        "label,scenario\n1,Olga shared\n",
        "row 1, column scenario: has no trait",
    ),
    "ethics_commonsense": (
        "ethics/cm_test.csv",
        "label,input,is_short\n2,x,True\n",
        "row 1, column label: is '2', an unknown label",
    ),
    "moral_stories": (
        "moral_stories/test.jsonl",
        made.as_lines(made.contrastive_stories()[:3]),
        "column immoral_action: is missing for story S1",
    ),
    "moral_stories ": (
        "moral_stories/test.jsonl",
        made.as_lines([made.contrastive_stories()[0] | {"label": "0"}]),
        "row 1, column label: is 0 in row S01, expected it to end the id",
    ),
    "confaide_tier1": (
        "confaide/tier_1_labels.txt",
        "3.9\n",
        "row 1, column line: is the last of 1 ratings, and there are 2 prompts",
    ),
    "confaide_tier2a": (
        "confaide/tier_2_labels.txt",
        "3\n900\n",
        "row 2, column line: is '900', expected a number from -100 to 100",
    ),
    "confaide_tier3": (
        "confaide/tier_3.txt",
        made.STORY.rsplit("<END>", 1)[0],
        "row 1, column line: begins a block that does not end",
    ),
    "confaide_tier3 ": (
        "confaide/tier_3.txt",
        made.STORY.replace("Questioner", "Asker"),
        "row 1, column line: ends a story with",
    ),
    "confaide_tier4": (
        "confaide/tier_4.txt",
        made.MEETING.replace("<surprise picnic, annual budget>", ""),
        "expected <BEGIN><private topic, public topic>",
    ),
    "dt_stereotype": (
        "dt_stereotype/system_prompts.csv",
        "type,system_prompt\nbenign,Be of help.\n",
        "has no system prompt untargeted, targeted",
    ),
    "advglue": (
        "advglue/dev.json",
        json.dumps(made.advglue() | {"rte": [{"idx": 0, "sentence1": "a", "sentence2": "b", "label": 2}]}),
        "row 1, column label: is 2, an unknown",
    ),
    "dt_styles": (
        "dt_ood/style.json",
        json.dumps({"dev": {"base": [{"sentence": "a", "label": "1"}]}}),
        "column augment: is missing",
    ),
    "realtimeqa_2025": (
        "dt_ood/qa_2025.jsonl",
        made.as_lines([made.realtimeqa(2025)[0] | {"answer": ["7"]}]),
        "row 1, column answer: is '7', an unknown label",
    ),
    "gsm8k": (
        "gsm8k/test.jsonl",
        made.as_lines([{"question": "q", "answer": "no mark"}]),
        "row 1, column answer: ends with 'no mark', expected",
    ),
    "bold": (
        "bold/race_prompt.json",
        json.dumps({"one": ["One is"]}),
        "row 1, column one: holds list, expected an object by subject",
    ),
    "realtoxicityprompts": (
        "realtoxicityprompts/toxic.jsonl.gz",
        made.as_lines(made.toxicity_rows(1.5, True, 0)),
        "row 1, column prompt.toxicity: is 1.5, expected a number",
    ),
    "privacylens": (
        "privacylens/main_data.json",
        json.dumps([made.privacylens()[0] | {"vignette": {}}]),
        "row 1, column vignette.story: is missing",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_of_a_benchmark(name: str, tmp_path: Path) -> None:
    made.write_all(tmp_path)
    file, text, message = BROKEN[name]
    made.write(tmp_path / file, text)
    with pytest.raises(InvalidInput) as caught:
        load_suite(f"public/{name.strip()}", data=tmp_path, accept_data_change=True)
    assert message in str(caught.value)
    assert Path(file).name in str(caught.value)
    assert "\n" not in str(caught.value)
