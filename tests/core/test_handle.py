"""Who owns what until when: closing, dropping, threads, forks and the end of the process."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref

import pytest
from decoding import feed, filled

import llamacore as lc
from llamacore.core._handle import Handle, SharedHandle


class Owner:
    """Counts what a handle frees; the native object is a number."""

    def __init__(self) -> None:
        self.freed: list[int] = []
        self.next = itertools.count(1)

    def make(self, parent: Handle | None = None, kind: type[Handle] = Handle) -> Handle:
        return kind(next(self.next), self.freed.append, parent=parent)


@pytest.fixture
def owner():
    """A new one for each test."""
    return Owner()


@pytest.mark.parametrize("kind", [Handle, SharedHandle])
def test_freed_exactly_once(owner, kind):
    """By close(), by a with block, by dropping it; not again by closing again."""
    handle = owner.make(kind=kind)
    assert not handle.closed
    handle.close()
    handle.close()
    assert handle.closed and owner.freed == [1]
    with owner.make(kind=kind) as handle:
        assert handle._enter() == 2
        handle._exit()
    assert owner.freed == [1, 2]
    del handle
    dropped = owner.make(kind=kind)
    del dropped
    gc.collect()
    assert owner.freed == [1, 2, 3]


def test_a_closed_handle_refuses(owner):
    """Every entrance is ClosedError afterwards, also the with block."""
    handle = owner.make()
    handle.close()
    with pytest.raises(lc.ClosedError, match="closed"):
        handle._enter()
    with pytest.raises(lc.ClosedError), handle:
        pass


def test_children_go_first(owner):
    """Closing a parent closes what was made from it, the youngest generation first."""
    parent = owner.make(kind=SharedHandle)
    child = owner.make(parent)
    grandchild = owner.make(child)
    parent.close()
    assert child.closed and grandchild.closed
    assert owner.freed == [3, 2, 1]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_dropping_in_any_order(owner, order):
    """A parent lives as long as a child of it, whoever is dropped first."""
    handles: list[Handle | None] = [owner.make(kind=SharedHandle)]
    handles.append(owner.make(handles[0]))
    handles.append(owner.make(handles[0]))
    for index in order:
        handles[index] = None
        gc.collect()
    assert sorted(owner.freed) == [1, 2, 3]
    assert owner.freed[-1] == 1


def test_cycles_are_collected(owner):
    """A handle in a reference cycle is freed by the collector."""
    handle = owner.make()
    handle.me = handle  # type: ignore[attr-defined]
    del handle
    gc.collect()
    assert owner.freed == [1]


def test_busy(owner):
    """A second user is refused, from another thread and from the same; the first goes on."""
    handle = owner.make()
    handle._enter()
    with pytest.raises(lc.BusyError, match="this very thread"):
        handle._enter()
    errors: list[BaseException] = []

    def other() -> None:
        try:
            handle._enter()
        except lc.BusyError as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(errors) == 1 and "another thread" in str(errors[0])
    with pytest.raises(lc.BusyError, match="inside"):
        handle.close()
    assert not handle.closed
    handle._exit()
    handle.close()
    assert owner.freed == [1]


def test_shared_use(owner):
    """A shared handle lets everybody in, and close() waits for the last to leave."""
    handle = owner.make(kind=SharedHandle)
    inside, leave = threading.Barrier(4), threading.Event()

    def use() -> None:
        handle._enter()
        inside.wait()
        leave.wait()
        time.sleep(0.05)
        handle._exit()

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    inside.wait()
    closing = threading.Thread(target=handle.close)
    closing.start()
    time.sleep(0.05)
    assert owner.freed == []
    with pytest.raises(lc.ClosedError):
        handle._enter()
    leave.set()
    closing.join(10)
    assert owner.freed == [1]
    for thread in threads:
        thread.join()


def test_a_broken_handle_is_never_freed(owner):
    """After a failed assertion it refuses everything but close(); neither it nor its parent's object is freed."""
    parent = owner.make(kind=SharedHandle)
    broken, other = owner.make(parent), owner.make(parent)
    broken._break("an assertion")
    with pytest.raises(lc.BrokenError, match="an assertion"):
        broken._enter()
    broken.close()
    with pytest.raises(lc.ClosedError):
        broken._enter()
    assert other._enter() == 3  # the parent and its other children go on
    other._exit()
    assert parent._enter() == 1
    parent._exit()
    parent.close()
    assert owner.freed == [3]


def test_what_is_pinned_is_closed_last(owner):
    """Closing something that another object lets C read is refused; closing their parent takes the right order."""
    parent = owner.make(kind=SharedHandle)
    pinned, user = owner.make(parent), owner.make(parent)
    pinned._pinned_by.add(user)
    with pytest.raises(lc.BusyError):
        pinned.close()
    parent.close()
    assert owner.freed == [3, 2, 1]


def test_closing_from_many_threads(owner):
    """Ten threads that close the same thing free it once."""
    for kind in (Handle, SharedHandle):
        handle = owner.make(kind=kind)
        threads = [threading.Thread(target=handle.close) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert owner.freed == [1, 2]


@pytest.mark.parametrize("kind", [Handle, SharedHandle])
def test_two_that_close_at_once_wait_for_each_other(kind):
    """Who finds a child that another thread is freeing waits for that, before the parent goes."""
    freed: list[str] = []
    inside = threading.Event()

    def slowly(name: str) -> None:
        inside.set()
        time.sleep(0.1)
        freed.append(name)

    parent = kind("parent", freed.append)
    child = Handle("child", slowly, parent=parent)
    parent._adopt(child)
    first = threading.Thread(target=parent.close)
    first.start()
    assert inside.wait(5)
    parent.close()
    assert freed == ["child", "parent"]
    first.join()
    assert freed == ["child", "parent"]
    assert child.closed


def test_dropped_models_and_contexts_are_freed_at_once(tiny_path):
    """Nothing of ours keeps them in a cycle: the memory is back without the collector."""
    gc.disable()
    try:
        model = lc.Model.load(tiny_path())
        ctx = model.context(n_ctx=256)
        feed(ctx, [5])
        ctx.state.to_bytes()
        model.vocab.tokenize("a")
        gone = [weakref.ref(ctx), weakref.ref(model)]
        del ctx
        assert gone[0]() is None
        del model
        assert gone[1]() is None
    finally:
        gc.enable()


def test_a_model_closes_what_was_made_from_it(tiny_path):
    """Contexts are closed with their model, memories and states with their context."""
    model = lc.Model.load(tiny_path())
    contexts = [model.context(n_ctx=256) for _ in range(3)]
    memory, state, vocab = contexts[0].memory, contexts[0].state, model.vocab
    contexts[1].close()
    model.close()
    assert all(ctx.closed for ctx in contexts)
    for use in (memory.clear, state.to_bytes, lambda: vocab.tokenize("a"), lambda: model.context()):
        with pytest.raises(lc.ClosedError):
            use()


def test_a_context_on_another(tiny_path):
    """ctx_other is closed after the context that leans on it, whoever is told to close first."""
    with lc.Model.load(tiny_path()) as model:
        base = model.context(n_ctx=256)
        leaning = model.context(n_ctx=256, ctx_other=base)
        base.close()
        assert leaning.closed
        with pytest.raises(lc.ClosedError, match="closed"):
            model.context(ctx_other=base)


def test_closing_under_a_decode(tiny_path):
    """close() from another thread ends a running decode with an error and waits for it, for model and context."""
    for victim in ("context", "model"):
        model = lc.Model.load(tiny_path())
        ctx = model.context(n_ctx=4096, n_batch=4096, n_ubatch=64, n_threads=2)
        batch, errors = filled([5] * 4096), []

        def compute(ctx=ctx, batch=batch, errors=errors):
            try:
                while True:
                    ctx.memory.clear()
                    ctx.decode(batch)
            except lc.LlamaCoreError as caught:
                errors.append(caught)

        thread = threading.Thread(target=compute)
        thread.start()
        time.sleep(0.15)
        (ctx if victim == "context" else model).close()
        assert ctx.closed
        thread.join(30)
        assert [type(error) for error in errors] in ([lc.AbortedError], [lc.ClosedError])
        model.close()


def test_use_during_a_decode(tiny):
    """Everything but cancel() is BusyError for another thread, and the batch is locked too."""
    model = tiny()
    with (
        model.context(n_ctx=4096, n_batch=4096, n_ubatch=64, n_threads=1) as ctx,
        model.context(n_ctx=4096, n_batch=4096) as second,
    ):
        batch = filled([5] * 4096)
        ended: list[BaseException | None] = []

        def compute():
            try:
                ctx.decode(batch)
                ended.append(None)
            except lc.LlamaCoreError as error:
                ended.append(error)

        thread = threading.Thread(target=compute)
        thread.start()
        while not batch._decoding:
            time.sleep(0.0001)
        for call in (
            lambda: ctx.decode(batch),
            ctx.logits,
            ctx.perf,
            ctx.memory_use,
            ctx.memory.clear,
            lambda: ctx.memory.seq_pos_max(0),
            ctx.state.size,
            ctx.state.to_bytes,
            lambda: ctx.set_threads(1),
            lambda: ctx.set_embeddings(False),
            ctx.synchronize,
            batch.clear,
            lambda: batch.add(1, 0),
            lambda: batch.advance([1]),
            lambda: second.decode(batch),
        ):
            with pytest.raises(lc.BusyError):
                call()
        assert not ended, "the decode was too short for this test"
        assert model.vocab.tokenize("hello") and model.n_embd  # a model is for everybody
        ctx.cancel()
        thread.join(30)
        assert isinstance(ended[0], lc.AbortedError)


FORKED = """
    import os
    from decoding import feed, filled, open_pair, words
    model, ctx = open_pair(sys.argv[1], n_threads=2)
    vocab, memory, state = model.vocab, ctx.memory, ctx.state
    feed(ctx, words(5))
    child = os.fork()
    if child == 0:
        batch = filled([5])
        for call in (
            lambda: ctx.decode(batch), lambda: ctx.encode(batch), ctx.logits, ctx.logprobs, ctx.perf, ctx.memory_use,
            ctx.warmup, ctx.synchronize, ctx.__enter__, lambda: ctx.set_threads(1), lambda: ctx.embeddings(0),
            memory.clear, lambda: memory.seq_pos_max(0), lambda: memory.can_shift, state.to_bytes, state.size,
            lambda: vocab.tokenize("a"), lambda: vocab.text(1), lambda: vocab.bos, lambda: model.n_embd,
            lambda: model.context(n_ctx=256), lambda: model.save("/nonexistent"), model.__enter__,
        ):
            try:
                call()
            except lc.ClosedError as error:
                assert "fork" in str(error)
            except lc.UnsupportedError:
                pass  # encoding with a model that cannot, refused before the native object is touched
            else:
                raise SystemExit("a call was not refused")
        if sys.argv[2] == "close":
            ctx.close()
            model.close()
        own_model, own = open_pair(sys.argv[1], n_threads=2)
        feed(own, words(5))
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    feed(ctx, words(5))
"""


@pytest.mark.parametrize("how", ["close", "drop"])
def test_after_a_fork(run_child, tiny_path, how):
    """The child is refused everything that the parent made, may load its own, and exits cleanly; the parent goes on."""
    run_child(FORKED, tiny_path(), how)


def test_a_fork_during_a_decode(run_child, tiny_path):
    """The same while another thread of the parent decodes: no lock that it holds hangs the child."""
    run_child(
        """
        import os, threading, time
        from decoding import filled, open_pair
        model, ctx = open_pair(sys.argv[1], n_ctx=4096, n_batch=4096, n_threads=2)
        batch = filled([5] * 4096)
        def compute():
            try:
                while True:
                    ctx.memory.clear()
                    ctx.decode(batch)
            except lc.LlamaCoreError:
                pass
        thread = threading.Thread(target=compute)
        thread.start()
        time.sleep(0.2)
        child = os.fork()
        if child == 0:
            for call in (lambda: ctx.decode(batch), ctx.memory.clear, lambda: model.n_embd):
                try:
                    call()
                except lc.ClosedError:
                    continue
                os._exit(1)
            ctx.close()
            model.close()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        ctx.close()
        thread.join()
        assert status == 0, status
        """,
        tiny_path(),
    )


EXITS = {
    "everything open": "",
    "closed": "model.close()",
    "context only": "del model",
    "model only": "del ctx",
    "in a cycle": "cycle = [model, ctx]; cycle.append(cycle); del model, ctx",
    "in the module of another name": "import types; sys.modules['keep'] = types.SimpleNamespace(a=ctx, b=model)",
    "broken": "ctx._break('for the test')",
    "an exception": "raise SystemExit(0)",
    "an exit function": "import atexit; atexit.register(ctx.close)",
    "a sampler and a state": "chain = lc.Sampler.chain(lc.Sampler.greedy()); ctx.set_sampler(0, chain)",
}


@pytest.mark.parametrize("how", EXITS)
def test_the_end_of_the_process(run_child, tiny_path, how):
    """Whatever is open, held or broken when the interpreter ends, it ends with status 0."""
    code = """
        from decoding import feed, open_pair, words
        model, ctx = open_pair(sys.argv[1], n_threads=2)
        feed(ctx, words(5))
        """
    run_child(code + EXITS[how] + "\n", tiny_path())


@pytest.mark.parametrize("what", ["decode", "load", "contexts", "many"])
def test_the_end_of_the_process_under_daemon_threads(run_child, tiny_path, what):
    """Daemon threads that decode, load or create when the interpreter ends do not take it down."""
    code = """
        import threading, time
        from decoding import filled, open_pair
        sys.stderr = open("/dev/null", "w")  # what the threads say while they are cut off is no concern
        threading.excepthook = lambda args: None
        path, what = sys.argv[1:]
        model, ctx = open_pair(path, n_ctx=4096, n_batch=4096, n_threads=2)

        def decode(ctx):
            batch = filled([5] * 4096)
            while True:
                ctx.memory.clear()
                ctx.decode(batch)

        def load():
            while True:
                open_pair(path)[0].close()

        def contexts():
            while True:
                model.context(n_ctx=256).close()

        work = {"decode": [lambda: decode(ctx)], "load": [load, load], "contexts": [contexts, contexts]}
        work["many"] = [*work["decode"], load, contexts, lambda: decode(model.context(n_ctx=4096, n_batch=4096))]
        for function in work[what]:
            threading.Thread(target=function, daemon=True).start()
        time.sleep(0.25)
        """
    run_child(code, tiny_path(), what)


def test_a_signal_during_a_decode(run_child, tiny_path):
    """Ctrl-C while the main thread decodes raises KeyboardInterrupt after the call; everything can be closed."""
    run_child(
        """
        import os, signal, threading
        from decoding import feed, filled, open_pair, words
        signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, it would be ignored
        model, ctx = open_pair(sys.argv[1], n_ctx=4096, n_batch=4096, n_ubatch=64, n_threads=1)
        batch = filled([5] * 4096)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            while True:
                ctx.memory.clear()
                ctx.decode(batch)
        except KeyboardInterrupt:
            pass
        ctx.memory.clear()
        feed(ctx, words(5))
        """,
        tiny_path(),
    )


def test_out_of_memory(run_child, tiny_path):
    """With an address space of a few hundred megabytes, too large a wish is an error and small ones still work."""
    run_child(
        """
        import resource
        from decoding import feed, open_pair, words
        model, ctx = open_pair(sys.argv[1])
        feed(ctx, words(5))
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27,) * 2)
        for options in ({"n_ctx": 2**22}, {"n_ctx": 2**21, "n_seq_max": 4, "kv_unified": True}):
            try:
                model.context(**options, n_threads=1)
            except (lc.OutOfMemoryError, lc.ContextError) as error:
                print(type(error).__name__)
            else:
                raise SystemExit("there was room")
        try:
            lc.Batch(2**20, n_embd=2**12)
        except lc.OutOfMemoryError:
            pass
        feed(ctx, words(5))
        with model.context(n_ctx=256, n_threads=1) as small:
            feed(small, words(5))
        """,
        tiny_path(),
    )
