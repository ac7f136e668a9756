"""Reads and checks a run's options, and makes one frozen object of them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_trust.audit.config import ReplacingJudge, TrustConfig
from pytest_trust.audit.policy import read_decoding
from pytest_trust.engine.store import default_store
from pytest_trust.errors import TrustError
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import CHOICES

ENGINES = ("local", "ray")


def build_config(config: pytest.Config) -> TrustConfig:
    """The frozen options of this run. Raises pytest.UsageError that names the option and the fix."""

    def text(name: str) -> str | None:
        value = config.getoption(f"trust_{name}")
        value = value if value is not None else config.getini(f"trust_{name}")
        return None if value is None else str(value)

    def flag(name: str) -> bool:
        value = config.getoption(f"trust_{name}")
        return bool(config.getini(f"trust_{name}") if value is None else value)

    def path(name: str) -> Path | None:
        value = text(name)
        return config.invocation_params.dir / Path(value).expanduser() if value else None

    record, _, form = (config.getoption("trust_record") or "").partition("?")
    record_topk = read_record_form(form) if form else 0
    limit = text("limit")
    trust = TrustConfig(
        baseline=None if text("baseline") is None else read_reference("baseline", text("baseline") or ""),
        candidates=tuple(
            read_reference("candidate", value)
            for value in config.getoption("trust_candidate") or config.getini("trust_candidate") or ()
        ),
        suites=tuple(config.getoption("trust_suite") or config.getini("trust_suite")),
        profile=text("profile") or "standard",
        policy=path("policy"),
        strict=flag("strict"),
        plan=bool(config.getoption("trust_plan")),
        record=config.invocation_params.dir / record if record else None,
        record_topk=record_topk,
        store=path("store") or default_store(),
        report=path("report"),
        device=None if text("device") in (None, "auto") else text("device"),
        dtype=None if text("dtype") in (None, "auto") else text("dtype"),
        batch_size=None
        if text("batch_size") in (None, "auto")
        else whole("--trust-batch-size", text("batch_size"), 1, "or auto"),
        max_new_tokens=None
        if text("max_new_tokens") is None
        else whole("--trust-max-new-tokens", text("max_new_tokens"), 1),
        reasoning_budget=None
        if text("reasoning_budget") is None
        else whole("--trust-reasoning-budget", text("reasoning_budget"), 1, "tokens"),
        max_reasoning_tokens=None
        if text("max_reasoning_tokens") is None
        else whole("--trust-max-reasoning-tokens", text("max_reasoning_tokens"), 1, "tokens"),
        reasoning_tags=read_tags(config.getoption("trust_reasoning_tags") or config.getini("trust_reasoning_tags")),
        seed=0 if text("seed") is None else whole("--trust-seed", text("seed"), 0),
        limit=None if limit is None else read_limit(limit),
        redact=flag("redact"),
        sequential=flag("sequential"),
        trust_remote_code=flag("remote_code"),
        testpaths=None if config.getini("trust_testpaths") is None else tuple(config.getini("trust_testpaths")),
        judges=read_judges(config.getoption("trust_judge") or config.getini("trust_judge")),
        mutants=read_mutants(config.getoption("trust_mutants")),
        template=one_of("--trust-template", text("template"), ("own", "shared")),
        decoding=read_decoding(str(text("decoding")), "--trust-decoding") if text("decoding") else None,
        choices=one_of("--trust-choices", text("choices"), CHOICES) if text("choices") else "",
        offload=one_of("--trust-offload", text("offload"), ("none", "layers")),
        data=path("data"),
        accept_data_change=flag("accept_data_change"),
        engine=text("engine") or "local",
    )
    check_config(trust)
    check_engine(trust)
    if config.getoption("numprocesses", None):
        if trust.mutants is not None:
            raise pytest.UsageError("--trust-mutants runs in one process, a mutant after the other: leave out -n")
        if trust.engine == "ray":
            raise pytest.UsageError(
                "--trust-engine=ray: the cluster's actors do the work, and one process hands it out: leave out -n"
            )
    return trust


def read_record_form(form: str) -> int:
    """The K of `--trust-record=FILE?topk=K`."""
    name, _, value = form.partition("=")
    if name != "topk" or not value.isdigit() or int(value) < 1:
        raise pytest.UsageError(
            f"--trust-record: {form!r} after '?', expected topk=K with a whole number K of 1 or more"
        )
    return int(value)


def read_reference(name: str, value: str) -> Reference:
    try:
        parsed = parse_reference(value)
        parsed.check()
    except TrustError as error:
        raise pytest.UsageError(f"--trust-{name}: {error}") from None
    return parsed


def read_judges(values: Sequence[str]) -> tuple[ReplacingJudge, ...]:
    """The judges that replace built-in ones. Nothing is loaded."""
    if not values:
        return ()
    from pytest_trust.judges.external import parse_judge_options

    try:
        judges = parse_judge_options(values)
    except TrustError as error:
        raise pytest.UsageError(f"--trust-judge: {error}") from None
    specifications = dict(value.split("=", 1) for value in values)
    return tuple(ReplacingJudge(name, specifications[name], judge) for name, judge in judges.items())


def read_tags(values: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if not values:
        return ()
    from pytest_trust.reasoning import split_reasoning

    tags = []
    for value in values:
        opening, _, closing = value.partition(",")
        try:
            split_reasoning("", [(opening, closing)])
        except TrustError:
            raise pytest.UsageError(
                f"--trust-reasoning-tags={value}: expected two different tags with a comma between, "
                "such as <plan>,</plan>"
            ) from None
        tags.append((opening, closing))
    return tuple(tags)


def read_mutants(value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    from pytest_trust.models.mutants import read_names

    try:
        return read_names(value)
    except TrustError as error:
        raise pytest.UsageError(f"--trust-mutants={value}: {error}") from None


def check_mutants(trust: TrustConfig, given: list[str]) -> None:
    if trust.plan or trust.record is not None:
        raise pytest.UsageError("--trust-mutants is a run of its own: leave out --trust-plan and --trust-record")
    if trust.baseline is None or given != ["baseline"]:
        raise pytest.UsageError(
            f"--trust-mutants damages one model: give --trust-baseline alone, not {' and '.join(given) or 'neither'}"
        )
    if not trust.baseline.has_weights or trust.baseline.mutant is not None:
        raise pytest.UsageError(
            f"--trust-mutants: {trust.baseline.text} is a recording, behind a server, or a mutant already: "
            "give the model itself"
        )


def check_engine(trust: TrustConfig) -> None:
    if trust.engine not in ENGINES:
        raise pytest.UsageError(f"--trust-engine={trust.engine}: expected {' or '.join(ENGINES)}")
    if trust.engine == "ray":
        if find_spec("ray") is None:
            raise pytest.UsageError("--trust-engine=ray: Ray is not installed: pip install 'pytest-trust[ray]'")
        served = [model for model in (trust.baseline, *trust.candidates) if model and model.behind_server]
        if served:
            raise pytest.UsageError(
                f"--trust-engine=ray: {served[0].label} is behind a server, which does its own work, "
                "and drift against it needs the other model in this process: leave out --trust-engine"
            )
        if trust.record is not None:
            raise pytest.UsageError(
                "--trust-record keeps the model's hidden states, which do not leave the cluster's actors: "
                "record with --trust-engine=local"
            )


def check_config(trust: TrustConfig) -> None:
    given = ["baseline"] * (trust.baseline is not None) + ["candidate"] * len(trust.candidates)
    labels = [candidate.label for candidate in trust.candidates]
    for label in labels:
        if labels.count(label) > 1:
            raise pytest.UsageError(
                f"--trust-candidate: {label} is the label of {labels.count(label)} candidates: "
                "name them apart, --trust-candidate=NAME=MODEL"
            )
    if trust.reasoning_budget is not None and trust.max_reasoning_tokens is not None:
        raise pytest.UsageError(
            "--trust-reasoning-budget closes a long trace and --trust-max-reasoning-tokens leaves it truncated: "
            "give one of them"
        )
    if trust.mutants is not None:
        check_mutants(trust, given)
    if trust.record is not None:
        if len(given) != 1:
            raise pytest.UsageError(
                "--trust-record writes one model's part: give --trust-baseline or --trust-candidate, "
                f"not {' and '.join(given) or 'neither'}"
            )
        if trust.record.suffix != ".trust":
            raise pytest.UsageError(f"--trust-record={trust.record.name}: expected a file name ending in .trust")
    elif given == ["baseline"] and not trust.plan and trust.mutants is None:
        raise pytest.UsageError(
            "--trust-baseline was given without --trust-candidate: "
            "name the model to compare with it, --trust-candidate=MODEL"
        )
    elif trust.candidates and trust.baseline is None:
        raise pytest.UsageError(
            "--trust-candidate was given without --trust-baseline: name the model it came from, --trust-baseline=MODEL"
        )
    if trust.dtype not in (None, "float32", "bfloat16", "float16"):
        raise pytest.UsageError(f"--trust-dtype={trust.dtype}: expected float32, bfloat16, float16 or auto")
    if trust.report is not None and trust.report.suffix != ".json":
        raise pytest.UsageError(f"--trust-report={trust.report.name}: expected a file name ending in .json")
    for path, option in ((trust.report, "--trust-report"), (trust.record, "--trust-record")):
        if path is not None and not path.parent.is_dir():
            raise pytest.UsageError(
                f"{option}={path}: the directory {path.parent} does not exist: create it or name another"
            )


def whole(option: str, value: str | None, least: int, rest: str = "") -> int:
    try:
        number = int(value or "")
    except ValueError:
        number = least - 1
    if number < least:
        raise pytest.UsageError(
            f"{option}={value}: expected a whole number of at least {least}{' ' + rest if rest else ''}"
        )
    return number


def one_of(option: str, value: str | None, names: tuple[str, ...]) -> str:
    """The value, or the first of the names when no value was given."""
    if value is not None and value not in names:
        raise pytest.UsageError(f"{option}={value}: expected {' or '.join(names)}")
    return value or names[0]


def read_limit(value: str) -> float:
    """A fraction below 1, or a whole number, as in lm-evaluation-harness's `--limit`."""
    try:
        limit = float(value)
    except ValueError:
        limit = 0.0
    if not (0 < limit < 1 or (limit >= 1 and limit == int(limit))):
        raise pytest.UsageError(
            f"--trust-limit={value}: expected a whole number of probes, or a fraction between 0 and 1"
        )
    return limit
