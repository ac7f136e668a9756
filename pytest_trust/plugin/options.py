"""Options and ini keys of the plugin. An unrelated run pays for this module alone: pytest and the standard library."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_trust.audit.config import TrustConfig

PROFILES = ("smoke", "standard", "full", "public", "paper")


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("trust", "trust regressions between two language models (pytest-trust)")
    reference = "org/name[@revision], a directory, an adapter, a .gguf or .trust file, or demo:NAME; options follow '?'"
    for name, metavar, text in (
        ("baseline", "MODEL", f"the model to be as trustworthy as: {reference}"),
        (
            "profile",
            "NAME",
            f"how much to run: {', '.join(PROFILES)}, or a profile of the policy file (default: standard)",
        ),
        ("policy", "FILE", "YAML file of margins and levels over the bundled ones"),
        ("data", "DIR", "folder of the original files of public benchmarks (--trust-suite=public/xstest), or hub"),
        ("store", "DIR", "where responses are kept (default: the user's cache directory)"),
        ("report", "FILE", "write the results to FILE (.json)"),
        (
            "device",
            "DEVICE",
            "cpu, cuda, cuda:1, mps, balanced: layers spread over all GPUs (default: a GPU where there is one)",
        ),
        (
            "dtype",
            "DTYPE",
            "float32, bfloat16, float16 (default: float32 on a CPU, the checkpoint's own on a GPU)",
        ),
        ("batch-size", "N", "rows per batch, or auto (default)"),
        (
            "engine",
            "NAME",
            "where the models run: local (default), "
            "or ray: on the cluster of Ray's configuration, else on one started here",
        ),
        ("max-new-tokens", "N", "token limit of every answer, in place of the suites' own"),
        ("reasoning-budget", "N", "close a reasoning trace after N tokens, and let the model answer (budget forcing)"),
        (
            "max-reasoning-tokens",
            "N",
            "token limit of a reasoning trace, in place of the profile's; a longer one is truncated",
        ),
        (
            "decoding",
            "HOW",
            "greedy (default), own (each model's generation_config.json), or settings: temperature=0.6,top_p=0.95",
        ),
        (
            "choices",
            "NAME",
            "likelihood: of each option where the model answers, or ask: what it answers (default: as the suite says)",
        ),
        ("template", "NAME", "drift behind each model's own chat template (own, default) or the baseline's (shared)"),
        (
            "offload",
            "NAME",
            "layers: one decoder layer of a model in memory at a time, read from its safetensors files (default: none)",
        ),
        ("seed", "N", "seed of sampled responses (default: 0)"),
        ("limit", "N", "probes per suite: a number, or a fraction below 1"),
    ):
        option = f"trust_{name.replace('-', '_')}"
        group.addoption(f"--trust-{name}", metavar=metavar, default=None, help=f"{text}. ini: {option}")
        parser.addini(option, help=text, default=None)
    candidate = "the model to compare with it, given likewise; repeatable, NAME=MODEL to name it in ids and reports"
    group.addoption("--trust-candidate", action="append", metavar="MODEL", help=f"{candidate}. ini: trust_candidate")
    parser.addini("trust_candidate", type="linelist", help=candidate, default=None)
    group.addoption(
        "--trust-suite",
        action="append",
        metavar="SUITE",
        help="run this dimension (safety) or suite (safety/harmful_requests) only; repeatable. ini: trust_suite",
    )
    parser.addini("trust_suite", type="args", default=[], help="dimensions or suites to run")
    group.addoption(
        "--trust-judge",
        action="append",
        metavar="NAME=SPEC",
        help="judge in place of the built-in refusal, toxicity or agreement: toxicity=hf:org/name, hf-chat:org/name or "
        "openai:MODEL?url=...; repeatable. ini: trust_judge",
    )
    parser.addini("trust_judge", type="args", default=[], help="judges in place of built-in ones, NAME=SPEC")
    group.addoption(
        "--trust-reasoning-tags",
        action="append",
        metavar="OPEN,CLOSE",
        help="tags around reasoning, beside the known formats: '<plan>,</plan>'; repeatable. ini: trust_reasoning_tags",
    )
    parser.addini("trust_reasoning_tags", type="linelist", default=[], help="tags around reasoning, OPEN,CLOSE a line")
    group.addoption(
        "--trust-record",
        metavar="FILE",
        help="write the one model's responses to FILE (.trust), which is then a model reference; FILE?topk=K keeps "
        "K tokens of every distribution in place of states and head: smaller, with KL as a lower bound",
    )
    group.addoption(
        "--trust-mutants",
        nargs="?",
        const="",
        metavar="NAME,...",
        help="damage the baseline in known ways and report which gates notice; run no tests (default: the mutants that "
        "belong to the selected dimensions)",
    )
    group.addoption(
        "--trust-plan",
        action="store_true",
        help="print what would be run and what each gate could detect; load nothing",
    )
    for name, text in (
        ("strict", "an inconclusive gate fails in place of being skipped"),
        ("sequential", "stop a suite as soon as its gates are decided, with error rates that hold"),
        ("redact", "keep prompts and answers out of terminal and report"),
        ("accept-data-change", "take rows of a public benchmark other than those its suite was checked with"),
        ("remote-code", "let a model's repository run its own code (trust_remote_code)"),
    ):
        option = f"trust_{name.replace('-', '_')}"
        group.addoption(f"--trust-{name}", action="store_true", default=None, help=f"{text}. ini: {option}")
        parser.addini(option, type="bool", default=False, help=text)
    parser.addini(
        "trust_testpaths",
        type="args",
        default=None,
        help="where trust tests of your own are, for runs that name no path (default: as pytest does)",
    )


def requested(config: pytest.Config) -> bool:
    """Whether this run was asked to measure anything. Only options are read: an unrelated run pays nothing more."""
    names = ("trust_baseline", "trust_candidate")
    return bool(
        config.getoption("trust_plan")
        or config.getoption("trust_mutants") is not None
        or config.getoption("trust_record")
        or any(config.getoption(name) is not None or config.getini(name) is not None for name in names)
    )


_KEY: pytest.StashKey[TrustConfig] = pytest.StashKey()


def of(config: pytest.Config) -> TrustConfig:
    """This run's options, built once.

    Raises:
        pytest.UsageError: a wrong option; names the option and the fix.
    """
    if _KEY not in config.stash:
        from pytest_trust.plugin.config import build_config

        config.stash[_KEY] = build_config(config)
    return config.stash[_KEY]


#: Options whose value may be a path.
_PATHS = ("baseline", "candidate", "policy", "store", "record", "report", "data")


def refuse_space_form(args: list[str], raw: tuple[Any, ...]) -> None:
    """Refuse `--trust-baseline /path`: pytest takes the value of an option that it does not know yet for a test path.

    That would move pytest's rootdir. The form is refused whether or not the path exists, so that a command does not
    change its meaning when a file appears.
    """
    for option, value in pairwise(raw):
        if str(option) in [f"--trust-{name}" for name in _PATHS]:
            raise pytest.UsageError(
                f"{option} {value}: pytest takes a path given after a space for a test path; write {option}={value}"
            )
