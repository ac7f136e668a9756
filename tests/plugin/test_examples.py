"""Every example runs as it stands."""

from __future__ import annotations

from pathlib import Path

from tests.support.trust_runs import pair, trust_run

CUSTOM = Path(__file__).parents[2] / "examples" / "custom_assertions"


def test_custom_assertions_hold_for_a_model_against_itself(tmp_path: Path, refusing: Path) -> None:
    result = trust_run(tmp_path, CUSTOM, *pair(refusing, refusing), "--trust-store=store")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 passed" in result.stdout


def test_custom_assertions_notice_a_change(tmp_path: Path, refusing: Path, complying: Path) -> None:
    result = trust_run(tmp_path, CUSTOM, *pair(refusing, complying), "--trust-store=store")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "nats per token" in result.stdout
    assert "1 failed, 2 passed" in result.stdout
