"""A model behind an OpenAI-compatible server (`http://host:port/v1#model`): what it is by its own word, and its answers in the store.

The server renders the prompts, so an answer's key in the store is made of the probe as it is asked (messages or text), the sampling settings and the
server's description of its model. Weights behind a server cannot be hashed: the report says so. A model that changes while a run
goes on is an error: every answer names its model and the description is read again before anything is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_trust.engine.server.client import Client, Rejected, ServerError
from pytest_trust.engine.server.protocol import Answer, Asking, answer_of, asking_of
from pytest_trust.engine.store import Store, Table, context_of
from pytest_trust.keys import digest, portable_key
from pytest_trust.models.identity import ModelIdentity
from pytest_trust.models.reference import Reference
from pytest_trust.responses import Job, Phase

if TYPE_CHECKING:
    from pytest_trust.engine.server.options import OptionScorer
    from pytest_trust.probes import Probe
    from pytest_trust.responses import OptionScores

_KEYS = 1  # of the store's keys: raise it when what a key stands for changes
# Of a server's entry for a model: what differs between two starts of one model, or says nothing about it.
_ENTRY_NOISE = ("created", "permission", "status", "object", "n_ctx")
_NO_LIST = (404, 405, 500, 501)  # 500 is transformers' server without the hub; busy ones say 429 or 503
ITS_WORD = "behind a server: its fingerprint is the server's word, as weights cannot be hashed from here"
UNDESCRIBED = "the server describes no models, so a change of the model shows only in its name"
OWN_SAMPLING = "the server takes neither top_k nor min_p nor repetition_penalty: what it sets for itself is applied"
NO_LOGPROBS = "this server does not return log-probabilities"
_LOGPROBS, _PROMPT_IDS, _NO_READING = (
    "log-probabilities",
    "token ids of prompts",
    "no log-probabilities of a given text",
)

Tell = Callable[[Reference, Phase, str, int, int, int], None]
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One response to ask for, and where it is kept."""

    key: str
    suite: str
    asking: Asking


class StoredAnswers:
    """The answers of a model behind a server, in the store. Nothing is asked before its identity or an answer is needed."""

    def __init__(self, reference: Reference, *, store: Store, trace: tuple[str, str]) -> None:
        self.reference = reference
        self.client = Client(reference)
        self._store = store
        self._trace = trace  # tags that reasoning which was returned apart is put back into
        self._identity: ModelIdentity | None = None
        self.entry: dict[str, Any] = {}  # what the server says of the model at the start
        self._takes = {"logprobs": True, "extras": True}
        self._noticed: set[str] = set()  # by threads that answer; stored by the one that commits
        self._scorer: OptionScorer | None = None

    def close(self) -> None:
        self.client.close()

    @property
    def identity(self) -> ModelIdentity:
        """From the model's name and its entry in `/models`; the address is no part of it. Raises ServerError when the server is not there."""
        if self._identity is None:
            self.entry = self._read_entry()
            self._identity = self._identify(self.entry)
        notes = [text for text in (OWN_SAMPLING,) if self.noted(text)]
        return replace(self._identity, warnings=(*self._identity.warnings, *notes))

    def ask(self, jobs: Iterable[Job], tell: Tell) -> None:
        """Ask for what the store lacks of these jobs; whatever is finished is in the store at once.

        Raises:
            ServerError: the server fails for good, answers nonsense, or its model changes.
        """
        jobs = list(jobs)
        self._generate([job for job in jobs if job.task == "generate"], tell)
        for job in jobs:
            if job.task == "choose":
                self._choose(job, tell)

    def stored(self, job: Job) -> set[tuple[str, int]]:
        """Probe ids and repeats of a job that the store holds."""
        keys = self.keys(job)
        found = self._store.get(job.table, keys.values())
        return {name for name, key in keys.items() if key in found}

    def stored_responses(self, job: Job) -> dict[tuple[str, int], dict[str, Any]]:
        """Stored responses by probe id and repeat, as a recording has them."""
        keys = self.keys(job)
        found = self._store.get_json("responses", keys.values())
        return {name: {**found[key], "tail": ""} for name, key in keys.items() if key in found}

    def stored_options(self, job: Job) -> dict[str, dict[str, Any]]:
        """Stored option scores by probe id."""
        keys = self.keys(job)
        found = self._store.get_json("options", keys.values())
        return {name: found[key] for (name, _), key in keys.items() if key in found}

    def recorded(self, job: Job) -> dict[str, dict[str, Any]]:
        """Stored responses or option scores of a job by portable key, as a recording keeps them."""
        probes = {probe.id: probe for probe in job.probes}
        found = (
            {(name, 0): value for name, value in self.stored_options(job).items()}
            if job.task == "choose"
            else self.stored_responses(job)
        )
        return {portable_key(probes[name], job, repeat): value for (name, repeat), value in found.items()}

    def unscored(self, job: Job) -> str:
        """Why the options of a job were not scored, or nothing."""
        if job.task != "choose":
            return ""
        key = self._note_key("no options", job.suite)
        found = self._store.get_json("notes", [key])
        return str(found[key]) if key in found and len(self.stored(job)) < len(job.probes) else ""

    @property
    def without_logprobs(self) -> bool:
        """Whether none of the answers that are stored came with log-probabilities, as far as that was seen."""
        return self.noted(NO_LOGPROBS) and not self.noted(_LOGPROBS)

    @property
    def reads(self) -> bool:
        """Whether a text can be given it to read: it has told its prompts' token ids, and has not failed at reading."""
        return self.noted(_PROMPT_IDS) and not self.noted(_NO_READING)

    def reading_key(self, prompt: Sequence[int], text: Sequence[int]) -> str:
        """Key of the log-probabilities of a text after a prompt, both by token ids."""
        return digest("served reading", _KEYS, self.identity.fingerprint, prompt, text)

    def ask_to_read(self, wanted: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
        """Ask for the log-probabilities of texts, (prompt, text) each, that the store lacks. Where the server gives none, `reads` is false
        from then on. Raises ServerError."""
        from pytest_trust.engine.server.options import Unscored, read_text

        keys = {self.reading_key(*one): one for one in wanted}
        have = self._store.get("drifts", keys)

        def commit(made: Sequence[tuple[str, bytes]]) -> None:
            self._confirm([])
            self._put("drifts", dict(made))

        try:
            self.in_parallel(
                [key for key in keys if key not in have], lambda key: read_text(self.client, *keys[key]), commit
            )
        except Unscored:
            self.note(_NO_READING)

    def tops_keys(self, job: Job) -> dict[str, str]:
        """Keys of the log-probabilities that came with the first response of each probe, by probe id."""
        return {
            name: digest("served tops", _KEYS, key) for (name, repeat), key in self.keys(job).items() if repeat == 0
        }

    def keys(self, job: Job) -> dict[tuple[str, int], str]:
        """Keys of the store by probe id and repeat."""
        fingerprint, thinking = self.identity.fingerprint, self.identity.thinking
        repeats = range(job.repeats() if job.task == "generate" else 1)
        return {
            (probe.id, repeat): digest("served", _KEYS, fingerprint, thinking, portable_key(probe, job, repeat))
            for probe in job.probes
            for repeat in repeats
        }

    def note(self, text: str) -> None:
        """Remember something about this model's server, so that a run from the store says it too."""
        self._store.put_json("notes", {self._note_key(text): True})

    def noted(self, text: str) -> bool:
        """Whether that is known of this model's server."""
        key = self._note_key(text)
        return key in self._store.get("notes", [key])

    def _note_key(self, *what: str) -> str:
        return digest("served note", _KEYS, (self._identity or self.identity).fingerprint, *what)

    def _identify(self, entry: dict[str, Any]) -> ModelIdentity:
        model, thinking = self.client.model, self.reference.options.get("thinking", "")
        meta = entry.get("meta")
        parameters = meta.get("n_params") if isinstance(meta, dict) else 0
        ancestors = [
            entry[name]
            for name in ("root", "parent")
            if isinstance(entry.get(name), str) and entry[name] not in ("", model)
        ]
        fingerprint = digest("server", _KEYS, model, entry)
        return ModelIdentity(
            text=self.reference.text,
            label=self.reference.label,
            kind="server",
            fingerprint=fingerprint,
            tokenizer=digest("server tokenizer", fingerprint),
            template=digest("server template", fingerprint),
            weights=fingerprint,
            base_weights="",
            dtype="",  # it does not say
            device="",
            parameters=parameters if isinstance(parameters, int) else 0,
            parameter_bytes=0,
            architecture="",
            chat_format="server",
            thinking=thinking,
            names=(model,),
            ancestors=tuple(ancestors),
            warnings=(ITS_WORD,) if entry else (ITS_WORD, UNDESCRIBED),
        )

    def _read_entry(self) -> dict[str, Any]:
        """What `/models` says of the model now; empty when the server has no such list. Raises ServerError for a model that it does not serve."""
        model = self.client.model
        try:
            listed = self.client.get("/models", retries=None if self.entry else 0)
        except ServerError as error:
            if self.entry:
                raise
            if error.status in _NO_LIST:
                return {}
            listed = self.client.get("/models")
        data = listed.get("data")
        entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
        for entry in entries:
            if model == entry.get("id") or model in (entry.get("aliases") or ()):
                return _without_noise(entry)
        # transformers' server lists what the hub's cache holds, and serves directories beside it
        if entries and not self.entry and not model.startswith(("/", ".")):
            names = ", ".join(str(entry.get("id")) for entry in entries[:5]) + (", ..." if len(entries) > 5 else "")
            raise ServerError(
                f"{self.client.url}: serves no {model}, but {names}: write {self.client.url}#{entries[0].get('id')}"
            )
        return {}

    def _confirm(self, reported: Iterable[str]) -> None:
        """Refuse to store what another model has said. Raises ServerError."""
        key = digest("served as", _KEYS, self.identity.fingerprint)
        for name in dict.fromkeys(reported):
            self._store.put_json("notes", {key: name})  # the first name stays
            known = self._store.get_json("notes", [key])[key]
            if name != known:
                raise self._changed(f"it answers as {name!r}, and before as {known!r}")
        if self.entry and self._read_entry() != self.entry:
            raise self._changed("it describes its model otherwise than at the start")

    def _changed(self, how: str) -> ServerError:
        return ServerError(
            f"{self.client.url}#{self.client.model}: the model behind the server has changed ({how}): none of its answers were stored under the "
            "first one's name; run again when it stays, with another --trust-store if the name now means another model"
        )

    def _generate(self, jobs: Sequence[Job], tell: Tell) -> None:
        wanted: dict[str, _Wanted] = {}
        for job in jobs:
            if job.generation.reasoning_budget is not None:
                raise ServerError(
                    f"{self.reference.label}: a trace cannot be closed behind a server: leave out --trust-reasoning-budget, or set the budget in the server"
                )
            keys = self.keys(job)
            probes = {probe.id: probe for probe in job.probes}
            for (name, repeat), key in keys.items():
                wanted[key] = _Wanted(
                    key, job.suite, asking_of(probes[name], job.generation, repeat, self.identity.thinking)
                )
        have = self._store.get("responses", wanted)
        missing = [one for key, one in wanted.items() if key not in have]
        done, tokens = len(have), 0

        def commit(made: Sequence[tuple[_Wanted, Answer]]) -> None:
            nonlocal done, tokens
            self._confirm(answer.model for _, answer in made)
            for text in sorted(self._noticed):
                self.note(text)
            tops = {digest("served tops", _KEYS, one.key): answer.tops for one, answer in made if answer.tops}
            self._put("drifts", tops)
            self._store.put_json("responses", {one.key: answer.as_value() for one, answer in made}, self._context())
            done, tokens = done + len(made), tokens + sum(answer.tokens for _, answer in made)
            tell(self.reference, "generate", made[-1][0].suite, done, len(wanted), tokens)

        self.in_parallel(missing, lambda one: self._answer(one.asking), commit)

    def _choose(self, job: Job, tell: Tell) -> None:
        from pytest_trust.engine.server.options import OptionScorer, Unscored

        keys = self.keys(job)
        have = self._store.get("options", keys.values())
        missing = [probe for probe in job.probes if keys[probe.id, 0] not in have]
        if not missing:
            return
        if self._scorer is None:
            llama = self.entry.get("owned_by") == "llamacpp"
            self._scorer = OptionScorer(self.client, thinking=self.identity.thinking, llama=llama)
        scorer = self._scorer
        done, tokens = len(have), 0

        def commit(made: Sequence[tuple[Probe, OptionScores]]) -> None:
            nonlocal done, tokens
            self._confirm(sorted(scorer.reported))
            values = {
                keys[probe.id, 0]: {"log_likelihoods": one.log_likelihoods, "tokens": one.tokens, "bytes": one.bytes}
                for probe, one in made
            }
            self._store.put_json("options", values, self._context())
            done, tokens = done + len(made), tokens + sum(sum(one.tokens) for _, one in made)
            tell(self.reference, "score", job.suite, done, len(job.probes), tokens)

        try:
            self.in_parallel(missing, scorer.score, commit)
        except Unscored as error:  # a gate that cannot be measured here is no failure of the others
            self._store.put_json("notes", {self._note_key("no options", job.suite): str(error)})

    def in_parallel(
        self, items: Sequence[Item], work: Callable[[Item], Made], commit: Callable[[Sequence[tuple[Item, Made]]], None]
    ) -> None:
        """Do `work` on all items, so many at once as the reference says, and `commit` in this thread what is finished. The first item goes
        alone: from it is learnt what the server takes. After a failure nothing new is begun, and what is under way is kept.

        Raises:
            ServerError: the first failure.
        """
        if not items:
            return
        commit([(items[0], work(items[0]))])
        failure: Exception | None = None
        pool = ThreadPoolExecutor(self.client.concurrency, thread_name_prefix="trust-server")
        try:
            running: dict[Future[Made], Item] = {pool.submit(work, item): item for item in items[1:]}
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                good: list[tuple[Item, Made]] = []
                for future in finished:
                    item = running.pop(future)
                    if future.cancelled():
                        continue
                    try:
                        good.append((item, future.result()))
                    except ServerError as error:
                        failure = failure or error
                if failure:
                    for future in running:
                        future.cancel()
                if good:
                    commit(good)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if failure:
            raise failure

    def _answer(self, asking: Asking) -> Answer:
        """Ask once with everything that is wanted; what a server refuses is left out, unless the answer would then mean something else."""
        refused: Rejected | None = None
        for logprobs, extras in ((True, True), (False, True), (True, False), (False, False)):
            if (logprobs and not self._takes["logprobs"]) or (extras and not self._takes["extras"]):
                continue
            try:
                found = self.client.post(asking.path, asking.body(self.client.model, logprobs=logprobs, extras=extras))
            except Rejected as error:
                refused = refused or error
                continue
            except ServerError as error:
                raise ServerError(f"probe {asking.probe}: {error}", error.status) from None
            answer = answer_of(found, asking, where=f"{self.client.url}{asking.path}", trace=self._trace)
            if not extras and asking.top_k:
                raise ServerError(
                    f"{refused or self.client.url}: the server takes no top_k, and {asking.top_k} is asked for: use a profile without it"
                )
            self._learn(answer, logprobs=logprobs, extras=extras)
            return answer
        raise ServerError(f"probe {asking.probe}: {refused}")

    def _learn(self, answer: Answer, *, logprobs: bool, extras: bool) -> None:
        self._takes = {"logprobs": logprobs, "extras": extras}
        if answer.text:  # without them the wish was refused, or taken and ignored
            self._noticed.add(_LOGPROBS if answer.tops else NO_LOGPROBS)
        if answer.prompt_ids:
            self._noticed.add(_PROMPT_IDS)
        if not extras:
            self._noticed.add(OWN_SAMPLING)

    def _put(self, table: Table, values: dict[str, bytes]) -> None:
        if values:
            self._store.put(table, values, self._context())

    def _context(self) -> dict[str, object]:
        return context_of(model=self.reference.label, server=self.client.url, concurrency=self.client.concurrency)


def _without_noise(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_noise(value) if isinstance(value, dict) else value
        for key, value in entry.items()
        if key not in _ENTRY_NOISE
    }
