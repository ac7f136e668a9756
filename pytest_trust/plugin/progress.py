"""Progress of acquisition: a bar in a terminal, a few plain lines in a log, nothing with -q.

Under xdist the controller shows the progress. xdist has no channel for such messages while a worker works. So each
worker writes its progress to a file in a directory of the run, and a thread of the controller reads these files.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_trust.responses import Progress

_DOING = {
    "load": "loading",
    "generate": "answering",
    "score": "scoring options of",
    "drift": "measuring drift on",
}
_LOG_SECONDS = 30.0  # least time between two lines of a log, but for the first and the last of a phase
_LOOK_SECONDS = 0.5  # time between two looks at the workers' files
_BAR = 20  # characters of a bar
_WORTH_A_RATE = 0.5  # seconds of work before a rate is shown
DIRECTORY = "trust_progress"
"""The key of xdist's `workerinput` that holds the directory."""


def progress_line(config: pytest.Config) -> ProgressLine | WorkerProgress | None:
    """The receiver of the engine's progress; None where nobody would see it."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        return WorkerProgress(Path(worker[DIRECTORY]), worker["workerid"]) if DIRECTORY in worker else None
    terminal, capture = _terminal(config), config.pluginmanager.get_plugin("capturemanager")
    if terminal is None:
        return None
    return ProgressLine(terminal, shown=capture.global_and_fixture_disabled if capture else nullcontext)


def watch_workers(config: pytest.Config) -> WorkersProgress | None:
    """The controller's view of its workers' progress; None where nobody would see it."""
    terminal = _terminal(config)
    return None if terminal is None else WorkersProgress(ProgressLine(terminal))


def _terminal(config: pytest.Config) -> Any:
    return config.pluginmanager.get_plugin("terminalreporter") if config.option.verbose >= 0 else None


def note_line(config: pytest.Config) -> Callable[[str], None] | None:
    """A function that writes a lasting line, such as where the models run; None where nobody would see it."""
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
    """Progress written through pytest's own terminal reporter.

    Args:
        terminal: pytest's terminal reporter.
        clock: a monotonic clock, in seconds.
        shown: a context in which pytest captures nothing. In a run with one process the models work in the set-up of a
            test, whose output pytest captures.
    """

    def __init__(
        self,
        terminal: Any,
        *,
        clock: Callable[[], float] = time.monotonic,
        shown: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._terminal, self._clock, self._shown = terminal, clock, shown
        self._live = bool(getattr(terminal, "isatty", False))
        self._phase: tuple[str, ...] = ()
        self._began = self._written = 0.0
        self._first = Progress("", "load", "", 0, 0, 0)

    def __call__(self, progress: Progress) -> None:
        now, first, finished = self._clock(), _phase(progress) != self._phase, progress.done >= progress.total
        if first and finished and self._phase:  # another phase has ended; the one that is shown goes on
            if not self._live:
                self._write(progress, 0.0)
            return
        if first:
            self._phase, self._began, self._first = _phase(progress), now, progress
        seconds = now - self._began
        if self._live:
            self._rewrite("" if finished else self._bar(progress, seconds))
        elif first or finished or now - self._written >= _LOG_SECONDS:
            self._written = now
            self._write(progress, seconds)
        if finished:
            self._phase = ()

    def stop(self) -> None:
        """Remove the bar of a phase that will not be finished."""
        if self._live and self._phase:
            self._rewrite("")
        self._phase = ()

    def _write(self, progress: Progress, seconds: float) -> None:
        with self._shown():
            self._terminal.ensure_newline()
            self._terminal.write_line(" ".join([_subject(progress), *self._numbers(progress, seconds)]))
            self._terminal.flush()  # for whoever follows the log

    def _rewrite(self, text: str) -> None:
        with self._shown():
            self._terminal.ensure_newline()
            self._terminal.rewrite(text, erase=True)
            if not text:
                self._terminal.rewrite("")  # what is written next begins the line
            self._terminal.flush()

    def _bar(self, progress: Progress, seconds: float) -> str:
        subject, numbers = _subject(progress), self._numbers(progress, seconds)
        width = self._terminal._tw.fullwidth - 1
        room = min(_BAR, width - len(" ".join([subject, "[]", *numbers])))
        filled = room * progress.done // max(1, progress.total)
        bar = [f"[{'=' * filled}{' ' * (room - filled)}]"] if progress.total > 1 and room >= _BAR // 2 else []
        return " ".join([subject, *bar, *numbers])[:width]

    def _numbers(self, progress: Progress, seconds: float) -> list[str]:
        finished, loads = progress.done >= progress.total, progress.phase == "load"
        numbers = [] if loads and progress.total == 1 else [f"{progress.done}/{progress.total}"]
        if seconds > _WORTH_A_RATE:
            made, tokens = progress.done - self._first.done, progress.tokens - self._first.tokens
            if tokens:
                numbers.append(f" {tokens / seconds:.0f} tokens/s")
            if finished:
                numbers.append(f" took {_duration(seconds)}")
            elif made > 0 and not loads:
                numbers.append(f" {_duration(seconds / made * (progress.total - progress.done))} left")
        return numbers


class WorkerProgress:
    """A worker's side: it keeps the last progress of each phase in a file of its own."""

    def __init__(self, directory: Path, worker: str) -> None:
        self._path = directory / f"{worker}.json"
        self._phases: dict[tuple[str, ...], Progress] = {}
        self._had: dict[tuple[str, ...], int] = {}

    def __call__(self, progress: Progress) -> None:
        phase = _phase(progress)
        if progress.made == 0:  # the phase begins, for the first time or for the next round of --trust-sequential
            self._had[phase] = progress.done
        self._phases.pop(phase, None)
        self._phases[phase] = progress  # the present phase comes last
        rows = [{**asdict(one), "had": self._had.get(name, 0)} for name, one in self._phases.items()]
        draft = self._path.with_suffix(".draft")
        with suppress(OSError):  # a worker on another machine, or a full disk; the results matter, not the progress
            draft.write_text(json.dumps(rows), encoding="utf-8")
            os.replace(draft, self._path)

    def stop(self) -> None:
        """Remove the file: this worker's phase will not be finished."""
        with suppress(OSError):
            self._path.unlink()


class WorkersProgress:
    """The controller's side: one line for all workers, until `stop`."""

    def __init__(self, line: ProgressLine) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pytest-trust-"))
        self._line = line
        self._ended: set[tuple[str, ...]] = set()
        self._stopped = threading.Event()
        # The controller's own thread is inside xdist's loop, which calls no hook while workers work. Each write to the
        # terminal is one call, so the two threads' lines do not mix.
        self._thread = threading.Thread(target=self._watch, name="pytest-trust progress", daemon=True)

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """Show the last progress, and remove the directory."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
            self.look()
            self._line.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def lost(self, worker: str) -> None:
        """Remove the file of a worker that has ended."""
        (self.directory / f"{worker}.json").unlink(missing_ok=True)

    def look(self) -> None:
        """Show the end of every phase that has ended, and the earliest phase that a worker works on."""
        workers = []
        for path in sorted(self.directory.glob("*.json")):
            with suppress(OSError, ValueError):
                workers.append(json.loads(path.read_text(encoding="utf-8")))
        current = None
        for progress, open_ in merged(workers):
            if not open_:
                if _phase(progress) not in self._ended:
                    self._ended.add(_phase(progress))
                    self._line(replace(progress, done=progress.total))
            elif current is None and progress.done < progress.total:
                self._ended.discard(_phase(progress))  # the next round of --trust-sequential
                current = progress
        if current is not None:
            self._line(current)
        else:
            self._line.stop()

    def _watch(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            self.look()


def merged(workers: Sequence[Sequence[dict[str, Any]]]) -> list[tuple[Progress, bool]]:
    """Each phase in order, with the sum of the workers' progress (see `WorkerProgress`), and whether a worker works or
    will work on it.

    The number done is what was there before any worker began, and what each has made since.
    """
    phases = dict.fromkeys(_key(row) for rows in workers for row in rows)
    at = {_key(rows[-1]) for rows in workers}
    found = []
    for key in phases:
        rows = [row for one in workers for row in one if _key(row) == key]
        first, made = rows[0], sum(row["made"] for row in rows)
        if first["phase"] == "load":  # each worker loads its own model
            done, total = sum(row["done"] for row in rows), sum(row["total"] for row in rows)
        else:
            total = max(row["total"] for row in rows)
            done = min(total, max(min(row["had"] for row in rows) + made, *(row["done"] for row in rows)))
        tokens = sum(row["tokens"] for row in rows)
        progress = Progress(first["model"], first["phase"], first["suite"], done, total, tokens, made)
        found.append((progress, done < total and (key in at or len(rows) < len(workers))))
    return found


def _phase(progress: Progress) -> tuple[str, ...]:
    return progress.model, progress.phase, progress.suite


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return row["model"], row["phase"], row["suite"]


def _subject(progress: Progress) -> str:
    return f"trust: {progress.model}: {' '.join(filter(None, (_DOING[progress.phase], progress.suite)))}"


def _duration(seconds: float) -> str:
    """A duration in one or two units: 45 s, 3 min, 1 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
