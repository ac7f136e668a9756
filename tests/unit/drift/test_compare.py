"""Drift from hidden states against drift from the models' own logits, on tiny models with random weights."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_trust.drift.compare import compare_models, drift_of_batch, split_responses
from pytest_trust.drift.kernels import from_hidden
from pytest_trust.drift.kernels.divergence import kl_divergence, token_divergences
from pytest_trust.drift.kernels.from_hidden import divergences_from_hidden
from pytest_trust.errors import InvalidInput, TrustError
from pytest_trust.models.heads import Head, head_of
from pytest_trust.models.hidden_states import check_head, response_hidden

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def causal_lm(name="Llama", seed=0, vocabulary=300, **options):
    import transformers

    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = getattr(transformers, f"{name}Config")(**{**SIZES, "vocab_size": vocabulary, **special, **options})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # default weights give nearly flat distributions
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def pair():
    return causal_lm(seed=0), causal_lm(seed=1)


def batch(lengths=(9, 14, 5), response=(4, 6, 3), left=False, vocabulary=300):
    """Padded rows whose last tokens are the response."""
    random = torch.Generator().manual_seed(2)
    longest = max(lengths)
    ids = torch.zeros(len(lengths), longest, dtype=torch.long)
    attended, measured = torch.zeros_like(ids), torch.zeros(len(lengths), longest, dtype=torch.bool)
    for row, (length, tokens) in enumerate(zip(lengths, response, strict=True)):
        start = longest - length if left else 0
        ids[row, start : start + length] = torch.randint(1, vocabulary, (length,), generator=random)
        attended[row, start : start + length] = 1
        measured[row, start + length - tokens : start + length] = True
    return ids, attended, measured


def from_logits(p, q, ids, attended, measured):
    """The reference: every row alone, full logits, the position before each response token."""
    parts = []
    for row in range(len(ids)):
        kept = attended[row].bool()
        row_ids, row_measured = ids[row][kept][None], measured[row][kept]
        with torch.no_grad():
            logits = [model(input_ids=row_ids).logits[0, :-1][row_measured[1:]].double() for model in (p, q)]
        parts.append((*logits, row_ids[0][row_measured]))
    p_logits, q_logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return token_divergences(p_logits, q_logits, labels=labels)


@pytest.mark.parametrize("left", [False, True])
def test_a_padded_batch_agrees_with_full_logits_of_each_row_alone(pair, left):
    ids, attended, measured = batch(left=left)
    found = drift_of_batch(*pair, ids, attended, measured)
    expected = from_logits(*pair, ids, attended, measured)
    assert len(found) == 13
    assert found.kl_pq.mean() > 0.1
    for name in ("kl_pq", "kl_qp", "js", "total_variation", "entropy_p", "p_label", "q_label", "delta_p"):
        # float32 forwards with and without padding agree to about 1e-6
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-5, rtol=1e-4, msg=name)
    assert torch.equal(found.rank_p, expected.rank_p)
    assert torch.equal(found.same_top, expected.same_top)


def test_the_first_model_is_p(pair):
    ids, attended, measured = batch()
    found, swapped = (
        drift_of_batch(*pair, ids, attended, measured),
        drift_of_batch(*reversed(pair), ids, attended, measured),
    )
    torch.testing.assert_close(found.kl_pq, swapped.kl_qp, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(found.kl_pq, found.kl_qp, atol=1e-3)


def test_a_model_against_itself_is_exactly_zero_and_runs_repeat(pair):
    ids, attended, measured = batch()
    assert drift_of_batch(pair[0], pair[0], ids, attended, measured).kl_pq.eq(0).all()
    once, again = (drift_of_batch(*pair, ids, attended, measured).kl_pq for _ in range(2))
    assert torch.equal(once, again)


def test_each_side_may_read_its_own_template(pair):
    ids, attended, measured = batch()
    q_ids = torch.cat([torch.full((3, 2), 7), ids], 1)  # q's template begins with two more tokens
    q_attended = torch.cat([torch.ones(3, 2, dtype=torch.long), attended], 1)
    q_measured = torch.cat([torch.zeros(3, 2, dtype=torch.bool), measured], 1)
    own = {"q_input_ids": q_ids, "q_attention_mask": q_attended, "q_response_mask": q_measured}
    found = drift_of_batch(*pair, ids, attended, measured, **own)
    expected = divergences_from_hidden(
        response_hidden(pair[0], ids, attended, measured),
        head_of(pair[0]),
        response_hidden(pair[1], q_ids, q_attended, q_measured),
        head_of(pair[1]),
    )
    assert torch.equal(found.kl_pq, expected.kl_pq)
    assert not torch.allclose(found.kl_pq, drift_of_batch(*pair, ids, attended, measured).kl_pq, atol=1e-3)
    with pytest.raises(InvalidInput, match="response tokens differ"):
        drift_of_batch(*pair, ids, attended, measured, **{**own, "q_input_ids": q_ids + 1})
    with pytest.raises(InvalidInput, match="give all three or none"):
        drift_of_batch(*pair, ids, attended, measured, q_input_ids=q_ids)


def test_bad_batches(pair):
    ids, attended, measured = batch()
    first = measured.clone()
    first[1, 0] = True
    with pytest.raises(InvalidInput, match="row 1: a response token is padding, or the row's first"):
        drift_of_batch(*pair, ids, attended, first)
    with pytest.raises(InvalidInput, match=r"shapes \(3, 14\), \(3, 14\), \(3, 13\); expected one"):
        response_hidden(pair[0], ids, attended, measured[:, 1:])
    with pytest.raises(InvalidInput, match="token id 999 is beyond the 300 ids of LlamaForCausalLM"):
        drift_of_batch(*pair, ids.masked_fill(measured, 999), attended, measured)
    noisy = causal_lm(attention_dropout=0.5).train()
    with pytest.raises(InvalidInput, match=r"training mode; call model\.eval"):
        drift_of_batch(noisy, noisy, ids, attended, measured)


def test_rows_come_apart_as_token_drifts(pair):
    ids, attended, measured = batch()
    found = drift_of_batch(*pair, ids, attended, measured)
    drifts = split_responses(
        found, measured, probes=["a", "b", "c"], clusters=["x", "x", "y"], suite="s", answer_starts=[0, 2, 0]
    )
    assert [len(drift) for drift in drifts] == [4, 6, 3]
    assert drifts[1].kl_pq.tolist() == found.kl_pq[4:10].tolist()
    assert (drifts[1].probe, drifts[1].cluster, drifts[1].suite, drifts[1].answer_start) == ("b", "x", "s", 2)
    with pytest.raises(InvalidInput, match="expected the mask"):
        split_responses(found, measured[:2], probes=["a", "b"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Llama", {"tie_word_embeddings": True}),
        ("Gemma2", {"final_logit_softcapping": 3.0, "head_dim": 8, "query_pre_attn_scalar": 8}),
        ("Cohere", {"logit_scale": 0.0625}),
        ("Granite", {"logits_scaling": 8.0}),
        ("Phi", {}),  # a head with a bias
        (
            "Mpt",
            {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "logit_scale": 3.0},
        ),  # does not read it
        ("GPT2", {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64}),
    ],
)
def test_each_family_has_the_head_of_its_own_forward(name, options):
    model = causal_lm(name, **options)
    head = head_of(model)
    check_head(model, head)
    ids, attended, measured = batch()
    hidden = response_hidden(model, ids, attended, measured)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=attended).logits[:, :-1][measured[:, 1:]]
    torch.testing.assert_close(head.logits(hidden), logits, atol=1e-5, rtol=1e-5)


def test_a_head_that_is_not_the_model_s_is_refused(pair):
    for wrong in ({"scale": 1.01}, {"soft_cap": 5.0}, {"bias": torch.full((300,), 0.1)}):
        with pytest.raises(InvalidInput, match="does more to its logits"):
            check_head(pair[0], Head(weight=head_of(pair[0]).weight, **wrong))
    with pytest.raises(InvalidInput, match="no output embeddings; expected a causal language model"):
        head_of(SimpleNamespace(get_output_embeddings=lambda: None))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers the old way
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
def test_adapters_are_in_force_also_on_the_head(options):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(causal_lm(), peft.LoraConfig(r=2, init_lora_weights=False, **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    check_head(model, head_of(model))
    ids, attended, measured = batch()
    plain = causal_lm()
    found = drift_of_batch(model, plain, ids, attended, measured)
    torch.testing.assert_close(
        found.kl_pq, from_logits(model, plain, ids, attended, measured).kl_pq, atol=2e-5, rtol=1e-4
    )
    assert found.kl_pq.mean() > 1e-3
    with model.disable_adapter():
        torch.testing.assert_close(head_of(model).weight, head_of(plain).weight)


def hidden_states(tokens=40, size=16, vocabulary=500, other=500):
    random = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    return draw(tokens, size), Head(draw(vocabulary, size)), draw(tokens, size), Head(draw(other, size))


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor any operation makes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.bytes = max(self.bytes, value.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("soft_cap", [None, 5.0])
def test_logits_stay_inside_the_budget(soft_cap):
    p_hidden, p_head, q_hidden, q_head = hidden_states(tokens=600, vocabulary=4000, other=4000)
    p_head, q_head = Head(p_head.weight, soft_cap=soft_cap), Head(q_head.weight, soft_cap=soft_cap)
    budget = 4 * 2**20
    with Largest() as largest:
        found = divergences_from_hidden(p_hidden, p_head, q_hidden, q_head, budget_bytes=budget)
    assert largest.bytes <= budget < 600 * 4000 * 4
    whole = divergences_from_hidden(p_hidden, p_head, q_hidden, q_head)
    torch.testing.assert_close(found.kl_pq, whole.kl_pq, atol=1e-5, rtol=1e-6)


def test_chunks_change_nothing(monkeypatch):
    p_hidden, p_head, q_hidden, q_head = hidden_states()
    labels = torch.arange(40)
    whole = divergences_from_hidden(p_hidden, p_head, q_hidden, q_head, labels=labels)
    monkeypatch.setattr(from_hidden, "_CHUNK_TOKENS", 7)
    parts = divergences_from_hidden(p_hidden, p_head, q_hidden, q_head, labels=labels)
    # The product may sum in another order for another number of rows.
    torch.testing.assert_close(parts.kl_pq, whole.kl_pq, atol=1e-5, rtol=1e-6)
    assert torch.equal(parts.rank_q, whole.rank_q)


def test_memory_running_out_halves_the_chunk(monkeypatch):
    p_hidden, p_head, q_hidden, q_head = hidden_states()
    expected = divergences_from_hidden(p_hidden, p_head, q_hidden, q_head)
    limit = 10

    def scarce(*arguments, **options):
        if arguments[0].shape[0] > limit:
            raise torch.OutOfMemoryError("out of memory")
        return reduce_rows(*arguments, **options)

    reduce_rows = from_hidden.reduce_rows
    monkeypatch.setattr(from_hidden, "reduce_rows", scarce)
    torch.testing.assert_close(
        divergences_from_hidden(p_hidden, p_head, q_hidden, q_head).kl_pq,
        expected.kl_pq,
        atol=1e-5,
        rtol=1e-6,
    )
    limit = 0
    with pytest.raises(TrustError, match="out of memory on cpu for one token's logits"):
        divergences_from_hidden(p_hidden, p_head, q_hidden, q_head)


def test_only_shared_ids_are_compared_and_the_rest_is_reported():
    p_hidden, p_head, q_hidden, q_head = hidden_states(vocabulary=500, other=512)
    found = divergences_from_hidden(p_hidden, p_head, q_hidden, q_head, labels=torch.arange(40))
    p, q = p_head.logits(p_hidden), q_head.logits(q_hidden)
    torch.testing.assert_close(found.kl_pq, kl_divergence(p, q[:, :500]), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found.masked_q, q.double().softmax(-1)[:, 500:].sum(-1).float(), atol=1e-6, rtol=1e-5)
    assert found.masked_p.eq(0).all()
    assert found.masked_q.max() > 0.01
    fewer = divergences_from_hidden(p_hidden, p_head, q_hidden, q_head, shared_vocabulary=490)
    torch.testing.assert_close(fewer.masked_p, p.double().softmax(-1)[:, 490:].sum(-1).float(), atol=1e-6, rtol=1e-5)
    assert divergences_from_hidden(p_hidden, p_head, q_hidden, p_head).masked_p is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_hidden": torch.zeros(39, 16)}, "equally many tokens"),
        ({"p_hidden": torch.zeros(40, 15)}, "hidden states have size 15; expected 16"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"labels have shape \(3,\); expected \(40,\)"),
        ({"labels": torch.full((40,), 500)}, "expected ids below 500, the shared vocabulary"),
        ({"shared_vocabulary": 501}, "shared_vocabulary is 501; expected 1 to 500"),
        (
            {"p_hidden": torch.cat([torch.zeros(39, 16), torch.full((1, 16), math.nan)])},
            "p_logits: NaN or .inf at token 39",
        ),
    ],
)
def test_bad_hidden_states(change, message):
    p_hidden, p_head, q_hidden, q_head = hidden_states()
    given = {"p_hidden": p_hidden, "p_head": p_head, "q_hidden": q_hidden, "q_head": q_head, **change}
    with pytest.raises(InvalidInput, match=message):
        divergences_from_hidden(**given)


def tokenizer(words=200, extra=(), bos=False):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = (
        {"<unk>": 0, "<s>": 1}
        | {f"w{index}": index for index in range(2, words)}
        | {t: words + i for i, t in enumerate(extra)}
    )
    fast = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = Whitespace()
    if bos:
        fast.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>", bos_token="<s>")


def text(*words):
    return " ".join(f"w{word}" for word in words)


TEXTS = [text(5, 6, 7, 8), text(9, 10), text(*range(20, 45))]


def test_compare_models_measures_every_predicted_token(pair):
    words = tokenizer()
    found = compare_models((pair[0], words), SimpleNamespace(model=pair[1], tokenizer=words), TEXTS, batch_size=2)
    totals = []
    for given in TEXTS:
        ids = torch.tensor([words(given)["input_ids"]])
        with torch.no_grad():
            logits = [model(input_ids=ids).logits[0, :-1] for model in pair]
        totals.append(kl_divergence(*logits))
    assert (found.tokens, found.responses, found.direction, found.on) == (
        3 + 1 + 24,
        3,
        "KL(a || b)",
        "texts",
    )
    assert found.mean == pytest.approx(torch.cat(totals).mean().item(), rel=1e-4)
    assert found.per_sequence == pytest.approx(sum(x.sum() for x in totals).item() / 3, rel=1e-4)
    back = compare_models((pair[1], words), (pair[0], words), TEXTS)
    assert abs(back.mean - found.mean) > 1e-3
    assert found.windowed == 0


def test_batch_size_changes_nothing_and_a_model_against_itself_is_zero(pair):
    words = tokenizer()
    one, three = (compare_models((pair[0], words), (pair[1], words), TEXTS, batch_size=size) for size in (1, 3))
    assert one.mean == pytest.approx(three.mean, rel=1e-4)
    assert compare_models((pair[0], words), (pair[0], words), TEXTS).maximum == 0


def test_a_beginning_token_lets_the_first_word_be_measured(pair):
    plain, begun = tokenizer(), tokenizer(bos=True)
    assert compare_models((pair[0], begun), (pair[1], begun), [text(9, 10)]).tokens == 2
    assert compare_models((pair[0], begun), (pair[1], begun), [text(9)]).tokens == 1
    with pytest.raises(InvalidInput, match="text 1 has one token, which nothing predicts"):
        compare_models((pair[0], plain), (pair[1], plain), [text(9, 10), text(9)])


def test_long_texts_are_read_in_windows_and_said_so(pair):
    words = tokenizer()
    long = text(*(2 + (7 * i) % 190 for i in range(150)))
    found = compare_models((pair[0], words), (pair[1], words), [long, TEXTS[0]])
    assert (found.windowed, found.tokens) == (1, 149 + 3)
    # A window as long as the text is the whole; windows of 64 with a stride of 32 are close to it, not equal.
    narrow = compare_models((pair[0], words), (pair[1], words), [long], window=20, stride=5)
    ids = torch.tensor(words(long)["input_ids"])
    expected, first = [], 1
    for end in (20, *range(25, 150, 5), 150):
        start = max(0, end - 20)
        with torch.no_grad():
            logits = [model(input_ids=ids[None, start : end - 1]).logits[0, first - 1 - start :] for model in pair]
        expected += kl_divergence(*logits).tolist()
        first = end
    assert narrow.tokens == 149
    assert narrow.mean == pytest.approx(sum(expected) / 149, rel=1e-4)


def test_added_tokens_are_left_out_and_their_mass_reported(pair):
    plain, longer = tokenizer(words=300), tokenizer(words=300, extra=("think", "done"))
    wide = causal_lm(seed=1, vocabulary=302)
    found = compare_models((wide, longer), (pair[0], plain), TEXTS)
    assert found.masked_mass["a"] > 0
    assert found.masked_mass["b"] == 0
    with pytest.raises(InvalidInput, match="text 0 is cut into different tokens by the two tokenizers"):
        compare_models((wide, longer), (pair[0], plain), ["w5 think w6"])


def test_a_token_that_is_padding_on_one_side_is_not_shared(pair):
    # Both heads have 300 ids; only one tokenizer has a token at 290.
    plain, longer = tokenizer(words=290), tokenizer(words=290, extra=("<think>",))
    found = compare_models((pair[0], longer), (pair[1], plain), TEXTS)
    assert found.masked_mass["a"] > 0
    assert found.masked_mass["b"] > 0


def renumbered(words, order):
    """The same words under other ids: word of id i gets ``order[i]``."""
    import json

    from tokenizers import Tokenizer

    state = json.loads(words.backend_tokenizer.to_str())
    vocabulary = {token: order[index] for token, index in words.get_vocab().items()}
    state["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    for token in state["added_tokens"]:
        token["id"] = order[token["id"]]
    core = Tokenizer.from_str(json.dumps(state))
    return type(words)(tokenizer_object=core, unk_token="<unk>", bos_token="<s>")


def permuted(model, order, size=300):
    """The model whose id ``order[i]`` does what id i did."""
    same = causal_lm(vocabulary=size)
    same.load_state_dict(model.state_dict())
    full = torch.tensor([*order, *range(len(order), size)])
    with torch.no_grad():
        for weight in (same.get_input_embeddings().weight, same.get_output_embeddings().weight):
            weight[full] = weight.clone()
    return same


def test_the_same_pieces_under_other_ids_are_matched_by_their_strings(pair):
    words = tokenizer(words=300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(5)).tolist()
    other_words, other = renumbered(words, order), permuted(pair[1], order)
    assert words(TEXTS[0])["input_ids"] != other_words(TEXTS[0])["input_ids"]
    expected = compare_models((pair[0], words), (pair[1], words), TEXTS)
    found = compare_models((pair[0], words), (other, other_words), TEXTS)
    assert found.mean == pytest.approx(float(expected.mean), rel=1e-5)
    assert found.delta_p == pytest.approx(float(expected.delta_p), rel=1e-4)
    back = compare_models((other, other_words), (pair[0], words), TEXTS)
    assert back.mean == pytest.approx(float(compare_models((pair[1], words), (pair[0], words), TEXTS).mean), rel=1e-5)


def test_of_matched_pieces_what_one_side_lacks_is_masked(pair):
    words, fewer = tokenizer(words=300), tokenizer(words=285)
    order = list(range(284, -1, -1))  # all other ids, and 15 words fewer
    found = compare_models((pair[0], words), (permuted(pair[1], order), renumbered(fewer, order)), TEXTS)
    ids = torch.tensor([words(TEXTS[2])["input_ids"]])
    with torch.no_grad():
        ours, theirs = (model(input_ids=ids).logits[0, :-1, :285] for model in pair)
    alone = compare_models((pair[0], words), (permuted(pair[1], order), renumbered(fewer, order)), [TEXTS[2]])
    assert alone.mean == pytest.approx(kl_divergence(ours, theirs).mean().item(), rel=1e-4)
    assert found.masked_mass["a"] > 0
    assert found.masked_mass["b"] > 0  # padding of the head


def test_different_tokenizers_are_refused(pair):
    words, other = tokenizer(), tokenizer(words=199, extra=("another",))
    strangers = tokenizer(words=100, extra=tuple(f"v{index}" for index in range(100)))
    with pytest.raises(
        InvalidInput,
        match=r"differ from id 100 on and share 100 pieces of 200; KL needs one vocabulary: .*bits_per_byte",
    ):
        compare_models((pair[0], words), (pair[1], strangers), TEXTS)
    assert compare_models((pair[0], words), (pair[1], other), TEXTS).tokens == 28  # texts use the shared ids only
    with pytest.raises(InvalidInput, match="text 0 is cut into different tokens"):
        compare_models((pair[0], words), (pair[1], other), ["w5 another"])


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no texts; expected at least one"),
        (["w5 w6", "  "], {}, "text 1 is '  '; expected a string that is not empty"),
        (["w5 w6", 7], {}, "text 1 is 7; expected a string"),
        (["w5 w6"], {"clusters": ["a", "b"]}, "2 clusters for 1 texts"),
        (["w5 w6"], {"window": 8, "stride": 8}, "window is 8 and stride 8; expected"),
    ],
)
def test_bad_texts(pair, texts, options, message):
    words = tokenizer()
    with pytest.raises(InvalidInput, match=message):
        compare_models((pair[0], words), (pair[1], words), texts, **options)


def test_models_without_a_tokenizer_are_refused(pair):
    with pytest.raises(InvalidInput, match=r"a is a LlamaForCausalLM; expected a reference or \(model, tokenizer\)"):
        compare_models(pair[0], (pair[1], tokenizer()), TEXTS)


def test_a_reference_is_loaded(tmp_path, pair):
    for name, model in zip("ab", pair, strict=True):
        model.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    words = tokenizer()
    found = compare_models(str(tmp_path / "a"), (pair[1], words), TEXTS, store=tmp_path / "store")
    assert found.mean == pytest.approx(compare_models((pair[0], words), (pair[1], words), TEXTS).mean, rel=1e-5)


def test_bad_logits_name_model_text_and_token(pair):
    words = tokenizer()
    broken = causal_lm(seed=1)
    with torch.no_grad():
        broken.get_input_embeddings().weight[7] = math.nan  # attention spreads it over the window
    with pytest.raises(InvalidInput, match=r"^b: NaN or .inf in its logits for token 1 of text 0; expected finite"):
        compare_models((pair[0], words), (broken, words), TEXTS)
    with pytest.raises(InvalidInput, match=r"^a: NaN or .inf in its logits for token 40 of text 1;"):
        long = text(*[*range(10, 52), 7, 8, *range(60, 80)])
        compare_models((broken, words), (pair[0], words), [TEXTS[1], long], window=20, stride=10)
    with torch.no_grad():
        broken.get_input_embeddings().weight[1] = math.nan
    with pytest.raises(InvalidInput, match="gives logits that are not finite"):
        check_head(broken, head_of(broken))


def test_a_head_that_is_slightly_off_is_noticed_in_16_bits(pair):
    model = causal_lm(seed=4).bfloat16()
    check_head(model, head_of(model))
    with pytest.raises(InvalidInput, match="does more to its logits"):
        check_head(model, Head(weight=head_of(model).weight, scale=1.25))


def test_no_tokens_at_all_are_no_error():
    p_hidden, p_head, q_hidden, q_head = hidden_states(tokens=0, vocabulary=500, other=512)
    found = divergences_from_hidden(p_hidden, p_head, q_hidden, q_head, labels=torch.zeros(0, dtype=torch.long))
    assert len(found) == 0
    assert found.masked_q.shape == (0,)


def test_memory_running_out_halves_the_batch_of_texts(pair, monkeypatch):
    from pytest_trust.drift import compare as drift_models

    words = tokenizer()
    expected = compare_models((pair[0], words), (pair[1], words), TEXTS, batch_size=3)
    sizes, most, real = [], 1, drift_models.response_hidden

    def scarce(model, ids, attended, response):
        if len(ids) > most:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(len(ids))
        return real(model, ids, attended, response)

    # A budget for the batch, not for the three tokens of the head's check.
    monkeypatch.setattr(drift_models, "check_head", lambda model, head: None)
    monkeypatch.setattr(drift_models, "response_hidden", scarce)
    found = compare_models((pair[0], words), (pair[1], words), TEXTS, batch_size=3)
    assert set(sizes) == {1}
    assert found.mean == pytest.approx(float(expected.mean), rel=1e-5)
    most = 0
    with pytest.raises(TrustError, match="out of memory for a single window of a text: give a smaller window"):
        compare_models((pair[0], words), (pair[1], words), TEXTS)
