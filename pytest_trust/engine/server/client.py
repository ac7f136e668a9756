"""Requests to an OpenAI-compatible server through the `openai` client, with errors in one line.

Bodies and answers are plain JSON objects. The client's own types have no place for what servers add to the protocol:
reasoning, log-probabilities of a prompt, token ids.

The client repeats a request when the server is busy or fails (429, 5xx, no answer in time, a dropped connection). It
waits with exponential back-off and jitter, or as long as the server's Retry-After says. It follows no redirect, which
would carry key and prompts to another host. An error in the body of an answer with status 200 is an error too.

The key comes from the environment. Error messages show `[key]` in its place, where it stands as a whole word: a short
key such as `a` would else be found in every word of a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_trust.errors import TrustError
from pytest_trust.models.reference import Reference

if TYPE_CHECKING:
    from openai import OpenAI

DEFAULT_KEY = "OPENAI_API_KEY"
CONCURRENCY, RETRIES, TIMEOUT = 8, 4, 300.0
_CONNECT = 10.0  # seconds; a running server accepts a connection at once
_SHOWN = 300  # characters of a server's error message


class ServerError(TrustError):
    """A server that cannot be reached, keeps failing, or gives a wrong answer.

    `status` is the HTTP status, 0 where there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Rejected(ServerError):
    """A request that the server does not accept. Another request may be accepted; the same one is not."""


class Client:
    """The connection to one reference's server. Making it sends no request. Threads may share it."""

    def __init__(self, reference: Reference) -> None:
        self.url, self.model = reference.served
        self.concurrency = int(reference.options.get("concurrency", CONCURRENCY))
        self.retries = int(reference.options.get("retries", RETRIES))
        self._timeout = float(reference.options.get("timeout", TIMEOUT))
        self._variable = reference.options.get("key_env", DEFAULT_KEY)
        self._key = os.environ.get(self._variable, "")
        if not self._key and "key_env" in reference.options:
            raise ServerError(
                f"{self.url}: the environment variable {self._variable} is not set: put the server's key there"
            )
        self._client: OpenAI | None = None

    def get(self, path: str, *, retries: int | None = None) -> dict[str, Any]:
        """The answer to a GET of `path`, relative to the reference's URL. Raises as `post`."""
        return self._ask("get", path, {}, self.retries if retries is None else retries)

    def post(self, path: str, body: Mapping[str, object], *, retries: int | None = None) -> dict[str, Any]:
        """The answer to a POST. Raises Rejected for HTTP 400 and 422, ServerError for all else.

        An error under status 200 is raised as the status that its `code` names, or as Rejected if it names none.
        """
        return self._ask("post", path, body, self.retries if retries is None else retries)

    def beside(self, path: str) -> str:
        """The address of an endpoint outside the protocol, which is not under `/v1`."""
        return self.url.removesuffix("/v1") + path

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None

    def _ask(self, method: str, path: str, body: Mapping[str, object], retries: int) -> dict[str, Any]:
        client = self._connect()
        import openai

        where = f"{self.url}: {method.upper()} {path.removeprefix(self.url.removesuffix('/v1'))}"
        times = f" ({retries + 1} attempts)" if retries else ""
        kept = "; what was answered so far is kept, so the same command goes on from there"
        again = f"{times}{kept}"
        try:
            settings: Any = {"max_retries": retries}
            if method == "get":
                answer = client.get(path, cast_to=object, options=settings)
            else:
                answer = client.post(path, cast_to=object, body=dict(body), options=settings)
        except openai.APITimeoutError:
            raise ServerError(
                f"{where}: no answer within {self._timeout:g} s{again}; a slow server takes ?timeout=SECONDS"
            ) from None
        except openai.APIStatusError as error:
            shown = f"{where}: HTTP {error.status_code}{self._clean(error.body)}"
            raise self._refusal(error.status_code, shown, again) from None
        except openai.APIConnectionError as error:
            reason = self._hidden(str(error.__cause__ or error))
            raise ServerError(f"{where}: {reason or 'the connection broke'}{again}") from None
        except (ValueError, openai.OpenAIError):
            raise ServerError(
                f"{where}: the answer is not JSON: "
                f"is {self.url} the address of an OpenAI-compatible server, with its /v1?"
            ) from None
        if not isinstance(answer, dict):
            raise ServerError(
                f"{where}: the answer is no JSON object: "
                f"is {self.url} the address of an OpenAI-compatible server, with its /v1?"
            )
        if answer.get("error") or answer.get("object") == "error":
            # The client has not repeated the request, since its status is 200.
            shown = f"{where}: an error under HTTP 200{self._clean(answer.get('error') or answer)}"
            raise self._refusal(_status(answer), shown, kept)
        return answer

    def _refusal(self, status: int, shown: str, again: str) -> ServerError:
        if status in (401, 403):
            return ServerError(
                f"{shown}: put the server's key in ${self._variable}, or name another variable, ?key_env=NAME", status
            )
        return Rejected(shown, status) if status in (400, 422) else ServerError(f"{shown}{again}", status)

    def _connect(self) -> OpenAI:
        if self._client is None:
            try:
                import openai
            except ImportError:
                raise ServerError(
                    f"{self.url}: a server is asked through the openai package, which is not installed: "
                    "pip install 'pytest-trust[server]'"
                ) from None
            limits = openai.Timeout(self._timeout, connect=min(self._timeout, _CONNECT))
            self._client = openai.OpenAI(
                api_key=self._key or "none",  # the client requires one
                base_url=self.url,
                timeout=limits,
                max_retries=self.retries,
                http_client=openai.DefaultHttpxClient(
                    timeout=limits, follow_redirects=False, event_hooks={} if self._key else {"request": [_without_key]}
                ),
            )
        return self._client

    def _clean(self, body: Any) -> str:
        """The error message in the body of a server's answer, in one line, without the key."""
        if isinstance(body, dict):
            body = body.get("message") or body.get("detail") or body.get("error") or body
        text = re.sub(r"\s+", " ", self._hidden(str(body or ""))).strip()
        return f" ({text[:_SHOWN]}{'...' if len(text) > _SHOWN else ''})" if text else ""

    def _hidden(self, text: str) -> str:
        # The n of an escaped line break before the key is no letter of a word.
        word = rf"(?:(?<!\w)|(?<=\\[nrt])){re.escape(self._key)}(?!\w)"
        return re.sub(word, "[key]", text) if self._key else text


def _status(answer: Mapping[str, Any]) -> int:
    """The HTTP status that an error under status 200 names as its code; 400 where it names none."""
    body = answer.get("error")
    code = (body if isinstance(body, dict) else answer).get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else 400


def _without_key(request: Any) -> None:
    """Send no key: a server that needs none may refuse an invented one."""
    request.headers.pop("Authorization", None)
