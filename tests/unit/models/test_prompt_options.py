"""What `?thinking=`, `?template.NAME=VALUE` and `?date=` set in a model's prompts, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_trust.engine.engine import Engine
from pytest_trust.engine.rendered import Rendered
from pytest_trust.errors import InvalidInput
from pytest_trust.models.identity import lineage
from pytest_trust.models.prompt_options import prompt_options
from pytest_trust.models.reference import parse_reference
from pytest_trust.models.rendering import render_options, render_prompt
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job
from tests.support.tiny_models import save_model, save_tokenizer

PROBE = Probe(id="p", cluster="c", messages=(Message("user", "Hello"),), options=("yes", "no"))
REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "chat_templates"
VARIABLES = (
    "{{ persona }}|{{ 1 + level | default(0) }}|{{ 'yes' if brief else 'no' }}"
    "|{{ 'none' if limit is none else 'some' }}|{{ messages[-1].content }}"
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(directory)
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture
def tokenizer(plain: Any) -> Any:
    kept = plain.chat_template
    yield plain
    plain.chat_template = kept


def prompt(tokenizer: Any, options: str) -> str:
    given = prompt_options(tokenizer, parse_reference(f"org/name?{options}")).as_arguments()
    rows = render_options(tokenizer, PROBE, **given)
    text = str(tokenizer.decode(render_prompt(tokenizer, PROBE, **given).ids))
    assert tokenizer.decode(rows.ids[0]) == f"{text}yes"
    return text


def test_variables_reach_the_template_in_their_types(tokenizer: Any) -> None:
    tokenizer.chat_template = VARIABLES
    assert prompt(tokenizer, "template.persona=a%20judge&template.level=2") == "a judge|3|no|some|Hello"
    assert prompt(tokenizer, "template.level=0.5&template.brief=true") == "|1.5|yes|some|Hello"
    assert prompt(tokenizer, "template.limit=null") == "|1|no|none|Hello"


def test_variables_and_thinking_are_given_together(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{{ persona }}:{{ messages[0].content }}{% if enable_thinking %}<think>{% else %}<think></think>{% endif %}"
    )
    assert prompt(tokenizer, "thinking=on&template.persona=x") == "x:Hello<think>"
    assert prompt(tokenizer, "thinking=off&template.persona=x") == "x:Hello<think></think>"
    with pytest.raises(InvalidInput, match=r"thinking=off sets the template's enable_thinking too: keep one of the"):
        prompt(tokenizer, "thinking=off&template.enable_thinking=true")


def test_a_date_sets_the_clock(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"
    assert prompt(tokenizer, "") == "01 Jan 2025 Hello"
    assert prompt(tokenizer, "date=2024-12-24") == "24 Dec 2024 Hello"


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        (VARIABLES, "template.persna=x", "reads no variable 'persna', expected one of brief, level, limit, persona"),
        (VARIABLES, "template.brief=false", r"\?template.brief=false changes nothing in the model's prompts"),
        (VARIABLES, "date=2024-12-24", r"\?date=2024-12-24 changes nothing in the model's prompts"),
        ("{{ strftime_now('%Y') }}", "date=2025-01-01", r"\?date=2025-01-01 changes nothing"),
        ("{% if a or b %}x{% endif %}", "template.a=1&template.b=1", r"\?template.a=1 changes nothing"),
        ("{% for m in messages if m.role == 'assistant' %}{{ a }}{% endfor %}.", "template.a=1", "changes nothing"),
        (
            "{% if e is defined and e not in ['x'] %}{{ raise_exception('only x') }}{% endif %}{{ e }}.",
            "template.e=y",
            r"\?template.e=y: the model's chat template refuses it \(only x\)",
        ),
        (VARIABLES, "template.level=two", "template.level=two: the model's chat template refuses it"),
        (None, "template.persona=x", r"\?template.persona=x: the model has no chat template"),
        (None, "date=2024-12-24", r"\?date=2024-12-24: the model has no chat template"),
    ],
)
def test_what_changes_nothing_is_refused(tokenizer: Any, template: str | None, options: str, message: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(InvalidInput, match=message) as error:
        prompt(tokenizer, options)
    assert "\n" not in str(error.value)


def test_a_variable_that_only_a_system_message_shows_is_taken(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'system' %}{{ a }}{% endif %}{% endfor %}"
    )
    assert prompt(tokenizer, "template.a=1") == "Hello"


def test_a_number_for_thinking_reaches_the_template_of_seed_oss(tokenizer: Any) -> None:
    path = REAL / "ByteDance-Seed-OSS.jinja"
    if not path.exists():
        pytest.skip(f"no {path.name} beside the project")
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    assert "777" in prompt(tokenizer, "thinking=777") and "777" not in prompt(tokenizer, "thinking=on")


@pytest.mark.parametrize("name", sorted(path.stem for path in REAL.glob("*.jinja")))
def test_every_variable_of_a_real_template_is_taken_or_refused_in_one_line(tokenizer: Any, name: str) -> None:
    from pytest_trust.models.chat_template import template_variables

    tokenizer.chat_template = (REAL / f"{name}.jinja").read_text(encoding="utf-8")
    before = prompt(tokenizer, "")
    for variable in template_variables(tokenizer.chat_template):
        for value in ("true", "false", "7", "zxqv"):
            try:
                prompt(tokenizer, f"template.{variable}={value}")
            except InvalidInput as error:
                assert f"?template.{variable}={value}" in str(error) and "\n" not in str(error)
    assert prompt(tokenizer, "") == before


# a switch, a budget, a variable and a clock
TEMPLATE = (
    "{{ strftime_now('%Y') }}{{ persona }}{% if thinking_budget is defined %}"
    "{{ 'Do not think.' if thinking_budget == 0 else thinking_budget ~ ' tokens' }}{% endif %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)
WAYS = ("", "?template.persona=x", "?template.persona=y", "?date=2024-12-24", "?thinking=64", "?thinking=65")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny", template=TEMPLATE)


def test_each_setting_has_prompts_and_responses_of_its_own(model: Path, tmp_path: Path) -> None:
    job = Job("dim/ask", "generate", (PROBE,), Generation(2))
    references = [parse_reference(f"{model}{way}") for way in WAYS]
    with Engine(tmp_path) as engine:
        engine.acquire([job], references)
        models = [engine.local(reference) for reference in references]
        assert len({one.identity.rendering for one in models}) == len(WAYS)
        assert len({one.prompts([PROBE])["p"].ids for one in models}) == len(WAYS)
        assert len({key for one in models for key in one.keys(job).values()}) == len(WAYS)
        assert len({one.identity.fingerprint for one in models}) == 1
        assert {lineage(models[0].identity, one.identity) for one in models[1:]} == {"weights"}
        tokens = models[0].tokenizer
        texts = [tokens.decode(one.prompts([PROBE])["p"].ids) for one in models]
        assert texts[:2] == ["2025Hello", "2025xHello"]
        assert texts[3:] == ["2024Hello", "202564 tokensHello", "202565 tokensHello"]
        assert models[4].way(job.generation).reasoning_budget == 64


def test_a_setting_that_changes_nothing_is_refused_with_the_models_name(model: Path, tmp_path: Path) -> None:
    with Engine(tmp_path) as engine:
        found = engine.model(parse_reference(f"it={model}?template.personal=x"))
        assert isinstance(found, Rendered)
        with pytest.raises(InvalidInput, match=r"^it: \?template.personal=x: the model's chat template reads no"):
            found.prompts([PROBE])
        with pytest.raises(InvalidInput, match=r"^it: \?template.personal=x: "):
            _ = found.tags
