from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_trust import records as types
from pytest_trust.audit.summary import run_record
from pytest_trust.errors import InvalidInput, TrustError
from pytest_trust.report import comparable, read_report, write_report
from pytest_trust.report.json_report import report_document, serialised
from pytest_trust.report.json_schema import PATH, json_schema, schema_text
from tests.support import report_records as records


def test_the_document_has_the_keys_that_are_documented(tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    document = write_report(path, records.run_record(records.run(), warnings=["a", "b"]))
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
        "stopped_early",
        "warnings",
    ]
    assert document["schema"] == 2
    assert document["baseline"] == {
        "model": "demo:aligned",
        "reference": "",
        "fingerprint": "3f2a91c0d4e5f6071829",
        "dtype": "float32",
        "device": "cpu",
        "parameters": 134515008,
        "lineage": "adapter on demo:instruct",
        "decoding": "",
        "trace_format": "",
        "trace_source": "",
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
    assert report_document(read_report(path)) == document
    text = path.read_bytes()
    assert text.endswith(b"}\n")
    assert list(tmp_path.iterdir()) == [path]


def comparisons() -> list[types.ComparisonRecord]:
    """What the tests of a small run give it."""
    pair = types.PairRecord(baseline=records.BASELINE, candidate=records.CANDIDATE, warnings=("b",))
    return [
        records.build(
            types.ComparisonRecord,
            gate=records.change(gate, notes=["a"]),
            pair=pair,
            dimension_drift=records.drifts().get(gate.dimension),
        )
        for gate in records.run()
    ]


def summarised(given: list[types.ComparisonRecord]) -> types.RunRecord:
    return run_record(given, labels=["demo:sft"], profile="smoke", policy="default", store="s", report="r")


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_tests_does_not_matter(seed: int) -> None:
    run = comparisons()
    random.Random(seed).shuffle(run)
    assert comparable(summarised(run)) == comparable(summarised(comparisons()))
    assert report_document(summarised(run))["warnings"] == ["a", "b"]


def test_one_gate_used_by_tests_that_differ_has_one_order() -> None:
    twins = [records.held(nodeid="a"), records.held(nodeid="a", delta=0.01), records.held(nodeid="A")]
    orders = (twins, twins[::-1], twins[1:] + twins[:1])
    assert len({comparable(records.run_record(order)) for order in orders}) == 1


def test_what_crosses_xdist_comes_back_as_it_was() -> None:
    for one in comparisons():
        assert types.from_json(types.ComparisonRecord, types.to_json(one)) == one


def test_what_changes_from_run_to_run_is_not_compared() -> None:
    environment = {"store": "/elsewhere", "report": "/tmp/x.json", "created": "2026-01-01T00:00:00+00:00"}
    candidate = records.change(records.CANDIDATE, device="cuda:1")
    run, other = (
        records.run_record(records.run()),
        records.run_record(records.run(), candidate=candidate, environment=environment),
    )
    assert comparable(other) == comparable(run)
    assert report_document(other)["environment"]["devices"] == {"baseline": "cpu", "candidate": "cuda:1"}
    assert "/home/ada" not in comparable(run)
    assert comparable(records.run_record([records.held()])) != comparable(records.run_record([records.held(delta=0.1)]))


def gate_of(record: types.GateRecord) -> dict[str, Any]:
    """The gate as it is written."""
    (gate,) = report_document(records.run_record([record]))["gates"]
    return dict(gate)


def test_floats_have_nine_significant_digits_and_zero_has_no_sign() -> None:
    gate = gate_of(records.held(delta=0.1 + 0.2, lower=-0.0, upper=1.23456789012e-7, n=7))
    assert (gate["delta"], gate["upper"], gate["n"]) == (0.3, 1.23456789e-7, 7)
    assert json.dumps(gate["lower"]) == "0.0"


def test_nan_and_infinity_are_null_with_words_and_are_read_back(tmp_path: Path) -> None:
    flip = records.flip(1, baseline={"outcome": "unparsable", "score": math.nan, "answer": "?"})
    rows = {"wrapper": [{"value": "none", "delta": math.inf}]}
    record = records.held(p_value=math.nan, upper=math.inf, lower=-math.inf, breakdown=rows, flips=[flip])
    gate = gate_of(record)
    assert (gate["p_value"], gate["upper"], gate["lower"]) == (None, None, None)
    assert gate["not_finite"] == {"p_value": "not a number", "upper": "infinity", "lower": "minus infinity"}
    assert gate["flips"][0]["baseline"]["not_finite"] == {"score": "not a number"}
    assert gate["breakdown"]["wrapper"][0]["not_finite"] == {"delta": "infinity"}
    assert "NaN" not in serialised(gate)
    write_report(tmp_path / "trust.json", records.run_record([record]))
    (found,) = read_report(tmp_path / "trust.json").gates
    assert (found.upper, found.lower, found.breakdown["wrapper"][0].delta) == (math.inf, -math.inf, math.inf)
    assert found.p_value is not None and math.isnan(found.p_value)


def test_a_model_cannot_act_on_the_terminal_through_the_report(tmp_path: Path) -> None:
    nasty = "\x1b[2J \x9b31m \u202e \u200b \u2028 \x7f \ud800 \U000e0041 日本語 é"
    flip = records.flip(1, prompt=nasty, candidate={"outcome": "ok", "score": 0.0, "answer": nasty, "reasoning": nasty})
    path = tmp_path / "trust.json"
    write_report(path, records.run_record([records.regressed(flips=[flip])]))
    text = path.read_text(encoding="utf-8")
    assert all(line.isprintable() for line in text.split("\n"))
    assert "日本語 é" in text
    assert read_report(path).gates[0].flips[0].prompt == nasty


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=40))
def test_every_text_comes_back_as_it_was(text: str) -> None:
    document = report_document(records.run_record([records.held(reason=text)], warnings=[text]))
    written = serialised(document).encode("utf-8")
    assert json.loads(written) == document


def test_redaction_leaves_no_word_of_a_prompt_an_answer_or_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    run = records.run_record(records.run())
    document = write_report(path, run, redact=True)
    text = path.read_text(encoding="utf-8")
    for secret in ("house on our street", "locksmith", "a window", "wants to get in"):
        assert secret in serialised(report_document(run))
        assert secret not in text
    flip = next(gate for gate in document["gates"] if gate["flips"])["flips"][0]
    assert document["redacted"] is True
    assert flip["probe"] == "harm-burglary-01"
    assert flip["candidate"]["outcome"] == "ok"
    assert flip["prompt"] == "[77 characters, sha256 d4a710aa]"


def test_the_records_themselves_are_left_alone() -> None:
    run = records.run_record(records.run())
    report_document(run, redact=True)
    assert run == records.run_record(records.run())


@pytest.mark.parametrize("value", [numpy.float64(0.5), numpy.int64(3), numpy.zeros(2), {1, 2}, b"x"])
def test_what_is_not_a_built_in_type_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^gates\[0\]\.baseline\.value is a \S+; expected a"):
        report_document(replace(records.run_record([]), gates=(records.held(baseline={"value": value}),)))


def test_a_report_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    path.write_text("old")
    write_report(str(path), records.run_record([]))
    assert read_report(path).gates == ()


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "trust.json"
    with pytest.raises(TrustError) as raised:
        write_report(missing, records.run_record([]))
    directory = f"there is no directory {missing.parent}; make it or name another file"
    assert str(raised.value) == f"report {missing} cannot be written: {directory}"
    (tmp_path / "trust.json").mkdir()
    with pytest.raises(TrustError, match=r"^report \S+trust\.json cannot be written: [^\n]+; name another file$"):
        write_report(tmp_path / "trust.json", records.run_record([]))
    (tmp_path / "file").write_text("")
    with pytest.raises(TrustError, match=r"^report \S+ cannot be written: there is no directory"):
        write_report(tmp_path / "file" / "trust.json", records.run_record([]))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "trust.json"]


def test_a_full_disk_leaves_the_old_report_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trust.json"
    write_report(path, records.run_record([records.held()]))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrustError, match="No space left on device; name another file"):
        write_report(path, records.run_record([]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def edited(edit: Callable[[dict[str, Any]], Any]) -> str:
    """A report with something changed in it, or in what `edit` gives instead."""
    document = json.loads(json.dumps(VALID))
    found = edit(document)
    return json.dumps(found if isinstance(found, dict) and "schema" in found else document)


VALID = report_document(records.run_record([records.held()]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON (Expecting value: line 1 column 1 (char 0)); expected a file of --trust-report"),
        ("[1, NaN]", "is not JSON (NaN is not a JSON number); expected a file of --trust-report"),
        ("[" * 100_000, "is not JSON (maximum recursion depth exceeded"),
        ("[]", 'has no "schema"; expected a file of --trust-report'),
        ('{"schema": 3}', "has schema 3, and this version reads 2; upgrade pytest-trust"),
        ('{"schema": 1}', "has schema 1, and this version reads 2; write it again with --trust-report"),
        ('{"schema": true}', 'has "schema": true; expected 2'),
        ('{"schema": "\\u001b[2J"}', 'has "schema": "\\u001b[2J"; expected 2'),
        ('{"schema": 2, "kind": "mutants"}', "is one of --trust-mutants; expected one of a comparison"),
        (edited(lambda run: run.pop("baseline")), ": baseline is missing; write it again with --trust-report"),
        (edited(lambda run: run | {"a\nb": 1}), ": a\\nb is unknown; expected schema, baseline, "),
        (edited(lambda run: run | {"gates": {}}), ": gates is {}; expected a list; write it again"),
        (edited(lambda run: run["gates"][0].pop("gate")), ": gates[0].gate is missing; write it again"),
        (
            edited(lambda run: run["gates"][0].update(verdict="a\nb")),
            ": gates[0].verdict is 'a\\nb'; expected one of held, regressed, inconclusive, not measured; write",
        ),
        (edited(lambda run: run["gates"][0].update(n=True)), ": gates[0].n is True; expected a whole number; write"),
        (edited(lambda run: run["gates"][0].update(delta="1")), ": gates[0].delta is '1'; expected a number; write"),
        (edited(lambda run: run["gates"][0].update(margin=None)), ": gates[0].margin is None; expected a number; "),
        (edited(lambda run: run["gates"][0].update(title=5)), ": gates[0].title is 5; expected a text; write"),
        (edited(lambda run: run["counts"].update(gates=1.5)), ": counts['gates'] is 1.5; expected a whole number; "),
    ],
)
def test_a_file_that_is_no_report(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as raised:
        read_report(path)
    assert str(raised.value).startswith(f"report {path}{'' if message.startswith(':') else ' '}{message}")
    assert str(raised.value).isprintable()


def test_a_report_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"trust\.json cannot be read: No such file or directory"):
        read_report(tmp_path / "trust.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="binary is not JSON"):
        read_report(tmp_path / "binary")


def test_the_shipped_schema_is_the_one_of_the_types() -> None:
    again = "write it again with python -m pytest_trust.report.json_schema"
    assert PATH.read_text(encoding="utf-8") == schema_text(), again


def test_every_key_of_the_schema_is_described() -> None:
    definitions = json_schema()["$defs"]
    kinds = {name: kind for name, kind in vars(types).items() if is_dataclass(kind)}
    assert set(definitions) - {"not_finite"} <= set(kinds)
    for name in set(definitions) - {"not_finite"}:
        properties = definitions[name]["properties"]
        assert set(properties) == {one.name for one in fields(kinds[name])} | {"not_finite"}
        for key in set(properties) - {"not_finite"}:
            assert properties[key]["description"].endswith("."), f"{name}.{key}"


def test_a_report_is_valid_and_a_wrong_one_is_not() -> None:
    validator = Draft202012Validator(json_schema())
    run = records.run_record([*records.run(), records.held(p_value=math.nan)])
    document = report_document(run)
    validator.validate(document)
    assert not validator.is_valid({**document, "schema": 1})
    assert not validator.is_valid({**document, "colour": "red"})
    assert not validator.is_valid({key: value for key, value in document.items() if key != "counts"})
    assert not validator.is_valid({**document, "gates": [{**document["gates"][0], "n": "40"}]})
