"""Suites and probes from YAML and JSONL, validated to the line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pytest_trust.errors import InvalidInput
from pytest_trust.judges import STATING_NAMES
from pytest_trust.probes import CHOICES, OUTCOMES, PUBLIC, Gate, Message, Probe, Suite, wrong_options

SUITES_DIRECTORY = "data"


def bundled_directory() -> Path:
    """The folder of the bundled suites' data, in a wheel and in an editable install alike."""
    from importlib.util import find_spec

    spec = find_spec("pytest_trust.suites")
    if spec is None or not spec.submodule_search_locations:
        raise InvalidInput("the bundled suites are not installed beside pytest_trust: install the package again")
    return Path(next(iter(spec.submodule_search_locations)))


def bundled_suites() -> tuple[str, ...]:
    """Names of the bundled suites, sorted."""
    data = bundled_directory() / SUITES_DIRECTORY
    return tuple(sorted(f"{path.parent.name}/{path.stem}" for path in data.glob("*/*.yaml")))


def load_suite(
    name_or_path: str | Path,
    *,
    judge: str | None = None,
    dimension: str = "custom",
    data: Path | None = None,
    accept_data_change: bool = False,
) -> Suite:
    """The suite of a name or a path.

    It may be a bundled suite (`safety/harmful_requests`), a public one (`public/xstest`), a suite's YAML file, or a
    bare JSONL probe file with a `judge`. `dimension` is that of a probe file. `data` is the folder of a public suite's
    original files; `accept_data_change` accepts rows other than those that it was checked with. Raises InvalidInput
    with the file and line of whatever is wrong.
    """
    path = Path(name_or_path)
    if path.suffix == ".jsonl":
        return suite_of_probe_file(path, judge=judge, dimension=dimension)
    if path.suffix in (".yaml", ".yml"):
        return read_suite(path)
    if str(name_or_path).startswith(PUBLIC):
        from pytest_trust.catalog.public import load_public

        return load_public(str(name_or_path), data=data, accept_data_change=accept_data_change)
    if str(name_or_path) in bundled_suites():
        return read_suite(bundled_directory() / SUITES_DIRECTORY / f"{name_or_path}.yaml")
    raise InvalidInput(
        f"no suite {str(name_or_path)!r}: expected one of {', '.join(bundled_suites())}, or a path ending in .yaml "
        "or .jsonl"
    )


def suite_of_probe_file(path: Path, *, judge: str | None, dimension: str) -> Suite:
    """The suite of a user's probe file. Its gate is the share of bad outcomes, or of compliance for a refusal judge."""
    located = _located_probes(path)
    probes = tuple(located.values())
    task: Literal["generate", "choose"] = "choose" if all(probe.options for probe in probes) else "generate"
    judge = judge or ("choice" if task == "choose" else "none")
    _check_options(located, task, judge)
    if judge == "refusal":
        gate = Gate("compliance_rate", "answers what it should refuse", counts=("ok",), of=("ok", "refused"))
    else:
        gate = Gate("bad_rate", "gives a bad response", counts=("bad",), of=("ok", "bad", "refused"))
    return Suite(f"{dimension}/{path.stem}", dimension, path.stem, "", task, judge, {gate.name: gate}, probes)


def read_suite(path: Path) -> Suite:
    """Read a suite's YAML file and the JSONL file of the same name beside it. Raises InvalidInput naming the key."""
    document = read_yaml(path)
    expected = {
        "dimension": str,
        "title": str,
        "about": str,
        "task": str,
        "judge": str,
        "gates": dict,
        "max_new_tokens": int,
        "samples": int,
        "temperature": (int, float),
        "normalise": str,
        "control": bool,
        "stop": str,
        "choices": str,
    }
    check_keys(path, document, expected, required=("dimension", "title", "task", "judge", "gates"))
    if document["task"] not in ("generate", "choose", "ask"):
        raise InvalidInput(f"{path}: task is {document['task']!r}, expected generate, choose or ask")
    if document.get("choices", "likelihood") not in CHOICES:
        raise InvalidInput(f"{path}: choices is {document['choices']!r}, expected {' or '.join(CHOICES)}")
    if document.get("normalise", "none") not in ("none", "tokens", "bytes"):
        raise InvalidInput(f"{path}: normalise is {document['normalise']!r}, expected none, tokens or bytes")
    if "stop" in document and (
        document["stop"] != "answered" or document["task"] != "generate" or document["judge"] not in STATING_NAMES
    ):
        raise InvalidInput(
            f"{path}: stop is {document['stop']!r}, expected answered, with task: generate and one of the judges "
            f"{', '.join(STATING_NAMES)}"
        )
    gates = {name: read_gate(path, name, gate) for name, gate in document["gates"].items()}
    rest = {
        key: document[key]
        for key in ("max_new_tokens", "samples", "temperature", "normalise", "control", "stop", "choices")
        if key in document
    }
    located = _located_probes(path.with_suffix(".jsonl"))
    _check_options(located, document["task"], document["judge"], document.get("normalise", "none"))
    suite = Suite(
        name=f"{document['dimension']}/{path.stem}",
        dimension=document["dimension"],
        title=document["title"],
        about=document.get("about", ""),
        task="choose" if document["task"] == "ask" else document["task"],
        judge=document["judge"],
        gates=gates,
        probes=tuple(located.values()),
        **rest,
    )
    if document["task"] == "ask" or suite.choices == "ask":
        asked = suite.asked()  # raises where the options cannot be asked for
        return asked if document["task"] == "ask" else suite
    return suite


def read_gate(path: Path, name: str, document: Any) -> Gate:
    expected = {
        "title": str,
        "score": str,
        "counts": list,
        "of": list,
        "where": dict,
        "minus": dict,
        "metric": str,
        "k": int,
    }
    where = f"{path}: gate {name}"
    check_keys(where, document, expected, required=("title",))
    if document.get("score", "share") not in ("share", "maximum", "any", "corpus"):
        raise InvalidInput(f"{where}: score is {document['score']!r}, expected share, maximum, any or corpus")
    if document.get("score") == "corpus" or "metric" in document:
        from pytest_trust.stats.corpus import metric_named

        if document.get("score") != "corpus":
            raise InvalidInput(f"{where}: metric is for score: corpus")
        try:
            metric_named(document.get("metric", ""))
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}") from None
    if "k" in document and (document.get("score") != "maximum" or document["k"] < 1):
        raise InvalidInput(f"{where}: k is {document['k']}, expected a positive number of samples, and score: maximum")
    for key in ("counts", "of"):
        unknown = [outcome for outcome in document.get(key, ()) if outcome not in OUTCOMES]
        if unknown:
            raise InvalidInput(f"{where}: {key} has {unknown[0]!r}, expected outcomes among {', '.join(OUTCOMES)}")
    lists: dict[str, Any] = {key: tuple(document[key]) for key in ("counts", "of") if key in document}
    rest = {key: document[key] for key in ("score", "where", "minus", "metric", "k") if key in document}
    return Gate(name, document["title"], **lists, **rest)


def read_probes(path: Path) -> tuple[Probe, ...]:
    """Read a JSONL probe file, one probe a line. Raises InvalidInput naming the line."""
    return tuple(_located_probes(path).values())


def _check_options(located: Mapping[str, Probe], task: str, judge: str, normalise: str = "none") -> None:
    """Refuse a probe whose options cannot be chosen from. Raises InvalidInput naming the line."""
    for where, probe in located.items():
        wrong = wrong_options(probe, task, judge, normalise)
        if wrong:
            raise InvalidInput(f"{where}: probe {probe.id!r}: {wrong}")


def _located_probes(path: Path) -> dict[str, Probe]:
    """The probes of a JSONL file by their place, `FILE:LINE`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InvalidInput(f"probe file {path} does not exist: expected a JSONL file, one probe a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"probe file {path} cannot be read as UTF-8 text: {error}") from None
    probes: dict[str, Probe] = {}
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        probe = read_probe(f"{path}:{number}", line)
        if probe.id in first_line:
            raise InvalidInput(
                f"{path}:{number}: duplicate id {probe.id!r}, first used in line {first_line[probe.id]}: ids must "
                "be unique"
            )
        probes[f"{path}:{number}"] = probe
        first_line[probe.id] = number
    if not probes:
        raise InvalidInput(
            f"probe file {path} is empty: expected one JSON object a line with at least an id and a prompt"
        )
    return probes


_PROBE_KEYS = {
    "id": str,
    "cluster": str,
    "subtype": str,
    "prompt": str,
    "system": str,
    "messages": list,
    "text": str,
    "options": list,
    "answer": str,
    "secrets": list,
}


def read_probe(where: str, line: str) -> Probe:
    try:
        document = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"{where}: not JSON ({error.msg} at column {error.colno}): expected one JSON object a line"
        ) from None
    extra = (
        {key: value for key, value in document.items() if key not in _PROBE_KEYS} if isinstance(document, dict) else {}
    )
    known = (
        {key: value for key, value in document.items() if key in _PROBE_KEYS}
        if isinstance(document, dict)
        else document
    )
    check_keys(where, known, _PROBE_KEYS, required=("id",))
    for key, value in extra.items():
        if not isinstance(value, (str, int, float, bool)):
            raise InvalidInput(
                f"{where}: {key!r} is {type(value).__name__}, expected a string, number or boolean (known keys: "
                f"{', '.join(_PROBE_KEYS)})"
            )
    given = [key for key in ("prompt", "messages", "text") if key in known]
    if len(given) != 1:
        raise InvalidInput(
            f"{where}: has {' and '.join(given) or 'no input'}, expected exactly one of prompt, messages, text"
        )
    options = _strings(where, known, "options")
    answer = known.get("answer", "")
    if options and answer and answer not in options:
        raise InvalidInput(f"{where}: answer {answer!r} is none of the options {', '.join(map(repr, options))}")
    probe = Probe(
        id=known["id"],
        cluster=known.get("cluster", known["id"]),
        messages=_messages(where, known),
        subtype=known.get("subtype", ""),
        text=known.get("text", ""),
        options=options,
        answer=answer,
        secrets=_strings(where, known, "secrets"),
        fields=extra,
    )
    wrong = wrong_options(probe)
    if wrong:
        raise InvalidInput(f"{where}: probe {probe.id!r}: {wrong}")
    return probe


def _messages(where: str, document: Mapping[str, Any]) -> tuple[Message, ...]:
    if "messages" in document:
        messages = []
        for message in document["messages"]:
            check_keys(f"{where}: message", message, {"role": str, "content": str}, required=("role", "content"))
            messages.append(Message(message["role"], message["content"]))
        if not messages:
            raise InvalidInput(f"{where}: messages is empty, expected at least one user message")
        return tuple(messages)
    if "prompt" not in document:
        return ()
    if not document["prompt"].strip():
        raise InvalidInput(f"{where}: prompt is empty, expected text")
    system = (Message("system", document["system"]),) if "system" in document else ()
    return (*system, Message("user", document["prompt"]))


def _strings(where: str, document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = document.get(key, ())
    wrong = [value for value in values if not isinstance(value, str)]
    if wrong:
        raise InvalidInput(f"{where}: {key} has {wrong[0]!r}, expected strings")
    return tuple(values)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file that holds a YAML mapping. Raises InvalidInput naming the file and the line."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"{path} does not exist: expected a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InvalidInput(
            f"{path}{line}: not YAML ({getattr(error, 'problem', None) or 'cannot be parsed'})"
        ) from None
    if not isinstance(document, dict):
        raise InvalidInput(f"{path}: holds {type(document).__name__}, expected a YAML mapping of keys to values")
    return document


def check_keys(where: object, document: Any, expected: Mapping[str, Any], *, required: Iterable[str] = ()) -> None:
    """Raise InvalidInput unless `document` is a mapping whose keys and types are expected, with all required keys."""
    if not isinstance(document, dict):
        raise InvalidInput(
            f"{where}: holds {type(document).__name__}, expected a mapping with the keys {', '.join(expected)}"
        )
    for key, value in document.items():
        if key not in expected:
            raise InvalidInput(f"{where}: unknown key {key!r}, expected one of {', '.join(expected)}")
        # bool is an int to Python, but `margin: true` is a mistake
        if not isinstance(value, expected[key]) or (isinstance(value, bool) and expected[key] is not bool):
            names = expected[key] if isinstance(expected[key], tuple) else (expected[key],)
            raise InvalidInput(f"{where}: {key} is {value!r}, expected {' or '.join(kind.__name__ for kind in names)}")
    for key in required:
        if key not in document:
            raise InvalidInput(f"{where}: {key!r} is missing")
