"""The demo model, 64 requests at a time: the same text as each alone."""

from __future__ import annotations

import random

import numpy as np
import pytest

import llamacore as lc

from .conftest import ask, greedy

OPENINGS = ("Once upon a time", "Long ago", "There was a dog", "The king", "One day, a little fox", "In the garden")
TOPICS = ("happy", "sad", "angry", "calm", "afraid")


def mixed(llama: lc.Llama) -> list[lc.Request]:
    """64 greedy requests of different kinds and lengths, many with a shared beginning."""
    rng = random.Random(0)
    requests = []
    for number in range(64):
        if number % 3 == 0:
            message = {"role": "user", "content": f"Tell me a {rng.choice(TOPICS)} story."}
            prompt = llama.chat_prompt([{"role": "system", "content": "You tell stories. " * (number % 4)}, message])
        else:
            prompt = llama.tokenize(" ".join(rng.choices(OPENINGS, k=rng.choice((1, 3, 12)))))
        sampling = greedy(
            ignore_eos=number % 5 == 0,
            penalty_repeat=1.3 if number % 7 == 0 else 1.0,
            grammar="root ::= [a-zA-Z ,.]+" if number % 8 == 1 else None,
        )
        stop = ("king", ". The") if number % 6 == 0 else ()
        requests.append(ask(prompt, rng.choice((1, 10, 40, 90)), sampling=sampling, stop=stop))
    return requests


@pytest.mark.parametrize("n_parallel", [4, 16])
def test_64_requests_are_as_each_alone(exact_model, make_engine, n_parallel):
    """Mixed, with neighbours that are cancelled and neighbours that fail: every text and every token is the same."""
    with lc.Llama(exact_model, n_ctx=2048, n_parallel=1, n_threads=1, flash_attn="disabled") as alone:
        requests = mixed(alone)
        expected = [alone.engine.submit(request).result() for request in requests]
    engine = make_engine(exact_model, n_ctx=4096, n_parallel=n_parallel)
    running, disturbed = [], []
    for number, request in enumerate(requests):
        running.append(engine.submit(request))
        if number % 4 == 0:
            disturbed.append(engine.submit(ask(list(request.prompt), None, sampling=greedy(ignore_eos=True))))
        if number % 9 == 0:
            dead_end = greedy(grammar='root ::= "a"', ignore_eos=True)
            disturbed.append(engine.submit(ask(list(request.prompt), 30, sampling=dead_end)))
    for generation in disturbed[::2]:
        generation.cancel()
    results = [generation.result() for generation in running]
    for generation in disturbed:
        generation.cancel()
    assert [result.text for result in expected] == [result.text for result in results]
    assert [result.tokens for result in expected] == [result.tokens for result in results]
    assert [result.finish_reason for result in expected] == [result.finish_reason for result in results]


def logits_beside_another(model: lc.Model, flash_attn: str, *, freed: bool) -> np.ndarray:
    """Logits of six tokens of one text in primitives alone; before them, a sequence that took cells may be removed."""
    tokens = model.vocab.tokenize("Once upon a time")
    with model.context(n_ctx=512, n_seq_max=4, kv_unified=True, n_threads=1, flash_attn=flash_attn) as context:
        batch = lc.Batch(64)
        for sequence in (1, 2, 3):
            batch.clear()
            batch.add_tokens(tokens, 0, sequence)
            context.decode(batch)
        batch.clear()
        batch.add_tokens(tokens, 0, 0)
        context.decode(batch)
        if freed:
            context.memory.seq_rm(1)
        rows = []
        for number in range(6):
            batch.clear()
            batch.add(20 + number, len(tokens) + number, (0,), True)
            context.decode(batch)
            rows.append(context.logits(-1))
        return np.array(rows)


def test_flash_attention_rounds_by_the_layout_of_the_cache(demo_model):
    """Why the tests above switch it off: with it, where a text lies in the cache changes its logits, without us."""
    plain = [logits_beside_another(demo_model, "disabled", freed=freed) for freed in (False, True)]
    flash = [logits_beside_another(demo_model, "enabled", freed=freed) for freed in (False, True)]
    assert np.array_equal(*plain)
    assert not np.array_equal(*flash)
    assert np.abs(flash[0] - flash[1]).max() < 0.5 < np.abs(plain[0]).max()
