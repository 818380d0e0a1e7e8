"""Activations and steering of single requests in an engine that serves others at the same time."""

from __future__ import annotations

import numpy as np
import pytest

import llamacore as lc

PROMPT = "<|im_start|>user\nTell me a happy story about a fox.<|im_end|>\n<|im_start|>assistant\n"
OPTIONS = {"parse_special": True, "max_tokens": 40, "temperature": 0.0}
LAYERS, EVERY = (2, 5), 10


@pytest.fixture(scope="module", params=["plain", "mtp"])
def llama(exact_path, request):
    """With a tap; with drafts, whose rows are in the batch too, and without."""
    way = lc.Mtp(adaptive=False) if request.param == "mtp" else None
    with lc.Llama(exact_path, taps=True, n_threads=1, n_parallel=8, flash_attn="disabled", speculative=way) as llama:
        yield llama


def vector(llama: lc.Llama, seed: int = 0) -> lc.ControlVector:
    directions = np.random.default_rng(seed).normal(size=(2, llama.model.n_embd)).astype("f4")
    return lc.ControlVector({2: directions[0], 4: directions[1]})


def by_hand(model: lc.Model, tokens: list[int], layers: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Outputs of layers for every token of a text, in primitives: one decode of all of it."""
    tap = lc.LayerTap()
    with model.context(n_ctx=512, n_threads=1, flash_attn="disabled", capture=tap) as context:
        tap.capture(layers, rows="all")
        batch = lc.Batch(len(tokens))
        batch.add_tokens(tokens, outputs="all")
        context.decode(batch)
        return {layer: tap.layer(layer) for layer in layers}


def test_activations_are_those_of_the_text(llama):
    """At the end of the prompt and of every tenth token, whatever shares the batch."""
    prompt = llama.tokenize(PROMPT, parse_special=True)
    others = [llama.stream(f"{PROMPT}{number}", **OPTIONS) for number in range(3)]
    result = llama.generate(prompt, activation_layers=LAYERS, activation_every=EVERY, max_tokens=40, temperature=0.0)
    expected = by_hand(llama.model, [*prompt, *result.tokens], LAYERS)
    for other in others:
        other.result()
    seen = [(found.layer, found.phase, found.token_index) for found in result.activations]
    counts = [0, *range(EVERY, len(result.tokens) + 1, EVERY)]
    last = counts[-1] < 40  # nothing is computed with the last token that is allowed
    counts = counts if last else counts[:-1]
    assert seen == [(layer, "response" if count else "input", count) for count in counts for layer in LAYERS]
    for found in result.activations:
        row = expected[found.layer][len(prompt) - 1 + found.token_index]
        assert np.allclose(found.values, row, rtol=1e-3, atol=1e-3)
        assert found.elapsed_ms > 0


def test_they_come_with_the_chunks(llama):
    """Each once, and in the completion all of them; only the prompt's with activation_every=0."""
    chunks = list(llama.stream(PROMPT, activation_layers=(2,), activation_every=EVERY, **OPTIONS))
    assert sum((chunk.activations for chunk in chunks), ()) == chunks[-1].result.activations
    assert len(chunks[-1].result.activations) >= 4
    only = llama.generate(PROMPT, activation_layers=(2,), activation_every=0, **OPTIONS)
    assert [found.phase for found in only.activations] == ["input"]


def test_each_request_is_steered_as_it_asks(llama):
    """Eight at a time: those that are not steered, or by 0, write what they write alone."""
    plain = llama.generate(PROMPT, **OPTIONS)
    one, other = vector(llama), vector(llama, 1)
    wishes = [{}, {one: 0.5}, {one: 0.0}, {one: -0.5}, {}, {one: 0.5, other: 0.25}, {other: 0.25}, {}]
    alone = [llama.generate(PROMPT, steering=wish, cache_prompt=False, **OPTIONS) for wish in wishes]
    running = [llama.stream(PROMPT, steering=wish, **OPTIONS) for wish in wishes]
    results = [generation.result() for generation in running]
    assert [result.tokens for result in results] == [result.tokens for result in alone]
    for wish, result in zip(wishes, results, strict=True):
        assert (result.tokens == plain.tokens) == (not any(wish.values()))
    assert llama.generate(PROMPT, **OPTIONS).tokens == plain.tokens


def test_a_steered_text_is_not_the_beginning_of_another(llama):
    """The prefix cache tells texts apart by how they were steered."""
    long = PROMPT + "Once upon a time there was a fox. " * 8
    steering = {vector(llama, 2): 0.3}
    first = llama.generate(long, steering=steering, **OPTIONS)
    assert llama.generate(long, **OPTIONS).usage.cached_tokens == 0
    again = llama.generate(long, steering=steering, **OPTIONS)
    assert again.usage.cached_tokens > 0
    assert again.tokens == first.tokens


def test_samples_are_steered_together(llama):
    """All samples of a request, which are forked behind its prompt."""
    steering = {vector(llama, 3): 0.5}
    alone = llama.generate(PROMPT, steering=steering, **OPTIONS)
    results = llama.samples(PROMPT, 3, steering=steering, activation_layers=(2,), activation_every=0, **OPTIONS)
    assert [result.tokens for result in results] == [alone.tokens] * 3
    assert all(len(result.activations) == 1 for result in results)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"activation_layers": (99,)}, lc.OutOfRangeError),
        ({"activation_layers": (-1,)}, lc.OutOfRangeError),
        ({"activation_layers": "2"}, lc.InvalidArgumentError),
        ({"activation_layers": (1.5,)}, lc.InvalidArgumentError),
        ({"activation_every": -1}, lc.InvalidArgumentError),
        ({"steering": {"happy": 1.0}}, lc.InvalidArgumentError),
        ({"steering": [1]}, lc.InvalidArgumentError),
        ({"steering": {lc.ControlVector({2: np.ones(192, "f4")}): float("inf")}}, lc.InvalidArgumentError),
        ({"steering": {lc.ControlVector({2: np.ones(3, "f4")}): 1.0}}, lc.AdapterError),
        ({"steering": {lc.ControlVector({50: np.ones(192, "f4")}): 1.0}}, lc.AdapterError),
    ],
)
def test_what_cannot_be_asked(llama, options, error):
    """One clear error, and the next request is served."""
    with pytest.raises(error):
        llama.generate(PROMPT, **options, **OPTIONS)
    assert llama.generate(PROMPT, **OPTIONS).tokens


def test_without_a_tap(exact_model):
    """An engine that was made without says how to make one."""
    with lc.Llama(exact_model, n_ctx=512, n_threads=1) as llama:
        for options in ({"activation_layers": (1,)}, {"steering": {vector(llama): 1.0}}):
            with pytest.raises(lc.UnsupportedError, match="taps=True"):
                llama.generate(PROMPT, **options, **OPTIONS)
