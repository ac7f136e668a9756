"""Trace formats and thinking switches are read from templates.

Some templates are our own and have the structures of real ones. Others are real ones.
"""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pytest_trust.errors import InvalidInput
from pytest_trust.models.chat_template import render_chat
from pytest_trust.models.framing import decode
from pytest_trust.models.rendering import TAIL, render_prompt
from pytest_trust.models.tag_tokens import read_response
from pytest_trust.models.thinking_switches import Switch, switch_for, thinking_switches
from pytest_trust.models.trace_format import TraceFormat, read_trace_format, unknown_marks
from pytest_trust.probes import Message, Probe
from pytest_trust.reasoning import DEFAULT_TAGS, opened_by, split_reasoning
from tests.support.tiny_models import SENTENCES, save_tokenizer

TRACE, ANSWER = "Compare the digits, one by one.", "The second is larger."


def turns(user: str, assistant: str, prompt: str) -> str:
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        + assistant
        + "{% else %}"
        + user
        + "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}" + prompt + "{% endif %}"
    )


CHATML = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
# name: (template, opening, closing, opened by the default prompt, source)
FORMATS = {
    "kept, not opened": (
        turns(
            CHATML,
            "<|im_start|>assistant\n<think>\n{{ m.reasoning_content }}\n</think>\n\n{{ m.content }}<|im_end|>\n",
            "<|im_start|>assistant\n",
        ),
        "<think>", "</think>", False, "template",
    ),
    "kept, opened by the prompt": (
        turns(
            CHATML,
            "]~b]ai\n{% if m.reasoning_content %}<x:think>\n{{ m.reasoning_content }}\n</x:think>\n\n{% endif %}"
            "{{ m.content }}[e~[\n",
            "]~b]ai\n<x:think>\n",
        ),
        "<x:think>", "</x:think>", True, "template",
    ),
    "opened only by the prompt, closed by words in brackets": (
        turns(
            "<|user|>\n{{ m.content }}",
            "\n<|bot|>\n"
            "{% if m.reasoning_content and loop.last %}{{ m.reasoning_content }}\n[NOW THE ANSWER]\n{% endif %}"
            "{{ m.content }}",
            "\n<|bot|>\nThese are my steps:\n",
        ),
        "These are my steps:", "[NOW THE ANSWER]", True, "template",
    ),
    "marks of several tokens": (
        "{% if thinking is not defined %}{% set thinking = true %}{% endif %}"
        + turns(
            "<|open|>user<|sep|>{{ m.content }}<|close|>user<|sep|>",
            "<|open|>bot<|sep|>"
            "{% if thinking %}<|open|>muse<|sep|>{{ m.reasoning or '' }}<|close|>muse<|sep|>{% endif %}"
            "<|open|>reply<|sep|>{{ m.content }}<|close|>reply<|sep|><|close|>bot<|sep|>",
            "<|open|>bot<|sep|>{% if thinking %}<|open|>muse<|sep|>{% else %}<|open|>reply<|sep|>{% endif %}",
        ),
        "<|open|>muse<|sep|>", "<|close|>muse<|sep|>", True, "template",
    ),
    "an answer in wrappers": (
        turns(
            "<|U|>{{ m.content }}<|E|>",
            "<|C|>{% if m.thinking %}<|BEGIN_MUSING|>{{ m.thinking }}<|END_MUSING|>{% endif %}"
            "<|BEGIN_TEXT|>{{ m.content }}<|END_TEXT|><|E|>",
            "<|C|>",
        ),
        "<|BEGIN_MUSING|>", "<|END_MUSING|>", False, "template",
    ),
    "channels": (
        turns(
            "<|start|>user<|message|>{{ m.content }}<|end|>",
            "{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
            "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>",
            "<|start|>assistant",
        ),
        "<|channel|>analysis<|message|>", "<|end|><|start|>assistant", False, "template",
    ),
    "messages of their own": (
        turns(
            "<|begin|>user<|content|>{{ m.content }}<|end|>",
            "<|begin|>assistant{% if m.reasoning %}<|muse|>{{ m.reasoning }}<|end|><|begin|>assistant{% endif %}"
            "<|content|>{{ m.content }}<|end|>",
            "<|begin|>assistant",
        ),
        "<|muse|>", "<|end|><|begin|>assistant", False, "template",
    ),
    "parts of the content": (
        turns(
            "[INST]{{ m.content }}[/INST]",
            "{% if m.content is string %}{{ m.content }}{% else %}{% for b in m.content %}{% if b.type == 'thinking' %}"
            "[MUSE]{{ b.thinking }}[/MUSE]{% else %}{{ b.text }}{% endif %}{% endfor %}{% endif %}{{ eos_token }}",
            "",
        ),
        "[MUSE]", "[/MUSE]", False, "template",
    ),
    "only before a call of a tool": (
        turns(
            "<|turn>user\n{{ m.content }}<turn|>\n",
            "<|turn>model\n"
            "{% if m.reasoning and m.tool_calls %}<|channel>muse\n{{ m.reasoning }}\n<channel|>{% endif %}"
            "{% for c in m.tool_calls %}<|call>{{ c.function.name }}<call|>{% endfor %}{{ m.content }}<turn|>\n",
            "<|turn>model\n",
        ),
        "<|channel>muse", "<channel|>", False, "template",
    ),
    "only in the prompts": (
        turns(
            "<|user|>{{ m.content }}",
            "<|bot|>{{ m.content }}<|end|>",
            "<|bot|>{% if thinking %}<my_think>\n{% else %}<my_think></my_think>{% endif %}",
        ),
        "<my_think>", "</my_think>", False, "template",
    ),
    "a mark for on and one for off": (
        turns(
            "<|user|>{{ m.content }}",
            "<|bot|>{{ m.content }}<|end|>",
            "<|bot|>{{ '<t:x>' if thinking else '</t:x>' }}",
        ),
        "<t:x>", "</t:x>", False, "template",
    ),
    "always a trace and wrappers": (
        turns(
            "<|user|>{{ m.content }}",
            "<|bot|><|muse_start|>{{ m.reasoning }}<|muse_end|><|reply_start|>{{ m.content }}<|reply_end|>",
            "<|bot|><|muse_start|>",
        ),
        "<|muse_start|>", "<|muse_end|>", True, "template",
    ),
    "an empty trace when thinking is off": (
        turns(
            "<|user|>{{ m.content }}",
            "<|bot|>{{ m.content }}<|end|>",
            "<|bot|>{% if not enable_thinking %}<|channel>muse\n<channel|>{% endif %}",
        ),
        "<|channel>muse", "<channel|>", False, "template",
    ),
    "dropped, opened by the prompt": (
        turns("<|user|>{{ m.content }}", "<|bot|>{{ m.content.split('</think>')[-1] }}<|end|>", "<|bot|><think>\n"),
        "<think>", "</think>", True, "table",
    ),
    "under a name of its own": (
        turns(CHATML, "<|bot|>{% if m.thoughts %}<r>{{ m.thoughts }}</r>{% endif %}{{ m.content }}<|end|>", "<|bot|>"),
        "<r>", "</r>", False, "template",
    ),
}  # fmt: skip


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


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_read_and_reads_back_what_the_template_writes(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template, opening, closing, opened, source = FORMATS[name]
    found = read_trace_format(tokenizer)
    assert (found.opening, found.closing, found.opens_in_prompt, found.source) == (opening, closing, opened, source)
    assert read_back_at_every_cut(
        found, f"{found.opening}{TRACE}{found.closing}{found.answer_opening}{ANSWER}{found.answer_end}"
    )


def read_back_at_every_cut(found: TraceFormat, text: str, opened: bool = False) -> bool:
    """Whether the whole text is read back, and every cut of it gives beginnings of the trace and the answer."""
    whole = split_reasoning(text, found.tags, opened)
    assert (whole.reasoning, whole.answer, whole.complete) == (TRACE, ANSWER, True), whole
    behind = text.index(TRACE) + len(TRACE)
    answer_ends = text.rindex(ANSWER) + len(ANSWER)
    for end in range(len(text)):
        cut = split_reasoning(text[:end], found.tags, opened)
        assert TRACE.startswith(cut.reasoning), (text[:end], cut)
        if text[:end].strip() and end <= behind:
            assert (cut.complete, cut.answer) == (False, ""), (text[:end], cut)
        if end <= answer_ends:
            assert ANSWER.startswith(cut.answer), (text[:end], cut)
        elif len(found.tags[0]) > 2:  # the first character of a mark may still be the answer's
            assert cut.answer[: len(ANSWER)] == ANSWER and len(cut.answer.removeprefix(ANSWER).strip()) <= 1, (
                text[:end],
                cut,
            )
    return True


def test_the_white_space_beside_a_mark_is_no_part_of_it(tokenizer: Any) -> None:
    tokenizer.chat_template = FORMATS["kept, not opened"][0]
    found = read_trace_format(tokenizer)
    assert split_reasoning(f" <think>  {TRACE}\n\n\n</think> {ANSWER}\n", found.tags).answer == ANSWER


def test_marks_around_an_answer_without_a_trace_are_no_part_of_it(tokenizer: Any) -> None:
    tokenizer.chat_template = FORMATS["an answer in wrappers"][0]
    found = read_trace_format(tokenizer)
    assert (found.answer_opening, found.answer_end) == ("<|BEGIN_TEXT|>", "<|END_TEXT|><|E|>")
    # the text that closes a trace by force opens the answer too
    assert split_reasoning(f"<|BEGIN_MUSING|>{TRACE}", found.tags).closing == "<|END_MUSING|><|BEGIN_TEXT|>"
    # the last mark ended the response and is not in its text
    split = split_reasoning(f"<|BEGIN_TEXT|>{ANSWER}<|END_TEXT|>", found.tags, ended=True)
    assert (split.reasoning, split.answer, split.complete) == ("", ANSWER, True)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_the_same_whatever_thinking_is_set_to(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = FORMATS[name][0]
    own = read_trace_format(tokenizer)
    for value in thinking_switches(tokenizer).known:
        found = read_trace_format(tokenizer, thinking=value)
        assert replace(found, opens_in_prompt=own.opens_in_prompt) == own
        assert not (value == "off" and found.opens_in_prompt)


def test_a_prompt_that_closes_its_trace_with_words_in_it_opens_none(tokenizer: Any) -> None:
    tokenizer.chat_template = turns(
        CHATML,
        "<|im_start|>assistant\n{% if m.reasoning_content %}<x>{{ m.reasoning_content }}</x>{% endif %}\n"
        "{{ m.content }}<|im_end|>\n",
        "<|im_start|>assistant\n<x>\n<note>No thinking here.</note>\n</x>",
    )
    found = read_trace_format(tokenizer)
    assert (found.opening, found.closing, found.opens_in_prompt) == ("<x>", "</x>", False)


def test_a_known_format_is_read_alone(tokenizer: Any) -> None:
    """The tags of other models do not end a trace of this one."""
    tokenizer.chat_template = FORMATS["kept, opened by the prompt"][0]
    found = read_trace_format(tokenizer)
    text = f"I could say: Here is my response: 4</think></x:think>{ANSWER}"
    assert split_reasoning(text, found.tags, found.opens_in_prompt).answer == ANSWER


def test_a_template_that_knows_no_trace_leaves_the_whole_table(tokenizer: Any) -> None:
    tokenizer.chat_template = turns(CHATML, CHATML, "<|im_start|>assistant\n")
    assert read_trace_format(tokenizer) == TraceFormat()
    assert read_trace_format(tokenizer).tags == DEFAULT_TAGS
    tokenizer.chat_template = None
    assert read_trace_format(tokenizer) == TraceFormat()


def test_the_users_own_tags_go_before_all_else(tokenizer: Any) -> None:
    tokenizer.chat_template = FORMATS["kept, opened by the prompt"][0]
    found = read_trace_format(tokenizer, given_tags=[("<plan>", "</plan>")])
    assert (found.source, found.opening, found.opens_in_prompt) == ("reasoning_tags", "<plan>", False)
    assert found.tags == (("<plan>", "</plan>"),)


@pytest.mark.parametrize(
    "field",
    [
        {"open": "<w>", "close": "</w>"},
        {"open": ["<w>", "<ww>"], "close": ["</w>"]},
        {"open_pattern": r"\s*<w>\n?", "close_pattern": r"\s*</w>\s*"},
    ],
)
def test_a_response_template_goes_before_the_chat_template(tokenizer: Any, field: dict[str, Any]) -> None:
    tokenizer.chat_template = FORMATS["kept, not opened"][0]
    tokenizer.response_template = {"start_anchor": "assistant\n", "fields": {"content": {}, "reasoning_content": field}}
    try:
        found = read_trace_format(tokenizer)
        said = tokenizer.parse_response(f"<w>{TRACE}</w>{ANSWER}", prefix="")
    finally:
        tokenizer.response_template = None
    assert (found.opening, found.closing, found.source) == ("<w>", "</w>", "response_template")
    split = split_reasoning(f"<w>{TRACE}</w>{ANSWER}", found.tags)
    assert (split.reasoning, split.answer) == (said["reasoning_content"], said["content"])


def test_a_response_template_in_a_pattern_that_is_no_text_leaves_the_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = FORMATS["kept, not opened"][0]
    fields = {"content": {}, "thinking": {"open_pattern": r"<(?:w|v)>", "close_pattern": r"</[wv]>"}}
    tokenizer.response_template = {"start_anchor": "assistant\n", "fields": fields}
    try:
        assert read_trace_format(tokenizer).source == "template"
    finally:
        tokenizer.response_template = None


def test_marks_of_no_known_format_are_named(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path, template=FORMATS["under a name of its own"][0])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["<think>", "</think>", "<deep_thought>", "<|channel|>", "<r>", "<tool>", "<|think_on|>"])
    assert unknown_marks(tokenizer, read_trace_format(tokenizer)) == ("<deep_thought>", "<|think_on|>")
    # a mark that the template itself writes before the question is left out
    tokenizer.chat_template = "{% if enable_thinking %}<|think_on|>{% endif %}" + str(tokenizer.chat_template)
    assert unknown_marks(tokenizer, read_trace_format(tokenizer)) == ("<deep_thought>",)


SWITCHES = {
    "a variable": (
        "{% if enable_thinking %}<think>{% endif %}",
        {"on": {"enable_thinking": True}, "off": {"enable_thinking": False}},
    ),
    "two names": (
        "{% if thinking is not defined %}{% set thinking = enable_thinking %}{% endif %}"
        "{% if thinking %}<think>{% endif %}",
        {"on": {"enable_thinking": True, "thinking": True}, "off": {"enable_thinking": False, "thinking": False}},
    ),
    "a denial": ("{% if not no_think %}<think>{% endif %}", {"on": {"no_think": False}, "off": {"no_think": True}}),
    "words": (
        "Off is disabled. "
        "{% if thinking_mode == 'enabled' %}Think.{% elif thinking_mode == 'disabled' %}Do not.{% endif %}",
        {"on": {"thinking_mode": "enabled"}, "off": {"thinking_mode": "disabled"}},
    ),
    "one word": (
        "{{ '' if reasoning_effort | lower == 'none' else '<think>' }}",
        {"on": {}, "off": {"reasoning_effort": "none"}},
    ),
    "levels that are written": (
        "Reasoning: {{ reasoning_effort | default('medium') }}",
        {level: {"reasoning_effort": level} for level in ("low", "medium", "high")},
    ),
    "levels, some of them refused": (
        "{% if effort is defined and effort not in ['low', 'high'] %}{{ raise_exception('no') }}{% endif %}"
        "{{ effort }}",
        {"low": {"effort": "low"}, "high": {"effort": "high"}},
    ),
    "levels beside none, all else refused": (
        "{% if reasoning_effort|default('none') not in ['none', 'high'] %}{{ raise_exception('no') }}{% endif %}"
        "{{ reasoning_effort|default('none') }}",
        {"on": {"reasoning_effort": "high"}, "off": {"reasoning_effort": "none"}, "high": {"reasoning_effort": "high"}},
    ),
    "levels that change nothing": ("{% if reasoning_effort == 'low' %}{% endif %}", {}),
    "a budget": (
        "{% if thinking_budget is defined %}"
        "{% if thinking_budget == 0 %}Do not think.{% else %}{{ thinking_budget }} tokens.{% endif %}"
        "{% endif %}",
        {"on": {}, "off": {"thinking_budget": 0}, "7": {"thinking_budget": 7}},
    ),
    "past turns alone": (
        "{% for m in messages %}{% if m.role == 'assistant' and clear_thinking %}x{% endif %}{% endfor %}",
        {},
    ),
    "nothing": ("<think>", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_what_changes_the_prompt(tokenizer: Any, name: str) -> None:
    template, known = SWITCHES[name]
    tokenizer.chat_template = "{{ messages[-1].content }}" + template
    for value in ("on", "off", "low", "medium", "high", "7"):
        expected = known.get(value, known.get("on") if value == "7" else None)
        if expected is None:
            with pytest.raises(InvalidInput, match=f"thinking={value}") as error:
                switch_for(tokenizer, value)
            assert "\n" not in str(error.value)
            assert all(one in str(error.value) for one in known if not one.isdecimal())
        else:
            assert switch_for(tokenizer, value) == Switch(tuple(expected.items()))
    assert switch_for(tokenizer, "") == Switch()


def test_a_word_in_the_system_message_is_a_switch(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% set ns = namespace(off=false) %}{% for m in messages %}"
        "{% if '/no_think' in m.content %}{% set ns.off = true %}{% endif %}"
        "{{ m.role }}: {{ m.content.replace('/no_think', '').replace('/think', '').strip() }}\n{% endfor %}"
        "assistant: {{ '<think></think>' if ns.off else '<think>\n' }}"
    )
    assert switch_for(tokenizer, "off") == Switch(system="/no_think")
    asked = Probe(id="p", cluster="c", messages=(Message("system", "Be brief."), Message("user", "Hello")))
    alone = Probe(id="q", cluster="c", messages=(Message("user", "Hello"),))
    for probe, start in ((asked, "system: Be brief.\nuser: Hello"), (alone, "system: \nuser: Hello")):
        off = tokenizer.decode(render_prompt(tokenizer, probe, thinking="off").ids)
        assert off == f"{start}\nassistant: <think></think>"
        assert render_prompt(tokenizer, probe, thinking="on").tail.endswith("<think>\n")
    found = read_trace_format(tokenizer, thinking="on")
    assert (found.opening, found.closing, found.opens_in_prompt) == ("<think>", "</think>", True)
    assert not read_trace_format(tokenizer, thinking="off").opens_in_prompt


def test_a_templates_clock_stands_still(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "  {% if strftime_now is defined %}\n{{ strftime_now('%d %b %Y, %H:%M, day %j, %-d, 100%%') }}{% endif %}\n"
        "{{ messages[0].content }}"
    )
    probe = Probe(id="p", cluster="c", messages=(Message("user", "Hello"),))
    assert tokenizer.decode(render_prompt(tokenizer, probe).ids) == "01 Jan 2025, 00:00, day 001, 1, 100%Hello"
    other = render_prompt(tokenizer, probe, now=datetime(2024, 12, 24, 18, 5))
    assert tokenizer.decode(other.ids) == "24 Dec 2024, 18:05, day 359, 24, 100%Hello"


def test_a_fixed_date_changes_nothing_else_in_a_template(tokenizer: Any) -> None:
    rest = "\n  {% for m in messages %}\n  {{ m.content }}\n  {%- endfor %} {# end #}\n"
    messages = [{"role": "user", "content": "Hello"}]
    tokenizer.chat_template = rest
    without = render_chat(tokenizer, messages)
    tokenizer.chat_template = rest + "{{ strftime_now('') }}"
    assert render_chat(tokenizer, messages) == without
    assert render_chat(tokenizer, messages) == tokenizer.apply_chat_template(messages, tokenize=False)


REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "chat_templates"
ON_OFF = ("on", "off")
# of real templates: (opening, closing, opened by the default prompt, values of `?thinking=`)
READ = {
    "Apriel-1.6-15b-Thinker-fixed": ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", True, ()),
    "ByteDance-Seed-OSS": ("<seed:think>", "</seed:think>", False, (*ON_OFF, "a number of tokens")),
    "Cohere2MoE": ("<|START_THINKING|>", "<|END_THINKING|>", True, ON_OFF),
    "GLM-4.6": ("<think>", "</think>", False, ON_OFF),
    "HuggingFaceTB-SmolLM3-3B": ("<think>", "</think>", False, ON_OFF),
    "Kimi-K3": ("<|open|>think<|sep|>", "<|close|>think<|sep|>", True, (*ON_OFF, "low", "high")),
    "MiniMax-M2": ("<think>", "</think>", True, ()),
    "MiniMax-M3": ("<mm:think>", "</mm:think>", False, ON_OFF),
    "NVIDIA-Nemotron-Nano-v2": ("<think>", "</think>", True, ON_OFF),
    "Qwen-Qwen3-0.6B": ("<think>", "</think>", False, ON_OFF),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("<think>", "</think>", False, ON_OFF),
    "deepseek-ai-DeepSeek-V3.1": ("<think>", "</think>", False, ON_OFF),
    "google-gemma-4-31B-it": ("<|channel>thought", "<channel|>", False, ON_OFF),
    "ibm-granite-granite-3.3-2B-Instruct": ("<think>", "</think>", False, ON_OFF),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("[THINK]", "[/THINK]", False, ()),
    "openai-gpt-oss-120b": (
        "<|channel|>analysis<|message|>", "<|end|><|start|>assistant", False, ("low", "medium", "high"),
    ),
}  # fmt: skip
# the message that hands a trace to a template, where it differs from the others'
TRACED = {
    "mistralai-Ministral-3-14B-Reasoning-2512": {
        "content": [{"type": "thinking", "thinking": TRACE}, {"type": "text", "text": ANSWER}]
    }
}
# templates that drop the trace of a past turn
DROPPED = (
    "HuggingFaceTB-SmolLM3-3B", "NVIDIA-Nemotron-Nano-v2", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1", "google-gemma-4-31B-it", "ibm-granite-granite-3.3-2B-Instruct",
)  # fmt: skip


@pytest.fixture(params=sorted(READ))
def real(request: pytest.FixtureRequest, tokenizer: Any) -> tuple[str, Any]:
    path = REAL / f"{request.param}.jinja"
    if not path.exists():
        pytest.skip(f"no {path.name} beside the project")
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    return request.param, tokenizer


def test_real_templates_are_read(real: tuple[str, Any]) -> None:
    name, tokenizer = real
    found = read_trace_format(tokenizer)
    values = thinking_switches(tokenizer).values
    assert (found.opening, found.closing, found.opens_in_prompt, values) == READ[name]
    assert found.source == ("table" if name.startswith("ibm") else "template")


def test_what_a_real_template_writes_is_read_back_at_every_cut(real: tuple[str, Any]) -> None:
    name, tokenizer = real
    found = read_trace_format(tokenizer)
    if name in DROPPED:  # the template writes no trace, so its model's writing is read
        assert read_back_at_every_cut(found, f"{found.opening}\n{TRACE}\n{found.closing}\n\n{ANSWER}{found.answer_end}")
        return
    question = [{"role": "user", "content": "Which is larger?"}]
    said = {"role": "assistant", **TRACED.get(name, {"content": ANSWER, "reasoning_content": TRACE})}
    prompt = render_chat(tokenizer, question)
    full = render_chat(tokenizer, [*question, said], generation_prompt=False)
    opened = bool(opened_by(prompt, found.tags))
    response = full[full.index(TRACE) :] if opened else full.removeprefix(prompt)
    assert opened or len(response) < len(full)
    assert read_back_at_every_cut(found, response, opened)


# a mark as templates write it: <|end|>, </think>, [THINK], ]~b]ai, [e~[
WRITTEN = re.compile(r"<\|?[^<>\s'\"{}|]{1,40}\|?>|\[/?[A-Z][A-Z_ ]+\]|\][a-z~!]+[\[\]]|\[[a-z]~\[")


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """A byte-level BPE of a few sentences, without any mark."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    return core


def trace_and_answer(found: TraceFormat) -> list[tuple[str, str]]:
    """Texts as models write them, and some that spell the format's own marks out."""
    return [
        (TRACE, ANSWER),
        ("First: is a < b?\n\nif a <b and c>d: `x`\n- no [note]", "It is **b** [1].\n\n```\nif a<b:\n```\nDone <ok>"),
        ("é 数字 🙂 think", "é 数字 🙂 final answer: 7"),
        ("The user wrote `<think>` and [/THINK]x.", "Here is my response: 4"),
        (f"So {found.closing} is a tag, and {found.opening} too", f"{found.opening} or {found.closing} is a tag"),
        (f"x{found.answer_end}y", f"a {found.answer_end} b {found.answer_opening} c"),
    ]


@pytest.mark.parametrize("thinking", ["", "on"])
def test_no_cut_behind_a_token_turns_reasoning_into_answer_or_answer_into_reasoning(
    real: tuple[str, Any], letters: Tokenizer, thinking: str
) -> None:
    """The marks of the template are tokens of the vocabulary. Between them a model may spell the same marks out."""
    name, tokenizer = real
    switches = thinking_switches(tokenizer).known
    if thinking and thinking not in switches:
        pytest.skip("the template has no such switch")
    template = str(tokenizer.chat_template)
    spelling = PreTrainedTokenizerFast(tokenizer_object=letters)
    marked = PreTrainedTokenizerFast(tokenizer_object=letters, chat_template=template)
    marked.add_tokens(sorted(set(WRITTEN.findall(template))))
    found = read_trace_format(marked, thinking=thinking)
    settings = dict(switches[thinking].settings) if thinking else {}
    before, between, behind, tail = frames(name, marked, found, settings)
    assert before + between + behind
    for trace, answer in trace_and_answer(found):
        pieces = ((before, marked, "t"), (trace, spelling, "r"), (between, marked, "t"), (answer, spelling, "a"))
        ids, kinds = [], ""
        for text, by, kind in (*pieces, (behind, marked, "t")):
            ids += by(text, add_special_tokens=False)["input_ids"]
            kinds += kind * len(text)
        for ends in (frozenset(), frozenset(marked(behind.rstrip(), add_special_tokens=False)["input_ids"][-1:])):
            loaded: Any = SimpleNamespace(tokenizer=marked, eos_ids=ends)
            text = decode(loaded, ids)
            whole = read_response(loaded, ids, text, tail, found.tags)
            assert (whole.reasoning, whole.answer, whole.complete) == (trace, answer, True)
            for end in range(len(ids)):
                text = decode(loaded, ids[:end])
                cut = read_response(loaded, ids[:end], text, tail, found.tags)
                read = "".join(
                    {"reasoning": "r", "answer": "a", "tag": "t"}[one.kind] * len(one.text) for one in cut.parts
                )
                told = [place for place, letter in enumerate(text) if letter.strip() and letter != "\ufffd"]
                # the beginning of a mark is held back until it is known what it becomes
                assert all(read[place] in (kinds[place], "t") for place in told), (text, read)


def frames(name: str, tokenizer: Any, found: TraceFormat, settings: dict[str, Any]) -> tuple[str, str, str, str]:
    """What the template writes before a trace, between trace and answer, and behind it; and the end of its prompt."""
    question = [{"role": "user", "content": "Which is larger?"}]
    prompt = render_chat(tokenizer, question, settings=settings)
    opened = bool(opened_by(prompt, found.tags))
    if name in DROPPED:
        return ("\n" if opened else f"{found.opening}\n"), f"\n{found.closing}\n\n", found.answer_end, prompt[-TAIL:]
    said = {"role": "assistant", **TRACED.get(name, {"content": ANSWER, "reasoning_content": TRACE})}
    full = render_chat(tokenizer, [*question, said], generation_prompt=False, settings=settings)
    response = full[full.index(TRACE) :] if opened else full.removeprefix(prompt)
    before, _, rest = response.partition(TRACE)
    between, _, behind = rest.partition(ANSWER)
    return before, between, behind, prompt[-TAIL:]


def test_a_real_template_that_turns_thinking_off_opens_no_trace(real: tuple[str, Any]) -> None:
    name, tokenizer = real
    values = thinking_switches(tokenizer).values
    probe = Probe(id="p", cluster="c", messages=(Message("user", "Which is larger?"),))
    if "off" not in values:
        with pytest.raises(InvalidInput, match="thinking=off"):
            render_prompt(tokenizer, probe, thinking="off")
        return
    found = read_trace_format(tokenizer, thinking="off")
    assert not found.opens_in_prompt
    assert replace(found, opens_in_prompt=READ[name][2]) == read_trace_format(tokenizer)
    assert render_prompt(tokenizer, probe, thinking="off") != render_prompt(tokenizer, probe, thinking="on")


def test_the_documented_table_is_what_is_read() -> None:
    if not REAL.is_dir():
        pytest.skip("no chat_templates beside the project")
    root = Path(__file__).resolve().parents[3]
    script = runpy.run_path(str(root / "benchmarks" / "chat_templates.py"))
    page = (root / "docs" / "reference" / "chat_templates.md").read_text(encoding="utf-8")
    assert page == f"{script['INTRODUCTION']}\n{script['table'](sorted(REAL.glob('*.jinja')))}"
