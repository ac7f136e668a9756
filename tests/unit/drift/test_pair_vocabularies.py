"""Drift of pairs with different vocabularies: other ids, more tokens, other templates.

Which tokens are not counted.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_trust.drift.masking import marker_spans, masked_tokens
from pytest_trust.drift.shared_tokens import numberings
from pytest_trust.drift.summary import summarise
from pytest_trust.engine.engine import Engine
from pytest_trust.models.framing import Framing
from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Message, Probe
from pytest_trust.reasoning import DEFAULT_TAGS
from pytest_trust.responses import Generation, Job
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.scripted_models import scripted_model
from tests.support.tiny_models import CHATML, extend, renumber, save_model

ASK = tuple(Probe(f"ask-{i}", f"ask-{i}", (Message("user", f"Is number {i} wrong?"),)) for i in range(3))
PICK = tuple(
    Probe(f"pick-{i}", f"pick-{i}", (Message("user", "Is it?"),), options=("wrong", f"not {i}")) for i in range(2)
)
JOB = Job("dim/ask", "generate", ASK, Generation(8), drift=frozenset(probe.id for probe in ASK))
CHOICE = Job("dim/pick", "choose", PICK, Generation(8), drift=frozenset(probe.id for probe in PICK))


def engine(store: Path, **options: Any) -> Engine:
    return Engine(store, device=None, dtype=None, batch_size=2, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    directory = tmp_path_factory.mktemp("models")
    paths = {"base": save_model(directory / "base"), "tuned": save_model(directory / "tuned", seed=1)}
    size = len(framing_of(paths["tuned"]).tokenizer)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(3)).tolist()
    paths["renumbered"] = renumber(paths["tuned"], directory / "renumbered", order)
    paths["longer"] = extend(paths["tuned"], directory / "longer", "<think>")
    paths["other template"] = save_model(directory / "other", seed=1, template=CHATML.replace("assistant", "model"))
    return {name: parse_reference(str(path)) for name, path in paths.items()}


def framing_of(path: Path) -> Framing:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    return Framing(tokenizer, frozenset({tokenizer.eos_token_id}))


def test_the_same_pieces_under_other_ids_give_the_same_drift(made: dict[str, Reference], tmp_path: Path) -> None:
    found = {}
    for name in ("tuned", "renumbered"):
        with engine(tmp_path / name) as one:
            acquire(one, [JOB, CHOICE], made["base"], made[name])
            found[name] = [drift_of(one, job, made["base"], made[name]) for job in (JOB, CHOICE)]
            assert {r[0].text for r in one.model(made[name]).responses(JOB).values()} != {""}
    for expected, drift in zip(found["tuned"], found["renumbered"], strict=True):
        for kind in ("candidate_baseline", "baseline_candidate", "floor"):
            ours, theirs = getattr(expected, kind), getattr(drift, kind)
            assert ours.keys() == theirs.keys()
            assert ours
            for name, one in ours.items():
                # the same sums over the vocabulary in another order
                assert theirs[name].kl_pq.tolist() == pytest.approx(one.kl_pq.tolist(), rel=1e-4, abs=1e-5)
                assert theirs[name].p_label.tolist() == pytest.approx(one.p_label.tolist(), rel=1e-4, abs=1e-6)
                assert theirs[name].masked_tokens == one.masked_tokens
    assert max(float(one.kl_pq.max()) for one in found["renumbered"][0].candidate_baseline.values()) > 0.1


def test_a_token_that_only_one_side_has_is_spelled_for_the_other_and_not_counted(
    made: dict[str, Reference], tmp_path: Path
) -> None:
    base, longer = made["base"], made["longer"]
    with engine(tmp_path, keep=True) as found:  # its weights are changed below
        runner = found.loaded(longer)
        new = runner.loaded.tokenizer.convert_tokens_to_ids("<think>")
        assert new == len(runner.loaded.tokenizer) - 1
        prompt = found.local(longer).prompts(ASK)["ask-0"].ids
        with torch.no_grad():  # the candidate says it first
            state = runner.model.model(input_ids=torch.tensor([[*prompt]])).last_hidden_state[0, -1]
            most = (runner.model.lm_head.weight @ state).max()
            runner.model.lm_head.weight[new] = (most + 1) * state / state.dot(state)
        acquire(found, [JOB], base, longer)
        response = found.model(longer).responses(JOB)["ask-0"][0]
        assert new in response.token_ids
        drift = drift_of(found, JOB, base, longer).candidate_baseline["ask-0"]
        place = response.token_ids.index(new)
        spelled = found.local(base).tokenizer("<think>", add_special_tokens=False)["input_ids"]
        assert len(spelled) > 1
        own = [i for token in response.token_ids for i in (spelled if token == new else [token])]
        with torch.no_grad():
            ours = runner.model(input_ids=torch.tensor([[*prompt, *response.token_ids]])).logits[0, len(prompt) - 1 :]
            their_prompt = found.local(base).prompts(ASK)["ask-0"].ids
            theirs = (
                found.loaded(base)
                .model(input_ids=torch.tensor([[*their_prompt, *own]]))
                .logits[0, len(their_prompt) - 1 :]
            )
    assert place == 0
    counted = [i for i, token in enumerate(response.token_ids) if token != new]
    assert len(drift) == len(counted) >= 3
    assert drift.masked_tokens == len(response.token_ids) - len(counted) >= 1
    at = 0
    for index, token in enumerate(response.token_ids):
        if token != new:
            p, q = (x.double()[:new].log_softmax(-1) for x in (ours[index], theirs[at]))
            expected = (p.exp() * (p - q)).sum().item()
            assert drift.kl_pq[counted.index(index)] == pytest.approx(expected, rel=1e-3, abs=1e-5)
        at += len(spelled) if token == new else 1
    summary = summarise([drift])
    assert summary.masked_mass["candidate"] > 1e-6
    assert summary.masked_mass["baseline"] == 0


def test_a_vocabulary_that_shares_too_little_has_no_numbers() -> None:
    class Words(dict[str, int]):
        def get_vocab(self) -> dict[str, int]:
            return self

    one = Words({f"w{i}": i for i in range(100)})
    fewer = Words({f"w{i}": i for i in range(80)})
    strangers = Words({f"v{i}": i for i in range(100)})
    assert numberings(one, fewer, 100, 80) is None  # a fifth of what the first can say is left out
    assert numberings(one, strangers, 100, 100) is None
    ours, theirs = numberings(one, Words({f"w{99 - i}": i for i in range(100)}), 100, 100) or (None, None)
    assert ours is not None
    assert theirs is not None
    numbers = ours.numbers([3, 97])
    assert theirs.read(numbers) == ((96, 2), (0, 1))
    assert ours.read(numbers)[0] == (3, 97)


THINKING = "<think> first add </think> answer good"


def test_think_markers_are_not_counted(tmp_path: Path) -> None:
    one = parse_reference(str(scripted_model(tmp_path / "one", THINKING)))
    two = parse_reference(str(scripted_model(tmp_path / "two", THINKING, sharpness=9.0)))
    with engine(tmp_path / "store") as found:
        acquire(found, [JOB], one, two)
        tokens = found.model(two).responses(JOB)["ask-0"][0].token_ids
        drift = drift_of(found, JOB, one, two).candidate_baseline["ask-0"]
    assert len(tokens) == 7  # six words and the end
    assert (len(drift), drift.masked_tokens, drift.answer_start) == (5, 2, 2)
    summary = summarise([drift])
    assert summary.masked_tokens == 2
    assert not math.isnan(summary.reasoning_mean)


def test_which_tokens_frame_a_text(made: dict[str, Reference]) -> None:
    framing = framing_of(made["base"].path)
    end = framing.tokenizer.eos_token_id
    text = "<think>Is it?</think> Sure, here"  # which "Here is my response:" begins with
    ids = framing.tokenizer(text, add_special_tokens=False)["input_ids"]
    spans = marker_spans(text, DEFAULT_TAGS, False)
    assert [text[slice(*span)] for span in spans] == ["<think>", "</think>"]
    masked = masked_tokens(framing, [*ids, end], spans, {end})
    left = [token for place, token in enumerate([*ids, end]) if place not in masked]
    assert framing.tokenizer.decode(left) == "Is it? Sure, here<|im_end|>"
    # A turn that the other template ends otherwise, and a header in the middle.
    assert len(ids) in masked_tokens(framing, [*ids, end], (), {end + 1})
    header = framing.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert masked_tokens(framing, [ids[0], header, end], (), None) == [1]


def test_behind_a_shared_template_only_the_weights_differ(made: dict[str, Reference], tmp_path: Path) -> None:
    tuned, other, base = made["tuned"], made["other template"], made["base"]
    drifts = {}
    for template in ("own", "shared"):
        with engine(tmp_path / "store", template=template) as found:
            acquire(found, [JOB, CHOICE], tuned, other)  # the same weights behind two templates
            drifts[template] = [drift_of(found, job, tuned, other) for job in (JOB, CHOICE)]
    for own, shared in zip(drifts["own"], drifts["shared"], strict=True):
        assert own.candidate_baseline.keys() == shared.candidate_baseline.keys()
        assert max(float(one.kl_pq.max()) for one in own.candidate_baseline.values()) > 0.01
        assert max(float(one.kl_pq.max()) for one in shared.candidate_baseline.values()) <= 1e-6
    with engine(tmp_path / "remapped", template="shared") as found:  # through the strings, where ids differ too
        acquire(found, [JOB, CHOICE], base, made["renumbered"])
        assert drift_of(found, JOB, base, made["renumbered"]).candidate_baseline.keys() == JOB.drift
