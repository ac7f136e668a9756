"""The bundled suites: node ids, three ways to reach them, selection.

The tests notice a change in pytest's semi-private parts.
"""

from __future__ import annotations

import pytest

PAIR = ("--trust-baseline=demo:instruct", "--trust-candidate=demo:aligned")
SAFETY = [
    "pytest_trust.suites.safety::test_harmful_requests[compliance_rate]",
    "pytest_trust.suites.safety::test_benign_lookalikes[over_refusal_rate]",
]


def collected(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "::" in line]


def test_a_candidate_collects_every_dimension(pytester: pytest.Pytester) -> None:
    ids = collected(pytester.runpytest("--collect-only", "-q", *PAIR))
    assert {name.partition("::")[0].rpartition(".")[2] for name in ids} == {
        "ethics",
        "privacy",
        "reasoning",
        "robustness",
        "safety",
        "stereotypes",
        "toxicity",
    }
    assert set(SAFETY) <= set(ids)


def test_without_a_candidate_nothing_is_added(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_a(): pass")
    assert collected(pytester.runpytest("--collect-only", "-q")) == [
        "test_without_a_candidate_nothing_is_added.py::test_a"
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pyargs", "pytest_trust.suites.safety"],
        ["pytest_trust.suites.safety"],
        [*PAIR, "--trust-suite=safety"],
    ],
)
def test_a_dimension(pytester: pytest.Pytester, arguments: list[str]) -> None:
    assert collected(pytester.runpytest("--collect-only", "-q", *arguments)) == SAFETY


def test_one_suite_of_a_dimension(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--collect-only", "-q", *PAIR, "--trust-suite=safety/benign_lookalikes")
    assert collected(result) == SAFETY[1:]


def test_a_node_id_can_be_given_back(pytester: pytest.Pytester) -> None:
    assert collected(pytester.runpytest("--collect-only", "-q", *PAIR, SAFETY[1])) == SAFETY[1:]


def test_k_selects(pytester: pytest.Pytester) -> None:
    assert collected(pytester.runpytest("--collect-only", "-q", *PAIR, "-k", "lookalikes")) == SAFETY[1:]


def test_star_import_into_a_users_file(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("from pytest_trust.suites.safety import *  # noqa: F403")
    ids = collected(pytester.runpytest("--collect-only", "-q", "test_star_import_into_a_users_file.py"))
    assert ids == [
        name.replace("pytest_trust.suites.safety", "test_star_import_into_a_users_file.py") for name in SAFETY
    ]


def test_named_paths_run_alone_and_unnamed_ones_keep_only_trust_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_other(): pass\ndef test_ours(trust): pass")
    file = "test_named_paths_run_alone_and_unnamed_ones_keep_only_trust_tests.py"
    assert collected(pytester.runpytest("--collect-only", "-q", *PAIR, file)) == [
        f"{file}::test_other",
        f"{file}::test_ours",
    ]
    ids = collected(pytester.runpytest("--collect-only", "-q", *PAIR, "--trust-suite=safety"))
    assert ids == [f"{file}::test_ours", *SAFETY]


def test_trust_testpaths(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ntrust_testpaths = gates")
    pytester.makepyfile("def test_elsewhere(trust): pass")
    (pytester.mkdir("gates") / "test_gate.py").write_text("def test_ours(trust): pass", encoding="utf-8")
    assert collected(pytester.runpytest("--collect-only", "-q", *PAIR, "--trust-suite=safety")) == [
        "gates/test_gate.py::test_ours",
        *SAFETY,
    ]


def test_suites_import_under_their_own_name_only(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import sys
        def pytest_sessionfinish():
            assert "pytest_trust.suites.safety" in sys.modules
            assert "suites" not in sys.modules and "safety" not in sys.modules
        """
    )
    result = pytester.runpytest_subprocess("--collect-only", "-q", "--pyargs", "pytest_trust.suites.safety")
    assert result.ret == 0


def test_last_failed_sees_bundled_modules_beside_failing_files(pytester: pytest.Pytester) -> None:
    """Our node ids are no paths; --lf must not take them for files in which nothing failed."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def trust():
            assert False
        """
    )
    pytester.makepyfile("def test_fails(trust): pass")
    arguments = (*PAIR, "--trust-suite=safety/benign_lookalikes")
    pytester.runpytest(*arguments).assert_outcomes(errors=2)
    pytester.runpytest(*arguments, "--lf").assert_outcomes(errors=2)
