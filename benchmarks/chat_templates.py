"""Writes what pytest-trust reads from real chat templates: trace formats, and the values of `?thinking=`.

    python benchmarks/chat_templates.py DIRECTORY                       # prints the table
    python benchmarks/chat_templates.py DIRECTORY --output docs/reference/chat_templates.md

DIRECTORY holds one template a file, *.jinja. A template is text, so neither a model nor its tokenizer is needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_trust.models.thinking_switches import Switch, Switches, thinking_switches
from pytest_trust.models.trace_format import TraceFormat, read_trace_format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INTRODUCTION = """# Chat templates

pytest-trust reads a model's trace format and its switches for thinking from the model's own chat template, with no list
of model names. `python benchmarks/chat_templates.py` writes this page.

## Options of a prompt

- `?thinking=VALUE` takes the values of the table below. A number reaches a template that has a variable for it, and the
  trace is closed after so many tokens in any case.
- `?template.NAME=VALUE` sets any other variable of the template: `org/name?template.persona=a%20judge`. `true`,
  `false`, `null` and numbers become values of these types; other text stays text. Several may be given, also beside
  `?thinking=`. A server gets them as `chat_template_kwargs`.
- `?date=2025-03-31` sets the clock of a template that writes today's date (`strftime_now`). Without it the clock shows
  1 January 2025 on both sides, also in a recording (`CLOCK` in `pytest_trust/models/chat_template.py`). A server has a
  clock of its own.

An option that does not change the rendered prompt is refused. For a recording all of them are refused, since its
prompts are rendered already. Each option is a part of the keys under which prompts and responses are stored.

## In a report

A report names the trace format of each side (`trace_format`) and where it was read from (`trace_source`):
`its template`, `its response template` (the tokenizer's `response_template`), `the table of known formats`,
`--trust-reasoning-tags` or `none`. The terminal names them where the sides differ or a trace was seen. A recording
keeps both.

## Templates

- **Read from**: where the format was found. `template`: the template renders a trace, or its prompts show one (often an
  empty trace when thinking is off). `table`: the template drops traces, but names tags that pytest-trust knows
  (`DEFAULT_TAGS`). `none`: neither holds, so the whole table is tried on each response.
- **Opening, closing**: the marks of a trace.
- **Around the answer**: the text that the template writes before and behind an answer. It is no part of the answer.
- **Prompt**: whether the template's default generation prompt ends inside a trace.
- **`?thinking=`**: the values that change the rendered prompt. The brackets name the variables, or the word in the
  system message, that a value sets. Empty brackets mean that the template does so by default. If the template takes no
  number, a number means on, and the trace is closed after so many tokens. Any other value is refused.
"""
COLUMNS = ("Template", "Read from", "Opening", "Closing", "Around the answer", "Prompt", "`?thinking=`")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--output", type=Path, help="file to write; without it the table is printed")
    arguments = parser.parse_args()
    page = f"{INTRODUCTION}\n{table(sorted(arguments.directory.glob('*.jinja')))}"
    if arguments.output is None:
        print(page, end="")
    else:
        arguments.output.write_text(page, encoding="utf-8")


def table(paths: list[Path]) -> str:
    tokenizer = any_tokenizer()
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for path in paths:
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        rows.append(row(path.stem, read_trace_format(tokenizer), thinking_switches(tokenizer)))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def any_tokenizer() -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")


def row(name: str, found: TraceFormat, switches: Switches) -> tuple[str, ...]:
    around = (
        " … ".join(map(code, (found.answer_opening, found.answer_end)))
        if found.answer_opening
        else code(found.answer_end)
    )
    values = [f"{value} ({means(switch)})" for value, switch in switches.known.items()]
    values += [f"a number ({code(f'{switches.budget}=N')})"] if switches.budget else []
    opens = "opens a trace" if found.opens_in_prompt else ""
    return (
        name,
        found.source,
        code(found.opening),
        code(found.closing),
        around,
        opens,
        "<br>".join(values) or "no switch",
    )


def means(switch: Switch) -> str:
    settings = [code(f"{name}={value}") for name, value in switch.settings]
    return ", ".join(settings + ([f"{code(switch.system)} in the system message"] if switch.system else []))


def code(text: str) -> str:
    """Text as code in a cell of a table. A bar is escaped, since it would end the cell even inside code."""
    shown = text.replace("|", "\\|").replace("\n", "\\n")
    return f"`{shown}`" if text else ""


if __name__ == "__main__":
    main()
