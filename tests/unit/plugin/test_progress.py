"""What is shown of a running acquisition: in a terminal, in a log, and by the controller of several workers."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _pytest._io import TerminalWriter

from pytest_trust.plugin.progress import ProgressLine, WorkerProgress, WorkersProgress
from pytest_trust.responses import Progress

START = Progress("base", "generate", "", 100, 600, 0)


class Screen:
    """As much of pytest's terminal reporter as is written to, over a real writer of `width` columns."""

    def __init__(self, isatty: bool, width: int = 100) -> None:
        self.isatty, self.file = isatty, io.StringIO()
        self._tw = TerminalWriter(self.file)
        self._tw.fullwidth = width

    def rewrite(self, line: str, erase: bool = False) -> None:
        self._tw.write("\r" + line + " " * (self._tw.fullwidth - len(line) - 1) * erase)

    def ensure_newline(self) -> None:
        pass

    def write_line(self, line: str) -> None:
        self._tw.line(line)

    def flush(self) -> None:
        self._tw.flush()

    def lines(self) -> list[str]:
        text = self.file.getvalue()
        return text.split("\r")[1:] if self.isatty else text.splitlines()


Shown = tuple[Screen, Any]


@pytest.fixture
def shown(request: pytest.FixtureRequest) -> Shown:
    """A screen, and how to tell its line something at a second."""
    screen = Screen(**request.param)
    now = 0.0
    line = ProgressLine(screen, clock=lambda: now)

    def tell(second: float, progress: Progress) -> None:
        nonlocal now
        now = second
        line(progress)

    tell.line = line  # type: ignore[attr-defined]
    return screen, tell


terminal = pytest.mark.parametrize("shown", [{"isatty": True}], indirect=True)
log = pytest.mark.parametrize("shown", [{"isatty": False}], indirect=True)


@terminal
def test_a_terminal_has_one_bar_that_is_rewritten_and_goes(shown: Shown) -> None:
    screen, tell = shown
    tell(10, START)
    tell(20, replace(START, done=300, tokens=4210))
    tell(50, replace(START, done=600, tokens=16000))
    assert [line.rstrip() for line in screen.lines()] == [
        "trust: base: answering [===                 ] 100/600",
        "trust: base: answering [==========          ] 300/600  421 tokens/s  15 s left",
        "",
        "",
    ]
    assert [len(line) for line in screen.lines()] == [
        99,
        99,
        99,
        0,
    ]  # the line before is erased, and the next text begins it
    assert "\n" not in screen.file.getvalue()


@terminal
def test_a_phase_that_fails_leaves_no_bar(shown: Shown) -> None:
    screen, tell = shown
    tell(10, START)
    tell.line.stop()
    tell.line.stop()
    assert [line.rstrip() for line in screen.lines()[1:]] == ["", ""]


@pytest.mark.parametrize("shown", [{"isatty": True, "width": 70}], indirect=True)
def test_a_narrow_terminal_has_a_shorter_bar_or_none(shown: Shown) -> None:
    screen, tell = shown
    tell(0, START)
    tell(3, replace(START, done=300, tokens=4210))
    screen._tw.fullwidth = 40
    tell(6, replace(START, done=400, tokens=8000))
    assert [line.rstrip() for line in screen.lines()] == [
        "trust: base: answering [===                 ] 100/600",
        "trust: base: answering [=====      ] 300/600  1403 tokens/s  4 s left",
        "trust: base: answering 400/600  1333 to",
    ]


@log
def test_a_log_has_a_line_at_the_start_one_every_half_minute_and_one_at_the_end(shown: Shown) -> None:
    screen, tell = shown
    for second in range(0, 100, 2):
        tell(second, replace(START, done=100 + 4 * second, tokens=second * 50, made=4 * second))
    tell(125, replace(START, done=600, tokens=5000, made=500))
    assert screen.lines() == [
        "trust: base: answering 100/600",
        "trust: base: answering 220/600  50 tokens/s  95 s left",
        "trust: base: answering 340/600  50 tokens/s  65 s left",
        "trust: base: answering 460/600  50 tokens/s  35 s left",
        "trust: base: answering 600/600  40 tokens/s  took 2 min",
    ]


@log
def test_each_phase_of_each_model_has_its_own_lines(shown: Shown) -> None:
    screen, tell = shown
    loading = Progress("base", "load", "", 0, 1, 0)
    tell(0, loading)
    tell(3, replace(loading, done=1))
    tell(3, replace(START, phase="score", done=0))
    tell(4, replace(START, phase="score", done=600, tokens=90))
    tell(4, replace(START, model="candidate", phase="drift", done=0, total=2))
    tell(5, replace(START, model="candidate", phase="drift", done=2, total=2))
    assert screen.lines() == [
        "trust: base: loading",
        "trust: base: loading  took 3 s",
        "trust: base: scoring options of 0/600",
        "trust: base: scoring options of 600/600  90 tokens/s  took 1 s",
        "trust: candidate: measuring drift on 0/2",
        "trust: candidate: measuring drift on 2/2  took 1 s",
    ]


@log
def test_the_end_of_another_phase_does_not_begin_the_shown_one_anew(shown: Shown) -> None:
    screen, tell = shown
    tell(0, replace(START, done=0))
    tell(10, replace(START, model="candidate", done=600))
    tell(12, replace(START, done=60))
    tell(20, replace(START, done=600, tokens=100))
    assert screen.lines() == [
        "trust: base: answering 0/600",
        "trust: candidate: answering 600/600",
        "trust: base: answering 600/600  5 tokens/s  took 20 s",
    ]


@log
def test_what_was_in_the_store_says_nothing_about_the_time_that_is_left(shown: Shown) -> None:
    screen, tell = shown
    tell(0, replace(START, done=500))
    tell(30, replace(START, done=550))
    assert screen.lines()[-1].endswith("550/600  30 s left")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.6, "1 s"), (99.4, "99 s"), (100, "2 min"), (3599, "1 h 0 min"), (4 * 3600 + 150, "4 h 2 min")],
)
@log
def test_durations(shown: Shown, seconds: float, words: str) -> None:
    screen, tell = shown
    loading = Progress("base", "load", "", 0, 1, 0)
    tell(0, loading)
    tell(seconds, replace(loading, done=1))
    assert screen.lines()[-1] == f"trust: base: loading  took {words}"


class Line(ProgressLine):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.told.append(progress)

    def stop(self) -> None:
        pass


@pytest.fixture
def run() -> Iterator[tuple[WorkersProgress, list[Progress], Callable[[str], WorkerProgress]]]:
    line = Line()
    controller = WorkersProgress(line)
    yield controller, line.told, lambda name: WorkerProgress(controller.directory, name)
    controller.stop()


@terminal
def test_a_bar_of_workers_that_are_gone_is_erased(shown: Shown) -> None:
    screen, tell = shown
    controller = WorkersProgress(tell.line)
    WorkerProgress(controller.directory, "gw0")(START)
    controller.look()
    controller.lost("gw0")
    controller.look()
    controller.stop()
    assert [line.strip() for line in screen.lines()] == [
        "trust: base: answering [===                 ] 100/600",
        "",
        "",
    ]


def test_the_controller_shows_the_sum_of_its_workers(run: Any) -> None:
    controller, told, worker = run
    one, two = worker("gw0"), worker("gw1")
    one(START)
    controller.look()
    assert told == [START]
    one(replace(START, done=140, made=40, tokens=800))
    two(replace(START, done=130))  # it began later, and found some of the first one's in the store
    two(replace(START, done=160, made=30, tokens=500))
    controller.look()
    assert (told[-1].done, told[-1].total, told[-1].tokens) == (170, 600, 1300)
    one(replace(START, done=600, made=40, tokens=800))  # it has waited for the others
    controller.look()
    controller.look()
    assert [progress.done for progress in told] == [100, 170, 600]


def test_a_phase_that_was_over_between_two_looks_has_its_end_shown(run: Any) -> None:
    controller, told, worker = run
    for one in (worker("gw0"), worker("gw1")):
        one(START)
        one(replace(START, done=600, made=500))
        one(replace(START, model="candidate", done=0))
    controller.look()
    assert [(progress.model, progress.done) for progress in told] == [("base", 600), ("candidate", 0)]


def test_the_next_round_of_a_phase_is_shown_too(run: Any) -> None:
    controller, told, worker = run
    one = worker("gw0")
    for done, total, made in ((0, 10, 0), (10, 10, 10), (10, 20, 0), (15, 20, 5), (20, 20, 10)):
        one(replace(START, done=done, total=total, made=made))
        controller.look()
    assert [(progress.done, progress.total) for progress in told] == [(0, 10), (10, 10), (10, 20), (15, 20), (20, 20)]


def test_the_controller_shows_the_earliest_phase_that_a_worker_is_at_and_ends_those_that_are_left(run: Any) -> None:
    controller, told, worker = run
    one, two = worker("gw0"), worker("gw1")
    for begun in (one, two):
        begun(Progress("base", "load", "", 0, 1, 0))
    one(Progress("base", "load", "", 1, 1, 0))
    controller.look()
    assert (told[-1].phase, told[-1].done, told[-1].total) == ("load", 1, 2)
    one(START)
    controller.look()
    assert told[-1].phase == "load"
    two(Progress("base", "load", "", 1, 1, 0))
    two(START)
    controller.look()
    assert [(shown.phase, shown.done) for shown in told[-2:]] == [("load", 2), ("generate", 100)], told
    for begun in (one, two):
        begun(replace(START, model="candidate", done=0))
    controller.look()
    assert [(shown.model, shown.done) for shown in told[-2:]] == [("base", 600), ("candidate", 0)]


def test_a_lost_worker_is_not_waited_for(run: Any) -> None:
    controller, told, worker = run
    one, two = worker("gw0"), worker("gw1")
    two(Progress("base", "load", "", 0, 1, 0))
    one(START)
    controller.look()
    controller.lost("gw1")
    controller.lost("gw7")  # it never wrote anything
    controller.look()
    assert told[-1] == START


def test_a_worker_that_fails_is_not_waited_for(run: Any) -> None:
    controller, told, worker = run
    one, two = worker("gw0"), worker("gw1")
    two(Progress("base", "load", "", 0, 1, 0))
    one(START)
    two.stop()
    two.stop()
    controller.look()
    assert told == [START]


def test_a_file_that_cannot_be_read_or_written_stops_nobody(run: Any, tmp_path: Path) -> None:
    controller, told, worker = run
    worker("gw0")(START)
    (controller.directory / "gw1.json").write_text('[{"model": "ba')
    controller.look()
    assert told == [START]
    WorkerProgress(tmp_path / "on another machine", "gw2")(START)
    assert os.listdir(tmp_path) == []


def test_stopping_leaves_nothing(run: Any) -> None:
    controller, _, worker = run
    controller.start()
    worker("gw0")(START)
    controller.stop()
    assert not controller.directory.exists()
    assert not controller._thread.is_alive()
