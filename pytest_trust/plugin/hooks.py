"""The pytest hooks. Each delegates in a line or two.

Nothing heavy is imported before a trust option or fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_trust.plugin import options

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_trust.models.reference import Pair, Reference
    from pytest_trust.plugin.fixtures import Trust

pytest.register_assert_rewrite("pytest_trust.suites")

MARKER = (
    "trust(suite=None, *, dimension, margin, ceiling, never): a trust gate; what it measures and what it is held to"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    options.refuse_space_form(args, tuple(early_config.invocation_params.args))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    if options.requested(config) or any(arg.startswith("pytest_trust.suites") for arg in config.args):
        from pytest_trust.plugin.session import TrustRun

        config.pluginmanager.register(TrustRun(config), "trust-run")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    if not options.requested(config):
        return None
    from pytest_trust.plugin.xdist import visible_gpus

    return 1 if options.of(config).spread else visible_gpus()


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With several candidates, run each comparing test once for each; its id ends with the candidate's label."""
    if "trust_candidate" in metafunc.fixturenames and options.requested(metafunc.config):
        candidates = options.of(metafunc.config).candidates
        if len(candidates) > 1:
            labels = [candidate.label for candidate in candidates]
            metafunc.parametrize("trust_candidate", candidates, ids=labels, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if "trust" in getattr(item, "fixturenames", ()):
        from pytest_trust.plugin.verdicts import annotate

        annotate(report, item, call)
    return report


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
    if getattr(report, "trust_not_measured", False) and report.failed:
        return "error", "E", "NOT MEASURED"
    return None


@pytest.fixture(scope="session")
def trust_baseline(pytestconfig: pytest.Config) -> Reference | str | None:
    """The baseline's model reference; override it in a conftest to choose another."""
    return options.of(pytestconfig).baseline


@pytest.fixture(scope="session")
def trust_candidate(pytestconfig: pytest.Config) -> Reference | str | None:
    """The candidate's model reference; override it in a conftest to choose another.

    With several candidates, a test runs once for each.
    """
    return options.of(pytestconfig).candidate


@pytest.fixture(scope="session")
def trust_pair(trust_baseline: Reference | str | None, trust_candidate: Reference | str | None) -> Pair:
    """The baseline and the candidate. Skips when one is missing."""
    from pytest_trust.plugin.fixtures import make_pair

    return make_pair(trust_baseline, trust_candidate)


@pytest.fixture
def trust(request: pytest.FixtureRequest, trust_pair: Pair) -> Trust:
    """Compares the pair: `trust.compare(suite).held`, `trust.kl(probes).mean`. Skips when a model is missing."""
    from pytest_trust.plugin.fixtures import make_trust

    return make_trust(request, trust_pair)


__all__: list[str] = []
