"""Progress of acquisition on the terminal: one rewritten line in a terminal, a line per phase elsewhere, nothing with -q or in a worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from pytest_trust.jobs import Progress

_DOING = {
    "load": "loading",
    "generate": "answering",
    "score": "scoring options of",
    "drift": "measuring drift on",
}


def progress_line(config: pytest.Config) -> Callable[[Progress], None] | None:
    """What the engine tells its progress to; None where nobody would see it."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or config.option.verbose < 0:
        return None
    return ProgressLine(terminal)


def note_line(config: pytest.Config) -> Callable[[str], None] | None:
    """What writes a line that stays, such as where the models run; None where nobody would see it."""
    terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or config.option.verbose < 0:
        return None

    capture: Any = config.pluginmanager.get_plugin("capturemanager")

    def write(text: str) -> None:
        # While a test is set up the terminal's own file is captured too.
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            terminal.ensure_newline()
            terminal.write_line(f"trust: {text}")
            terminal.flush()

    return write


class ProgressLine:
    """Writes through pytest's own terminal reporter, which capturing leaves alone."""

    def __init__(self, terminal: Any) -> None:
        self.terminal = terminal
        self.live = bool(getattr(terminal, "isatty", False))
        self.began: dict[tuple[str, str, str], float] = {}

    def __call__(self, progress: Progress) -> None:
        phase = (progress.model, progress.phase, progress.suite)
        started = self.began.setdefault(phase, time.monotonic())
        seconds = time.monotonic() - started
        finished = progress.done >= progress.total
        if not (self.live or finished):
            return
        name = f" {progress.suite}" if progress.suite else ""
        text = f"trust: {progress.model}: {_DOING[progress.phase]}{name}"
        if progress.total:
            text += f"  {progress.done}/{progress.total}"
        if progress.tokens and seconds > 0.5:
            text += f"  {progress.tokens / seconds:.0f} tokens/s"
        if progress.total and 0 < progress.done < progress.total and seconds > 0.5:
            text += f"  {seconds / progress.done * (progress.total - progress.done):.0f} s left"
        if self.live:
            self.terminal.rewrite(text[: self.terminal._tw.fullwidth - 1], erase=True)
            if finished:
                self.terminal.rewrite("", erase=True)
        else:
            self.terminal.ensure_newline()
            self.terminal.write_line(text)
            self.terminal.flush()  # a log that is followed shows it now
