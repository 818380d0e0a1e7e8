from __future__ import annotations

import numpy as np
import pytest

import llamacore as lc
from llamacore.chat.control_tokens import unseen_bias
from llamacore.chat.structured import output_format

ANY_STRING = {"type": "string"}


def token(model: lc.Model, text: str) -> int:
    (found,) = model.vocab.tokenize(text, add_special=False, parse_special=True)
    return found


def chosen(model: lc.Model, sampling: lc.SamplingParams, wished: int) -> int:
    """The token after an opening quote, when a model wishes for one above all."""
    logits = np.zeros(model.n_vocab, dtype=np.float32)
    logits[wished] = 50.0
    with sampling.chain(model) as chain:
        chain.accept(token(model, '"'))
        found = chain.apply(logits).token
    assert found is not None
    return found


def test_control_tokens_stay_out_of_strings(demo_model: lc.Model) -> None:
    start = token(demo_model, "<|im_start|>")
    wanted = output_format(ANY_STRING)
    assert wanted is not None
    unguarded = lc.SamplingParams(grammar=wanted.grammar, temperature=0)
    assert chosen(demo_model, unguarded, start) == start  # the grammar takes it by its name
    guarded = lc.SamplingParams(**wanted.sampling(demo_model), temperature=0)
    assert chosen(demo_model, guarded, start) != start
    (plain,) = demo_model.vocab.tokenize("a", add_special=False)
    assert chosen(demo_model, guarded, plain) == plain


def test_what_stays_allowed(demo_model: lc.Model) -> None:
    start, eos = token(demo_model, "<|im_start|>"), demo_model.vocab.eos
    bias = unseen_bias(demo_model, 'root ::= "x"')
    assert start in bias
    assert eos not in bias
    assert set(bias.values()) == {float("-inf")}
    assert start not in unseen_bias(demo_model, 'root ::= "<|im_start|>" "x"')
    assert start not in unseen_bias(demo_model, f"root ::= <[{start}]>")
    assert start not in unseen_bias(demo_model, 'root ::= "x"', shown=frozenset([start]))
    assert start not in unseen_bias(demo_model, 'root ::= "x"', tags=["<|im_start|>"])


def test_a_closed_model(demo_path: object) -> None:
    model = lc.Model.load(demo_path, vocab_only=True)  # type: ignore[arg-type]
    model.close()
    with pytest.raises(lc.ClosedError):
        unseen_bias(model, 'root ::= "x"')
