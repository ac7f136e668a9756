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

This table shows what pytest-trust reads from real chat templates, with no list of model names.
`python benchmarks/chat_templates.py` writes this page.

- **Read from**: where the format was found. `template`: the template renders a trace, or its prompts show one (often an
  empty trace when thinking is off). `table`: the template drops traces, but names tags that pytest-trust knows
  (`DEFAULT_TAGS`). `none`: neither holds, so the whole table is tried on each response.
- **Opening, closing**: the marks of a trace.
- **Around the answer**: the text that the template writes before and behind an answer. It is no part of the answer.
- **Prompt**: whether the template's default generation prompt ends inside a trace.
- **`?thinking=`**: the values that change the rendered prompt. The brackets name the variables, or the word in the
  system message, that a value sets. Empty brackets mean that the template does so by default. If the template takes no
  number, a number means on, and the trace is closed after so many tokens. Any other value is refused.

A template that writes today's date shows 1 January 2025 on both sides (`CLOCK` in
`pytest_trust/models/chat_template.py`).
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
