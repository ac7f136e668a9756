"""Ray clusters of several nodes on this machine, apart from any other that runs on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@contextmanager
def ray_directory() -> Iterator[str]:
    """A directory for Ray's files. Its path is short, because a socket's path must be.

    It is on the command line of Ray's processes.
    """
    directory = tempfile.mkdtemp(prefix="r", dir="/tmp")
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """A head that computes nothing; `add_node(**NODE)` adds to it."""
    from ray.cluster_utils import Cluster

    with ray_directory() as directory, pytest.MonkeyPatch.context() as environment:
        # Ray notes there which cluster runs on this machine: a user's own stays the one that is found.
        environment.setenv("RAY_TMPDIR", directory)
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
        try:
            yield cluster
        finally:
            cluster.shutdown()
