"""Many requests on one context: each is served as if it were alone, whatever happens to the others."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref

import pytest

import llamacore as lc

from .conftest import ask, by_hand, greedy

LONG = 400


def prompt_of(seed: int, length: int = 12) -> list[int]:
    """Some tokens, the same for the same seed."""
    return [10 + (seed * 37 + i * (seed + 3)) % 200 for i in range(length)]


@pytest.fixture
def model(tiny):
    return tiny("llama", n_vocab=300)


@pytest.fixture
def engine(make_engine, model):
    return make_engine(model)


def unending(**options):
    """Sampling that never ends by itself."""
    return greedy(ignore_eos=True, **options)


def test_more_requests_than_sequences(engine, model):
    """Requests wait for their turn, and each gets the tokens that the primitives give it alone."""
    prompts = [prompt_of(seed, 3 + seed * 5 % 40) for seed in range(12)]
    running = [engine.submit(ask(prompt, 20, sampling=unending())) for prompt in prompts]
    for prompt, generation in zip(prompts, running, strict=True):
        assert by_hand(model, prompt, 20) == list(generation.result().tokens)
    stats = engine.stats()
    assert (12, 12, 0, 0, 0) == (stats.requests, stats.finished, stats.failed, stats.waiting, stats.running)
    assert 240 == stats.completion_tokens
    assert 0 < stats.batch_fill <= 1


def test_a_prompt_in_many_steps_does_not_stop_the_others(make_engine, model):
    """While a long prompt is computed in pieces, a running text goes on token by token."""
    events = []
    engine = make_engine(model, n_ubatch=16, n_batch=16, on_event=events.append)
    first = engine.submit(ask(prompt_of(1), 60, sampling=unending()))
    next(first)
    second = engine.submit(ask(prompt_of(2, 200), 5, sampling=unending()))
    assert by_hand(model, prompt_of(2, 200), 5) == list(second.result().tokens)
    assert by_hand(model, prompt_of(1), 60) == list(first.result().tokens)
    assert engine.stats().steps < 60 + 200


def test_samples_share_one_prompt(engine, model):
    """Several samples compute the prompt once; each has its own seed; greedy ones are equal."""
    sampling = lc.SamplingParams(temperature=2.0, seed=5, ignore_eos=True)
    generation = engine.submit(ask(prompt_of(3, 40), 10, sampling=sampling, n=3))
    chunks = list(generation)
    results = generation.results()
    assert [0, 1, 2] == [completion.index for completion in results]
    assert len({completion.tokens for completion in results}) == 3
    for completion in results:
        assert completion.text == "".join(chunk.text for chunk in chunks if chunk.index == completion.index)
    assert 40 == engine.stats().prompt_tokens
    alone = engine.submit(
        ask(prompt_of(3, 40), 10, sampling=lc.SamplingParams(temperature=2.0, seed=6, ignore_eos=True))
    )
    assert results[1].tokens == alone.result().tokens
    twins = engine.submit(ask(prompt_of(4, 9), 10, sampling=unending(), n=4)).results()
    assert {tuple(by_hand(model, prompt_of(4, 9), 10))} == {completion.tokens for completion in twins}


def test_cancel_leaves_the_neighbours_alone(engine, model):
    """Cancelled, dropped and failed requests change nothing for the one that stays."""
    kept = engine.submit(ask(prompt_of(5), 100, sampling=unending()))
    cancelled = engine.submit(ask(prompt_of(6), LONG, sampling=unending()))
    dropped = engine.submit(ask(prompt_of(7), LONG, sampling=unending()))
    next(cancelled), next(dropped)
    cancelled.cancel()
    del dropped
    gc.collect()
    result = cancelled.result()
    assert "cancelled" == result.finish_reason
    assert list(result.tokens) == by_hand(model, prompt_of(6), len(result.tokens))
    assert by_hand(model, prompt_of(5), 100) == list(kept.result().tokens)
    while engine.stats().running:
        time.sleep(0.01)


def test_a_request_that_fails_leaves_the_neighbours_alone(engine, model):
    """A grammar that runs into its end is the error of its own request."""
    kept = engine.submit(ask(prompt_of(5), 50, sampling=unending()))
    impossible = greedy(grammar='root ::= "a"', ignore_eos=True)  # after the "a" only an end is allowed, which is not
    with pytest.raises(lc.SamplingError):
        engine.submit(ask(prompt_of(6), 50, sampling=impossible)).result()
    assert by_hand(model, prompt_of(5), 50) == list(kept.result().tokens)
    assert 1 == engine.stats().failed


def test_a_defect_does_not_end_the_engine(engine, model, monkeypatch, caplog):
    """An error that nobody foresaw ends the requests that may have met it, and the engine goes on."""
    from llamacore.engine.sample import Job

    kept = engine.submit(ask(prompt_of(5), 2, sampling=unending()))
    kept.result()
    with monkeypatch.context() as patch:
        patch.setattr(Job, "is_late", lambda *_: 1 // 0)
        broken = engine.submit(ask(prompt_of(6), 50, sampling=unending(), deadline=60.0))
        with pytest.raises(lc.NativeError, match="ZeroDivisionError"):
            broken.result()
    assert "a step of the engine failed" in caplog.text
    assert by_hand(model, prompt_of(5), 20) == list(
        engine.submit(ask(prompt_of(5), 20, sampling=unending())).result().tokens
    )


def test_every_handle_ends_once(engine):
    """The last chunk comes once, iteration stays at its end, and so does the result."""
    generation = engine.submit(ask(prompt_of(1), 5, sampling=unending()))
    chunks = list(generation)
    assert [chunk.finish_reason for chunk in chunks].count("length") == 1
    assert chunks[-1].result is generation.result() is generation.result(0)
    assert list(generation) == []
    assert generation.done
    generation.cancel()
    generation.close()
    assert generation.result().finish_reason == "length"


def test_failed_requests_leave_nothing_behind(engine):
    """The error that a handle raised does not keep the handle alive."""
    generations = []
    for _ in range(3):
        generation = engine.submit(ask(prompt_of(6), 50, sampling=greedy(grammar='root ::= "a"', ignore_eos=True)))
        with pytest.raises(lc.SamplingError):
            generation.result()
        generations.append(weakref.ref(generation))
    del generation
    gc.collect()
    assert [None] * 3 == [generation() for generation in generations]


def test_results_without_chunks(engine):
    """A request that is not streamed delivers its result alone."""
    generation = engine.submit(ask(prompt_of(1), 5, sampling=unending(), stream=False))
    assert len(generation.result().tokens) == 5
    assert list(generation) == []


def test_a_timeout_of_the_caller_changes_nothing(engine):
    generation = engine.submit(ask(prompt_of(1), LONG, sampling=unending()))
    with pytest.raises(TimeoutError):
        generation.result(timeout=0.001)
    assert len(generation.result().tokens) == LONG


def test_deadlines(make_engine, model):
    """A deadline counts the time in the queue, a time limit only that of writing; both keep what there is."""
    engine = make_engine(model, n_parallel=1, n_ctx=20000)
    blocking = engine.submit(ask(prompt_of(1), None, sampling=unending(), time_limit=0.3))
    late = engine.submit(ask(prompt_of(2), 5, deadline=0.05))
    assert ("timeout", ()) == (late.result().finish_reason, late.result().tokens)
    result = blocking.result()
    assert "timeout" == result.finish_reason
    assert result.tokens
    assert "timeout" == engine.submit(ask(prompt_of(1), None, sampling=unending(), deadline=0.2)).result().finish_reason


def test_higher_priorities_go_first(make_engine, model):
    """Of those that wait, the one with the highest priority starts first; equal ones in their order."""
    started = []
    engine = make_engine(
        model, n_parallel=1, on_event=lambda e: started.append(e.request) if e.kind == "started" else 0
    )
    first = engine.submit(ask(prompt_of(0), LONG, sampling=unending()))
    next(first)
    others = [engine.submit(ask(prompt_of(seed), 2, priority=priority)) for seed, priority in enumerate((0, 5, 0, 9))]
    first.cancel()
    for other in others:
        other.result()
    base = started[0]
    assert [base, base + 4, base + 2, base + 1, base + 3] == started


def test_a_full_queue_refuses(make_engine, model):
    """One request more than may wait is an error that names the limit; the others are served."""
    engine = make_engine(model, n_parallel=1, max_queue=2)
    first = engine.submit(ask(prompt_of(0), LONG, sampling=unending()))
    next(first)
    waiting = [engine.submit(ask(prompt_of(seed), 1)) for seed in (1, 2)]
    with pytest.raises(lc.QueueFullError, match=r"2 requests wait already \(max_queue\)"):
        engine.submit(ask(prompt_of(3), 1))
    first.cancel()
    assert [1, 1] == [len(other.result().tokens) for other in waiting]


def test_min_tokens(engine, model):
    """No text ends before its least number of tokens."""
    ends = [token for token in range(model.n_vocab) if model.vocab.is_eog(token)]
    eager = greedy(logit_bias={ends[0]: 1000.0})
    assert "stop" == engine.submit(ask(prompt_of(1), 20, sampling=eager)).result().finish_reason
    result = engine.submit(ask(prompt_of(1), 20, sampling=eager, min_tokens=7)).result()
    assert (7, "stop") == (len(result.tokens), result.finish_reason)


def test_adapters_belong_to_their_request(make_engine, model, tiny_path, tmp_path):
    """Requests with different adapters at the same time get what each gets alone; texts are not mixed up."""
    from llamacore.testing import tiny_lora

    path = tiny_lora(tmp_path / "lora.gguf", tiny_path("llama", n_vocab=300))
    with lc.LoraAdapter.load(model, path) as lora:
        engine = make_engine(model)
        prompt = prompt_of(8, 30)
        plain = engine.submit(ask(prompt, 12, sampling=unending())).result().tokens
        adapted = engine.submit(ask(prompt, 12, sampling=unending(), loras={lora: 1.0})).result()
        half = engine.submit(ask(prompt, 12, sampling=unending(), loras={lora: 0.3})).result().tokens
        assert 0 == adapted.usage.cached_tokens
        assert plain != adapted.tokens
        mixed = [
            engine.submit(ask(prompt, 12, sampling=unending(), loras=loras))
            for loras in ({lora: 1.0}, {}, {lora: 0.3}, {}, {lora: 1.0})
        ]
        assert [adapted.tokens, plain, half, plain, adapted.tokens] == [g.result().tokens for g in mixed]
        engine.close()
        with pytest.raises(lc.ClosedError):
            engine.submit(ask(prompt))
    with pytest.raises(lc.InvalidArgumentError, match="closed, or belongs to another model"):
        make_engine(model).submit(ask(prompt, loras={lora: 1.0}))


def test_async_handles(engine, model):
    """Several requests in one event loop: iterated, awaited, cancelled by cancelling the task."""

    async def read(seed):
        return [
            token
            async for chunk in engine.submit(ask(prompt_of(seed), 30, sampling=unending()))
            for token in chunk.tokens
        ]

    async def run():
        texts = await asyncio.gather(*(read(seed) for seed in range(6)))
        completion = await engine.submit(ask(prompt_of(7), 9, sampling=unending())).aresult()
        generation = engine.submit(ask(prompt_of(8), LONG, sampling=unending()))
        task = asyncio.ensure_future(generation.aresult())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return texts, completion, generation

    texts, completion, generation = asyncio.run(run())
    assert [by_hand(model, prompt_of(seed), 30) for seed in range(6)] == texts
    assert by_hand(model, prompt_of(7), 9) == list(completion.tokens)
    assert "cancelled" == generation.result().finish_reason


def test_submitting_from_many_threads(engine, model):
    """Eight threads submit and read at the same time."""
    outcome: dict[int, list[int]] = {}

    def work(seed):
        for _ in range(3):
            outcome[seed] = list(engine.submit(ask(prompt_of(seed), 15, sampling=unending())).result().tokens)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {seed: by_hand(model, prompt_of(seed), 15) for seed in range(8)} == outcome


def test_call_runs_between_steps(engine):
    """Other uses of the context go through the engine's thread; their errors come back."""
    assert engine.call(lambda context: context.n_seq_max) == 4
    assert engine.call(lambda context: engine.call(lambda inner: inner is context))
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda context: 1 // 0)
    with pytest.raises(lc.BusyError, match="own thread"):
        engine.call(lambda context: engine.close())
    assert len(engine.submit(ask(prompt_of(1), 3, sampling=unending())).result().tokens) == 3


def test_closing_ends_everything(make_engine, model):
    """close() with work in flight and waiting: every handle ends with an error of ours; twice does nothing."""
    engine = make_engine(model, n_parallel=1, n_ctx=4096)
    running = [engine.submit(ask(prompt_of(seed), None, sampling=unending())) for seed in range(3)]
    next(running[0])
    engine.close()
    engine.close()
    for generation in running:
        with pytest.raises(lc.ClosedError, match="closed before the end"):
            generation.result()
    with pytest.raises(lc.ClosedError):
        engine.submit(ask(prompt_of(1)))
    with pytest.raises(lc.ClosedError):
        engine.call(lambda context: None)
    assert engine.closed
    assert engine.context.closed


def test_a_model_closed_underneath(tiny_path):
    """Closing the model closes the context; the engine's requests end with an error."""
    model = lc.Model.load(tiny_path("llama", n_vocab=300))
    with lc.Engine(model.context(n_ctx=4096, n_threads=1, n_outputs_max=1)) as engine:
        generation = engine.submit(ask(prompt_of(1), None, sampling=unending()))
        next(generation)
        model.close()
        with pytest.raises(lc.LlamaCoreError):
            generation.result()
        with pytest.raises(lc.ClosedError):
            engine.submit(ask(prompt_of(1)))


def test_dropping_an_engine_ends_its_thread(model):
    """An engine that nobody holds any more stops, and frees its context."""
    engine = lc.Engine(model.context(n_ctx=512, n_threads=1, n_outputs_max=1))
    generation = engine.submit(ask(prompt_of(1), LONG, sampling=unending()))
    thread = engine._worker._thread
    del engine
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(lc.ClosedError):
        generation.result()


def test_the_event_hook(make_engine, model, caplog):
    """Events tell the life of a request in order; a hook that fails is logged and ignored."""
    events = []
    engine = make_engine(model, on_event=events.append)
    engine.submit(ask(prompt_of(1), 3, sampling=unending())).result()
    assert ["submitted", "started", "first_token", "finished"] == [event.kind for event in events]
    assert (3, "length") == (events[-1].tokens, events[-1].detail)
    broken = make_engine(model, on_event=lambda event: 1 // 0)
    assert len(broken.submit(ask(prompt_of(1), 3, sampling=unending())).result().tokens) == 3
    assert "the event hook failed" in caplog.text


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (lambda: ask([]), lc.InvalidArgumentError),
        (lambda: ask([5] * 513), lc.ContextFullError),
        (lambda: ask([300]), lc.OutOfRangeError),
        (lambda: ask(["a"]), lc.InvalidArgumentError),
        (lambda: ask([1.5]), lc.InvalidArgumentError),
        (lambda: ask([-1]), lc.OutOfRangeError),
        (lambda: ask([1], n=5), lc.InvalidArgumentError),
        (lambda: ask([1], sampling=lc.SamplingParams(grammar="root ::= (")), lc.GrammarError),
        (lambda: ask([1], sampling=lc.SamplingParams(logit_bias={999: 1.0})), lc.OutOfRangeError),
    ],
)
def test_bad_requests_are_refused_at_once(engine, request_, error):
    with pytest.raises(error):
        engine.submit(request_())
    assert 0 == engine.stats().requests


@pytest.mark.parametrize(
    "wrong",
    [
        {"stop": None}, {"stop": [1]}, {"checkpoints": None}, {"checkpoints": ["a"]}, {"shown_tokens": [None]},
        {"loras": None}, {"loras": {"a": 1.0}}, {"special": "yes"}, {"cache_prompt": None},
        {"n": 0}, {"n": True}, {"min_tokens": -1}, {"min_tokens": 9, "max_tokens": 8}, {"deadline": -1.0},
        {"time_limit": float("nan")}, {"overflow": "drop"}, {"stop": [""]}, {"n_keep": -1}, {"priority": 0.5},
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(lc.InvalidArgumentError):
        lc.GenerationParams(**wrong)


@pytest.mark.parametrize("wrong", [{"max_queue": 0}, {"cache_bytes": -1}, {"cache_dir_bytes": 0.5}])
def test_wrong_engine_parameters_are_refused(wrong):
    with pytest.raises(lc.InvalidArgumentError):
        lc.EngineParams(**wrong)


def test_contexts_that_cannot_serve(tiny):
    """Encoders, and more sequences than a batch takes, are refused."""
    with tiny("bert").context(n_threads=1) as context, pytest.raises(lc.UnsupportedError):
        lc.Engine(context)
    narrow = tiny("llama").context(n_threads=1, n_seq_max=8, n_batch=32, n_ubatch=4, kv_unified=True)
    with narrow as context, pytest.raises(lc.InvalidArgumentError, match="n_seq_max=8"):
        lc.Engine(context)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_is_told(run_child):
    """In a child process there is no engine thread: requests are refused at once, handles end, and exiting works."""
    run_child(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        llama = lc.Llama(n_threads=1, n_ctx=4096)
        running = llama.stream("Once upon a time", ignore_eos=True)
        next(running)
        pid = os.fork()
        if pid == 0:
            try:
                llama.generate("no")
            except lc.ClosedError as error:
                assert "os.fork()" in str(error)
            else:
                os._exit(3)
            running.cancel()
            running.close()
            llama.close()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        running.cancel()
        assert running.result().finish_reason == "cancelled"
        """
    )


def test_exiting_with_work_in_flight(run_child):
    """The interpreter exits while engines compute and threads wait: the threads are joined, nothing crashes."""
    run_child(
        """
        import threading
        llama = lc.Llama(n_threads=1, n_ctx=4096)
        generations = [llama.stream("Once upon a time", ignore_eos=True) for _ in range(6)]
        next(generations[0])
        def wait():
            try:
                generations[1].result()
            except lc.ClosedError:
                pass
        threading.Thread(target=wait, daemon=True).start()
        """
    )
