"""The prefix cache: what is found, and that a text continued from it is the one computed from nothing."""

from __future__ import annotations

import os
import random

import pytest

import llamacore as lc
from llamacore.engine.snapshots import Snapshot, SnapshotFolder

from .conftest import ask, by_hand, greedy

KINDS = {
    "attention": ("llama", {"n_vocab": 300}),
    "sliding window": ("gemma3", {"n_swa": 32}),
    "hybrid": ("qwen35", {}),
    "recurrent": ("mamba", {}),
}


@pytest.fixture(params=KINDS)
def model(request, tiny):
    arch, options = KINDS[request.param]
    return tiny(arch, **options)


@pytest.fixture
def hybrid(tiny):
    return tiny("qwen35")


@pytest.fixture
def attention(tiny):
    return tiny("llama", n_vocab=300)


def text(seed: int, length: int) -> list[int]:
    """Tokens that every tiny model has."""
    rng = random.Random(seed)
    return [10 + seed, *(rng.randrange(10, 250) for _ in range(length - 1))]


def unending():
    return greedy(ignore_eos=True)


def write(engine, prompt, max_tokens=8, **options):
    return engine.submit(ask(prompt, max_tokens, sampling=unending(), **options)).result()


def check(model, engine, prompt, cached=None, **options):
    """Generate, compare with the primitives, and with how much was found."""
    result = write(engine, prompt, **options)
    assert by_hand(model, prompt, len(result.tokens)) == list(result.tokens)
    if cached is not None:
        assert cached == result.usage.cached_tokens
    return result


def test_a_conversation_goes_on(make_engine, model):
    """A prompt that begins with the whole text before computes the new part alone."""
    engine = make_engine(model, swa_full=False)
    first = check(model, engine, text(1, 100), 0)
    known = [*text(1, 100), *first.tokens[:-1]]  # the last one was never fed back
    check(model, engine, [*known, first.tokens[-1], *text(2, 5)], len(known))
    stats = engine.stats().cache
    assert (1, 1, len(known)) == (stats.hits, stats.misses, stats.reused_tokens)


def test_a_prefix_that_is_computed_alone_serves_all(make_engine, model):
    """`max_tokens=0` puts a prefix into the cache; every prompt that begins with it continues from there."""
    engine = make_engine(model, swa_full=False)
    prefix = text(1, 120)
    assert "length" == write(engine, prefix, 0).finish_reason
    for seed in range(3):
        check(model, engine, prefix + text(10 + seed, 7), 120)


def test_texts_that_part_in_the_middle(make_engine, model):
    """Two prompts share a beginning: memories that can be cut reuse it at once, the others from the third one on."""
    engine = make_engine(model, swa_full=False)
    prefix = text(1, 90)
    check(model, engine, prefix + text(2, 20), 0)
    second = check(model, engine, prefix + text(3, 20))
    assert second.usage.cached_tokens == (0 if engine._worker.scheduler.cache.needs_checkpoints else 90)
    check(model, engine, prefix + text(4, 20), 90)
    check(model, engine, prefix + text(2, 20), 109)  # the first one again: all but its last token


def test_checkpoints_where_the_caller_says(make_engine, hybrid):
    """A state is kept after the number of tokens that was asked for."""
    engine = make_engine(hybrid)
    check(hybrid, engine, text(1, 60) + text(2, 30), 0, checkpoints=[60, 9999, -4])
    check(hybrid, engine, text(1, 60) + text(3, 30), 60)


def test_sharing_with_a_text_that_is_being_written(make_engine, model):
    """A prompt is shared while its first owner still writes, and neither disturbs the other."""
    engine = make_engine(model, swa_full=False)
    prefix = text(1, 80)
    first = engine.submit(ask(prefix + text(2, 10), 120, sampling=unending(), checkpoints=[80]))
    next(first)
    check(model, engine, prefix + text(3, 10), 80)
    assert by_hand(model, prefix + text(2, 10), 120) == list(first.result().tokens)


def test_the_least_recently_used_text_leaves(make_engine, model):
    """More texts than sequences: an old long one moves to host memory and comes back from there."""
    engine = make_engine(model, n_parallel=2, n_ctx=1024, swa_full=False)
    texts = [text(seed, 300) for seed in range(4)]
    for prompt in texts:
        check(model, engine, prompt, 0)
    stats = engine.stats().cache
    assert stats.evictions >= 2
    assert stats.host_bytes > 0
    for prompt in texts:
        check(model, engine, [*prompt, 11, 12], 299 if engine._worker.scheduler.cache.needs_checkpoints else 300)
    assert engine.stats().cache.restores >= 2
    engine.clear_cache()
    assert (0, 0) == (engine.stats().cache.host_bytes, engine.stats().cache.texts)
    check(model, engine, texts[0], 0)


def test_the_budget_of_host_memory_holds(make_engine, attention):
    """Snapshots never take more than they may; without a budget there are none."""
    size = 0
    for budget in (0, 200_000):
        engine = make_engine(attention, n_parallel=1, n_ctx=1024, cache_bytes=budget)
        for seed in range(6):
            write(engine, text(seed, 300), 1)
            assert engine.stats().cache.host_bytes <= budget
            size = max(size, engine.stats().cache.host_peak_bytes)
        write(engine, [*text(4, 300), 9], 1)
        assert (engine.stats().cache.restores > 0) == (budget > 0)
    assert size > 0


def test_the_cache_can_be_left_alone(make_engine, attention):
    """`cache_prompt=False` neither reads nor leaves anything."""
    engine = make_engine(attention)
    for _ in range(2):
        check(attention, engine, text(1, 60), 0, cache_prompt=False)
    check(attention, engine, text(1, 60), 0)
    assert 59 == write(engine, text(1, 60)).usage.cached_tokens


def test_texts_outlive_the_process(make_engine, model, tmp_path):
    """A folder keeps texts; another engine on the same model finds them, one on another model or layout does not."""
    prompt = text(1, 300)
    with make_engine(model, n_parallel=1, n_ctx=1024, cache_dir=tmp_path, swa_full=False) as engine:
        first = write(engine, prompt)
    assert list(tmp_path.rglob("*.snapshot"))
    again = make_engine(model, n_parallel=1, n_ctx=1024, cache_dir=tmp_path, swa_full=False)
    known = [*prompt, *first.tokens[:-1]]
    check(model, again, [*known, 7, 8], len(known))
    assert 1 == again.stats().cache.restores
    if not model.is_recurrent:
        other = make_engine(model, n_parallel=1, n_ctx=1024, cache_dir=tmp_path, type_k="f32", swa_full=False)
        check(model, other, [*known, 7, 8], 0)


def test_a_model_of_the_same_shape_has_its_own_folder(tiny, make_engine, tmp_path):
    """Equal metadata and shapes, other weights: the texts of one are not those of the other."""
    prompt = text(1, 300)
    for seed in (0, 1):
        model = tiny("llama", n_vocab=300, seed=seed)
        with make_engine(model, n_parallel=1, n_ctx=1024, cache_dir=tmp_path) as engine:
            assert 0 == write(engine, prompt).usage.cached_tokens
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone"])
def test_damaged_snapshots_are_computed_again(make_engine, attention, tmp_path, damage):
    """Whatever happened to a file, the text is right."""
    prompt = text(1, 300)
    with make_engine(attention, n_parallel=1, n_ctx=1024, cache_dir=tmp_path) as engine:
        write(engine, prompt)
    [path] = tmp_path.rglob("*.snapshot")
    again = make_engine(attention, n_parallel=1, n_ctx=1024, cache_dir=tmp_path)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        flipped = data[:-5000] + bytes([data[-5000] ^ 255]) + data[-4999:]
        path.write_bytes({"cut": data[:-100], "flip": flipped, "empty": b""}[damage])
    check(attention, again, [*prompt, 5], 0)
    assert engine.closed
    fresh = make_engine(attention, n_parallel=1, n_ctx=1024, cache_dir=tmp_path)
    check(attention, fresh, [*prompt, 5], 0)


def test_the_folder_keeps_to_its_size(attention, tmp_path):
    """The least recently used files go when there are too many bytes; the newest always stays."""
    with attention.context(n_ctx=64, n_threads=1) as context:
        folder = SnapshotFolder(tmp_path, context, 4000)
        paths = []
        for seed in range(4):
            paths.append(folder.save(Snapshot(text(seed, 5), bytes(1000), {3: b"x" * 100})))
            os.utime(paths[-1], (seed, seed))
        assert [False, True, True, True] == [path.exists() for path in paths]
        loaded = folder.load(paths[1])
        assert (text(1, 5), 1000, {3: b"x" * 100}) == (list(loaded.tokens), len(loaded.state), loaded.checkpoints)
        paths.append(folder.save(Snapshot(text(9, 5), bytes(1000), {})))
        assert [False, True, False, True, True] == [path.exists() for path in paths]
        assert {tuple(tokens) for _, tokens in folder.tokens()} == {tuple(text(seed, 5)) for seed in (1, 3, 9)}


# when the memory is full


def test_a_full_context(make_engine, attention):
    """At the end of the context a text stops, or it is an error, as asked."""
    engine = make_engine(attention, n_ctx=256, n_parallel=1)
    result = write(engine, text(1, 200), None)
    assert ("length", 57) == (result.finish_reason, len(result.tokens))
    assert by_hand(attention, text(1, 200), 57) == list(result.tokens)
    with pytest.raises(lc.ContextFullError, match="the context of 256 tokens is full after 57"):
        write(engine, text(1, 200), None, overflow="error")
    assert len(write(engine, text(2, 9)).tokens) == 8


def test_shifting(make_engine, attention, hybrid):
    """Asked to shift, a text goes on as one whose oldest tokens were dropped by hand; hybrid memories cannot."""
    engine = make_engine(attention, n_ctx=256, n_parallel=1)
    prompt = text(1, 200)
    result = write(engine, prompt, 120, overflow="shift", n_keep=10)
    assert ("length", 120, 123) == (result.finish_reason, len(result.tokens), result.shifted_tokens)
    with attention.context(n_ctx=256, n_threads=1, flash_attn="disabled", kv_unified=True) as context:
        sampler, batch, tokens = lc.Sampler.greedy(), lc.Batch(256), []
        batch.add_tokens(prompt)
        context.decode(batch)
        position = 200
        for _ in range(120):
            ends = {token: float("-inf") for token in range(300) if attention.vocab.is_eog(token)}
            chain = lc.Sampler.chain(lc.Sampler.logit_bias(attention, ends), lc.Sampler.greedy())
            tokens.append(chain.sample(context, -1))
            if position == 256:
                context.memory.seq_rm(0, 10, 133)
                context.memory.seq_add(0, 133, -1, -123)
                position -= 123
            batch.clear()
            batch.add(tokens[-1], position, output=True)
            context.decode(batch)
            position += 1
        sampler.close()
    assert tokens == list(result.tokens)
    assert 0 == write(engine, prompt).usage.cached_tokens  # what is left was computed with the dropped part in view
    with pytest.raises(lc.ContextFullError):
        write(make_engine(hybrid, n_ctx=256, n_parallel=1), prompt, None, overflow="shift")


def test_shifting_does_not_move_what_others_share(make_engine, attention):
    """A shifted text shares its prompt with another one, which is not moved with it."""
    engine = make_engine(attention, n_ctx=300, n_parallel=2)
    prefix = text(1, 100)
    write(engine, prefix, 0)
    first = engine.submit(ask([*prefix, 20], None, sampling=unending(), overflow="shift", time_limit=0.4))
    next(first)
    for seed in range(3):
        check(attention, engine, prefix + text(seed, 3), 100)
    result = first.result()
    assert ("timeout", True) == (result.finish_reason, result.shifted_tokens > 0)
    check(attention, engine, prefix + text(9, 3))


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_more_texts_than_memory(make_engine, tiny, kind):
    """Texts that do not fit side by side take turns: the later ones wait and go on, with the same tokens."""
    arch, options = KINDS[kind]
    model, events = tiny(arch, **options), []
    engine = make_engine(model, n_ctx=512, n_parallel=4, on_event=events.append)
    prompts = [text(seed, 100) for seed in range(4)]
    running = [engine.submit(ask(prompt, 200, sampling=unending())) for prompt in prompts]
    for prompt, generation in zip(prompts, running, strict=True):
        assert by_hand(model, prompt, 200) == list(generation.result().tokens)
    assert "preempted" in [event.kind for event in events]


def test_samples_that_do_not_fit(make_engine, attention):
    """Several samples of a long prompt outgrow the memory together, and all end."""
    engine = make_engine(attention, n_ctx=400, n_parallel=4)
    results = engine.submit(ask(text(1, 200), 120, sampling=unending(), n=4)).results()
    assert [tuple(by_hand(attention, text(1, 200), 120))] * 4 == [completion.tokens for completion in results]


@pytest.mark.parametrize("kind", ["attention", "hybrid"])
def test_separate_caches_share_too(make_engine, tiny, kind):
    """With a cache of its own for each sequence a beginning is copied; the texts are the same."""
    arch, options = KINDS[kind]
    model = tiny(arch, **options)
    engine = make_engine(model, n_ctx=2048, kv_unified=False)
    prefix = text(1, 90)
    write(engine, prefix, 0)
    running = [engine.submit(ask(prefix + text(seed, 20), 60, sampling=unending())) for seed in range(2, 8)]
    for seed, generation in zip(range(2, 8), running, strict=True):
        result = generation.result()
        assert 90 == result.usage.cached_tokens
        assert by_hand(model, prefix + text(seed, 20), 60) == list(result.tokens)


def test_a_checkpoint_that_keeping_a_snapshot_drives_out(make_engine, hybrid):
    """With hardly room for one snapshot its checkpoint has to go; the text is computed again, the engine goes on."""
    prompt = text(1, 300)
    probe = make_engine(hybrid, n_parallel=1, n_ctx=1024)
    write(probe, prompt)
    size = probe.call(lambda context: context.state.size(0))
    engine = make_engine(hybrid, n_parallel=1, n_ctx=1024, cache_bytes=size + 2000)
    check(hybrid, engine, prompt, 0)
    for _ in range(3):
        check(hybrid, engine, prompt)
    assert 0 == engine.stats().failed


def test_a_tail_of_few_tokens_costs_no_other_text_its_sequence(make_engine, model):
    """One short question after another behind the same prefix, beside another text: none of them drives it out."""
    engine = make_engine(model, n_parallel=2, swa_full=False)
    other, prefix = text(1, 60), text(2, 60)
    write(engine, prefix, 0)
    known = [*other, *check(model, engine, other, 0).tokens]
    for seed in range(3, 8):
        check(model, engine, [*prefix, 10 + seed], 60)
    assert 0 == engine.stats().cache.evictions
    check(model, engine, known, len(known) - 1)
