from __future__ import annotations

import copy
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_trust.errors import InvalidInput, TrustError
from pytest_trust.report import comparable, read_report, write_report
from pytest_trust.report.json_report import report_document, serialised
from tests.support import report_records as records


def test_the_document_has_the_keys_that_are_documented(tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    document = write_report(path, records.run(), records.meta(warnings=["b", "a", "b"]))
    assert sorted(document) == [
        "baseline",
        "candidate",
        "candidates",
        "counts",
        "drift",
        "environment",
        "gates",
        "identical",
        "policy",
        "profile",
        "redacted",
        "schema",
        "warnings",
    ]
    assert document["schema"] == 1
    assert document["baseline"] == {
        "model": "demo:aligned",
        "reference": None,
        "fingerprint": "3f2a91c0d4e5f6071829",
        "dtype": "float32",
        "parameters": 134515008,
        "lineage": "adapter on demo:instruct",
    }
    assert document["counts"] == {
        "regressed": 3,
        "held": 3,
        "inconclusive": 3,
        "not measured": 1,
        "gates": 10,
        "controls": 1,
    }
    assert document["warnings"] == ["a", "b"]
    assert [gate["gate"] for gate in document["gates"]] == sorted(gate["gate"] for gate in document["gates"])
    assert {"created", "python", "platform", "versions", "devices", "store", "report"} <= set(document["environment"])
    assert read_report(path) == document
    text = path.read_bytes()
    assert text.endswith(b"}\n")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_tests_and_keys_does_not_matter(seed: int) -> None:
    generator = random.Random(seed)
    run = []
    for record in copy.deepcopy(records.run()):
        items = list(record.items())
        generator.shuffle(items)
        run.append(dict(items))
    generator.shuffle(run)
    meta = dict(reversed(records.meta(warnings=["b", "a"]).items()))
    expected = comparable(report_document(records.run(), records.meta(warnings=["a", "b"])))
    assert comparable(report_document(run, meta)) == expected


def test_one_gate_used_by_tests_that_differ_has_one_order() -> None:
    twins = [records.held(nodeid="a"), records.held(nodeid="a", delta=0.01), records.held(nodeid="A")]
    documents = {comparable(report_document(order, {})) for order in (twins, twins[::-1], twins[1:] + twins[:1])}
    assert len(documents) == 1


def test_what_changes_from_run_to_run_is_not_compared() -> None:
    meta = records.meta(store="/elsewhere", report="/tmp/x.json", environment={"seconds": 12.5, "host": "box"})
    meta["candidate"]["device"] = "cuda:1"
    document = report_document(records.run(), meta)
    assert comparable(document) == comparable(report_document(records.run(), records.meta()))
    assert document["environment"]["devices"] == {"baseline": "cpu", "candidate": "cuda:1"}
    assert document["environment"]["seconds"] == 12.5
    assert "/home/ada" not in comparable(report_document(records.run(), records.meta()))
    assert comparable(report_document([records.held()], {})) != comparable(
        report_document([records.held(delta=0.1)], {})
    )


def test_floats_have_nine_significant_digits_and_zero_has_no_sign() -> None:
    gate = report_document([records.held(delta=0.1 + 0.2, lower=-0.0, upper=1.23456789012e-7, n=7)], {})["gates"][0]
    assert (gate["delta"], gate["upper"], gate["n"]) == (0.3, 1.23456789e-7, 7)
    assert json.dumps(gate["lower"]) == "0.0"


def test_nan_and_infinity_are_null_with_words() -> None:
    record = records.held(p_value=math.nan, upper=math.inf, lower=-math.inf, extra=[1.0, math.nan, [math.inf]])
    record["flips"] = [records.flip(1, baseline={"outcome": "unparsable", "score": math.nan, "answer": "?"})]
    gate = report_document([record], {})["gates"][0]
    assert (gate["p_value"], gate["upper"], gate["lower"], gate["extra"]) == (
        None,
        None,
        None,
        [1.0, None, [None]],
    )
    assert gate["not_finite"] == {
        "p_value": "not a number",
        "upper": "infinity",
        "lower": "minus infinity",
        "extra[1]": "not a number",
        "extra[2][0]": "infinity",
    }
    assert gate["flips"][0]["baseline"]["not_finite"] == {"score": "not a number"}
    assert "NaN" not in serialised(gate)


def test_a_model_cannot_act_on_the_terminal_through_the_report(tmp_path: Path) -> None:
    nasty = "\x1b[2J \x9b31m \u202e \u200b \u2028 \x7f \ud800 \U000e0041 日本語 é"
    flip = records.flip(1, prompt=nasty, candidate={"outcome": "ok", "score": 0.0, "answer": nasty, "reasoning": nasty})
    path = tmp_path / "trust.json"
    write_report(path, [records.regressed(flips=[flip])], {})
    text = path.read_text(encoding="utf-8")
    assert all(line.isprintable() for line in text.split("\n"))
    assert "日本語 é" in text
    assert read_report(path)["gates"][0]["flips"][0]["prompt"] == nasty


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=40))
def test_every_text_comes_back_as_it_was(text: str) -> None:
    document = report_document([records.held(reason=text)], {"warnings": [text]})
    written = serialised(document).encode("utf-8")
    assert json.loads(written) == document


def test_redaction_leaves_no_word_of_a_prompt_an_answer_or_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    document = write_report(path, records.run(), records.meta(), redact=True)
    text = path.read_text(encoding="utf-8")
    for secret in ("house on our street", "locksmith", "window", "wants to get in"):
        assert secret in serialised(report_document(records.run(), records.meta()))
        assert secret not in text
    flip = next(gate for gate in document["gates"] if gate["flips"])["flips"][0]
    assert document["redacted"] is True
    assert flip["probe"] == "harm-burglary-01"
    assert flip["candidate"]["outcome"] == "ok"
    assert flip["prompt"] == "[77 characters, sha256 d4a710aa]"


def test_the_records_themselves_are_left_alone() -> None:
    run = records.run()
    report_document(run, records.meta(), redact=True)
    assert run == records.run()


@pytest.mark.parametrize("value", [numpy.float64(0.5), numpy.int64(3), numpy.zeros(2), {1, 2}, b"x"])
def test_what_is_not_a_built_in_type_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^record\['baseline'\]\['value'\] of the report is a \S+; expected a"):
        report_document([records.held(baseline={"value": value})], {})


def test_a_report_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    path.write_text("old")
    write_report(str(path), [], {})
    assert read_report(path)["gates"] == []


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "trust.json"
    with pytest.raises(TrustError) as raised:
        write_report(missing, [], {})
    directory = f"there is no directory {missing.parent}; make it or name another file"
    assert str(raised.value) == f"report {missing} cannot be written: {directory}"
    (tmp_path / "trust.json").mkdir()
    with pytest.raises(TrustError, match=r"^report \S+trust\.json cannot be written: [^\n]+; name another file$"):
        write_report(tmp_path / "trust.json", [], {})
    (tmp_path / "file").write_text("")
    with pytest.raises(TrustError, match=r"^report \S+ cannot be written: there is no directory"):
        write_report(tmp_path / "file" / "trust.json", [], {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "trust.json"]


def test_a_full_disk_leaves_the_old_report_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trust.json"
    write_report(path, [records.held()], {})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrustError, match="No space left on device; name another file"):
        write_report(path, [], {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


VALID = report_document([records.held()], records.meta())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON (Expecting value: line 1 column 1 (char 0)); expected a file of --trust-report"),
        ("[1, NaN]", "is not JSON (NaN is not a JSON number); expected a file of --trust-report"),
        ("[" * 100_000, "is not JSON (maximum recursion depth exceeded"),
        ("[]", 'has no "schema"; expected a file of --trust-report'),
        ('{"schema": 2}', "has schema 2, and this version reads 1; upgrade pytest-trust"),
        ('{"schema": true}', 'has "schema": true; expected 1'),
        ('{"schema": "\\u001b[2J"}', 'has "schema": "\\u001b[2J"; expected 1'),
        (
            '{"schema": 1}',
            'has no "baseline", or one that is not an object; write it again with --trust-report',
        ),
        (json.dumps({**VALID, "gates": {}}), 'has no "gates", or one that is not a list; write it again'),
        (json.dumps({**VALID, "gates": [{}]}), 'has an entry 0 in "gates" without a name; write it again'),
        (
            json.dumps({**VALID, "gates": [{"gate": "a\nb", "verdict": "fine"}]}),
            "gives gate a⏎b no verdict of regressed, held, inconclusive, not measured",
        ),
    ],
)
def test_a_file_that_is_no_report(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as raised:
        read_report(path)
    assert str(raised.value).startswith(f"report {path} {message}")
    assert str(raised.value).isprintable()


def test_a_report_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"trust\.json cannot be read: No such file or directory"):
        read_report(tmp_path / "trust.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="binary is not JSON"):
        read_report(tmp_path / "binary")
