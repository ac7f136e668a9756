"""The JSON report: one file that holds everything a run found, the same bytes for the same results.

The document is one JSON object. Keys are sorted, floats are rounded to 9 significant digits, gates are
sorted, and nothing in it depends on the order of the tests or on the number of processes, with one exception:
what changes from run to run stands under ``environment``, by itself. Two reports agree when they agree
without that key: see :func:`comparable`, or ``jq 'del(.environment)'``.

=================  ========================================================================================
key                value
=================  ========================================================================================
schema             1
baseline           the model: ``model`` (its label), ``reference`` (as given), ``fingerprint``, ``dtype``,
                   ``parameters``, ``lineage``
candidate          likewise; of several the first
candidates         all of them: the same keys, and each one's own ``counts``, ``drift``, ``identical`` and ``tax`` (see
                   :func:`pytest_trust.report.trust_tax.trust_tax`)
profile, policy    names of the profile and of the policy
identical          whether the two sides cannot be told apart
warnings           sorted list of sentences
counts             gates by verdict: ``regressed``, ``held``, ``inconclusive``, ``not measured`` and
                   their sum ``gates``, controls left out; and ``controls``, the number of these
drift              by dimension: ``candidate_baseline`` and ``baseline_candidate``, each a drift
                   (below) or null; of several candidates the first one's
gates              list of gate records (below), sorted by ``gate``, then ``nodeid``; ``candidate.model`` says whose
redacted           whether prompts and answers were replaced by their length and the start of their
                   SHA-256
environment        ``created`` (UTC), ``python``, ``platform``, ``versions`` of packages,
                   ``devices``, ``store``, ``report``, and what the caller adds
=================  ========================================================================================

A **gate record**: ``gate``, ``nodeid``, ``dimension``, ``suite``, ``metric``, ``title``, ``unit`` (share,
score, nats), ``judge``, ``control``; ``verdict`` and ``reason``; ``delta`` = candidate - baseline, larger is
worse, its one-sided confidence limits ``lower`` (at 1 - ``alpha`` / ``family``) and ``upper`` (at 1 -
``alpha``), ``margin``, ``p_value``, ``n``, ``n_clusters``, ``detectable`` (smallest change found with 80 %
probability), ``needed`` (probes it would take), ``method``; ``worse`` and ``better`` (flips); ``p_holm``
(p-value adjusted over the policy's family by Holm's method; decides nothing), ``missing`` (probes without a score on a side),
``judge_error`` (null, or per side the judge's ``sensitivity`` and ``specificity`` and the ``corrected`` rate with limits, and
``flips_expected`` and ``flips_limit``, the flips to worse that its errors alone would give),
``sequential`` (null, or under --trust-sequential ``units`` compared ``of`` the budget, ``stopped`` early or ``given_up``, ``e_value``,
and for the suite ``tokens`` of responses and about how many were ``saved``); ``ceiling``,
``never``; ``trace`` (null, or the same gate on the reasoning where a model reasoned: ``verdict``, ``delta``, limits, the sides, and whether the
policy ``gated`` it by a ``trace_margin``); ``baseline`` and ``candidate``: ``model``, ``value``, ``lower``, ``upper``, ``n``, ``outcomes``,
``coverage``, ``truncated``, ``closed`` (traces closed by the reasoning budget); ``drift``: the two directions, ``floor``, ``identical``; ``breakdown``, by
factor of the probes a row per value (``value``, ``n``, the metric as ``baseline`` and ``candidate``, ``delta``), exploratory; ``flips`` (the worst
first, each with both answers in full) and ``flips_total``.

A **drift**: ``direction``, ``on`` (which responses), ``tokens``, ``responses``, ``mean`` and clustered
``error`` in nats per token, ``per_sequence`` in nats, ``median``, ``p90``, ``p99``, ``maximum``, ``same_top``
(share), ``js`` in nats, ``delta_p``, ``rms_delta_p``; ``by_confidence`` (nats per token where the baseline's entropy
was below 0.1 nats, below 1, above); ``first`` (over the first 1, 5 and 20 tokens of the answers) and ``rest``; ``macro_mean`` (each
response counting the same); ``masked_tokens`` (of templates and think markers, and those only one side has) and, by side, ``masked_mass``
on tokens only one side has; ``windowed`` (longer than the context); ``tail_mass`` (probability beyond what a top-k recording keeps; null elsewhere); ``reasoning_mean`` and ``answer_mean`` per token, ``reasoning_per_sequence`` and
``answer_per_sequence`` in nats, which add up to ``per_sequence``: the chain rule D(z) + E[D(y | x, z)], both models reading the
candidate's trace z. Where the candidate reasoned, ``answer_without_trace`` beside the two directions is a drift of its own: KL(p_c(y | x, z) ||
p_b(y | x)) on the candidate's answers y, the candidate having read its trace and the baseline the prompt x alone: how far what it says after
thinking is from what the baseline would say at once.
Beside it in a gate record ``drift_auc`` (null below 5 probes a side): the probability that a probe which flipped drifted more than one that
did not, with limits; and ``drift_by_outcome``, by outcome of the candidate's response the ``mean`` in nats per token and the number of
``probes``.

Of models with **different tokenizers** a drift holds in place of its directions their ``..._reason`` and ``texts``: for ``candidate_responses``,
``baseline_responses`` and ``options`` the ``bits_per_byte`` under each model and the ``chunk_bound``, see
:func:`pytest_trust.drift.cross_tokenizer.responses.summarise_texts`.

JSON knows neither NaN nor infinity: such a number is null, and the object that held it says what it was under
``not_finite``: ``{"p_value": null, "not_finite": {"p_value": "not a number"}}``. Controls, bidi overrides and
the like are ``\\u`` escapes, so that printing the file to a terminal does nothing but print it.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pytest_trust.errors import InvalidInput, TrustError
from pytest_trust.report.candidates import candidate_of
from pytest_trust.report.text import redacted, visible

SCHEMA = 1
VERDICTS = ("regressed", "held", "inconclusive", "not measured")

_MODEL_KEYS = ("model", "reference", "fingerprint", "dtype", "parameters", "lineage")
_PACKAGES = ("numpy", "peft", "pytest", "pytest-trust", "scipy", "tokenizers", "torch", "transformers")
_DIGITS = 9
# What the reader relies on: key, type, and what to call it.
_REQUIRED: tuple[tuple[str, type, str], ...] = (
    ("baseline", dict, "an object"),
    ("candidate", dict, "an object"),
    ("counts", dict, "an object"),
    ("drift", dict, "an object"),
    ("environment", dict, "an object"),
    ("gates", list, "a list"),
    ("warnings", list, "a list"),
)


def write_report(
    path: str | os.PathLike[str],
    records: Sequence[Mapping[str, Any]],
    meta: Mapping[str, Any],
    *,
    redact: bool = False,
) -> dict[str, Any]:
    """Write the JSON report and return the document; a file that was there is replaced at once or not at all.

    Raises TrustError when the file cannot be written (no such directory, a directory of that name, no
    permission, a full disk) and InvalidInput when a record holds something that is not a built-in type (a
    NumPy scalar, a tensor).
    """
    document = report_document(records, meta, redact=redact)
    _write(Path(path), serialised(document))
    return document


def report_document(
    records: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], *, redact: bool = False
) -> dict[str, Any]:
    """Return the document that :func:`write_report` writes."""
    gates = [_plain(_redact(record) if redact else record, "record") for record in records]
    # Two tests may use one gate, and one test may be repeated: the text itself breaks the tie.
    gates.sort(key=lambda gate: (str(gate.get("gate")), str(gate.get("nodeid")), json.dumps(gate, sort_keys=True)))
    document = {
        "schema": SCHEMA,
        "profile": meta.get("profile"),
        "policy": meta.get("policy"),
        "identical": bool(meta.get("identical")),
        "warnings": sorted({str(warning) for warning in meta.get("warnings") or ()}),
        "counts": counts(records),
        "drift": meta.get("drift") or {},
        "redacted": redact,
        "environment": _environment(meta),
    }
    for name in ("baseline", "candidate"):
        side = meta.get(name) or {}
        document[name] = {key: side.get(key) for key in _MODEL_KEYS}
    document["candidates"] = [
        {
            **{key: candidate.get(key) for key in _MODEL_KEYS},
            **{key: candidate.get(key) for key in ("drift", "identical", "tax")},
            "counts": counts([record for record in records if candidate_of(record) == candidate.get("model")]),
        }
        for candidate in meta.get("candidates") or ()
    ]
    plain: dict[str, Any] = _plain(document, "meta")
    plain["gates"] = gates
    return plain


def counts(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of gates by verdict and in all, and apart from these the number of controls."""
    gates = [record for record in records if not record.get("control")]
    by_verdict = {verdict: sum(record.get("verdict") == verdict for record in gates) for verdict in VERDICTS}
    return {**by_verdict, "gates": len(gates), "controls": len(records) - len(gates)}


def comparable(document: Mapping[str, Any]) -> str:
    """Return the part of a document that the results determine, as text: equal for equal results."""
    return serialised({key: value for key, value in document.items() if key != "environment"})


def serialised(document: Mapping[str, Any]) -> str:
    """Return the text of a document: sorted keys, one newline at the end, nothing a terminal would obey."""
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    # Outside of its strings JSON is ASCII, so that whatever is replaced here is inside of one, where \u is an
    # escape.
    return re.sub(r"[^\x00-\x7e]", _escaped, text) + "\n"


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return json.dumps(character)[1:-1] if ord(character) > 0x7F else "\\u007f"


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the document in a report file.

    Raises InvalidInput when the file is missing, is not JSON, is not a report, or comes from a newer version.
    """
    shown = visible(os.fspath(path))
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_not_json)
    except OSError as error:
        raise InvalidInput(
            f"report {shown} cannot be read: {error.strerror or error}; expected a file of --trust-report"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"report {shown} is not JSON ({_one_line(error)}); expected a file of --trust-report"
        ) from None
    problem = _problem(document)
    if problem:
        raise InvalidInput(f"report {shown} {problem}")
    return dict(document)


def _not_json(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _problem(document: object) -> str:
    """Return what is wrong with a document that was read, or nothing."""
    if not isinstance(document, dict) or "schema" not in document:
        return 'has no "schema"; expected a file of --trust-report'
    schema = document["schema"]
    if type(schema) is not int or schema < 1:
        return f'has "schema": {visible(json.dumps(schema))[:40]}; expected {SCHEMA}'
    if schema > SCHEMA:
        return f"has schema {schema}, and this version reads {SCHEMA}; upgrade pytest-trust"
    for key, kind, name in _REQUIRED:
        if not isinstance(document.get(key), kind):
            return f'has no "{key}", or one that is not {name}; write it again with --trust-report'
    for index, gate in enumerate(document["gates"]):
        if not isinstance(gate, dict) or not isinstance(gate.get("gate"), str):
            return f'has an entry {index} in "gates" without a name; write it again with --trust-report'
        if gate.get("verdict") not in VERDICTS:
            return f"gives gate {visible(gate['gate'])} no verdict of {', '.join(VERDICTS)}"
    return ""


def _one_line(error: BaseException) -> str:
    return visible(str(error))[:100] or type(error).__name__


def _environment(meta: Mapping[str, Any]) -> dict[str, Any]:
    versions: dict[str, str] = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "versions": versions,
        "devices": {name: (meta.get(name) or {}).get("device") for name in ("baseline", "candidate")},
        "store": meta.get("store"),
        "report": meta.get("report"),
        **(meta.get("environment") or {}),
    }


def _redact(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a gate record without any text of a probe or a model."""
    flips = []
    for flip in record.get("flips") or ():
        copy = dict(flip)
        if copy.get("prompt"):
            copy["prompt"] = redacted(str(copy["prompt"]))
        for name in ("baseline", "candidate"):
            side = dict(copy.get(name) or {})
            copy[name] = {
                key: redacted(str(value)) if key in ("answer", "reasoning") and value else value
                for key, value in side.items()
            }
        flips.append(copy)
    return {**record, "flips": flips}


def _plain(value: Any, where: str) -> Any:
    """Return `value` with its floats rounded and NaN and infinity taken out; `where` names it in an error."""
    clean, words = _cleaned(value, where)
    if words:
        raise InvalidInput(f"{where} is {words['']}; expected an object")
    return clean


def _cleaned(value: Any, where: str) -> tuple[Any, dict[str, str]]:
    """Return the value, and for each number that JSON cannot hold its path from here and its name."""
    # bool, int and float exactly: numpy.float64 is a float too, and must not hide here.
    if value is None or type(value) in (bool, int, str):
        return value, {}
    if type(value) is float:
        if math.isnan(value):
            return None, {"": "not a number"}
        if math.isinf(value):
            return None, {"": "infinity" if value > 0 else "minus infinity"}
        return float(
            f"{value:.{_DIGITS}g}"
        ) + 0.0, {}  # + 0.0 turns -0.0, which equals 0.0 and prints otherwise, into it
    if isinstance(value, Mapping):
        clean: dict[str, Any] = {}
        not_finite: dict[str, str] = {}
        for key, item in value.items():
            clean[str(key)], words = _cleaned(item, f"{where}[{str(key)!r}]")
            not_finite.update({f"{key}{path}": word for path, word in words.items()})
        if not_finite:
            clean["not_finite"] = not_finite
        return clean, {}
    if isinstance(value, (list, tuple)):
        items, found = [], {}
        for index, item in enumerate(value):
            inner, words = _cleaned(item, f"{where}[{index}]")
            items.append(inner)
            found.update({f"[{index}]{path}": word for path, word in words.items()})
        return items, found
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise InvalidInput(f"{where} of the report is a {kind}; expected a built-in type: use float(), int() or str()")


def _write(path: Path, text: str) -> None:
    """Write the file under another name beside it, then rename that: readers see the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shown = visible(str(path))
    if not path.parent.is_dir():
        parent = visible(str(path.parent))
        raise TrustError(
            f"report {shown} cannot be written: there is no directory {parent}; make it or name another file"
        )
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise TrustError(f"report {shown} cannot be written: {error.strerror or error}; name another file") from None
    finally:
        # After the rename there is nothing to remove; before it, half a file must not stay.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
