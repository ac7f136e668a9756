"""Texts longer than the context in an audit: windows with a stride, nothing cut off, and said so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_trust.drift.summary import summarise
from pytest_trust.engine.engine import Engine
from pytest_trust.errors import InvalidInput
from pytest_trust.models.context_windows import in_windows, row_windows
from pytest_trust.models.loading import load_model
from pytest_trust.models.reference import parse_reference
from pytest_trust.models.runner import Group, Runner
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job
from tests.support.pairs import acquire
from tests.support.pairs import drift as drift_of
from tests.support.tiny_models import save_model


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 60), st.integers(1, 59), st.integers(1, 30))
def test_every_predicted_token_is_in_one_window_and_no_window_is_longer_than_the_context(
    length: int, start: int, context: int
) -> None:
    start = min(start, length - 1)
    windows = row_windows(length, start, context)
    predicted = [token for first, end, looked in windows for token in range(looked, end)]
    assert predicted == list(range(start, length))
    for first, end, looked in windows:
        assert end - first - 1 <= context  # the last token is not read
        assert first < looked
    if context > 2:  # half a context of what came before, at the least, beyond the first window
        assert all(looked - first >= context // 2 for first, _, looked in windows if first)


def test_windows_are_joined_to_the_row_s_states(tmp_path: Path) -> None:
    runner = Runner(load_model(parse_reference(str(save_model(tmp_path / "model"))), cache=tmp_path))
    random = torch.Generator().manual_seed(0)
    rows = [tuple(torch.randint(3, 300, (length,), generator=random).tolist()) for length in (50, 12, 33)]
    groups = [Group((rows[0],), (5,)), Group((rows[1],), (2,)), Group((rows[2], rows[1]), (30, 4))]
    found = in_windows(runner.hidden_states, 20)(groups)
    assert [[len(states) for states in group] for group in found] == [[45], [10], [3, 8]]
    torch.testing.assert_close(
        found[0][0][:16], runner.hidden_states([Group((rows[0][:21],), (5,))])[0][0], atol=1e-5, rtol=1e-5
    )
    first, end, looked = row_windows(50, 5, 20)[1]
    (alone,) = runner.hidden_states([Group((rows[0][first:end],), (looked - first,))])[0]
    torch.testing.assert_close(found[0][0][16 : 16 + len(alone)], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        in_windows(runner.hidden_states, None)(groups[1:2])[0][0], found[1][0], atol=1e-5, rtol=1e-5
    )


def test_a_response_ends_where_the_context_does_and_a_longer_prompt_is_refused(tmp_path: Path) -> None:
    model = parse_reference(str(save_model(tmp_path / "0", max_position_embeddings=40)))
    short = Probe("short", "short", (Message("user", "Is it wrong?"),))
    long = Probe("long", "long", (Message("user", "Is it wrong? " * 40),))
    with Engine(tmp_path / "store", batch_size=2) as engine:
        job = Job("dim/ask", "generate", (short,), Generation(60))
        engine.acquire([job], [model])
        (response,) = engine.model(model).responses(job)["short"]
        assert len(engine.local(model).prompts([short])["short"].ids) + len(response.token_ids) == 40
        assert response.finish_reason == "length"
        with pytest.raises(
            InvalidInput, match=r"^0: probe long has \d+ tokens, and the model was made for 40: shorten it"
        ):
            engine.acquire([Job("dim/ask", "generate", (long,), Generation(4))], [model])
        with pytest.raises(InvalidInput, match="probe long has"):
            options = Probe("long", "long", long.messages, options=("yes", "no"))
            engine.acquire([Job("dim/pick", "choose", (options,), Generation(4))], [model])


def test_a_response_that_the_other_model_s_context_cannot_hold_is_measured_in_windows(tmp_path: Path) -> None:
    pair = [
        parse_reference(str(save_model(tmp_path / str(seed), seed=seed, max_position_embeddings=context)))
        for seed, context in enumerate((40, 80))
    ]
    probe = Probe("short", "short", (Message("user", "Is it wrong?"),))
    with Engine(tmp_path / "store", batch_size=2) as engine:
        job = Job("dim/ask", "generate", (probe,), Generation(60), drift=frozenset({"short"}))
        acquire(engine, [job], *pair)
        tokens = engine.model(pair[1]).responses(job)["short"][0].token_ids
        prompt = engine.local(pair[1]).prompts([probe])["short"].ids
        drift = drift_of(engine, job, *pair).candidate_baseline["short"]
        assert len(prompt) + len(tokens) > 41
        assert len(drift) + drift.masked_tokens == len(tokens)  # nothing is cut off
        assert drift.windowed
        assert summarise([drift]).windowed == 1
