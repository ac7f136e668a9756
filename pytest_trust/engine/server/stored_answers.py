"""A model behind an OpenAI-compatible server (`http://host:port/v1#model`): its identity, and its stored answers.

The identity is the server's description of the model. Weights behind a server cannot be hashed, which the report says.
The server renders the prompts. The key of an answer is therefore a hash of the probe's messages or text, the sampling
settings and the server's description of the model.

It is an error when the model changes during a run. Every answer names its model, and the description is read again
before anything is stored.

A template may open a trace in the prompt, which the server does not show. `?tokenizer=` tells it
(`engine.server.template`), or else the responses do (`StoredAnswers.infer_opening`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_trust.engine.server.client import Client, Rejected, ServerError
from pytest_trust.engine.server.protocol import (
    CHAT,
    PASSING,
    Answer,
    Asking,
    LimitName,
    answer_of,
    asking_of,
    template_settings,
    whole_text,
)
from pytest_trust.engine.store import Store, Table, context_of
from pytest_trust.keys import digest, portable_key
from pytest_trust.models.identity import ModelIdentity
from pytest_trust.models.reference import Reference
from pytest_trust.reasoning import DEFAULT_TAGS, Tags, opened_by, unopened
from pytest_trust.responses import Generation, Job, Phase

if TYPE_CHECKING:
    from pytest_trust.engine.server.options import OptionScorer
    from pytest_trust.engine.server.template import ServedTemplate
    from pytest_trust.probes import Probe
    from pytest_trust.responses import OptionScores

_KEYS = 2  # version of the store's keys: raise it when the meaning of a key changes
# Fields of a server's entry for a model that can differ between two starts of one model, or say nothing about it.
_ENTRY_NOISE = ("created", "permission", "status", "object", "n_ctx")
_NO_LIST = (404, 405, 500, 501)  # transformers' server answers 500 without the hub; busy servers answer 429 or 503
ITS_WORD = "behind a server: its fingerprint is the server's word, as weights cannot be hashed from here"
UNDESCRIBED = "the server describes no models, so a change of the model shows only in its name"
OWN_SAMPLING = "the server takes neither top_k nor min_p nor repetition_penalty: what it sets for itself is applied"
NO_LOGPROBS = "this server does not return log-probabilities"
IN_A_TRACE = (
    "its responses begin inside a trace, as others of them show: those that were cut before they closed it count as "
    "truncated (?tokenizer=org/name says for certain what the chat template opens)"
)
_LOGPROBS, _PROMPT_IDS, _NO_READING, _TRACES_APART = (
    "log-probabilities",
    "token ids of prompts",
    "no log-probabilities of a given text",
    "traces in a field of their own",
)
_NEWER_LIMIT: LimitName = "max_completion_tokens"

Tell = Callable[[Reference, Phase, str, int, int, int], None]
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One response to ask for, and its key in the store."""

    key: str
    suite: str
    asking: Asking


class StoredAnswers:
    """The stored answers of a model behind a server. It sends no request before its identity or an answer is needed."""

    def __init__(self, reference: Reference, *, store: Store, tags: Tags, trust_remote_code: bool) -> None:
        self.reference = reference
        self.client = Client(reference)
        self._store = store
        self._given_tags = tags
        self._trust_remote_code = trust_remote_code
        self._identity: ModelIdentity | None = None
        self.entry: dict[str, Any] = {}  # the server's description of the model at the start
        self._takes = {"logprobs": True, "extras": True}
        self._limit_name: LimitName = "max_tokens"
        self._noticed: set[str] = set()  # threads that ask add to it; the thread that commits stores it
        self._scorer: OptionScorer | None = None

    def close(self) -> None:
        self.client.close()

    @property
    def identity(self) -> ModelIdentity:
        """The identity, from the model's name and its entry in `/models`. The server's address is no part of it.

        Raises:
            ServerError: the server cannot be reached, or does not serve the model.
        """
        if self._identity is None:
            self.entry = self._read_entry()
            self._identity = self._identify(self.entry)
        notes = [text for text in (OWN_SAMPLING,) if self.noted(text)]
        return replace(self._identity, warnings=(*self._identity.warnings, *notes))

    def way(self, generation: Generation) -> Generation:
        """Sampling settings as this server is asked for them. `?decoding=` goes before the run's decoding."""
        decoding = self.reference.options.get("decoding", "")
        return replace(generation, own=decoding == "own") if decoding else generation

    @cached_property
    def template(self) -> ServedTemplate | None:
        """What the tokenizer of `?tokenizer=` says about traces; None where none is named."""
        if "tokenizer" not in self.reference.options:
            return None
        from pytest_trust.engine.server.template import read_template

        return read_template(self.reference, self._store, trust_remote_code=self._trust_remote_code)

    @property
    def tags(self) -> Tags:
        """The tags that its responses are split by: a user's, else its template's, else those that are known."""
        if self._given_tags != DEFAULT_TAGS or self.template is None:
            return self._given_tags
        return self.template.tags

    def ask(self, jobs: Iterable[Job], tell: Tell) -> None:
        """Ask for the jobs' results that the store lacks. Finished results are stored at once.

        Raises:
            ServerError: the server keeps failing, gives a wrong answer, or its model changes.
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
        """Stored responses by probe id and repeat, in the form of a recording."""
        keys = self.keys(job)
        found = self._store.get_json("responses", keys.values())
        trace, tail_of = (self.tags[0][0], self.tags[0][1]), self._tails()
        chats = {probe.id for probe in job.probes if probe.messages}
        recorded = {}
        for name, key in keys.items():
            if key in found:
                kept = {what: one for what, one in found[key].items() if what != "reasoning"}
                tail = tail_of(found[key]) if name[0] in chats else ""
                recorded[name] = {**kept, "text": whole_text(found[key], trace), "tail": tail}
        return recorded

    def _tails(self) -> Callable[[Mapping[str, Any]], str]:
        """Gives the tail of the prompt of a stored chat response; empty where no trace is open behind it.

        A known template has opened a trace for every response, as for a model that is run here. A response that does
        not close it has no answer, whether it ended by itself or was cut. An exception is a server that returns traces
        in a field of their own. Its response without a trace is an answer if it ended by itself, since the server's
        parser has looked for the trace. If it was cut it is a trace: some parsers move only a trace that was closed.

        Where only other responses show that they begin inside a trace, a response that ended by itself stays an answer:
        nothing tells an answer without a trace from a trace that was never closed.
        """
        tail = self.template.tail if self.template is not None else ""
        if opened_by(tail, self.tags):
            apart = self.noted(_TRACES_APART)
            return lambda value: "" if value.get("reasoning") or (apart and value["finish"] != "length") else tail
        opening = self.inferred_opening()
        return lambda value: opening if value["finish"] == "length" and not value.get("reasoning") else ""

    def inferred_opening(self) -> str:
        """The tag of the trace that responses begin in, as stored ones have shown; empty where none has."""
        key = self._opening_key()
        return str(self._store.get_json("notes", [key]).get(key, ""))

    def infer_opening(self, jobs: Iterable[Job]) -> None:
        """Note the tag of the trace that responses begin in, where stored responses of the jobs show it.

        One response shows it that closes a trace and has not opened one. So do responses whose trace the server returns
        in a field of its own, if they are most of those that ended by themselves: some parsers leave a trace that was
        cut in the place of the answer.
        """
        if self.inferred_opening():
            return
        traced = untraced = cut = 0
        for job in jobs:
            chats = {probe.id for probe in job.probes if probe.messages and job.task == "generate"}
            keys = [one for (name, _), one in self.keys(job).items() if name in chats]
            for value in self._store.get_json("responses", keys).values():
                ended, apart = value["finish"] == "stop", bool(value.get("reasoning"))
                opening = "" if apart else unopened(value["text"], self.tags)
                if opening:
                    self._store.put_json("notes", {self._opening_key(): opening})
                    return
                traced += ended and apart
                untraced += ended and not apart
                cut += value["finish"] == "length" and not apart
        if cut and traced > untraced:
            self._store.put_json("notes", {self._opening_key(): self.tags[0][0]})

    def _opening_key(self) -> str:
        return self._note_key("opens a trace", self.reference.options.get("thinking", ""), digest(self.tags))

    def stored_options(self, job: Job) -> dict[str, dict[str, Any]]:
        """Stored option scores by probe id."""
        keys = self.keys(job)
        found = self._store.get_json("options", keys.values())
        return {name: found[key] for (name, _), key in keys.items() if key in found}

    def recorded(self, job: Job) -> dict[str, dict[str, Any]]:
        """Stored responses or option scores of a job by portable key, in the form of a recording."""
        probes = {probe.id: probe for probe in job.probes}
        found = (
            {(name, 0): value for name, value in self.stored_options(job).items()}
            if job.task == "choose"
            else self.stored_responses(job)
        )
        return {portable_key(probes[name], job, repeat): value for (name, repeat), value in found.items()}

    def unscored(self, job: Job) -> str:
        """Why the options of a job were not scored; empty where they were."""
        if job.task != "choose":
            return ""
        key = self._note_key("no options", job.suite)
        found = self._store.get_json("notes", [key])
        return str(found[key]) if key in found and len(self.stored(job)) < len(job.probes) else ""

    @property
    def without_logprobs(self) -> bool:
        """Whether answers of this server came without log-probabilities, and none came with them."""
        return self.noted(NO_LOGPROBS) and not self.noted(_LOGPROBS)

    @property
    def reads(self) -> bool:
        """Whether the server can read a text: it returns its prompts' token ids, and has not failed to read one."""
        return self.noted(_PROMPT_IDS) and not self.noted(_NO_READING)

    def reading_key(self, prompt: Sequence[int], text: Sequence[int]) -> str:
        """Key of the log-probabilities of a text after a prompt; both are token ids."""
        return digest("served reading", _KEYS, self.identity.fingerprint, prompt, text)

    def ask_to_read(self, wanted: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
        """Ask for the log-probabilities of texts, (prompt, text) each, that the store lacks.

        `reads` is false afterwards if the server returns none. Raises ServerError.
        """
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
        """Keys of the log-probabilities of each probe's first response, by probe id."""
        return {
            name: digest("served tops", _KEYS, key) for (name, repeat), key in self.keys(job).items() if repeat == 0
        }

    def keys(self, job: Job) -> dict[tuple[str, int], str]:
        """Keys of the store by probe id and repeat."""
        identity = self.identity
        given = [identity.fingerprint, identity.thinking, *([identity.settings] if identity.settings else [])]
        repeats = range(job.repeats() if job.task == "generate" else 1)
        job = replace(job, generation=self.way(job.generation))
        return {
            (probe.id, repeat): digest("served", _KEYS, *given, portable_key(probe, job, repeat))
            for probe in job.probes
            for repeat in repeats
        }

    def note(self, text: str) -> None:
        """Store a fact about this model's server, so that later runs report it too."""
        self._store.put_json("notes", {self._note_key(text): True})

    def noted(self, text: str) -> bool:
        """Whether this fact about the model's server is stored."""
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
            dtype="",  # the server does not say
            device="",
            parameters=parameters if isinstance(parameters, int) else 0,
            parameter_bytes=0,
            architecture="",
            chat_format="server",
            thinking=thinking,
            names=(model,),
            ancestors=tuple(ancestors),
            warnings=(ITS_WORD,) if entry else (ITS_WORD, UNDESCRIBED),
            settings=self.reference.prompt_settings,
        )

    def _read_entry(self) -> dict[str, Any]:
        """The model's present entry in `/models`; empty when the server has no such list.

        Raises:
            ServerError: the server does not serve the model.
        """
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
        # transformers' server lists the models in the hub's cache, and serves directories without listing them.
        if entries and not self.entry and not model.startswith(("/", ".")):
            names = ", ".join(str(entry.get("id")) for entry in entries[:5]) + (", ..." if len(entries) > 5 else "")
            raise ServerError(
                f"{self.client.url}: serves no {model}, but {names}: write {self.client.url}#{entries[0].get('id')}"
            )
        return {}

    def _confirm(self, reported: Iterable[str]) -> None:
        """Refuse answers of another model. Raises ServerError."""
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
            f"{self.client.url}#{self.client.model}: the model behind the server has changed ({how}): "
            "none of its answers were stored under the first one's name; "
            "run again when it stays, with another --trust-store if the name now means another model"
        )

    def _generate(self, jobs: Sequence[Job], tell: Tell) -> None:
        wanted: dict[str, _Wanted] = {}
        template = template_settings(self.reference)
        for job in jobs:
            if job.generation.reasoning_budget is not None and job.generation.closes:
                raise ServerError(
                    f"{self.reference.label}: a trace cannot be closed behind a server: "
                    "leave out --trust-reasoning-budget, or set the budget in the server"
                )
            keys = self.keys(job)
            probes = {probe.id: probe for probe in job.probes}
            for (name, repeat), key in keys.items():
                asking = asking_of(probes[name], self.way(job.generation), repeat, template)
                wanted[key] = _Wanted(key, job.suite, asking)
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
            self._scorer = OptionScorer(self.client, template=template_settings(self.reference), llama=llama)
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
        except Unscored as error:  # this gate cannot be measured; the others can
            self._store.put_json("notes", {self._note_key("no options", job.suite): str(error)})

    def in_parallel(
        self, items: Sequence[Item], work: Callable[[Item], Made], commit: Callable[[Sequence[tuple[Item, Made]]], None]
    ) -> None:
        """Do `work` on all items, `?concurrency=` at once, and `commit` finished items in this thread.

        The first item is done alone: its answer shows which parameters the server accepts. A failure starts no new
        items; items that have started are finished and committed.

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
        """Ask for a response, without the parameters that the server refuses.

        Raises:
            ServerError: the server fails, or refuses a `top_k` that the settings need.
        """
        refused: Rejected | None = None
        limit_name = self._limit_name
        ways = [
            (logprobs, extras)
            for logprobs, extras in ((True, True), (False, True), (True, False), (False, False))
            if (self._takes["logprobs"] or not logprobs) and (self._takes["extras"] or not extras)
        ]
        while ways:
            logprobs, extras = ways[0]
            body = asking.body(self.client.model, logprobs=logprobs, extras=extras, limit_name=limit_name)
            try:
                answer = self._asked(asking, body)
            except Rejected as error:
                if asking.path == CHAT and limit_name != _NEWER_LIMIT and _NEWER_LIMIT in str(error):
                    limit_name = _NEWER_LIMIT
                else:
                    refused = refused or error
                    ways.pop(0)
                continue
            if not extras and asking.top_k:
                raise ServerError(
                    f"{refused or self.client.url}: the server takes no top_k, and {asking.top_k} is asked for: "
                    "use a profile without it"
                )
            self._learn(answer, logprobs=logprobs, extras=extras)
            if limit_name == _NEWER_LIMIT:  # a text, which takes the old name only, teaches nothing
                self._limit_name = limit_name
            return answer
        raise ServerError(f"probe {asking.probe}: {refused}")

    def _asked(self, asking: Asking, body: Mapping[str, object]) -> Answer:
        """The answer to a request. One that the server has aborted is asked for again, as often as `?retries=` says."""
        for attempt in range(self.client.retries + 1):
            try:
                found = self.client.post(asking.path, body)
            except Rejected:
                raise
            except ServerError as error:
                raise ServerError(f"probe {asking.probe}: {error}", error.status) from None
            answer = answer_of(found, asking, where=f"{self.client.url}{asking.path}")
            if answer.failure not in PASSING or attempt == self.client.retries:
                break
        return answer

    def _learn(self, answer: Answer, *, logprobs: bool, extras: bool) -> None:
        self._takes = {"logprobs": logprobs, "extras": extras}
        if answer.text:  # without log-probabilities, the server has refused or ignored the request for them
            self._noticed.add(_LOGPROBS if answer.tops else NO_LOGPROBS)
        if answer.prompt_ids:
            self._noticed.add(_PROMPT_IDS)
        if answer.reasoning:
            self._noticed.add(_TRACES_APART)
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
