"""An unrelated project pays nothing for the plugin."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "yaml", "transformers", "scipy", "platformdirs", "safetensors", "datasets", "peft"}


@pytest.fixture
def unrelated(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile("def test_arithmetic():\n    assert 1 + 1 == 2\n")
    return pytester


def imported_modules(pytester: pytest.Pytester) -> set[str]:
    command = [sys.executable, "-X", "importtime", "-m", "pytest", "-q", "-p", "pytest_trust.plugin.hooks"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # other plugins import what they like
    result = subprocess.run(command, cwd=pytester.path, env=environment, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}


def test_imports_nothing_heavy(unrelated: pytest.Pytester) -> None:
    modules = imported_modules(unrelated)
    ours = {name for name in modules if name.startswith("pytest_trust")}
    assert "pytest_trust.plugin.options" in ours
    assert ours <= {
        "pytest_trust",
        "pytest_trust.plugin",
        "pytest_trust.plugin.options",
        "pytest_trust.plugin.hooks",
        "pytest_trust.version",
    }  # what pytest rewrites is not listed
    assert not {name.partition(".")[0] for name in modules} & HEAVY


def test_says_nothing_and_leaves_nothing(unrelated: pytest.Pytester) -> None:
    before = {path.name for path in unrelated.path.iterdir()}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=unrelated.path, capture_output=True, text=True, check=True)
    said = [line for line in result.stdout.splitlines() if not line.startswith(("plugins:", "rootdir:"))]
    assert "trust" not in "\n".join(said)
    assert {path.name for path in unrelated.path.iterdir()} - before <= {"__pycache__"}


def test_a_trust_test_without_a_candidate_skips_and_says_why(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_privacy(trust):\n    assert trust.compare('privacy/context_secrets').held\n")
    result = pytester.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*no candidate to compare*--trust-baseline=MODEL and --trust-candidate=MODEL"])
    assert result.ret == 0
