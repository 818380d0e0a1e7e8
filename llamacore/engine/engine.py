"""The engine: one thread that serves requests from everywhere on one context."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..core import sampler_checks
from ..core.tap import LayerTap
from ..errors import (
    BrokenError,
    BusyError,
    ClosedError,
    ContextFullError,
    InvalidArgumentError,
    LlamaCoreError,
    NativeError,
    QueueFullError,
    UnsupportedError,
)
from ..params import StrPath
from .chains import ChainPool
from .generation import Generation, Mailbox
from .inside import Inside, require_tap
from .prefix import PrefixCache
from .request import GenerationParams, Request
from .sample import Job, Sample
from .scheduler import Scheduler
from .sequences import Sequences
from .snapshots import Snapshot, SnapshotFolder
from .stats import EngineEvent, EngineStats
from .text import PieceTable

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..core.adapters import LoraAdapter
    from ..core.context import Context
    from ..core.sampler import Sampler
    from ..sampling import SamplingParams
    from .speculation.drafter import Drafter

T = TypeVar("T")

_log = logging.getLogger("llamacore.engine")
_numbers = itertools.count(1)
_threads: weakref.WeakSet[_Worker] = weakref.WeakSet()


@dataclass(frozen=True)
class EngineParams:
    """How an engine works.

    Attributes:
        max_queue: Requests that may wait; one more raises `QueueFullError`.
        cache_bytes: Bytes of host memory for the prefix cache: states of texts that lost their sequence, and
            checkpoints. 0 leaves only what the sequences themselves hold.
        cache_dir: Folder where texts outlive the process.
        cache_dir_bytes: Bytes that its files may take.
        on_event: Called from the engine's thread for each event of a request; it must be quick.
    """

    max_queue: int = 256
    cache_bytes: int = 512 * 2**20
    cache_dir: StrPath | None = None
    cache_dir_bytes: int = 4 * 2**30
    on_event: Callable[[EngineEvent], None] | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("max_queue", 1), ("cache_bytes", 0), ("cache_dir_bytes", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not hasattr(value, "__index__") or value < lowest:
                raise InvalidArgumentError(f"{name}={value!r}", hint=f"give a whole number of {lowest} or more")


class Engine:
    """Serves any number of requests at a time on one context, which belongs to it from then on.

    Every method may be called from any thread. Requests share the context's sequences; those that find none free wait.

    Args:
        context: The context, whose sequences (`n_seq_max`) are the texts that can be generated at a time. Nobody else
            may use it; `call()` does so in the engine's thread. It is closed with the engine.
        params: How it works.
        drafter: Who drafts tokens for it (see `open_drafter`); closed with the engine.
        model_name: Name of the model in completions.

    Raises:
        UnsupportedError: The model has no decoder or the context has no memory.
    """

    def __init__(
        self,
        context: Context,
        params: EngineParams | None = None,
        *,
        drafter: Drafter | None = None,
        model_name: str = "",
    ) -> None:
        params = params or EngineParams()
        if not context.memory.present or context.model.has_encoder:
            raise UnsupportedError(
                "an engine generates text with a decoder alone", hint="use Embedder, or Context.encode and decode"
            )
        if context.n_seq_max > min(context.n_batch, context.n_ubatch):
            raise InvalidArgumentError(
                f"n_seq_max={context.n_seq_max} texts do not fit into one batch",
                hint="n_batch and n_ubatch must be at least as large",
            )
        self.context = context
        self.params = params
        self._model_name = model_name
        self._pieces = PieceTable(context.model.vocab)
        self._chains = ChainPool(context.model, context.n_seq_max)
        self._drafter = drafter
        self._worker = _Worker(context, params, drafter)
        self._finalizer = weakref.finalize(self, _Worker.stop, self._worker)
        self._finalizer.atexit = False  # the workers have an exit function of their own

    def submit(self, request: Request) -> Generation:
        """Take a request and return at once.

        Returns:
            The handle of it; dropping it cancels the request.

        Raises:
            QueueFullError: `max_queue` requests wait already.
            InvalidArgumentError: The prompt is empty, or more samples are asked for than there are sequences.
            ContextFullError: The prompt is longer than the context.
            OutOfRangeError: A token is not in the vocabulary.
            GrammarError: The grammar cannot be used.
            ClosedError: The engine is closed.
        """
        worker = self._worker
        worker.require_open()
        prompt = self._require_sound(request)
        if worker.n_waiting >= self.params.max_queue:
            raise QueueFullError(
                f"{self.params.max_queue} requests wait already (max_queue)", hint="try again later, or raise max_queue"
            )
        samplers, give_back = self._samplers(request.sampling, request.params.n, request.params.min_tokens)
        mailbox = Mailbox(worker.cancel_requested)
        job = Job(next(_numbers), prompt, request.params, samplers, give_back, mailbox, self._pieces, self._model_name)
        generation = Generation(mailbox)
        worker.post(job)
        return generation

    def _require_sound(self, request: Request) -> list[int]:
        """Check what is asked, and return the prompt as plain numbers."""
        params, context = request.params, self.context
        prompt = sampler_checks.tokens(request.prompt, context.model.n_vocab)
        if not prompt:
            raise InvalidArgumentError("the prompt has no tokens", hint="give some text")
        if len(prompt) > context.n_ctx_seq:
            raise ContextFullError(
                f"the prompt has {len(prompt)} tokens, the context takes {context.n_ctx_seq}",
                hint="shorten it, or use a larger n_ctx",
            )
        if params.n > context.n_seq_max:
            raise InvalidArgumentError(
                f"n={params.n} samples", hint=f"this engine has {context.n_seq_max} sequences (n_parallel)"
            )
        for adapter in params.loras:
            if adapter.closed or adapter.model is not context.model:
                raise InvalidArgumentError(
                    f"{adapter!r} is closed, or belongs to another model", hint="load it with this model"
                )
        require_tap(context, params)
        return prompt

    def _samplers(self, sampling: SamplingParams, n: int, min_tokens: int) -> tuple[list[Sampler], Callable[[], None]]:
        first, give_back = self._chains.take(sampling, min_tokens)
        made = [first]
        try:
            for index in range(1, n):
                seed = None if sampling.seed is None else (sampling.seed + index) % 2**32
                made.append(replace(sampling, seed=seed).chain(self.context.model, min_tokens=min_tokens))
            return made, give_back
        except BaseException:
            for sampler in made:
                sampler.close()
            raise

    def call(self, function: Callable[[Context], T]) -> T:
        """Run a function with the context in the engine's thread, between two batches, and return what it returns.

        It must leave the memory as it is. Called from within such a function, it runs at once.

        Raises:
            ClosedError: The engine is closed.
        """
        worker = self._worker
        if worker.is_this_thread:
            return function(self.context)
        future: Future[T] = Future()
        worker.post(lambda: _run(future, function, self.context))
        return future.result()

    def snapshot(self, tokens: Sequence[int]) -> Snapshot:
        """Compute a text, as far as it is not known, and return its state, which `restore()` takes in any process.

        Raises:
            InvalidArgumentError: It has no tokens.
            StateError: It was driven out of the cache at once, because there is too much else to do.
        """
        self.submit(Request(tokens, params=GenerationParams(max_tokens=0, stream=False))).result()
        return self.call(lambda _: self._worker.scheduler.cache.snapshot(tokens))

    def restore(self, snapshot: Snapshot) -> None:
        """Put a text into the prefix cache.

        Raises:
            StateError: It is damaged, or was made with another model, memory layout or llama.cpp.
            BusyError: Every sequence is being generated in.
        """

        def put(_: Context) -> None:
            if not self._worker.scheduler.has_room:
                raise BusyError("every sequence is being generated in", hint="restore before, or raise n_parallel")
            self._worker.scheduler.cache.restore(snapshot)

        self.call(put)

    def release_lora(self, adapter: LoraAdapter) -> None:
        """Let go of an adapter, so that it can be closed.

        Raises:
            BusyError: A request that has not ended uses it.
        """
        self.call(lambda _: self._worker.scheduler.release_lora(adapter))

    def stats(self) -> EngineStats:
        """Return what it is doing and did, as of the last step."""
        return self._worker.stats()

    def clear_cache(self) -> None:
        """Forget every text that is not being generated."""
        self.call(lambda _: self._worker.scheduler.cache.clear())

    def save_cache(self) -> int:
        """Write the texts of the prefix cache to `cache_dir`, as `close()` does too; returns how many."""
        return self.call(lambda _: self._worker.scheduler.cache.save())

    def close(self) -> None:
        """Cancel what is running, end the thread and close the context. Calling it again does nothing.

        Raises:
            BusyError: Called from the engine's own thread.
        """
        if self._worker.is_this_thread:
            raise BusyError("an engine cannot be closed from its own thread", hint="close it elsewhere")
        self._finalizer()
        if self._drafter is not None:
            self._drafter.close()
        self.context.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._worker.closing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Engine of {self.context.n_seq_max} sequences{' (closed)' if self.closed else ''}>"


class _Worker:
    """The thread, and what it shares with others. It knows nothing of the `Engine`, so that one can be dropped."""

    def __init__(self, context: Context, params: EngineParams, drafter: Drafter | None) -> None:
        folder = None
        if params.cache_dir is not None:
            folder = SnapshotFolder(params.cache_dir, context, params.cache_dir_bytes)
        sequences = Sequences(context, drafter)
        tap = context.params.capture
        inside = Inside(tap) if isinstance(tap, LayerTap) else None
        cache = PrefixCache(context, sequences, max_bytes=params.cache_bytes, folder=folder)
        self.scheduler = Scheduler(context, sequences, cache, drafter, inside, self._set_in_flight, params.on_event)
        self.closing = False
        self._pid = os.getpid()
        self._context = context
        self._drafter = drafter
        self._inbox: deque[Job | Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._lock = threading.RLock()  # a collected handle cancels, whatever this thread is doing
        self._computing: list[Sample] = []
        self._error: LlamaCoreError | None = None
        self._thread = threading.Thread(target=self._run, name="llamacore-engine", daemon=True)
        _threads.add(self)
        self._thread.start()

    @property
    def is_this_thread(self) -> bool:
        return threading.current_thread() is self._thread

    @property
    def n_waiting(self) -> int:
        return len(self._inbox) + len(self.scheduler.waiting)

    def require_open(self) -> None:
        if self._pid != os.getpid():
            raise ClosedError(
                "this engine was made before os.fork() and has no thread in the child process",
                hint="load the model in the process that uses it (multiprocessing: the 'spawn' start method)",
            )
        if self._context.closed or self.closing:
            raise ClosedError("this engine is closed", hint="make a new one")
        if self._error is not None:
            raise BrokenError(f"this engine has stopped: {self._error.message}", hint="close it and make a new one")

    def post(self, item: Job | Callable[[], None]) -> None:
        self.require_open()
        with self._lock:
            self.require_open()
            self._inbox.append(item)
        self._wake.set()

    def cancel_requested(self) -> None:
        """Somebody cancelled a request: end the batch early if it is for cancelled ones alone."""
        if self._pid != os.getpid():
            return
        self.scheduler.cancelled = True
        with self._lock:
            if self._computing and all(sample.job.mailbox.cancelled for sample in self._computing):
                self._context.cancel()
        self._wake.set()

    def _set_in_flight(self, samples: Iterable[Sample]) -> None:
        with self._lock:
            self._computing = list(samples)
            if self._computing and not self.closing:
                self._context.resume()

    def stats(self) -> EngineStats:
        scheduler = self.scheduler
        return scheduler.meter.look(
            self.n_waiting,
            len(scheduler.active),
            len(scheduler.preempted),
            self._context.n_seq_max,
            scheduler.cache.look(),
            None if self._drafter is None else self._drafter.look(),
        )

    def stop(self) -> None:
        """End the thread; what is running is cancelled."""
        if self._pid != os.getpid():
            return  # there is none, and the lock may be held by it for ever
        with self._lock:
            self.closing = True
            if self._computing:
                self._context.cancel()
        self._wake.set()
        if not self.is_this_thread:
            self._thread.join()

    # the thread

    def _run(self) -> None:
        scheduler = self.scheduler
        try:
            while not self.closing:
                if self._inbox:
                    self._take_inbox()
                if not scheduler.busy:
                    self._wake.clear()
                    if not (self._inbox or self.closing):
                        self._wake.wait()
                    scheduler.meter.idle(time.monotonic())
                    continue
                try:
                    scheduler.step()
                except (BrokenError, ClosedError):
                    raise
                except LlamaCoreError as error:
                    scheduler.fail_active(error)
                except Exception as error:  # a defect of ours ends all that may have met it, not the engine
                    _log.exception("a step of the engine failed")
                    failure = NativeError(f"the engine failed: {type(error).__name__}: {error}")
                    scheduler.fail_active(failure, waiting_too=True)
        except ClosedError:
            pass  # the context was closed, by us or with its model
        except LlamaCoreError as error:
            self._error = error
        except BaseException as error:  # a defect of ours: whoever waits must hear of it
            _log.exception("the engine has stopped")
            self._error = BrokenError(f"{type(error).__name__}: {error}")
        finally:
            self._finish()

    def _take_inbox(self) -> None:
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, Job):
                self.scheduler.add(item)
            else:
                item()

    def _finish(self) -> None:
        """Nobody is left waiting."""
        error: LlamaCoreError = ClosedError("the engine was closed before the end", hint="keep it open until then")
        if self._error is not None:
            error = BrokenError(f"the engine has stopped: {self._error.message}", hint="close it and make a new one")
        scheduler = self.scheduler
        with self._lock:
            self.closing = True
        self._take_inbox()  # calls are answered still
        for job in list(scheduler.jobs.values()):
            with contextlib.suppress(LlamaCoreError):
                scheduler.fail(job, error)
            job.mailbox.end(error)
        if self._error is None and not self._context.closed:
            try:
                self._context.resume()
                scheduler.cache.save()
            except (LlamaCoreError, OSError) as failure:
                _log.warning("the prefix cache was not saved: %s", failure)


def _run(future: Future[Any], function: Callable[[Context], Any], context: Context) -> None:
    try:
        future.set_result(function(context))
    except BaseException as error:
        future.set_exception(error)


@atexit.register
def _stop_all() -> None:
    """Threads are joined before the interpreter frees what they use."""
    for worker in list(_threads):
        worker.stop()
