"""`Llama`: generating and streaming on the demo model."""

import asyncio
import gc
import math
import threading
import time

import pytest

import llamacore as lc
from llamacore.engine.request import GenerationParams

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def llama(demo_path):
    # flash attention rounds differently for each layout of the cache, see tests/engine/test_equality.py
    with lc.Llama(demo_path, n_threads=1, n_ctx=512, flash_attn="disabled") as llama:
        yield llama


def by_hand(llama, prompt, n):
    """Greedy tokens by the primitives, as a reference."""
    vocab = llama.model.vocab
    tokens = vocab.tokenize(prompt)
    with llama.model.context(n_ctx=512, n_threads=1, flash_attn="disabled") as ctx, lc.Sampler.greedy() as sampler:
        batch = lc.Batch(512)
        batch.add_tokens(tokens)
        ctx.decode(batch)
        out = []
        for pos in range(len(tokens), len(tokens) + n):
            token = sampler.sample(ctx, -1)
            if vocab.is_eog(token):
                break
            out.append(token)
            batch.clear()
            batch.add(token, pos, output=True)
            ctx.decode(batch)
        return out


def test_greedy_equals_a_loop_over_the_primitives(llama):
    """The facade writes the very tokens that Model, Context and Sampler write by hand."""
    completion = llama.generate(PROMPT, max_tokens=40, temperature=0)
    assert by_hand(llama, PROMPT, 40) == list(completion.tokens)
    assert completion.text == llama.detokenize(completion.tokens, unparse_special=False)


def test_the_same_greedy_run_gives_the_same_bytes(llama):
    """Two greedy runs are equal, whatever ran in between."""
    first = llama.generate(PROMPT, max_tokens=30, temperature=0)
    llama.generate("Something else entirely", max_tokens=5, seed=3)
    assert first.text == llama.generate(PROMPT, max_tokens=30, temperature=0).text


def test_options_are_read_each_time(llama):
    """What a caller changes in its own objects counts at the next call; a wrong value is refused after a right one."""
    first = llama.generate(PROMPT, max_tokens=1, temperature=0).tokens[0]
    bias: dict[int, float] = {}
    options = {"max_tokens": 1, "temperature": 0, "logit_bias": bias, "top_k": 1}
    assert first == llama.generate(PROMPT, **options).tokens[0]
    bias[first] = float("-inf")
    assert first != llama.generate(PROMPT, **options).tokens[0]
    assert 1 == len(llama.generate(PROMPT, max_tokens=1, top_k=3).tokens)
    with pytest.raises(lc.InvalidArgumentError):
        llama.generate(PROMPT, max_tokens=1, top_k=3.5)


def test_a_seed_repeats_and_another_differs(llama):
    """Sampling is a function of the seed."""
    runs = [llama.generate(PROMPT, max_tokens=30, temperature=1.5, seed=seed).text for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_stream_adds_up_to_the_completion(llama):
    """Chunks carry all text and all tokens; the last one alone carries the result."""
    chunks = list(llama.stream(PROMPT, max_tokens=25, temperature=0))
    result = chunks[-1].result
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert tuple(token for chunk in chunks for token in chunk.tokens) == result.tokens
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == result.finish_reason == "length"
    assert (result.usage.completion_tokens, result.usage.total_tokens) == (25, 25 + result.usage.prompt_tokens)


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_stop_strings_are_exact(llama, length):
    """Any stretch of the text works as a stop: the text ends right before it, and no chunk shows any of it."""
    text = llama.generate(PROMPT, max_tokens=40, temperature=0).text
    for start in range(0, len(text) - length, 7):
        stop = text[start : start + length]
        chunks = list(llama.stream(PROMPT, max_tokens=40, temperature=0, stop=[stop]))
        emitted = "".join(chunk.text for chunk in chunks)
        assert text[: text.index(stop)] == emitted
        assert chunks[-1].finish_reason == "stop"
        assert chunks[-1].result.stop == stop


def test_max_tokens_zero_generates_nothing(llama):
    """Zero tokens is a valid wish and ends with "length"."""
    completion = llama.generate(PROMPT, max_tokens=0)
    assert ("", "length", 0) == (completion.text, completion.finish_reason, completion.usage.completion_tokens)


def test_a_full_context_ends_with_length(demo_path):
    """Generation stops when the context is full, without an error, with every place used."""
    with lc.Llama(demo_path, n_threads=1, n_ctx=256) as llama:
        completion = llama.generate(PROMPT, temperature=0, ignore_eos=True)
        assert "length" == completion.finish_reason
        assert llama.context.n_ctx_seq + 1 == completion.usage.total_tokens


def test_a_prompt_that_does_not_fit_is_refused(llama):
    """A prompt longer than the context is an error that names both lengths, and the object stays usable."""
    with pytest.raises(lc.ContextFullError, match=r"the prompt has 600 tokens, the context takes 512"):
        llama.generate([5] * 600)
    assert llama.generate(PROMPT, max_tokens=1).usage.completion_tokens == 1


def test_a_long_prompt_is_split_into_batches(demo_path):
    """A prompt longer than a batch gives the same tokens as one that is decoded in one piece."""
    prompt = [10 + i % 50 for i in range(200)]
    texts = []
    for n_batch in (16, 256):
        with lc.Llama(demo_path, n_threads=1, n_ctx=512, n_batch=n_batch) as llama:
            texts.append(llama.generate(prompt, max_tokens=10, temperature=0).text)
    assert texts[0] == texts[1]


def test_logprobs_are_those_of_the_model(llama):
    """One entry per token; a greedy token is the best alternative; probabilities are at most 1."""
    completion = llama.generate(PROMPT, max_tokens=12, temperature=0, logprobs=3)
    assert len(completion.logprobs) == len(completion.tokens) == 12
    for token, entry in zip(completion.tokens, completion.logprobs, strict=True):
        assert entry.token == token == entry.top[0][0]
        assert math.isclose(entry.logprob, entry.top[0][1], abs_tol=1e-6)
        assert 0 >= entry.top[0][1] >= entry.top[1][1] >= entry.top[2][1]


def test_logprobs_come_with_the_chunks(llama):
    """Chunks carry the log-probabilities of their own tokens."""
    for chunk in llama.stream(PROMPT, max_tokens=8, logprobs=0):
        assert [entry.token for entry in chunk.logprobs] == list(chunk.tokens)


def test_cancel_from_another_thread_keeps_the_text(llama):
    """cancel() ends a running generation with what was generated."""
    generation = llama.stream(PROMPT, temperature=0, ignore_eos=True)
    first = next(generation)
    threading.Thread(target=generation.cancel).start()
    rest = list(generation)
    assert "cancelled" == rest[-1].finish_reason
    assert rest[-1].result.text.startswith(first.text)
    assert llama.generate(PROMPT, max_tokens=3).finish_reason == "length"


def test_cancel_before_the_first_token(llama):
    """A generation cancelled before it starts computes nothing and ends cleanly."""
    generation = llama.stream(PROMPT)
    generation.cancel()
    assert ("cancelled", "") == (generation.result().finish_reason, generation.result().text)


def test_generations_run_side_by_side(llama):
    """A second request does not wait for the first one to be read, and neither changes the other."""
    first = llama.stream(PROMPT, max_tokens=30, temperature=0)
    next(first)
    alone = llama.generate("Long ago", max_tokens=5, temperature=0)
    assert llama.generate(PROMPT, max_tokens=30, temperature=0).tokens == first.result().tokens
    assert llama.generate("Long ago", max_tokens=5, temperature=0).text == alone.text


def test_a_dropped_generation_gives_the_context_back(llama):
    """Dropping a half-read stream is enough to start another one."""
    for _ in range(3):
        generation = llama.stream(PROMPT, max_tokens=50)
        next(generation)
        del generation
    gc.collect()
    assert llama.generate(PROMPT, max_tokens=1).tokens


def test_a_closed_generation_has_no_result(llama):
    """result() after close() is an error, not half a completion."""
    generation = llama.stream(PROMPT)
    next(generation)
    generation.close()
    generation.close()
    with pytest.raises(lc.ClosedError):
        generation.result()


def test_closing_a_running_llama(demo_path):
    """close() while another thread iterates ends that iteration with an error of ours, not a crash."""
    llama = lc.Llama(demo_path, n_threads=1, n_ctx=2048)
    outcome = []

    def read():
        try:
            for _ in llama.stream(PROMPT, ignore_eos=True):
                pass
            outcome.append("ended")
        except lc.LlamaCoreError as exc:
            outcome.append(type(exc))

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.2)
    llama.close()
    thread.join(20)
    assert not thread.is_alive()
    assert outcome[0] in ("ended", lc.ClosedError, lc.AbortedError, lc.BusyError)
    with pytest.raises(lc.ClosedError):
        llama.generate(PROMPT)


def test_async_iteration(llama):
    """The same object works with async for and leaves the event loop free."""

    async def run():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticker = asyncio.create_task(tick())
        text = "".join([chunk.text async for chunk in llama.stream(PROMPT, max_tokens=200, temperature=0)])
        ticker.cancel()
        return text, ticks

    text, ticks = asyncio.run(run())
    assert llama.generate(PROMPT, max_tokens=200, temperature=0).text == text
    assert ticks > 5


def test_samples_for_event_loops(llama):
    """`asamples` returns the texts that `samples` returns, in the order of their seeds."""
    options = {"max_tokens": 12, "temperature": 1.5, "seed": 5, "cache_prompt": False}
    found = asyncio.run(llama.asamples(PROMPT, 3, **options))
    assert [one.tokens for one in found] == [one.tokens for one in llama.samples(PROMPT, 3, **options)]
    assert len({one.tokens for one in found}) == 3


def test_chat_prompt_keeps_control_tokens_of_users_as_text(llama):
    """A user who writes a control token gets its letters, not the token."""
    vocab = llama.model.vocab
    [end] = vocab.tokenize("<|im_end|>", parse_special=True)
    plain = llama.chat_prompt([{"role": "user", "content": "hello"}])
    attack = llama.chat_prompt([{"role": "user", "content": "hello<|im_end|>"}])
    assert plain.count(end) == attack.count(end)
    assert "hello<|im_end|>" in vocab.detokenize(attack)


def test_chat_prompt_equals_the_rendered_template(llama):
    """Without control tokens in it, a conversation is tokenised like the template's text."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell a story."}]
    rendered = lc.ChatTemplate.of(llama.model).render(messages)
    assert llama.tokenize(rendered, parse_special=True) == llama.chat_prompt(messages)


def test_unknown_options_are_errors(llama):
    """A misspelt option is refused with the right name."""
    with pytest.raises(lc.InvalidArgumentError, match="did you mean 'temperature'"):
        llama.generate(PROMPT, temperatur=0.5)


@pytest.mark.parametrize("wrong", [{"max_tokens": -1}, {"logprobs": -1}, {"logprobs": 10**6}])
def test_wrong_limits_are_refused(wrong):
    """Numbers out of range are errors before anything runs."""
    with pytest.raises(lc.InvalidArgumentError):
        GenerationParams(**wrong)


def test_an_empty_prompt_is_refused(llama):
    """A prompt without tokens is an error with a next step."""
    with pytest.raises(lc.InvalidArgumentError, match="no tokens"):
        llama.generate("")


def test_llama_alone_loads_the_demo_model():
    """Llama() without arguments works offline on a new machine."""
    with lc.Llama() as llama:
        assert "llamacore-demo-q8_0" == llama.name
        assert llama.generate(PROMPT, max_tokens=4).text


def test_a_model_that_was_given_stays_open(demo_path):
    """Llama closes what it loaded, not what it was given."""
    with lc.Model.load(demo_path) as model:
        with lc.Llama(model, n_ctx=256) as llama:
            llama.generate(PROMPT, max_tokens=1)
        assert not model.closed
