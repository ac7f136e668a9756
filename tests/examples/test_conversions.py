"""The arithmetic of the conversions' training: rewards, advantages and gradients."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # PEFT calls it

SCRIPTS = Path(__file__).parents[2] / "examples" / "conversions"


@pytest.fixture(scope="module")
def rl() -> Iterator[Any]:
    pytest.importorskip("peft")
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module("rl")
    finally:
        sys.path.remove(str(SCRIPTS))


def test_the_plot_in_the_readme_is_drawn_from_the_committed_curves(rl: Any) -> None:
    curves = importlib.import_module("curves")
    assert (SCRIPTS / "curves.svg").read_text(encoding="utf-8") == curves.drawing()
    assert "](curves.svg)" in (SCRIPTS / "README.md").read_text(encoding="utf-8")
    assert {name for name, _ in curves.PANELS} == {path.name for path in curves.ADAPTERS.iterdir() if path.is_dir()}


def test_advantages_are_in_standard_deviations_of_the_group(rl: Any) -> None:
    mixed, equal = rl.advantages([[1.1, 0.1, 0.1, 1.1], [0.1, 0.1, 0.1, 0.1]])
    assert mixed == pytest.approx([1, -1, -1, 1])
    assert equal == [0, 0, 0, 0]


def test_the_reward_is_for_right_answers_that_came_to_an_end(rl: Any) -> None:
    from pytest_trust.models.generation import Generated

    (problem,) = rl.new_problems(1, 5)
    right, wrong = (f"<think>So.</think>\n{reply}" for reply in (problem.reply, "No idea."))
    given = [(right, "stop"), (right, "length"), (wrong, "stop"), (problem.reply, "stop"), (f"<think>{right}", "stop")]
    assert [rl.reward(problem, Generated((), text, finish)) for text, finish in given] == pytest.approx(
        [1.1, 0, 0.1, 0, 0]
    )


def log_probability_of(model: Any, prompt: list[int], response: tuple[int, ...]) -> Any:
    import torch

    logits = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
    return sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(response))


def test_an_update_raises_what_was_better_than_its_group(rl: Any, tmp_path: Path) -> None:
    """One step along the gradient makes the rewarded response likelier and the other one less likely."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tests.support.tiny_models import save_model

    directory = save_model(tmp_path / "model", scale=1.0)
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(directory), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    prompt, good, bad = [5, 6, 7], (20, 21, 2), (30, 31, 32, 2)

    def log_probability(response: tuple[int, ...]) -> float:
        with torch.no_grad():
            return float(log_probability_of(model, prompt, response))

    before = log_probability(good), log_probability(bad)
    # the gradient is that of the plain forward: prompts are shared, not approximated
    plain = -(log_probability_of(model, prompt, good) - log_probability_of(model, prompt, bad)) / (len(good) + len(bad))
    plain.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()
    rl.update(model, [(prompt, [(good, 1.0), (bad, -1.0)])])
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, expected[name], atol=1e-5, rtol=1e-3)
    model.zero_grad()
    optimiser = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.5)
    for _ in range(3):
        rl.update(model, [(prompt, [(good, 1.0), (bad, -1.0)])])
        optimiser.step()
        optimiser.zero_grad()
    after = log_probability(good), log_probability(bad)
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_the_distillation_loss_is_the_kl_divergence_of_the_replies(rl: Any, tmp_path: Path) -> None:
    """The logits are those of the replies' tokens, row after row, whatever the padding."""
    import torch
    from lora import Example
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tests.support.tiny_models import save_model

    distill = importlib.import_module("distill")
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(save_model(tmp_path / "model")), LoraConfig(r=2, target_modules=["q_proj"])
    )
    examples = [Example((5, 6, 7, 20, 21), 2), Example((5, 6, 20, 21, 22, 23, 24), 3)]
    with torch.no_grad():
        found = distill.reply_logits(model, examples, 2)
        alone = torch.cat([model(torch.tensor([one.ids])).logits[0, -one.reply - 1 : -1] for one in examples])
    assert found.shape[0] == 5
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)
