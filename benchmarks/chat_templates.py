"""What is read from real chat templates: each model's trace format, and what `?thinking=` means to it.

    python benchmarks/chat_templates.py DIRECTORY                       # prints the table
    python benchmarks/chat_templates.py DIRECTORY --output docs/reference/chat_templates.md

DIRECTORY holds one template a file, *.jinja. No model and no tokenizer of theirs is needed: a template is text.
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

What pytest-trust reads from real chat templates, with no list of model names. Written by `python benchmarks/chat_templates.py`.

- **Read from**: `template` where the template itself renders a trace, or writes an empty one when thinking is off; `table` where it drops traces
  and speaks of tags that pytest-trust knows (`DEFAULT_TAGS`); `none` where neither holds: the whole table is then tried on each response.
- **Opening, closing**: the marks of a trace. **Around the answer**: what the template writes before and behind an answer that has a trace,
  which is no part of it.
- **Prompt**: whether the generation prompt ends inside a trace, as the template is by default.
- **`?thinking=`**: the values that change the rendered prompt, and how: by which variables, or by which word in the system message. An
  empty pair of brackets is what the template does by default. A number that the template does not take itself means on: the trace is closed
  after so many tokens. Any other value is refused.

Templates that write today's date show 1 January 2025 (`CLOCK` in `pytest_trust/models/chat_template.py`) on both sides.
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
    """Text in a table's cell, where a bar ends the cell even inside of code."""
    shown = text.replace("|", "\\|").replace("\n", "\\n")
    return f"`{shown}`" if text else ""


if __name__ == "__main__":
    main()
