"""The reasoning parser: formats by example, invariants by property."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_trust.errors import InvalidInput
from pytest_trust.reasoning import DEFAULT_TAGS, Split, split_reasoning, tags_in, unopened

HARMONY = "<|channel|>analysis<|message|>Count.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>"
LITERAL_TAGS = [pair for pair in DEFAULT_TAGS if pair[0] != "<|channel|>analysis<|message|>"]


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>a</think>b", "a", "b"),
        ("<think>\na\n</think>\n\nb\n", "a", "b"),
        ("<THINK>a</Think>b", "a", "b"),
        ("<thinking>a</thinking>b", "a", "b"),
        ("<reasoning>a</reasoning>b", "a", "b"),
        ("<thought>a</thought>b", "a", "b"),
        ("[THINK]a[/THINK]b", "a", "b"),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>b<|END_RESPONSE|>", "a", "b"),
        ("<|begin_of_thought|>a<|end_of_thought|>\n<|begin_of_solution|>b<|end_of_solution|>", "a", "b"),
        ("<|im_start|>think\na\n<|im_start|>answer\nb", "a", "b"),
        ("<|im_start|>think\na\n<|im_start|>answer\nAnswer: b<|im_end|>", "a", "Answer: b"),
        ("<|channel>thought\na<channel|>b", "a", "b"),
        ("Here is my thought process: a Here is my response: b", "a", "b"),
        ("Here's my thought process: a Here's my response: b", "a", "b"),
        (HARMONY, "Count.", "Four."),
        ("<|channel|>analysis<|message|>a<|channel|>final<|message|>b", "a", "b"),
        (
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
            "<|start|>assistant<|channel|>final<|message|>b",
            "{}",
            "b",
        ),
        ("<|channel|>final<|message|>b<|return|>", "", "b"),
        (
            "<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|>"
            "<|start|>assistant<|channel|>final<|message|>b",
            "{}",
            "b",
        ),
        ("◁think▷a◁/think▷b", "a", "b"),
        ("<seed:think>a</seed:think>b", "a", "b"),
        ("<think>a</think><answer>b</answer>", "a", "b"),
        ("<think>a</think><response>b</response>", "a", "b"),
        ("b", "", "b"),
        ("", "", ""),
        ("<think></think>b", "", "b"),
        ("<think>\n\n</think>\n\nb", "", "b"),
        ("a</think>b", "a", "b"),
        ("<think>a</think>b<think>c</think>d", "a\n\nc", "b\n\nd"),
        ("b<think>c</think>", "c", "b"),
        ("<think>a<think>b</think>c", "a\n\nb", "c"),
        ("<think>a<think>b</think>c</think>d", "a\n\nb\n\nc", "d"),
        ("<think>a</think>b</think>c", "a", "b\n\nc"),
        ("The tag `<think>` opens a trace.", "", "The tag `<think>` opens a trace."),
        ("<think>write `</think>` later</think>b", "write `</think>` later", "b"),
        ("<think>see [THINK] and <|im_start|>answer</think>b", "see [THINK] and <|im_start|>answer", "b"),
        ("Is 3 < 5? Yes, 3 < 5.", "", "Is 3 < 5? Yes, 3 < 5."),
        ("x <", "", "x <"),
        ("<answer>b</answer>", "", "<answer>b</answer>"),
        ("I think so.", "", "I think so."),
        ("Hello<|end|>", "", "Hello<|end|>"),
    ],
)
def test_complete_responses(text: str, reasoning: str, answer: str) -> None:
    split = split_reasoning(text)
    assert (split.reasoning, split.answer, split.complete) == (reasoning, answer, True)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>a", "a", ""),
        ("<think>", "", ""),
        ("<thi", "", ""),
        ("<", "", ""),
        ("<think>a</thi", "a", ""),
        ("<think>a<", "a", ""),
        ("<think>a</think>b<think>c", "a\n\nc", "b"),
        ("<think>a</thinking>b", "a</thinking>b", ""),
        ("[THINK]a", "a", ""),
        ("<|im_start|>think\na", "a", ""),
        ("<|im_start|>think\na<|im_start|>ans", "a", ""),
        ("<|channel|>analysis<|message|>a", "a", ""),
        ("<|channel|>analysis<|message|>a<|end|>", "a", ""),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant", "a", ""),
        ("<|channel|>ana", "", ""),
        ("<|channel|>analysis to=fu", "", ""),
        ("<|channel|>commentary to=functions.f <|constr", "", ""),
        ("<|channel|>commentary to=functions.f <|constrain|>js", "", ""),
        ("<|channel|>final <|mess", "", ""),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant to=functions.f", "a", ""),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant t", "a", ""),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final", "a", ""),
        ("Here is my thought process: a", "a", ""),
    ],
)
def test_incomplete_responses(text: str, reasoning: str, answer: str) -> None:
    split = split_reasoning(text)
    assert (split.reasoning, split.answer, split.complete) == (reasoning, answer, False)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer", "complete"),
    [
        ("a</think>b", "a", "b", True),
        ("a[/THINK]b", "a", "b", True),
        ("a", "a", "", False),
        ("", "", "", False),
        ("<think>a</think>b", "a", "b", True),
        ("\n<think>\na</think>b", "a", "b", True),
        ("a</thi", "a", "", False),
        ("</think>b", "", "b", True),
        ("a</think>b<think>c</think>d", "a\n\nc", "b\n\nd", True),
    ],
)
def test_opened_by_the_template(text: str, reasoning: str, answer: str, complete: bool) -> None:
    split = split_reasoning(text, opened_by_template=True)
    assert (split.reasoning, split.answer, split.complete) == (reasoning, answer, complete)


def test_tags_of_the_users_own() -> None:
    split = split_reasoning("<plan>a</plan>b", tags=[("<plan>", "</plan>")])
    assert (split.reasoning, split.answer) == ("a", "b")
    assert split_reasoning("<think>a</think>b", tags=[("<plan>", "</plan>")]).answer == "<think>a</think>b"


@pytest.mark.parametrize("tags", [[("<think>", "")], [("<x>", "<X>")], ["<think>"], [("a", "b", "c")]])
def test_wrong_tags_say_what_is_expected(tags: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidInput, match="expected a pair of different tags"):
        split_reasoning("x", tags=tags)


MARKS = [tag for pair in DEFAULT_TAGS for tag in pair] + [
    "<|end|>",
    "<|start|>assistant",
    "<answer>",
    "</response>",
    "<",
    "`",
    "[",
    "<|",
    "\n",
    " ",
    "word",
    "</",
    "é",
]


@given(st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=5)), max_size=14).map("".join), st.booleans())
def test_nothing_is_lost(text: str, opened: bool) -> None:
    split = split_reasoning(text, opened_by_template=opened)
    assert "".join(part.text for part in split.parts) == text
    assert split.reasoning == "\n\n".join(
        p.text.strip() for p in split.parts if p.kind == "reasoning" and p.text.strip()
    )
    assert split.answer == "\n\n".join(p.text.strip() for p in split.parts if p.kind == "answer" and p.text.strip())


PLAIN = st.text(alphabet="abc .,\n?é1", min_size=1, max_size=12).filter(lambda text: bool(text.strip()))
SOUP = st.lists(st.one_of(st.sampled_from(MARKS), st.text(alphabet="ab <[|`", max_size=4)), max_size=12).map("".join)


def kinds(split: Split) -> list[str]:
    """What each character is taken for."""
    return [part.kind for part in split.parts for _ in part.text]


def is_tag(text: str) -> bool:
    """Whether a text is a tag or the beginning of one, Harmony's headers included."""
    spoken = [
        *MARKS,
        "<|return|>",
        "<|call|>",
        *(f"<|{end}|>" for end in ("im_end", "endoftext", "begin_of_solution", "end_of_solution")),
    ]
    spoken += ["</answer>", "<response>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"]
    return any(tag.casefold().startswith(text.casefold()) for tag in spoken) or text.startswith(
        ("<|channel|>", "<|start|>")
    )


@settings(max_examples=300)
@given(SOUP, st.booleans())
def test_truncation_at_every_position_of_anything(text: str, opened: bool) -> None:
    """A cut changes the text before it in one way only: a closing tag that comes later makes reasoning of it."""
    whole = split_reasoning(text, opened_by_template=opened)
    final = kinds(whole)
    assert all(is_tag(part.text) for part in whole.parts if part.kind == "tag")
    closings = [*(closing.casefold() for _, closing in LITERAL_TAGS), "<|channel|>final", "<|end|>"]
    for end in range(len(text)):
        cut = split_reasoning(text[:end], opened_by_template=opened)
        assert "".join(part.text for part in cut.parts) == text[:end]
        for index, (before, after) in enumerate(zip(kinds(cut), final, strict=False)):
            if before == "reasoning":
                assert after in ("reasoning", "tag"), (text[:end], index)
            elif before == "answer" and after == "reasoning":
                assert any(closing in text[index:].casefold() for closing in closings), (text[:end], index)
        if cut.complete and not cut.answer and text[:end].strip():
            assert cut.reasoning or all(part.kind == "tag" or not part.text.strip() for part in cut.parts), text[:end]


@pytest.mark.parametrize(
    ("text", "opening"),
    [
        ("First.</think> Yes.", "<think>"),
        ("</THINK>Yes.", "<think>"),
        ("First.<|END_THINKING|>Yes.", "<|START_THINKING|>"),
        ("`</think>` is a tag. First.</think> Yes.", "<think>"),
        ("<think>First.</think> Yes.", ""),
        ("The `</think>` tag.", ""),
        ("The '</think>' tag.", ""),
        ("Here is my response: yes.", ""),
        ("<|channel|>final<|message|>Yes.", ""),
        ("Yes.", ""),
    ],
)
def test_a_closing_tag_shows_which_trace_the_template_opened(text: str, opening: str) -> None:
    assert unopened(text) == opening


@given(SOUP, st.booleans())
def test_a_response_that_ended_itself_was_not_cut_in_a_tag(text: str, opened: bool) -> None:
    split = split_reasoning(text, opened_by_template=opened, ended=True)
    assert "".join(part.text for part in split.parts) == text
    whole = [text[start:end] for start, end in tags_in(text)]
    assert all(part.text in whole for part in split.parts if part.kind == "tag")


@pytest.mark.parametrize(
    "words",
    ["Sure, here is", "in the", "H", "Oh", "a list: Here is my", "<think>a</think>so here", "Here is my thought"],
)
def test_words_that_a_tag_begins_with_too_are_an_answers_own(words: str) -> None:
    """Granite's tags are words. Words begin a tag only where they are all of a response that was cut."""
    assert split_reasoning(words, ended=True).answer == words.rpartition(">")[2]
    if words not in ("Here is my thought", "H"):
        assert split_reasoning(words).answer == words.rpartition(">")[2]
    else:
        assert not split_reasoning(words).complete


HEADERS = st.sampled_from(
    [
        "<|channel|>analysis<|message|>",
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
        "<|channel|>commentary<|message|>",
    ]
)


@given(
    st.lists(st.tuples(HEADERS, PLAIN), min_size=1, max_size=3),
    PLAIN,
    st.sampled_from(["final", "final <|constrain|>json"]),
)
def test_harmony_cut_anywhere(messages: list[tuple[str, str]], answer: str, channel: str) -> None:
    """No header's text ever passes for an answer, and nothing is answered before the final channel."""
    text = (
        "".join(f"{header}{thought}<|end|><|start|>assistant" for header, thought in messages)
        + f"<|channel|>{channel}<|message|>"
    )
    thoughts = "\n\n".join(thought.strip() for _, thought in messages)
    for end in range(len(text)):
        cut = split_reasoning(text[:end])
        assert (cut.answer, cut.complete) == ("", end == 0), text[:end]
        assert thoughts.startswith(cut.reasoning)
    whole = split_reasoning(f"{text}{answer}<|return|>")
    assert (whole.reasoning, whole.answer, whole.complete) == (thoughts, answer.strip(), True)


@pytest.mark.parametrize(
    ("text", "opened", "at"),
    [
        ("b", False, 0),
        ("<think></think>b", False, 0),
        ("<think>a</think>\n\nb", False, 18),
        ("a</think> b", True, 10),
        ("<think>a</think>No.\n\nI said No.", False, 16),
        ("<think>a</think>b<think>c</think>b", False, 33),
        ("<think>a", False, 8),
        ("<think>a</think>\n", False, 17),
    ],
)
def test_where_the_answer_begins(text: str, opened: bool, at: int) -> None:
    assert split_reasoning(text, opened_by_template=opened).answer_at == at


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize(("opening", "closing"), [tags for tags in LITERAL_TAGS if tags[0][0].isalnum()])
def test_a_tag_in_words_is_text_behind_its_trace_and_inside_it(opening: str, closing: str, opened: bool) -> None:
    trace, answer = f"I will write\n{opening} one", f"Sure.\n{opening} one\n{closing} two"
    text = f"{'' if opened else opening} {trace} {closing} {answer}"
    start = 0 if opened else len(opening)
    whole = split_reasoning(text, opened_by_template=opened)
    assert (whole.reasoning, whole.answer, whole.complete) == (trace, answer, True)
    for end in range(start, len(text)):
        cut = split_reasoning(text[:end], opened_by_template=opened)
        assert trace.startswith(cut.reasoning) and answer.startswith(cut.answer), text[:end]
    behind = len(text) - len(answer)
    assert [split_reasoning(text[:end], opened_by_template=opened).answer for end in range(behind, len(text))] == [
        text[behind:end].strip() for end in range(behind, len(text))
    ]


def test_marks_in_words_around_an_answer_are_no_part_of_it() -> None:
    split = split_reasoning("<plan>a</plan> Answer: b", (("<plan>", "</plan>", "Answer:", ""),))
    assert (split.reasoning, split.answer) == ("a", "b")


@given(st.sampled_from(LITERAL_TAGS), st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=3), st.booleans())
def test_truncation_at_every_position_never_moves_text(
    tags: tuple[str, str], rounds: list[tuple[str, str]], opened: bool
) -> None:
    opening, closing = tags
    rounds = rounds[:1] if opening[0].isalnum() else rounds  # a tag in words counts once
    text = "".join(f"{opening}{trace}{closing}{answer}" for trace, answer in rounds)
    text = text[len(opening) :] if opened else text
    whole = split_reasoning(text, opened_by_template=opened)
    assert whole.complete
    assert whole.reasoning == "\n\n".join(trace.strip() for trace, _ in rounds)
    assert whole.answer == "\n\n".join(answer.strip() for _, answer in rounds)
    for end in range(len(text)):
        cut = split_reasoning(text[:end], opened_by_template=opened)
        assert whole.reasoning.startswith(cut.reasoning), text[:end]
        # Once an answer has begun, one character of a tag could be the answer's own; of a tag in words, any could.
        known = len(opening) if opening[0].isalnum() else 1
        begun = next(
            (
                size
                for size in range(known, 0, -1)
                if cut.answer.casefold().endswith(opening[:size].casefold().rstrip())
            ),
            0,
        )
        kept = cut.answer[: len(cut.answer) - len(opening[:begun].rstrip())].strip()
        assert whole.answer.startswith(cut.answer) or whole.answer.startswith(kept), text[:end]
        if not cut.complete:
            assert end < len(text)
        if cut.complete and text[:end].strip():
            assert cut.answer or closing.casefold() in text[:end].casefold(), text[:end]


@given(st.sampled_from(DEFAULT_TAGS), PLAIN)
def test_a_trace_that_is_never_closed_has_no_answer(tags: tuple[str, str], trace: str) -> None:
    split = split_reasoning(tags[0] + trace)
    assert not split.complete
    assert split.answer == ""


@given(st.text(alphabet="abc <>[]|/`.\n", max_size=40))
def test_a_response_without_a_tag_is_all_answer(text: str) -> None:
    split = split_reasoning(text)
    if split.complete:
        assert split.reasoning == ""
        assert split.answer == text.strip() or text.strip().startswith(split.answer)


@pytest.mark.parametrize(
    ("text", "trace"),
    [
        ("<think>\nfirst. </think>\n\nyes", "first."),
        ("Well. <think>one</think> so <think>two\n</think> yes", "one</think> so <think>two"),
        ("only closed</think> yes", "only closed"),
        ("<think>\n\n</think>\n\nyes", ""),
        ("yes", ""),
        ("<think>never closed", "never closed"),
    ],
)
def test_where_the_trace_is(text: str, trace: str) -> None:
    start, end = split_reasoning(text).trace_at
    assert text[start:end] == trace
