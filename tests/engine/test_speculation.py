"""Everything that an engine does goes on as without drafts: the same texts, tokens and figures."""

from __future__ import annotations

from typing import Any

import pytest

import llamacore as lc
from llamacore.testing import tiny_lora

from .conftest import ask, greedy
from .drafting import NGRAMS, STORY, WAYS, drafted, story


@pytest.fixture(params=WAYS)
def pair(request, make_llama, exact_path) -> tuple[lc.Llama, lc.Llama]:
    """The same model without drafts and with them."""
    return make_llama(exact_path), make_llama(exact_path, WAYS[request.param]())


def same(pair: tuple[lc.Llama, lc.Llama], prompt: Any, **options: Any) -> lc.Completion:
    """What both write, with all there is to compare."""
    results = [llama.generate(prompt, **{"temperature": 0.0, **options}) for llama in pair]
    for name in ("tokens", "text", "finish_reason", "stop"):
        assert getattr(results[0], name) == getattr(results[1], name), name
    return results[1]


# how a text ends


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 11])
def test_exactly_as_many_tokens(pair, n):
    result = same(pair, "Once upon a time", max_tokens=n)
    assert ("length", n) == (result.finish_reason, len(result.tokens))


def test_stop_strings_inside_a_draft(pair):
    """Stop strings that begin anywhere in a text, over one token or several."""
    text = same(pair, story(pair[0]), max_tokens=60).text
    for start in range(1, 60, 4):
        stop = text[start : start + 1 + start % 9]
        result = same(pair, story(pair[0]), max_tokens=60, stop=[stop, "never written"])
        assert (stop, text[: text.index(stop)]) == (result.stop, result.text)


def test_ends_by_itself(pair):
    """An end in the middle of a draft; fewer tokens than asked are refused it; forbidding it goes on."""
    prompt = story(pair[0])
    result = same(pair, prompt, max_tokens=400)
    assert "stop" == result.finish_reason
    longer = same(pair, prompt, max_tokens=400, min_tokens=len(result.tokens) + 20)
    assert len(longer.tokens) >= len(result.tokens) + 20
    assert 300 == len(same(pair, prompt, max_tokens=300, ignore_eos=True).tokens)


def test_until_the_context_is_full(make_llama, exact_path):
    """Drafts never reach past the end of the context."""
    for n_ctx in (256, 512):
        full = (
            make_llama(exact_path, n_ctx=n_ctx, n_parallel=1),
            make_llama(exact_path, lc.Mtp(n_max=7), n_ctx=n_ctx, n_parallel=1),
        )
        result = same(full, "Once upon a time", ignore_eos=True)
        assert "length" == result.finish_reason
        assert n_ctx < len(result.tokens) + 8
        with pytest.raises(lc.ContextFullError):
            full[1].generate("Once upon a time", ignore_eos=True, overflow="error", temperature=0.0)


def test_cancelled_half_way(pair):
    """What was written before a cancel is the beginning of the text, and the next text is right."""
    plain, spec = pair
    whole = plain.generate("Once upon a time", max_tokens=400, temperature=0.0, ignore_eos=True)
    for n_chunks in (1, 2, 5, 9):
        generation = spec.stream("Once upon a time", max_tokens=400, temperature=0.0, ignore_eos=True)
        for _ in range(n_chunks):
            next(generation)
        generation.cancel()
        result = generation.result()
        assert result.tokens == whole.tokens[: len(result.tokens)]
    same(pair, story(plain), max_tokens=30)


def test_deadlines(pair):
    result = pair[1].generate("Once upon a time", temperature=0.0, ignore_eos=True, time_limit=0.1)
    assert result.finish_reason in ("timeout", "length")
    assert "timeout" == pair[1].generate("Once upon a time", temperature=0.0, deadline=0.0).finish_reason
    same(pair, story(pair[0]), max_tokens=30)


# what is written


def test_grammars_and_schemas(pair):
    """A draft that the grammar forbids is dropped; the text is that without drafts."""
    result = same(pair, story(pair[0]), max_tokens=60, grammar="root ::= [a-zA-Z ,.]+")
    assert result.tokens
    schema = {"type": "object", "properties": {"mood": {"enum": ["happy", "sad"]}, "name": {"type": "string"}},
              "required": ["mood", "name"]}  # fmt: skip
    same(pair, story(pair[0]), max_tokens=80, json_schema=schema)
    dead_end = {"grammar": 'root ::= "a"', "ignore_eos": True, "max_tokens": 9, "temperature": 0.0}
    with pytest.raises(lc.SamplingError):
        pair[1].generate(story(pair[0]), **dead_end)
    neighbour = pair[1].stream(story(pair[0]), max_tokens=60, temperature=0.0)
    with pytest.raises(lc.SamplingError):
        pair[1].samples(story(pair[0]), 3, **dead_end)
    before = drafted(pair[1])
    assert same(pair, story(pair[0]), max_tokens=60).tokens == neighbour.result().tokens
    assert drafted(pair[1]) > before


def test_sampling_of_every_kind(pair):
    """Samplers with a memory of their own see each token once."""
    for options in (
        {"temperature": 0.8},
        {"temperature": 1.5, "top_k": 0, "penalty_repeat": 1.2},
        {"dry_multiplier": 0.8, "temperature": 0.9},
        {"mirostat": 2, "temperature": 0.8},
        {"xtc_probability": 0.5, "temperature": 1.0},
    ):
        for seed in range(4):
            same(pair, story(pair[0]), max_tokens=60, seed=seed, **options)


def test_log_probabilities(pair):
    """The same for each token, accepted or not, within the rounding of 32 bits."""
    plain, spec = (
        llama.generate(story(llama), max_tokens=60, temperature=0.8, seed=3, logprobs=3).logprobs for llama in pair
    )
    assert len(plain) == len(spec) > 20
    for ours, theirs in zip(spec, plain, strict=True):
        assert (ours.token, ours.text) == (theirs.token, theirs.text)
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
        assert [token for token, _ in ours.top] == [token for token, _ in theirs.top]


def test_chunks_add_up(pair):
    chunks = list(pair[1].stream(story(pair[0]), max_tokens=80, temperature=0.0, logprobs=0))
    result = chunks[-1].result
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert tuple(token for chunk in chunks for token in chunk.tokens) == result.tokens
    assert len(result.logprobs) == len(result.tokens)


def test_chats(pair):
    """Replies, thoughts within a budget, and calls of tools."""

    def say(text: str) -> str:
        """Say something.

        Args:
            text: What.
        """
        return text

    for options in (
        {},
        {"enable_thinking": True},
        {"enable_thinking": True, "thinking_budget": 5},
        {"tools": [say], "tool_choice": "required", "max_tokens": 120},
        {"temperature": 0.8, "seed": 5},
        {"response_format": {"type": "json_object"}, "max_tokens": 40},
    ):
        plain, spec = (
            llama.stream_chat(STORY, **{"max_tokens": 80, "temperature": 0.0, **options}).result() for llama in pair
        )
        calls = [[(call.name, call.arguments) for call in reply.message.tool_calls] for reply in (plain, spec)]
        assert calls[0] == calls[1]
        assert len(calls[0]) == ("tools" in options)
        assert (plain.message.content, plain.message.reasoning_content, plain.finish_reason) == (
            spec.message.content, spec.message.reasoning_content, spec.finish_reason
        )  # fmt: skip


# several texts


def test_samples_of_one_prompt(pair):
    """Forks of a text that was computed once, in one go or all but its last token before, or that is known."""
    for repeated in (1, 4, 4):
        prompt = story(pair[0]) * repeated
        texts = [llama.samples(prompt, 4, max_tokens=60, temperature=0.8, seed=1) for llama in pair]
        assert [result.tokens for result in texts[0]] == [result.tokens for result in texts[1]]
        assert len({result.tokens for result in texts[1]}) > 1


def test_drafts_beside_prompts(make_llama, exact_path):
    """Long prompts are computed in pieces while others draft; all are as each alone."""
    alone = make_llama(exact_path, n_parallel=1)
    prompts = [story(alone, mood) * (1 + number % 3) for number, mood in enumerate(("happy", "sad", "calm") * 5)]
    expected = [alone.generate(prompt, max_tokens=40, temperature=0.0).tokens for prompt in prompts]
    for way in WAYS.values():
        spec = make_llama(exact_path, way(), n_parallel=6, n_batch=32, n_ubatch=32, n_ctx=4096)
        running = [spec.engine.submit(ask(prompt, 40)) for prompt in prompts]
        assert expected == [generation.result().tokens for generation in running]
        assert drafted(spec) > 50


@pytest.mark.parametrize("way", WAYS)
def test_separate_caches(make_llama, exact_path, way):
    params = lc.ContextParams(n_ctx=4096, n_seq_max=4, n_outputs_max=4, kv_unified=False)
    texts = []
    for speculative in (None, WAYS[way]()):
        llama = make_llama(exact_path, speculative, context_params=params)
        running = [
            llama.engine.submit(ask(story(llama, mood), 60)) for mood in ("happy", "sad", "calm", "angry", "afraid")
        ]
        texts.append([generation.result().tokens for generation in running])
    assert texts[0] == texts[1]


def test_less_of_it_for_a_request(make_llama, exact_path):
    """`draft_max` of a request is a limit of its own; 0 drafts nothing."""
    llama = make_llama(exact_path, lc.Mtp(n_max=3, adaptive=False))
    texts = set()
    for limit, places in ((0, 0), (1, 1), (2, 2), (None, 3), (99, 3)):
        before = llama.engine.stats().speculation.positions
        texts.add(llama.generate(story(llama), max_tokens=40, temperature=0.0, draft_max=limit).tokens)
        after = llama.engine.stats().speculation.positions
        grown = [new[0] > old[0] for new, old in zip(after, before, strict=True)]
        assert [place < places for place in range(3)] == grown
    assert 1 == len(texts)
    mixed = [
        llama.engine.submit(ask(story(llama), 40, draft_max=limit)) for limit in (0, 1, 2, None, 0, 3, None, 1)
    ]  # fmt: skip
    assert texts == {generation.result().tokens for generation in mixed}
    for wrong in (-1, 0.5, "1", True):
        with pytest.raises(lc.InvalidArgumentError, match="draft_max"):
            llama.generate("a", draft_max=wrong)


def test_a_memory_that_is_full(make_llama, exact_path):
    """Texts that do not fit side by side lose their sequences and go on later, drafts or not."""
    alone = make_llama(exact_path, n_parallel=1)
    prompts = [story(alone, mood) for mood in ("happy", "sad", "calm", "angry")]
    asked = {"sampling": greedy(ignore_eos=True)}
    expected = [alone.engine.submit(ask(prompt, 150, **asked)).result().tokens for prompt in prompts]
    for way in WAYS.values():
        events: list[str] = []
        params = lc.EngineParams(on_event=lambda event, events=events: events.append(event.kind))
        spec = make_llama(exact_path, way(), n_parallel=4, n_ctx=512, engine_params=params)
        running = [spec.engine.submit(ask(prompt, 150, **asked)) for prompt in prompts]
        assert expected == [generation.result().tokens for generation in running]
        assert "preempted" in events


# the prefix cache


@pytest.mark.parametrize("way", WAYS)
def test_a_second_turn(make_llama, exact_path, way):
    """What was written with drafts is in the cache, and what is written after it is right."""
    plain, spec = make_llama(exact_path), make_llama(exact_path, WAYS[way]())
    prompt = story(plain)
    first = same((plain, spec), prompt, max_tokens=50)
    more = [*prompt, *first.tokens, *plain.tokenize(" The next day", add_special=False)]
    second = same((plain, spec), more, max_tokens=50)
    assert second.usage.cached_tokens >= len(prompt) + 49
    third = same((plain, spec), story(plain)[:-3] + plain.tokenize(" sad"), max_tokens=30)
    assert third.finish_reason == "length"


@pytest.mark.parametrize("way", WAYS)
def test_texts_that_move_to_host_memory(make_llama, exact_path, way):
    """One sequence, several long texts: each is put back with its part in the memory that drafts."""
    plain, spec = (make_llama(exact_path, speculative, n_parallel=1) for speculative in (None, WAYS[way]()))
    prompts = [story(plain, mood) * 20 for mood in ("happy", "sad", "calm")]
    for _ in range(2):
        for prompt in prompts:
            same((plain, spec), prompt, max_tokens=40)
    assert spec.engine.stats().cache.restores >= 2


def test_a_folder_with_and_without_drafts(make_llama, exact_path, tmp_path):
    """Texts of an engine that drafts serve one that does not, and the other way round."""
    plain = make_llama(exact_path, n_parallel=1)
    prompt = story(plain) * 20
    known, expected = list(prompt), []
    ways = (WAYS["mtp"], None, WAYS["draft model"], WAYS["mtp"], WAYS["n-grams"], WAYS["mtp"])
    params = lc.EngineParams(cache_dir=tmp_path)
    for number, way in enumerate(ways):
        expected = plain.generate(known, max_tokens=30, temperature=0.0, ignore_eos=True).tokens
        with make_llama(exact_path, None if way is None else way(), n_parallel=1, engine_params=params) as llama:
            result = llama.generate(known, max_tokens=30, temperature=0.0, ignore_eos=True)
            assert expected == result.tokens
            assert (result.usage.cached_tokens > len(known) - 3) == (number > 0)
            assert way is None or drafted(llama) > 0
        known += result.tokens


# adapters, shifting, other memories


def test_adapters(make_llama, tiny_path, tmp_path):
    """Requests with different adapters at a time, drafted for by the plain model and by n-grams."""
    path = tiny_path("llama", n_vocab=300)
    with lc.Model.load(path) as model, lc.LoraAdapter.load(model, tiny_lora(tmp_path / "a.gguf", path)) as lora:
        prompt = list(range(20, 50)) * 2
        texts = []
        for speculative in (None, NGRAMS, lc.DraftModel(model=path, adaptive=False)):
            llama = make_llama(model, speculative)
            running = [
                llama.engine.submit(ask(prompt, 40, sampling=greedy(ignore_eos=True), loras=loras))
                for loras in ({lora: 1.0}, {}, {lora: 0.3}, {}, {lora: 1.0})
            ]
            texts.append([generation.result().tokens for generation in running])
            llama.close()
        assert texts[0] == texts[1] == texts[2]
        assert 3 == len(set(texts[0]))


def test_shifting(make_llama, tiny_path):
    """The oldest tokens are dropped in both memories, at the same places as without drafts."""
    path = tiny_path("llama", n_vocab=300)
    texts = []
    for speculative in (None, NGRAMS, lc.DraftModel(model=path, adaptive=False)):
        llama = make_llama(path, speculative, n_ctx=256, n_parallel=1)
        result = llama.generate(
            list(range(20, 220)), max_tokens=300, temperature=0.0, ignore_eos=True, overflow="shift", n_keep=10
        )
        texts.append((result.tokens, result.shifted_tokens))
        assert speculative is None or drafted(llama) > 50
    assert texts[0] == texts[1] == texts[2]
    assert texts[0][1] > 200


@pytest.mark.parametrize(
    ("arch", "options", "settings"),
    [
        ("llama", {"n_vocab": 300}, {}),
        ("gemma3", {"n_swa": 32}, {"swa_full": False}),
        ("gemma3", {"n_swa": 32}, {"swa_full": True}),
        ("qwen35", {}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("n_parallel", [1, 4])
def test_every_kind_of_memory(make_llama, tiny, arch, options, settings, n_parallel):
    """Attention, sliding windows and hybrid: what a draft left is taken back."""
    model = tiny(arch, **options)
    prompts = [[10 + seed, *list(range(20, 40)) * 3, 11 + seed] for seed in range(5)]
    params = lc.ContextParams(n_seq_max=n_parallel, n_outputs_max=n_parallel, kv_unified=True, **settings)
    texts = []
    for speculative in (None, NGRAMS):
        llama = make_llama(model, speculative, context_params=params)
        running = [llama.engine.submit(ask(prompt, 90, sampling=greedy(ignore_eos=True))) for prompt in prompts]
        texts.append([generation.result().tokens for generation in running])
        again = [llama.engine.submit(ask(prompt[:40], 30, sampling=greedy(ignore_eos=True))) for prompt in prompts]
        texts[-1] += [generation.result().tokens for generation in again]
    assert texts[0] == texts[1]
    stats = llama.engine.stats().speculation
    assert 0 < stats.accepted <= stats.drafted


def test_random_heads(make_llama, tiny_path):
    """Heads that are nearly always wrong: everything they draft is taken back."""
    path = tiny_path("qwen35", n_nextn=1)
    prompts = [list(range(20 + seed, 60)) for seed in range(6)]
    texts = []
    for speculative in (None, lc.Mtp(n_max=4, adaptive=False)):
        llama = make_llama(path, speculative)
        running = [llama.engine.submit(ask(prompt, 60, sampling=greedy(ignore_eos=True))) for prompt in prompts]
        texts.append([generation.result().tokens for generation in running])
    assert texts[0] == texts[1]
    stats = llama.engine.stats().speculation
    assert stats.acceptance < 0.2 and stats.drafted > 500
