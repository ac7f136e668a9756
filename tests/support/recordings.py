"""Jobs whose responses are recorded, and recordings that are not as they were written."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_trust.engine.engine import Engine
from pytest_trust.probes import Message, Probe
from pytest_trust.responses import Generation, Job

ASK = tuple(
    Probe(f"ask-{index}", f"ask-{index}", (Message("user", f"Is number {index} wrong?"),)) for index in range(5)
)
PICK = tuple(
    Probe(f"pick-{index}", f"pick-{index}", (Message("user", "Is it?"),), options=("yes", f"no {index}"))
    for index in range(3)
)
JOBS = (
    Job("dim/ask", "generate", ASK, Generation(8), drift=frozenset({"ask-0", "ask-3"})),
    Job("dim/pick", "choose", PICK, Generation(8), drift=frozenset({"pick-1"})),
    Job("dim/sampled", "generate", ASK[:2], Generation(6, temperature=1.0), samples=2),
)


def engine(store: Path) -> Engine:
    return Engine(store=store, device=None, dtype=None, batch_size=2)


def rewritten(
    source: Path, target: Path, change: Callable[[dict[str, Any]], None], tensors: bytes | None = None
) -> Path:
    with zipfile.ZipFile(source) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        content = archive.read("tensors.safetensors") if tensors is None else tensors
    change(manifest)
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        archive.writestr("tensors.safetensors", content)
    return target
