"""A pair with different tokenizers in an audit: no KL, and what stands in its place, against the definitions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_trust.drift.cross_tokenizer.responses import TextDrift, summarise_texts
from pytest_trust.engine.engine import Engine
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.report.drift_diff import drift_diff
from pytest_trust.report.terminal import summary_lines
from pytest_trust.responses import Generation, Job
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.report_records import regressed, run_record
from tests.support.scripted_models import scripted_model
from tests.support.tiny_models import save_model, save_tokenizer

ASK = tuple(Probe(f"ask-{i}", f"ask-{i}", (Message("user", f"Is number {i} wrong?"),)) for i in range(3))
PICK = (Probe("pick", "pick", (Message("user", "Is it?"),), options=("wrong", "not wrong")),)
JOB = Job("dim/ask", "generate", ASK, Generation(24), drift=frozenset(probe.id for probe in ASK))
CHOICE = Job("dim/pick", "choose", PICK, Generation(8), drift=frozenset({"pick"}))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, Reference]:
    """A word-level model with a known answer, and a byte-level one."""
    directory = tmp_path_factory.mktemp("models")
    words = scripted_model(directory / "words", "Sure here is how you do it .", sharpness=8.0)
    other = save_model(directory / "bytes", scale=1.0)
    save_tokenizer(other, vocabulary=330)
    return parse_reference(str(words)), parse_reference(str(other))


def engine(store: Path) -> Engine:
    return Engine(store, device=None, dtype=None, batch_size=2)


def log_likelihood(found: Engine, reference: Reference, text: str) -> float:
    """Of a text behind the first probe's prompt, in float64 from plain logits."""
    prompt, tokenizer = found.local(reference).prompts(ASK)["ask-0"].ids, found.local(reference).tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = (
            found.loaded(reference).model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        )
    return float(logits.double().log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum())


def test_no_kl_and_bits_per_byte_and_chunks_of_both_models_responses(
    pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    baseline, candidate = pair
    with engine(tmp_path) as found:
        acquire(found, [JOB, CHOICE], baseline, candidate)
        drift, options = (drift_of(found, job, baseline, candidate) for job in (JOB, CHOICE))
        assert not drift.candidate_baseline
        assert "tokenizers differ" in drift.candidate_baseline_reason
        one = next(text for text in drift.texts["baseline"] if text.probe == "ask-0")
        response = found.model(baseline).responses(JOB)["ask-0"][0]
        assert response.text == "Sure here is how you do it ."
        for side, reference in (("baseline", baseline), ("candidate", candidate)):
            assert one.nats[side] == pytest.approx(-log_likelihood(found, reference, response.text), rel=1e-4)
        assert one.size == len(response.text)
        # eight words, the last with the end of the response
        assert len(one.chunks) == 8
        # Every token of the words model is a word. The candidate hardly knows them, so a chunk is worth nearly -log q.
        assert sum(one.chunks) > 8
        scores = found.model(candidate).options(CHOICE)["pick"]
        assert options.texts["options"][0].nats["candidate"] == pytest.approx(-sum(scores.log_likelihoods))
    with engine(tmp_path) as again:  # from the store alone
        acquire(again, [JOB, CHOICE], baseline, candidate)
        assert not any(subject.loaded for subject in again._loadable)
        assert drift_of(again, JOB, baseline, candidate).texts == drift.texts


def test_a_response_of_the_other_side_whose_words_are_unknown_is_left_out(
    pair: tuple[Reference, Reference], tmp_path: Path
) -> None:
    with engine(tmp_path) as found:
        acquire(found, [JOB], *pair)
        written = found.model(pair[1]).responses(JOB)
        assert any(one[0].text.strip() for one in written.values())
        # the words model has none of the random letters
        texts = drift_of(found, JOB, *pair).texts["candidate"]
        assert [one.nats for one in texts] == [{}] * len(texts)
        assert texts
    assert summarise_texts(texts, "candidate") is None
    assert summarise_texts([*texts, *TEXTS], "candidate").left_out == len(texts)


TEXTS = [
    TextDrift("a", "a", 40, {"baseline": 30.0, "candidate": 45.0}, (0.5, 0.1, 0.0)),
    TextDrift("b", "b", 10, {"baseline": 20.0, "candidate": 20.0}, (0.2,)),
]


def test_the_summary_is_what_it_says() -> None:
    found = summarise_texts(TEXTS, "candidate")
    bits = found.bits_per_byte
    assert bits.baseline == pytest.approx(50 / math.log(2) / 50)
    assert bits.candidate == pytest.approx(65 / math.log(2) / 50)
    assert bits.difference == pytest.approx(bits.candidate - bits.baseline)
    assert bits.error > 0
    bound = found.chunk_bound
    assert bound.per_chunk == pytest.approx(0.8 / 4)
    assert bound.per_response == pytest.approx(0.8 / 2)
    assert (bound.chunks, found.bytes, found.responses) == (4, 50, 2)
    assert (
        summarise_texts([TextDrift("c", "c", 5, {"baseline": 1.0, "candidate": 1.0}, ())], "options").chunk_bound
        is None
    )
    back = TextDrift.from_bytes(TextDrift("a", "a", 4, {"baseline": 1.0}, (math.inf, 0.5)).to_bytes(), Probe("a", "a"))
    assert back.chunks == (math.inf, 0.5)


def test_reports_give_them_names_of_their_own() -> None:
    drift: dict[str, Any] = {
        "candidate_baseline_reason": "the tokenizers differ",
        "identical": False,
        "texts": {"candidate_responses": summarise_texts(TEXTS, "candidate")},
    }
    shown = " ".join(drift_diff(regressed(drift=drift), width=100).split())
    assert "no KL(candidate || baseline): the tokenizers differ" in shown.replace("\u00a0", " ")
    assert "bits per byte of the candidate responses 1.44 -> 1.88" in shown
    assert "chunk bound 0.20 ± " in shown
    assert "(4 chunks): at least that much is the divergence of the candidate from the baseline" in shown
    one = regressed(drift=drift)
    lines = [text for text, _ in summary_lines(run_record([one], drift={one.dimension: drift}), width=120)]
    assert any("other tokenizers: bits per byte 1.44 -> 1.88, chunk bound 0.200 nats/chunk" in line for line in lines)
    assert not any("KL(" in line and "nats" in line for line in lines)
