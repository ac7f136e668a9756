"""Actors on a Ray cluster that do chunks of work. This is the only module that imports Ray.

Ray Data's actor pools scale and retry too. But they do not run the longest rows first, they do not tell a dead actor
from an error of its model, and they do not hand back a block's result before they ask for the next.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_trust.audit.ray.shipments import Chunk, Done, ReadTexts, Texts
from pytest_trust.audit.ray.worker import Settings, Worker
from pytest_trust.errors import TrustError
from pytest_trust.models.files import first_line

ATTEMPTS = 3  # at a chunk whose actor or node dies
_LOOK = 1.0  # seconds between looks at the cluster's nodes
_PATIENCE = 600  # seconds to wait for a first actor: an autoscaled cluster needs minutes to start a node
_ANSWER = 10  # seconds to wait for the answer of a cluster's head
_GOODBYE = 5  # seconds to wait until actors have removed their files


@dataclass(frozen=True, slots=True)
class Connection:
    """A Ray cluster that this process is connected to.

    `text`: the cluster and its resources, in words. `gpus`: whether it has any.
    `memory`: bytes that the largest node has for actors, 0 where Ray does not know.
    `ours`: whether this process connected, and so must disconnect.
    """

    text: str
    gpus: bool
    memory: int
    ours: bool

    def close(self) -> None:
        if self.ours:
            import ray

            ray.shutdown()


def connect() -> Connection:
    """Join the cluster at `RAY_ADDRESS`, else the one that runs on this machine; start one where there is none.

    Raises:
        TrustError: Ray is not installed, or no cluster answers at the address.
    """
    try:
        import ray
    except ImportError:
        raise TrustError("Ray is not installed: pip install 'pytest-trust[ray]'") from None
    ours, started = not ray.is_initialized(), False
    named = os.environ.get("RAY_ADDRESS", "")
    if ours:
        try:
            started = not _names_a_cluster(named) and _started()
            if _names_a_cluster(named) and "://" not in named:
                _knock(named)
            if not started:
                ray.init("auto", log_to_driver=False, logging_level=logging.CRITICAL)
        except (OSError, RuntimeError, ValueError) as error:
            where = f"RAY_ADDRESS={named}" if named else "the running Ray cluster of this machine"
            raise TrustError(
                f"{where}: no cluster answers ({first_line(error)}): start it, "
                "or unset RAY_ADDRESS (or set it to local) for one of this process's own"
            ) from None
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    gpus = int(total.get("GPU", 0))
    counts = {"node": len(nodes), "CPU": int(total.get("CPU", 0)), "GPU": gpus}
    parts = [f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items() if count or name != "GPU"]
    where = named if "://" in named else ray.get_runtime_context().gcs_address
    what = "a Ray cluster of this process's own" if started else f"the Ray cluster at {where}"
    memory = max((int(node["Resources"].get("memory", 0)) for node in nodes), default=0)
    return Connection(f"{what} ({', '.join(parts)})", gpus > 0, memory, ours)


def _names_a_cluster(address: str) -> bool:
    return address not in ("", "auto", "local")


def _knock(address: str) -> None:
    """Raise OSError or ValueError where nobody listens at the address.

    Ray itself would try for minutes and write about it to the terminal.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER):
        pass


def _started() -> bool:
    """Start a cluster here unless one runs already. Returns whether it was started."""
    import ray

    # With `ray start` the user chooses whether Ray reports usage. Nobody chose for this cluster: it reports nothing.
    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        # Only a new cluster takes `resources`. Ray raises ValueError, without connecting, when a cluster runs already.
        ray.init(resources={}, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
        return True
    except ValueError:
        return False
    finally:
        if before is None:
            os.environ.pop("RAY_USAGE_STATS_ENABLED", None)
        else:
            os.environ["RAY_USAGE_STATS_ENABLED"] = before


def share(content: bytes) -> Any:
    """A promise of the content, which every actor can fetch. Ray copies the content to each node once."""
    import ray

    return ray.put(content)


def fetched(promise: Any) -> bytes:
    """The content behind a promise of `share`. Called in an actor."""
    import ray

    content: bytes = ray.get(promise)
    return content


class Actors:
    """As many actors as there is work for and as the cluster's nodes have room for.

    Their number follows the nodes that join and die. Each actor does one chunk at a time. While chunks wait, one actor
    more than the nodes have room for is requested, because that tells Ray's autoscaler to start a node.

    `needs`: what one actor takes of a node, by Ray's names (`CPU`, `GPU`, `memory` in bytes).
    `worker`: the class that an actor is an object of. `patience`: seconds to wait while there is no actor.
    """

    def __init__(
        self,
        settings: Settings,
        needs: Mapping[str, float],
        *,
        worker: type[Worker] = Worker,
        patience: float = _PATIENCE,
    ) -> None:
        import ray

        self.needs = dict(needs)
        self._ray: Any = ray
        self._settings = settings
        self._patience = patience
        self._remote: Any = ray.remote(worker).options(
            num_cpus=needs.get("CPU", 0),
            num_gpus=needs.get("GPU", 0),
            memory=needs.get("memory"),
            scheduling_strategy="SPREAD",
        )
        self._idle: list[Any] = []
        # Actors that were asked whether they are ready, by the promise of the answer; beside each, whether it is new.
        self._greeted: dict[Any, tuple[Any, bool]] = {}
        # Actors at work, by the promise of the result; beside each, its chunk and the number of the attempt.
        self._busy: dict[Any, tuple[Any, Chunk | Texts, int]] = {}
        self._not_started = 0  # new actors that died in succession
        self._last_seen = time.monotonic()

    def room(self) -> int:
        """How many actors the nodes could hold if nothing else ran on them."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(min(int(node.get(name, 0) // amount) for name, amount in self.needs.items()) for node in nodes)

    def run(self, chunks: Iterable[Chunk | Texts]) -> Generator[tuple[Chunk | Texts, Done | ReadTexts]]:
        """Do the chunks, and yield each with its result as soon as it is finished.

        A caller that stores each result at once loses nothing when this ends early.

        Raises:
            TrustError: the model's code failed on a chunk, a chunk's actors died three times, or there is no actor.
        """
        waiting = deque((chunk, 1) for chunk in chunks)
        self._last_seen = time.monotonic()
        self._greet()
        try:
            while waiting or self._busy:
                self._grow(len(waiting))
                while waiting and self._idle:
                    actor, (chunk, attempt) = self._idle.pop(), waiting.popleft()
                    work = actor.read if isinstance(chunk, Texts) else actor.run
                    self._busy[work.remote(chunk)] = actor, chunk, attempt
                ready, _ = self._ray.wait([*self._busy, *self._greeted], num_returns=1, timeout=_LOOK)
                for promise in ready:
                    if promise in self._greeted:
                        self._welcome(promise)
                        continue
                    actor, chunk, attempt = self._busy.pop(promise)
                    done = self._result(promise)
                    if done is not None:
                        self._idle.append(actor)
                        yield chunk, done
                        continue
                    # The actor may be alive but out of reach. It must not do the chunk beside its successor.
                    self._ray.kill(actor)
                    if attempt == ATTEMPTS:
                        raise TrustError(
                            f"{chunk.suites}: {ATTEMPTS} actors in a row died on the same {chunk.items} items: "
                            "look in Ray's logs for memory that ran out, or give a smaller --trust-batch-size"
                        )
                    waiting.appendleft((chunk, attempt + 1))
                    self._greet()
                self._check_patience()
        except BaseException:
            self.close()
            raise
        self._call_off()

    def close(self) -> None:
        """End all actors. Idle ones remove their files first."""
        gone = [actor.close.remote() for actor in self._idle]
        if gone:
            self._ray.wait(gone, num_returns=len(gone), timeout=_GOODBYE)
        for actor in [*self._idle, *(entry[0] for entry in (*self._greeted.values(), *self._busy.values()))]:
            self._ray.kill(actor)
        self._idle, self._greeted, self._busy = [], {}, {}

    def _grow(self, waiting: int) -> None:
        have = len(self._idle) + len(self._greeted) + len(self._busy)
        for _ in range(have, min(waiting + len(self._busy), self.room() + 1)):
            actor = self._remote.remote(self._settings, fetched)
            self._greeted[actor.ready.remote()] = actor, True

    def _greet(self) -> None:
        """Ask idle actors whether they are alive: when a node dies, all of its actors do."""
        for actor in self._idle:
            self._greeted[actor.ready.remote()] = actor, False
        self._idle = []

    def _welcome(self, promise: Any) -> None:
        actor, new = self._greeted.pop(promise)
        try:
            self._ray.get(promise)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self._ray.exceptions.RayError as error:
            self._ray.kill(actor)
            self._not_started += new
            if self._not_started == ATTEMPTS:
                raise TrustError(
                    f"no actor starts on the Ray cluster ({_last_line(error)}): "
                    f"every node needs pytest-trust {self._settings.version} with its dependencies"
                ) from None
            return
        self._not_started = 0
        self._idle.append(actor)

    def _call_off(self) -> None:
        """Withdraw the requests for actors that no node has room for."""
        spare = len(self._idle) + len(self._greeted) - self.room()
        for promise in [promise for promise, (_, new) in self._greeted.items() if new][-spare:] if spare > 0 else []:
            self._ray.kill(self._greeted.pop(promise)[0])

    def _result(self, promise: Any) -> Done | ReadTexts | None:
        """The result of a chunk; None when its actor or node died."""
        try:
            done: Done | ReadTexts = self._ray.get(promise)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self._ray.exceptions.RayError:
            return None
        return done

    def _check_patience(self) -> None:
        if self._idle or self._busy:
            self._last_seen = time.monotonic()
        elif time.monotonic() - self._last_seen > self._patience:
            wanted = " and ".join(_amount(name, amount) for name, amount in self.needs.items())
            raise TrustError(
                f"no node of the Ray cluster gave an actor {wanted} in {self._patience:.0f} s: "
                "free or add one, or choose another --trust-device"
            )


def _cause(error: Any) -> BaseException:
    """The error that an actor's code raised: a TrustError itself, any other in Ray's wrapper, which shows where."""
    found: BaseException = error.cause if isinstance(error.cause, TrustError) else error
    return found


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def _amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB of memory" if name == "memory" else f"{amount:g} {name}"
