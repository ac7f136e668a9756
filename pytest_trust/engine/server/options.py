"""Log-likelihoods of options through a server, log P(option | prompt) in nats.

The server must return log-probabilities of a text that it did not write. There are three ways, and each answer is
checked:

- A llama.cpp server names itself. It applies the template and cuts the text into tokens. A bias then makes each token
  of the option the next one. The bias acts on the sampling and not on the reported log-probability.
- `prompt_logprobs` on chat completions (vLLM) serves probes with messages.
- `echo` with `logprobs` on completions (vLLM, SGLang) serves probes with a text.

An option is scored from the first token where the prompt with the option differs from the prompt alone, as for local
models. The first token of a text has nothing before it. It is left out for all options, unless the server puts a
beginning-of-sequence token before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_trust.engine.server.client import Client, Rejected, ServerError
from pytest_trust.engine.server.logprobs import pack, reading_of
from pytest_trust.engine.server.protocol import CHAT, TEXT, TOP_LOGPROBS
from pytest_trust.models.token_trees import common_prefix
from pytest_trust.responses import OptionScores

if TYPE_CHECKING:
    from pytest_trust.probes import Probe

NO_PROMPT_LOGPROBS = "this server does not return log-probabilities of a prompt"
_FORCING = 1e6  # a bias larger than any difference between logits
_REFUSED = (404, 405, 500, 501)  # statuses of servers that do not know an endpoint or a parameter

Scored = tuple[tuple[str, float | None], ...]
"""The tokens of a prompt by name, each with its log-probability; None for the first."""


class Unscored(Exception):
    """A server that cannot score options. Reports show the message as the reason."""


class OptionScorer:
    """Scores options with the model of one server. Threads may share it after the first probe is scored."""

    def __init__(self, client: Client, *, template: Mapping[str, object], llama: bool) -> None:
        self._client = client
        self._template = template
        self._llama = llama
        self._sure: set[str] = set()  # endpoints that have returned log-probabilities of a prompt
        self.reported: set[str] = set()  # names of the model in the server's answers

    def score(self, probe: Probe) -> OptionScores:
        """The scores of a probe's options.

        Raises:
            Unscored: the server does not return log-probabilities of a prompt.
            ServerError: the server fails.
        """
        if self._llama:
            rows = self._by_forcing(probe)
        elif probe.messages:
            rows = self._by_chat(probe)
        else:
            rows = self._by_echo(probe)
        lengths = tuple(len(option.encode("utf-8", "surrogatepass")) for option in probe.options)
        return OptionScores(tuple(sum(row) for row in rows), tuple(map(len, rows)), lengths)

    def _by_chat(self, probe: Probe) -> list[list[float]]:
        messages = [{"role": message.role, "content": message.content} for message in probe.messages]
        kept = {"prompt_logprobs": 0, "max_tokens": 1, "temperature": 0.0, **self._template}
        before = self._read_chat({**kept, "messages": messages})
        rows = []
        for option in probe.options:
            told = [*messages, {"role": "assistant", "content": option}]
            whole = self._read_chat(
                {**kept, "messages": told, "add_generation_prompt": False, "continue_final_message": True}
            )
            start = _start(before, whole)
            # A template may write an open answer otherwise than a prompt (with an empty trace), or trim it. The scores
            # would then be those of another question.
            if len(before) - start > 1 or not _ends_with(whole[start:], option):
                raise Unscored(
                    f"{NO_PROMPT_LOGPROBS} followed by an option: its chat template writes the two otherwise"
                )
            rows.append(_values(whole, start))
        return rows

    def _by_echo(self, probe: Probe) -> list[list[float]]:
        before = self._read_echo(probe.text) if probe.text else ()
        rows = []
        for option in probe.options:
            whole = self._read_echo(_joined(probe.text, option))
            rows.append(_values(whole, _start(before, whole)))
        return rows

    def _by_forcing(self, probe: Probe) -> list[list[float]]:
        text, template = probe.text, bool(probe.messages)
        if template:
            messages = [{"role": message.role, "content": message.content} for message in probe.messages]
            asked = {"messages": messages, **self._template}
            text = str(self._client.post(self._client.beside("/apply-template"), asked).get("prompt", ""))
        before = self._tokens(text) if text else self._beginning()
        rows = []
        for option in probe.options:
            ids = self._tokens(text + option if template else _joined(text, option))
            if not text and ids[: len(before)] != before:
                ids = before + ids
            start = max(1, common_prefix([before, ids]))
            rows.append([self._forced(ids[:place], ids[place]) for place in range(start, len(ids))])
        return rows

    def _beginning(self) -> tuple[int, ...]:
        """The beginning-of-sequence token, which conditions a text without a prompt; empty where there is none."""
        named = self._client.get(self._client.beside("/props")).get("bos_token")
        return self._tokens(named)[-1:] if isinstance(named, str) and named else ()

    def _tokens(self, text: str) -> tuple[int, ...]:
        found = self._client.post(
            self._client.beside("/tokenize"), {"content": text, "add_special": True, "parse_special": True}
        )
        tokens = found.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise ServerError(
                f"{self._client.url}: /tokenize gives no token ids: expected llama.cpp's server, which it says it is"
            )
        return tuple(tokens)

    def _forced(self, prompt: Sequence[int], token: int) -> float:
        body = {
            "model": self._client.model, "prompt": list(prompt), "max_tokens": 1, "logprobs": 1, "temperature": 0.0,
            "logit_bias": {str(token): _FORCING}, "cache_prompt": True,
        }  # fmt: skip
        found = self._named(self._client.post(TEXT, body))
        try:
            made = found["choices"][0]["logprobs"]["content"][0]
            if made["id"] == token:
                return float(made["logprob"])
        except (KeyError, IndexError, TypeError, ValueError):
            pass
        raise Unscored(NO_PROMPT_LOGPROBS)

    def _read_chat(self, body: Mapping[str, object]) -> Scored:
        rows = self._asked(CHAT, body).get("prompt_logprobs")
        return self._checked(CHAT, [_entry(row) for row in rows] if isinstance(rows, list) else [])

    def _read_echo(self, text: str) -> Scored:
        found = self._asked(TEXT, {"prompt": text, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0.0})
        try:
            choice, count = found["choices"][0], int(found["usage"]["prompt_tokens"])
            pairs = list(zip(choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"], strict=True))[:count]
            echoed = len(pairs) == count and choice["text"].startswith(text)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            echoed = False
        return self._checked(TEXT, [(str(name), value) for name, value in pairs] if echoed else [])

    def _asked(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        try:
            return self._named(
                self._client.post(
                    path, {"model": self._client.model, **body}, retries=None if path in self._sure else 1
                )
            )
        except ServerError as error:
            if path in self._sure:
                raise
            if isinstance(error, Rejected) or error.status in _REFUSED:
                raise Unscored(NO_PROMPT_LOGPROBS) from None
        return self._named(self._client.post(path, {"model": self._client.model, **body}))

    def _named(self, found: dict[str, Any]) -> dict[str, Any]:
        self.reported.add(str(found.get("model") or ""))
        return found

    def _checked(self, path: str, row: Sequence[tuple[str, Any]]) -> Scored:
        """The row, if every token after the first has a log-probability. Raises Unscored otherwise."""
        values = [value for _, value in row[1:]]
        if not row or not all(isinstance(value, (int, float)) and value <= 1e-3 for value in values):
            raise Unscored(NO_PROMPT_LOGPROBS)
        self._sure.add(path)
        return tuple(row)


def read_text(client: Client, prompt: Sequence[int], text: Sequence[int]) -> bytes:
    """The most likely tokens at each token of a text after a prompt, packed, from vLLM's `prompt_logprobs`.

    Raises:
        Unscored: the server does not return log-probabilities of a prompt.
        ServerError: the server fails.
    """
    body = {
        "model": client.model,
        "prompt": [*prompt, *text],
        "prompt_logprobs": TOP_LOGPROBS,
        "max_tokens": 1,
        "temperature": 0.0,
    }
    try:
        choices = client.post(TEXT, body).get("choices")
        packed = pack(reading_of(choices[0]["prompt_logprobs"][len(prompt) :], text))  # type: ignore[index]
    except (Rejected, KeyError, IndexError, TypeError):
        packed = b""
    if not packed:
        raise Unscored(NO_PROMPT_LOGPROBS)
    return packed


def _entry(row: Any) -> tuple[str, float | None]:
    """One place of vLLM's `prompt_logprobs`. The text's own token is its only entry, as no others are requested."""
    if not isinstance(row, dict) or not row:
        return "", None
    token = next(iter(row.values()))
    return (str(token.get("decoded_token")), token.get("logprob")) if isinstance(token, dict) else ("", None)


def _joined(text: str, option: str) -> str:
    """Text and option, joined as in `models.rendering.render_options`."""
    gap = "" if not text or text[-1].isspace() or option[:1].isspace() else " "
    return f"{text}{gap}{option}"


def _start(before: Scored, whole: Scored) -> int:
    names = [tuple(name for name, _ in row) for row in (before, whole)]
    same = (index for index, (a, b) in enumerate(zip(*names, strict=False)) if a != b and index > 0)
    # vLLM has no entry for the first token of a prompt.
    return max(1, next(same, min(map(len, names))))


def _ends_with(row: Scored, option: str) -> bool:
    text = "".join(name for name, _ in row)
    return "\ufffd" in text or text.strip().endswith(option.strip())


def _values(row: Scored, start: int) -> list[float]:
    values = [value for _, value in row[start:] if value is not None]
    if not values:
        raise Unscored(NO_PROMPT_LOGPROBS)
    return values
