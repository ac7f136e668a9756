"""A choose job on a random model that has traces on two of its probes."""

from __future__ import annotations

from pathlib import Path

from pytest_trust.models.reference import Reference, parse_reference
from pytest_trust.probes import Probe
from pytest_trust.responses import Generation, Job
from tests.support.engine_jobs import chat
from tests.support.tiny_models import save_model

# What the random model writes greedily for two of the probes serves as its tags, so these two have traces.
TAGS = (("here here", "orry num"), ("oundk", "div"))
OPTIONS = ("wrong", "not wrong", "wrong again")
PROBES = tuple(
    chat(f"probe-{index}", text, options=OPTIONS, answer="wrong")
    for index, text in enumerate(
        ["Is it wrong?", "The dog jumps over it.", "add the numbers, then divide", "Sorry, I cannot help", "morning"]
    )
)
RAW = Probe("raw", "raw", text="It is", options=OPTIONS, answer="wrong")
JOB = Job("dim/pick", "choose", (*PROBES, RAW), Generation(16, reasoning_budget=48, closes=False))
TRACED = {"probe-0", "probe-2"}


def traced_model(directory: Path) -> Reference:
    return parse_reference(str(save_model(directory, seed=3, scale=3.0)))
