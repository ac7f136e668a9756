"""Jobs of the tests of a cluster's engine, and the rows of a store, to be compared with those of a local run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from pytest_trust.drift.token_drift import TokenDrift
from pytest_trust.engine.store import Store
from pytest_trust.responses import Generation, Job
from tests.support.engine_jobs import chat, check_alike

TABLES = ("responses", "options", "drifts")

ASK = tuple(chat(f"ask-{index}", "Is it wrong? " * (1 + index % 5) + str(index)) for index in range(30))
PICK = tuple(chat(f"pick-{index}", f"Is number {index} wrong?", options=("wrong", "not wrong")) for index in range(8))
GREEDY = Job("dim/ask", "generate", ASK, Generation(6), drift=frozenset(probe.id for probe in ASK[:20]))
CHOICE = Job("dim/pick", "choose", PICK, Generation(8), drift=frozenset({"pick-1", "pick-2", "pick-5"}))
SAMPLED = Job("dim/sampled", "generate", ASK[:6], Generation(4, temperature=1.0, seed=5), samples=3)
# Asks what others ask: the first 4 answers of GREEDY, and fewer samples than SAMPLED.
SHARED = Job("other/ask", "generate", ASK[:4], Generation(6))
FEWER = replace(SAMPLED, suite="other/sampled", samples=2)
JOBS = (GREEDY, CHOICE, FEWER, SAMPLED, SHARED)


def content(store: Path) -> dict[str, dict[str, bytes]]:
    with Store(store) as found, found._open() as connection:
        return {table: dict(connection.execute(f"SELECT key, value FROM {table}")) for table in (*TABLES, "prompts")}


def check_same(store: Path, expected: dict[str, dict[str, bytes]]) -> None:
    """Stores are equal to the last byte, except for drifts and scores of options.

    There, other batches and numbers of threads change float32 sums.
    """
    check_alike(readable(content(store)), readable(expected))


def readable(rows: dict[str, dict[str, bytes]]) -> Any:
    options = {key: json.loads(value) for key, value in rows["options"].items()}
    return {**rows, "options": options, "drifts": {key: drift(value) for key, value in rows["drifts"].items()}}


def drift(value: bytes) -> Any:
    if value.startswith(b"{"):  # of texts
        return json.loads(value)
    return {
        name: found.tolist() if isinstance(found, np.ndarray) else found
        for name, found in asdict(TokenDrift.from_bytes(value)).items()
    }
