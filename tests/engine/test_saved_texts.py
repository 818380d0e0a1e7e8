"""Texts that leave the engine as bytes and come back."""

from __future__ import annotations

import asyncio

import pytest

import llamacore as lc
from llamacore.engine.snapshots import Snapshot
from llamacore.testing import tiny_lora

from .conftest import ask, by_hand, greedy


@pytest.fixture(params=["llama", "qwen35"])
def model(request, tiny):
    return tiny(request.param)


TEXT = list(range(20, 90))


def test_a_text_goes_on_in_another_engine(make_engine, model):
    """The state of a text, restored elsewhere, is continued without being computed."""
    first, second = make_engine(model), make_engine(model)
    assert 8 == len(first.submit(ask(TEXT, 8, sampling=greedy(ignore_eos=True))).result().tokens)
    data = first.snapshot(TEXT).to_bytes()
    second.restore(Snapshot.from_bytes(data))
    result = second.submit(ask([*TEXT, 7], 10, sampling=greedy(ignore_eos=True))).result()
    assert len(TEXT) == result.usage.cached_tokens
    assert by_hand(model, [*TEXT, 7], 10) == list(result.tokens)


def test_damaged_and_foreign_states_are_refused(make_engine, tiny):
    engine, other = make_engine(tiny("llama")), make_engine(tiny("llama", n_layer=3))
    data = engine.snapshot(TEXT).to_bytes()
    with pytest.raises(lc.StateError, match="another model"):
        other.restore(Snapshot.from_bytes(data))
    for wrong in (b"", data[:-1], data + b"x", data[:20] + b"?" + data[21:], b"x" * 100):
        with pytest.raises(lc.StateError):
            engine.restore(Snapshot.from_bytes(wrong))
    flipped = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
    with pytest.raises(lc.StateError, match="damaged"):
        engine.restore(Snapshot.from_bytes(flipped))
    lying = Snapshot(TEXT[:-1], engine.snapshot(TEXT).state, {})
    with pytest.raises(lc.StateError, match="is of 70 tokens, not of 69"):
        engine.restore(lying)
    with pytest.raises(lc.InvalidArgumentError):
        engine.snapshot([])
    assert by_hand(tiny("llama"), TEXT, 5) == list(
        engine.submit(ask(TEXT, 5, sampling=greedy(ignore_eos=True))).result().tokens
    )


def test_restoring_while_everything_is_in_use(make_engine, tiny):
    engine = make_engine(tiny("llama"), n_parallel=1, n_ctx=2048)
    snapshot = engine.snapshot(TEXT)
    running = engine.submit(ask([5, 6], None, sampling=greedy(ignore_eos=True)))
    next(running)
    with pytest.raises(lc.BusyError, match="every sequence"):
        engine.restore(snapshot)
    running.cancel()
    running.result()
    engine.restore(snapshot)


def test_llama_saves_and_loads(demo_path, tmp_path):
    """Files and bytes of `Llama`; what is loaded is found by the next prompt."""
    path = tmp_path / "story.state"
    with lc.Llama(demo_path, n_threads=1, n_ctx=512) as llama:
        prompt = "Once upon a time there was a cat. " * 8
        llama.save_state(path, prompt)
        text = llama.generate(prompt, max_tokens=20, temperature=0).text
        with pytest.raises(lc.StateError, match="No such file"):
            llama.load_state(tmp_path / "none")
        with pytest.raises(lc.StateError):
            llama.save_state(tmp_path, prompt)
        assert [path] == list(tmp_path.iterdir())
    with lc.Llama(demo_path, n_threads=1, n_ctx=512) as llama:
        tokens = llama.load_state(path)
        assert llama.tokenize(prompt) == tokens
        more = llama.generate([*tokens, *llama.tokenize(" He", add_special=False)], max_tokens=3)
        assert len(tokens) == more.usage.cached_tokens
        assert text == llama.generate(prompt, max_tokens=20, temperature=0).text
        assert llama.state_from_bytes(path.read_bytes()) == tokens
        llama.warmup()

        async def twins():
            await llama.awarmup()
            await llama.asave_state(path, "Long ago")
            return await llama.aload_state(path)

        assert asyncio.run(twins()) == llama.tokenize("Long ago")


def test_llama_and_its_adapters(tiny_path, tmp_path):
    """Adapters come and go at run time; one that is in use cannot go."""
    path = tiny_lora(tmp_path / "lora.gguf", tiny_path("llama"))
    with lc.Llama(tiny_path("llama"), n_threads=1, n_ctx=512, flash_attn="disabled") as llama:

        def tokens(**options):
            return llama.generate(TEXT, max_tokens=10, temperature=0, ignore_eos=True, **options).tokens

        plain = tokens()
        lora = llama.load_lora(path)
        adapted = tokens()
        assert plain != adapted
        assert plain == tokens(loras={})
        assert {lora: 1.0} == llama.loras
        llama.set_lora({lora: 0.5})
        assert adapted != tokens()
        running = llama.stream(TEXT, ignore_eos=True)
        next(running)
        with pytest.raises(lc.BusyError, match="uses"):
            llama.remove_lora(lora)
        running.cancel()
        running.result()
        llama.remove_lora(lora)
        llama.remove_lora(lora)
        assert plain == tokens()
        assert {} == llama.loras
        assert lora.closed
        with pytest.raises(lc.InvalidArgumentError, match="closed"):
            llama.set_lora({lora: 1.0})
        again = llama.load_lora(path, None)
        assert plain == tokens()
        assert adapted == tokens(loras={again: 1.0})
