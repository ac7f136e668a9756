"""Sequences as trees: none is lost, and each common beginning is there once.

A model computes on a tree what it computes on each sequence alone.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_trust.models.loading import load_model
from pytest_trust.models.reference import parse_reference
from pytest_trust.models.runner import Group, Runner
from pytest_trust.models.token_trees import packs, tree_inputs
from tests.support.tiny_models import save_model

SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12).map(tuple), min_size=1, max_size=30)


@given(SEQUENCES, st.integers(1, 16), st.integers(1, 64))
def test_every_sequence_is_a_path_and_limits_hold(sequences: list[tuple[int, ...]], columns: int, tokens: int) -> None:
    seen = []
    for pack in packs(sequences, columns=columns, tokens=tokens):
        widest = max(len(row.ids) for row in pack.rows)
        longest = max(len(sequences[index]) for index in pack.paths)
        assert widest <= max(columns, longest)
        assert len(pack.rows) == 1 or len(pack.rows) * widest <= tokens
        for index, (line, path) in pack.paths.items():
            row = pack.rows[line]
            assert tuple(row.ids[place] for place in path) == sequences[index]
            assert [row.depths[place] for place in path] == list(range(len(path)))
            assert [row.parents[place] for place in path] == [-1, *path[:-1]]
            seen.append(index)
    assert sorted(seen) == list(range(len(sequences)))


@given(SEQUENCES)
def test_in_one_row_every_beginning_is_one_token(sequences: list[tuple[int, ...]]) -> None:
    (pack,) = packs(sequences, columns=1000, tokens=1000)
    beginnings = {sequence[:length] for sequence in sequences for length in range(1, len(sequence) + 1)}
    assert len(pack.rows) == 1
    assert len(pack.rows[0].ids) == len(beginnings)


def test_a_token_sees_its_own_path_and_padding_itself() -> None:
    import torch

    (pack,) = packs([(1, 2, 3), (1, 2, 4), (5,)], columns=4, tokens=100)
    ids, positions, mask = tree_inputs(pack, pad_id=9, dtype=torch.float32, device="cpu")
    assert ids.tolist() == [[1, 2, 3, 4], [5, 9, 9, 9]]
    assert positions.tolist() == [[0, 1, 2, 2], [0, 0, 0, 0]]
    seen = (mask == 0)[:, 0].numpy()
    assert seen[0].tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [True, True, False, True],
    ]
    assert np.array_equal(seen[1], np.eye(4, dtype=bool))


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    directory = save_model(tmp_path_factory.mktemp("model"))
    return Runner(load_model(parse_reference(str(directory)), cache=directory / "store"))


def test_states_of_trees_are_those_of_each_row_alone(runner: Runner) -> None:
    import torch

    draws = torch.Generator().manual_seed(1)
    stem = tuple(torch.randint(0, 300, (40,), generator=draws).tolist())
    rows = [
        stem[: 7 * index + 1] + tuple(torch.randint(0, 300, (5 + 9 * index,), generator=draws).tolist())
        for index in range(6)
    ]
    groups = [
        Group(tuple(rows[:2]), (1, 3)),
        Group((rows[2],), (len(rows[2]) - 1,)),
        Group(tuple(rows[3:]), (2, 30, 8)),
    ]
    assert runner.shares
    found = runner.hidden_states(groups)
    for group, of_group in zip(groups, found, strict=True):
        for row, start, states in zip(group.rows, group.starts, of_group, strict=True):
            assert states.shape == (len(row) - start, 32)
            # float32, another order of sums
            assert torch.allclose(states, runner._alone(row, start), atol=1e-5, rtol=1e-4)


def test_rows_that_cannot_be_packed_are_run_by_themselves(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from pytest_trust.models import runner as inference

    group = Group(((5, 6, 7, 8), (5, 6, 9)), (1, 2))
    expected = runner.hidden_states([group])[0]
    monkeypatch.setattr(inference, "LONGEST_TREE", 3)
    too_long = runner.hidden_states([group])[0]
    monkeypatch.setattr(runner, "shares", False)
    no_trees = runner.hidden_states([group])[0]
    for ours, *others in zip(expected, too_long, no_trees, strict=True):
        for theirs in others:
            assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_forward_that_ignores_the_mask_is_noticed(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = runner.body.forward

    def deaf(*args: object, **named: object) -> object:
        named["attention_mask"] = None
        return forward(*args, **named)

    assert runner._can_share()
    monkeypatch.setattr(runner.body, "forward", deaf)
    assert not runner._can_share()
