"""Moral Stories (Emelin et al. 2021): a norm, and an action that keeps it beside one that breaks it.

Two forms are read. The original has one row per story, with situation and intention. The contrastive one has two rows
per story, with the norm only; their ids end in 1 for the moral and 0 for the immoral action. Actions are compared by
log-likelihood per byte (lm-evaluation-harness's acc_norm).
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_trust.catalog.public.adapter import Adapter, File, Hub, Layout, Record, Tables
from pytest_trust.catalog.public.checks import cues, known_rows, require
from pytest_trust.catalog.public.gates import errors
from pytest_trust.catalog.public.known_answers import CHECKED
from pytest_trust.probes import Probe

NAME = "public/moral_stories"
ACTIONS = {"1": "moral_action", "0": "immoral_action"}
KNOWN: dict[str, object] = {
    "9be386cee330": "moral_action",
    "1d66ba332271": "immoral_action",
    "9df5cb93c667": "moral_action",
    "b037e631d1eb": "immoral_action",
    "d264e1e09b33": "moral_action",
    "d1b7d2b26456": "immoral_action",
}
_BREAKS = (
    "steal|steals|stole|hits|hit|lies|lied|ignores|ignored|yells|yelled|throws|kicks|punches|refuses|cheats|"
    "insults|mocks|screams|slaps"
)


def read_contrastive(tables: Tables) -> list[Record]:
    stories: dict[str, dict[str, str]] = {}
    for row in tables[0]:
        name, label = row.text("ID"), row.label("label", tuple(ACTIONS))
        action = ACTIONS[label]
        if not row.has(action) or not name.endswith(label):
            raise row.error(
                "label",
                f"is {label} in row {name}, expected it to end the id and to come with {action}: the labels look "
                "inverted",
            )
        story = stories.setdefault(
            name[:-1], {"id": name[:-1], "norm": row.text("norm"), "situation": "", "intention": ""}
        )
        story[action] = row.text(action)
    for name, story in stories.items():
        missing = [action for action in ACTIONS.values() if action not in story]
        if missing:
            raise tables[0][-1].error(missing[0], f"is missing for story {name}, expected two rows a story")
    return list(stories.values())


def read_original(tables: Tables) -> list[Record]:
    return [
        {
            "id": row.text("ID"),
            **{column: row.text(column) for column in ("norm", "situation", "intention", *ACTIONS.values())},
        }
        for row in tables[0]
    ]


def probes(records: Sequence[Record]) -> list[Probe]:
    return [
        Probe(
            id=f"moral-stories-{record['id']}",
            cluster=record["norm"],
            text=" ".join(part for part in (record["norm"], record["situation"], record["intention"]) if part),
            options=(record["immoral_action"], record["moral_action"]),
            answer=record["moral_action"],
        )
        for record in records
        if record["moral_action"] != record["immoral_action"]
    ]


def check(records: Sequence[Record], probes: Sequence[Probe]) -> None:
    """Actions that break a norm mention harm more often, and known actions keep their label."""
    require(NAME, bool(probes), "has no story with two different actions")
    cues(NAME, ((option, option != probe.answer) for probe in probes for option in probe.options), _BREAKS)
    actions = [(record[action], action) for record in records for action in ACTIONS.values()]
    known_rows(NAME, actions, lambda item: item[0], lambda item: item[1], KNOWN)


ADAPTERS = (
    Adapter(
        name=NAME,
        dimension="ethics",
        title="Moral Stories",
        about="A social norm and two actions; how often the one that breaks the norm is likelier after it.",
        home=(
            "https://github.com/demelin/moral_stories, or nkiehne/contrastive_moral_stories "
            "(original_ms/action+norm/norm_distance/test.jsonl)"
        ),
        licence="MIT",
        task="choose",
        judge="choice",
        gates=(errors("immoral_preference_rate", "finds the action that breaks the norm likelier"),),
        probes=probes,
        check=check,
        layouts=(
            Layout(
                (File("test.jsonl", ("moral_stories",), ("ID", "norm", "label")),),
                read_contrastive,
                CHECKED["moral_stories"],
            ),
            Layout(
                (
                    File(
                        "moral_stories_full.jsonl",
                        ("moral_stories", "moral_stories/data"),
                        ("ID", "norm", *ACTIONS.values()),
                    ),
                ),
                read_original,
            ),
        ),
        hub=Hub(
            "demelin/moral_stories",
            "b830cf56eb00bc4edd1860dd544a192216eb3587",
            (),
            read_original,
            files=("data/moral_stories_full.jsonl",),
        ),
        normalise="bytes",
    ),
)
