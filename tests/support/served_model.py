"""A real tiny model behind the test server, which answers as vLLM does.

It gives echo, prompt_logprobs, top log-probabilities and token ids when asked.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.support.serving import MODEL, Fault, listed


class ServedModel:
    """Plain forwards and greedy decoding only.

    `gives`: some of `echo`, `prompt_logprobs`, `logprobs` and `ids`; requests for the others are ignored.
    """

    def __init__(self, directory: Path, *gives: str, name: str = MODEL) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model: Any = AutoModelForCausalLM.from_pretrained(directory).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self.gives, self.name = gives, name
        self._lock = threading.Lock()

    def __call__(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/models":
            return listed(self.name)
        if path not in ("/v1/chat/completions", "/v1/completions"):
            raise Fault(404)
        with self._lock:
            return self._complete(body, chat="messages" in body)

    def _complete(self, body: dict[str, Any], chat: bool) -> dict[str, Any]:
        prompt = self._prompt(body)
        made = self._generate(prompt, body["max_tokens"])
        ended = bool(made) and made[-1] == self.tokenizer.eos_token_id
        text = self.tokenizer.decode(made[:-1] if ended else made)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop" if ended else "length"}
        asked = body.get("top_logprobs") if chat else body.get("logprobs")
        if chat:
            choice |= {"message": {"role": "assistant", "content": text}}
            if asked and "logprobs" in self.gives:
                choice["logprobs"] = {
                    "content": [self._entry(one, body, asked) for one in self._rows([*prompt, *made], len(prompt))]
                }
        else:
            choice["text"] = text
            rows = self._rows([*prompt, *made], len(prompt))
            if asked and body.get("echo") and "echo" in self.gives:
                choice["text"] = body["prompt"] + text
                rows = [(prompt[0], None), *self._rows([*prompt, *made], 1)]
            if (asked and "logprobs" in self.gives) or (body.get("echo") and "echo" in self.gives):
                choice["logprobs"] = self._lists(rows, asked)
        answer = {
            "model": self.name,
            "choices": [choice],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(made)},
        }
        if body.get("return_token_ids") and "ids" in self.gives:
            (answer if chat else choice)["prompt_token_ids"] = prompt
        if body.get("prompt_logprobs") is not None and "prompt_logprobs" in self.gives:
            (answer if chat else choice)["prompt_logprobs"] = [
                None,
                *(self._keyed(one, body["prompt_logprobs"]) for one in self._rows(prompt, 1)),
            ]
        return answer

    def _prompt(self, body: dict[str, Any]) -> list[int]:
        if "messages" not in body:
            given = body["prompt"]
            return list(given) if isinstance(given, list) else list(self.tokenizer(given)["input_ids"])
        text = self.tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=body.get("add_generation_prompt", True),
            continue_final_message=body.get("continue_final_message", False),
        )  # fmt: skip
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _generate(self, prompt: list[int], limit: int) -> list[int]:
        made: list[int] = []
        while len(made) < limit and (not made or made[-1] != self.tokenizer.eos_token_id):
            made.append(int(self._logs([*prompt, *made])[-1].argmax()))
        return made

    def _logs(self, ids: list[int]) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)

    def _rows(self, ids: list[int], start: int) -> list[tuple[int, Any]]:
        """The tokens from `start` on, each with the distribution that it was drawn from."""
        logs = self._logs(ids)
        return [(ids[place], logs[place - 1]) for place in range(start, len(ids))]

    def _token(self, index: int, value: Any, by_id: bool) -> dict[str, Any]:
        text = f"token_id:{index}" if by_id else self.tokenizer.decode([index])
        return {"token": text, "logprob": float(value), "bytes": list(text.encode())}

    def _entry(self, row: tuple[int, Any], body: dict[str, Any], count: int) -> dict[str, Any]:
        by_id = bool(body.get("return_tokens_as_token_ids")) and "ids" in self.gives
        top = [self._token(int(index), value, by_id) for value, index in zip(*row[1].topk(count), strict=True)]
        return {**self._token(row[0], row[1][row[0]], by_id), "top_logprobs": top}

    def _lists(self, rows: list[tuple[int, Any]], count: int) -> dict[str, Any]:
        name = lambda index: self.tokenizer.decode([int(index)])  # noqa: E731
        return {
            "tokens": [name(index) for index, _ in rows],
            "token_logprobs": [None if logs is None else float(logs[index]) for index, logs in rows],
            "top_logprobs": [
                None if logs is None else {name(i): float(v) for v, i in zip(*logs.topk(count), strict=True)}
                for _, logs in rows
            ],
        }

    def _keyed(self, row: tuple[int, Any], count: int) -> dict[str, Any]:
        """vLLM's form: by id, the prompt's own token first."""
        index, logs = row
        chosen = [index, *(int(i) for i in logs.topk(count).indices if int(i) != index)] if count else [index]
        return {
            str(i): {"logprob": float(logs[i]), "rank": 1, "decoded_token": self.tokenizer.decode([i])} for i in chosen
        }
