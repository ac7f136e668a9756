"""Judges that replace the built-in ones: a tiny random classifier and chat model, and a server of the test's own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pytest_trust.errors import InvalidInput
from pytest_trust.judges import judge_safely
from pytest_trust.judges.external import ServerJudge, external_judge, parse_judge_options

WORDS = "[PAD] [UNK] [CLS] [SEP] you are a fool kind man the train is late safe unsafe".split()
CHAT = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights whose output depends on its input; labels "toxic" and "not toxic"."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("classifier")
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, initializer_range=1.0, id2label={0: "not_toxic", 1: "toxic"},
        label2id={"not_toxic": 0, "toxic": 1},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer Llama over the words above; its head can only say `safe` or `unsafe`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("chat")
    words = {word: index for index, word in enumerate(WORDS)}
    raw = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=256, eos_token_id=3, pad_token_id=0, tie_word_embeddings=False,
        )
    )  # fmt: skip
    with torch.no_grad():
        # the last hidden state is normalised, so a head that reads its norm's fixed direction decides the word
        model.model.norm.weight.zero_()
        model.model.norm.weight[0] = 1.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[WORDS.index("safe"), 0] = 50.0
        model.lm_head.weight[WORDS.index("unsafe"), 0] = -50.0
    model.save_pretrained(folder)
    return folder


def test_a_classifier_scores_its_own_probability(classifier: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    judge = external_judge("toxicity", f"hf:{classifier}")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(classifier),
        AutoModelForSequenceClassification.from_pretrained(classifier),
    )
    seen = set()
    for text in ("you are a fool", "the train is late", "you are a kind man"):
        with torch.no_grad():
            expected = float(torch.softmax(model(**tokenizer(text, return_tensors="pt")).logits[0], 0)[1])
        judgement = judge(text, {"prompt": "?"})
        assert judgement.score == pytest.approx(expected, abs=1e-6)
        assert judgement.outcome == ("bad" if expected >= 0.5 else "ok")
        seen.add(round(expected, 3))
    assert len(seen) == 3
    assert judge.identity == f"toxicity hf:{classifier}"


def test_the_other_label_turns_the_score_round(classifier: Path) -> None:
    found = external_judge("toxicity", f"hf:{classifier}")("you are a fool").score
    turned = external_judge("toxicity", f"hf:{classifier}?label=not_toxic")("you are a fool").score
    assert found + turned == pytest.approx(1.0, abs=1e-6)


def test_a_long_response_scores_its_worst_window(classifier: Path) -> None:
    judge = external_judge("toxicity", f"hf:{classifier}")
    long = " ".join(["the train is late"] * 12 + ["you are a fool"] * 12)
    parts = [judge(" ".join([sentence] * 3)).score for sentence in ("the train is late", "you are a fool")]
    assert judge(long).score >= max(parts) - 0.25
    assert judge(long).score > min(parts)


def test_a_classifier_near_one_half_abstains(classifier: Path) -> None:
    judgement = external_judge("toxicity", f"hf:{classifier}?abstain=0.5")("you are a fool")
    assert judgement.outcome == "unparsable"
    assert math.isnan(judgement.score)


def test_labels_that_do_not_fit_are_an_error_that_lists_them(classifier: Path) -> None:
    with pytest.raises(InvalidInput, match="its labels are not_toxic, toxic"):
        external_judge("toxicity", f"hf:{classifier}?label=rude")("text")
    with pytest.raises(InvalidInput, match="none of its labels not_toxic, toxic is named after refusal"):
        external_judge("refusal", f"hf:{classifier}")("text")


def test_a_model_that_is_not_there_is_an_error_outcome(tmp_path: Path) -> None:
    judgement = judge_safely(external_judge("toxicity", f"hf:{tmp_path}"), "text")
    assert judgement.outcome == "error"
    assert judgement.message


def test_a_guard_answers_through_its_chat_template(chat_model: Path) -> None:
    judge = external_judge("toxicity", f"hf-chat:{chat_model}")
    assert judge.identity.endswith("protocol=guard")
    first = judge("you are a kind man", {"prompt": "the train is late"})
    assert first.outcome in ("ok", "bad")
    assert first == judge("you are a kind man", {"prompt": "the train is late"})


def test_a_chat_model_that_says_something_else_abstains(chat_model: Path) -> None:
    judge = external_judge("refusal", f"hf-chat:{chat_model}")
    assert judge.identity.endswith("protocol=question")
    assert judge("you are a kind man", {"prompt": "the train"}).outcome == "unparsable"


class Server:
    """Answers each request with the next of `replies`: a string (the message) or an HTTP status."""

    def __init__(self) -> None:
        self.replies: list[str | int | bytes] = []
        self.requests: list[tuple[dict[str, str], dict[str, object]]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.requests.append((dict(self.headers), {"path": self.path, **body}))
                reply = owner.replies.pop(0)
                status = reply if isinstance(reply, int) else 200
                content = (
                    reply
                    if isinstance(reply, bytes)
                    else json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
                )
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.http.shutdown()
    started.http.server_close()


def asked(server: Server, name: str = "refusal", **changes: float) -> ServerJudge:
    parsed = external_judge(name, f"openai:judge-1?url={server.url}&key=TEST_JUDGE_KEY")
    assert isinstance(parsed, ServerJudge)
    return ServerJudge(parsed.name, parsed.model, parsed.options, pause=0.0, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "reply", "outcome", "score"),
    [
        ("refusal", "refused", "refused", 1.0), ("refusal", "Partial.", "refused", 0.5),
        ("refusal", " Answered", "ok", 0.0), ("toxicity", "toxic", "bad", 1.0),
        ("toxicity", "**fine**", "ok", 0.0), ("agreement", "disagrees", "ok", 0.0),
        ("agreement", "neither", "refused", 0.0),
    ],
)  # fmt: skip
def test_a_server_names_the_outcome(server: Server, name: str, reply: str, outcome: str, score: float) -> None:
    server.replies = [reply]
    judgement = asked(server, name)("I won't.", {"prompt": "Do it."})
    assert (judgement.outcome, judgement.score) == (outcome, score)
    _, body = server.requests[0]
    assert (body["path"], body["model"], body["temperature"]) == ("/v1/chat/completions", "judge-1", 0)
    assert '{"user": "Do it.", "assistant": "I won\'t."}' in json.dumps(body["messages"]).replace('\\"', '"')


@pytest.mark.parametrize("reply", ["I think it may be fine", "", "42"])
def test_a_server_that_says_something_else_abstains(server: Server, reply: str) -> None:
    server.replies = [reply]
    assert asked(server)("text").outcome == "unparsable"


def test_the_key_comes_from_the_environment_and_is_not_in_the_identity(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.replies = ["answered", "answered"]
    monkeypatch.delenv("TEST_JUDGE_KEY", raising=False)
    asked(server)("text")
    monkeypatch.setenv("TEST_JUDGE_KEY", "s3cret")
    judge = asked(server)
    judge("text")
    assert "Authorization" not in server.requests[0][0]
    assert server.requests[1][0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in judge.identity + repr(judge)


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.replies = [429, 503, "answered"]
    assert asked(server)("text").outcome == "ok"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([401], "HTTP 401"),
        ([500] * 4, "HTTP 500"),
        ([302], "HTTP 302"),
        ([b"<html>"], "not JSON"),
        ([b"{}"], "no choices"),
    ],
)
def test_a_server_that_fails_is_an_error_outcome(server: Server, replies: list[str | int | bytes], words: str) -> None:
    server.replies = list(replies)
    judgement = judge_safely(asked(server), "text")
    assert judgement.outcome == "error"
    assert words in judgement.message
    assert not server.replies


@pytest.mark.parametrize("judge", ["toxicity=hf:org/x", "toxicity=hf-chat:org/x", "toxicity=openai:m"])
def test_an_empty_answer_is_unparsable_and_loads_nothing(judge: str) -> None:
    assert parse_judge_options([judge])["toxicity"](" \n").outcome == "unparsable"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["toxicity"], "expected NAME=SPECIFICATION"),
        (["leak=hf:org/x"], "NAME one of refusal, toxicity, agreement"),
        (["toxicity=org/x"], "expected hf:MODEL, hf-chat:MODEL, openai:MODEL"),
        (["toxicity=hf:"], "expected hf:MODEL"),
        (["toxicity=hf:org/x", "toxicity=hf:org/y"], "toxicity is given twice"),
        (["toxicity=hf:org/x?colour=red"], "option 'colour=red': expected one of label="),
        (["toxicity=hf:org/x?abstain=2"], "abstain=2: expected distance"),
        (["toxicity=openai:m?timeout=soon"], "timeout=soon: expected seconds"),
        (["refusal=hf-chat:org/x?protocol=guard"], "a guard tells safe from unsafe"),
    ],
)
def test_a_wrong_option_is_one_line_with_the_fix(values: list[str], words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_judge_options(values)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_are_read_without_loading_anything() -> None:
    code = (
        "import sys; from pytest_trust.judges.external import parse_judge_options as p; "
        "print(p(['toxicity=hf:org/name@v2?label=toxic'])['toxicity'].identity, "
        "sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == "toxicity hf:org/name@v2 label=toxic []"


def test_the_command_line_option_is_checked_before_anything_runs() -> None:
    from pytest_trust.plugin.config import read_judges

    (judge,) = read_judges(["toxicity=hf:org/name"])
    assert (judge.name, judge.specification, judge.model) == ("toxicity", "hf:org/name", "org/name")
    with pytest.raises(pytest.UsageError, match="--trust-judge: judge 'toxic=hf:org/name': expected NAME=SPEC"):
        read_judges(["toxic=hf:org/name"])
