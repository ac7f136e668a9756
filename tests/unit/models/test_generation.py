"""Batched generation against transformers' own, sampling against its definition, and the ends of responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_trust.models.reference import parse_reference
from pytest_trust.responses import Generation
from tests.support.tiny_models import save_model

PROMPTS = [
    tuple((7 * index + 11 * place) % 390 + 5 for place in range(length))
    for index, length in enumerate((3, 19, 8, 30, 12, 5, 27, 9))
]
# with a beginning that all share, as chat prompts have
SHARED = [(*range(50, 75), *prompt) for prompt in PROMPTS]


def runner(directory: Path, *, shares: bool = True) -> Any:
    from pytest_trust.models.loading import load_model
    from pytest_trust.models.runner import Runner

    found = Runner(load_model(parse_reference(str(directory)), cache=directory.parent / "store"))
    assert found.shares or not shares
    return found


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return runner(save_model(tmp_path_factory.mktemp("llama") / "m"))


def reference_greedy(found: Any, prompt: tuple[int, ...], limit: int) -> list[int]:
    """transformers' `generate`, one prompt at a time, cut after the first end token."""
    import torch

    output = found.model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=sorted(found.loaded.eos_ids),
        pad_token_id=2,
    )[0, len(prompt) :].tolist()
    ends = [index for index, token in enumerate(output) if token in found.loaded.eos_ids]
    return output[: ends[0] + 1] if ends else output


@pytest.mark.parametrize("prompts", [PROMPTS, SHARED], ids=["different", "shared beginning"])
@pytest.mark.parametrize("limit", [1, 2, 24])
def test_greedy_equals_transformers_token_for_token(llama: Any, prompts: list[tuple[int, ...]], limit: int) -> None:
    from pytest_trust.models.generation import Row, generate

    made = generate(llama, [Row(prompt) for prompt in prompts], Generation(limit))
    assert [list(one.token_ids) for one in made] == [reference_greedy(llama, prompt, limit) for prompt in prompts]


def test_rows_that_end_leave_the_batch_and_the_others_go_on(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that greedy answers contain are declared end tokens: rows then finish at different steps."""
    from dataclasses import replace

    from pytest_trust.models.generation import Row, generate

    free = generate(llama, [Row(prompt) for prompt in SHARED], Generation(24))
    ends = frozenset(one.token_ids[4 * index] for index, one in enumerate(free[:5]))
    monkeypatch.setattr(llama, "loaded", replace(llama.loaded, eos_ids=ends))
    made = generate(llama, [Row(prompt) for prompt in SHARED], Generation(24))
    expected = [reference_greedy(llama, prompt, 24) for prompt in SHARED]
    assert [list(one.token_ids) for one in made] == expected
    assert len({len(tokens) for tokens in expected}) > 3  # the case this test is about
    for one in made:
        assert (one.finish_reason == "stop") == (one.token_ids[-1] in ends)


@pytest.mark.parametrize("limits", [(3, 10**6), (64, 100), (1, 10**6)])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.3, "seed": 3}], ids=["greedy", "sampled"])
def test_waiting_rows_take_the_places_of_finished_ones(
    llama: Any, monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], settings: dict[str, Any]
) -> None:
    """Whatever runs beside a row, its response is the same; no more rows run at once than the limits allow."""
    from dataclasses import replace

    from pytest_trust.models.generation import Row, generate, stream
    from pytest_trust.models.memory import BatchLimits

    rows = [Row(prompt, seed) for seed, prompt in enumerate([*SHARED, *PROMPTS, *SHARED[:3]])]
    free = generate(llama, rows, Generation(24, **settings))
    ends = frozenset(one.token_ids[4 * index] for index, one in enumerate(free[:5]))
    monkeypatch.setattr(llama, "loaded", replace(llama.loaded, eos_ids=ends))
    expected = generate(llama, rows, Generation(24, **settings))
    assert len({len(one.token_ids) for one in expected}) > 3
    running: list[tuple[int, int]] = []
    step = llama.step

    def counting(ids: Any, seen: Any, positions: Any, cache: Any) -> Any:
        running.append(tuple(seen.shape))
        return step(ids, seen, positions, cache)

    llama.step = counting
    try:
        parts = list(stream(llama, rows, Generation(24, **settings), BatchLimits(*limits)))
    finally:
        del llama.step
    found = dict(one for part in parts for one in part)
    assert [found[index] for index in range(len(rows))] == expected
    assert sum(map(len, parts)) == len(rows)
    assert len([part for part in parts if part]) > 1
    assert max(count for count, _ in running) <= limits[0]
    assert all(count == 1 or count * columns <= limits[1] for count, columns in running)


@pytest.mark.parametrize("limits", [(64, 10**6), (64, 150), (3, 120)])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.3, "seed": 3}], ids=["greedy", "sampled"])
def test_rows_get_further_room_as_they_need_it_or_wait_for_it(
    llama: Any, monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], settings: dict[str, Any]
) -> None:
    from pytest_trust.models import generation
    from pytest_trust.models.generation import Row, generate
    from pytest_trust.models.memory import BatchLimits

    rows = [Row(prompt, seed=index) for index, prompt in enumerate(SHARED)]
    asked = Generation(70, **settings)
    expected = [one.token_ids for row in rows for one in generate(llama, [row], asked)]
    assert max(map(len, expected)) == 70
    put_back: list[int] = []
    whole = generation._Batch.put_back
    monkeypatch.setattr(generation, "_RESERVE", 4)
    monkeypatch.setattr(generation, "_SLACK", 2)
    monkeypatch.setattr(
        generation._Batch, "put_back", lambda batch, most: (put_back.extend(found := whole(batch, most)), found)[1]
    )
    assert [one.token_ids for one in generate(llama, rows, asked, BatchLimits(*limits))] == expected
    assert bool(put_back) == (limits[1] < 10**6)


def test_padding_that_is_the_end_token_is_not_taken_for_an_end(llama: Any) -> None:
    """pad = eos = 2: a prompt may hold id 2, and short rows are padded with it."""
    from pytest_trust.models.generation import Row, generate

    assert llama.pad_id in llama.loaded.eos_ids
    prompts = [(1, 40, 2, 1, 60, 2), tuple(range(30, 60)), (2, 2, 2, 90)]
    made = generate(llama, [Row(prompt) for prompt in prompts], Generation(12))
    assert [list(one.token_ids) for one in made] == [reference_greedy(llama, prompt, 12) for prompt in prompts]


@pytest.mark.parametrize(
    "settings", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}, {"temperature": 1.3, "top_k": 5}]
)
def test_samples_do_not_depend_on_their_batch_nor_touch_the_global_seed(llama: Any, settings: dict[str, Any]) -> None:
    import torch

    from pytest_trust.models.generation import Row, generate

    generation = Generation(10, **settings)
    rows = [Row(prompt, seed) for prompt in SHARED[:4] for seed in (1, 2)]
    before = torch.random.get_rng_state()
    together = generate(llama, rows, generation)
    apart = [generate(llama, [row], generation)[0] for row in reversed(rows)][::-1]
    assert torch.equal(before, torch.random.get_rng_state())
    assert together == apart
    assert together[0] != together[1]  # other seed, other sample


def test_samples_follow_the_distribution() -> None:
    import torch

    from pytest_trust.models.sampling import Draws, choose_tokens

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -8.0]])
    for settings, kept in (({}, 5), ({"top_k": 2}, 2), ({"top_p": 0.8}, 2), ({"top_k": 4, "top_p": 0.95}, 3)):
        generation = Generation(1, temperature=0.8, **settings)  # type: ignore[arg-type]
        ranked = (logits[0] / 0.8).softmax(-1)[:kept]
        expected = (ranked / ranked.sum()).tolist() + [0.0] * (5 - kept)
        draws = [Draws(seed, generation) for seed in range(20_000)]
        counts = choose_tokens(logits.expand(20_000, -1), draws, generation).bincount(minlength=5) / 20_000
        # four standard errors of a share of 20,000
        assert counts.tolist() == pytest.approx(expected, abs=4 * 0.5 / 20_000**0.5)
        assert all(share == 0 for share in counts[kept:])


@pytest.mark.parametrize("vocabulary", [3, 256, 1271, 49_152])
def test_a_sample_by_blocks_is_the_running_total_inverted(vocabulary: int) -> None:
    import torch

    from pytest_trust.models.sampling import Draws, choose_tokens

    logits = 4 * torch.randn(64, vocabulary, generator=torch.Generator().manual_seed(1))
    logits[:, vocabulary // 2 :: 3] = float("-inf")  # never drawn
    generation = Generation(1, temperature=0.9)
    chosen = choose_tokens(logits, [Draws(seed, generation) for seed in range(64)], generation)
    numbers = torch.tensor([Draws(seed, generation).next() for seed in range(64)], dtype=torch.float64)
    reached = (logits.double() / 0.9).softmax(-1).cumsum(-1)
    below = torch.where(chosen > 0, reached.gather(-1, (chosen - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    above = reached.gather(-1, chosen[:, None])[:, 0]
    # float32 exponentials: a total is known to about 1e-6
    assert bool(((below - 1e-6 <= numbers) & (numbers <= above + 1e-6)).all())
    assert bool(logits.gather(-1, chosen[:, None]).isfinite().all())


def test_top_p_over_a_large_vocabulary_equals_the_full_sort() -> None:
    import torch

    from pytest_trust.models.sampling import Draws, choose_tokens

    torch_generator = torch.Generator().manual_seed(0)
    sharp = 6 * torch.randn(40, 5000, generator=torch_generator)
    flat = 0.01 * torch.randn(40, 5000, generator=torch_generator)
    generation = Generation(1, temperature=1.0, top_p=0.9)
    for logits in (sharp, flat, torch.cat([sharp[:20], flat[:20]])):
        chosen = choose_tokens(logits, [Draws(seed, generation) for seed in range(40)], generation)
        ranked, order = logits.sort(-1, descending=True)
        probabilities = ranked.double().softmax(-1)
        rank = (order == chosen[:, None]).int().argmax(-1)
        before = (probabilities.cumsum(-1) - probabilities).gather(-1, rank[:, None])
        assert bool((before < 0.9).all())


def test_models_that_cannot_share_run_by_transformers_generate(tmp_path: Path, llama: Any) -> None:
    """A sliding window is not one key and value per position; the results stay those of the model run alone."""
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    from pytest_trust.models.generation import Row, generate

    directory = save_model(tmp_path / "m")
    size = len(AutoTokenizer.from_pretrained(directory))
    config = MistralConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8, eos_token_id=2, pad_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(directory)
    found = runner(directory, shares=False)
    assert not found.shares
    made = generate(found, [Row(prompt) for prompt in SHARED], Generation(8))
    assert [list(one.token_ids) for one in made] == [reference_greedy(found, prompt, 8) for prompt in SHARED]
    sampled = Generation(8, temperature=1.0)
    rows = [Row(prompt, 3) for prompt in SHARED]
    assert generate(found, rows, sampled) == [generate(found, [row], sampled)[0] for row in rows]


def test_the_general_path_samples_what_the_shared_one_does(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_trust.models.generation import Row, generate

    rows = [Row(prompt, seed) for seed, prompt in enumerate(SHARED)]
    for generation in (Generation(9), Generation(9, temperature=0.9, top_p=0.9)):
        monkeypatch.setattr(llama, "shares", True)
        shared = generate(llama, rows, generation)
        monkeypatch.setattr(llama, "shares", False)
        assert generate(llama, rows, generation) == shared


def test_text_keeps_special_markers_and_drops_what_frames_it(llama: Any) -> None:
    from pytest_trust.models.framing import decode

    tokenizer = llama.loaded.tokenizer
    tokens = tokenizer("<|im_start|>think about it", add_special_tokens=False)["input_ids"]
    assert decode(llama.loaded, [tokens[1], *tokens, 2, 2]).count("<|im_start|>") == 1
    assert decode(llama.loaded, [*tokens[1:], 2]) == "think about it"


def test_the_plain_format_ends_at_the_next_user_line(llama: Any) -> None:
    from pytest_trust.models.generation import finish

    tokens = llama.loaded.tokenizer("Sure, here it is.\nUser: and then", add_special_tokens=False)["input_ids"]
    made = finish(llama.loaded, tokens, True)
    assert (made.text, made.finish_reason) == ("Sure, here it is.", "stop")
    assert len(made.token_ids) < len(tokens)
    assert finish(llama.loaded, tokens, False).finish_reason == "length"
