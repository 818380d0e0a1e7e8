"""`LlamaPool`: requests over several models or devices."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..core._threads import default_threads
from ..core.model import Model
from ..core.sampler_checks import real
from ..errors import InvalidArgumentError, LlamaCoreError
from ..llama import Llama
from ..params import ModelParams, StrPath, merge
from .slots import Slots

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ..engine.records import Completion
    from ..llama import Prompt
    from ..llama._chat import ChatOptions
    from ..llama._chat_records import ChatReply
    from ..llama._chat_run import Messages
    from ..llama._options import GenerateOptions

_log = logging.getLogger("llamacore.pool")

Item = TypeVar("Item")
Result = TypeVar("Result")
Errors = Literal["raise", "return"]
_AHEAD = 2  # requests given to a member for each text that it generates at a time, so that it never waits for the next


class LlamaPool:
    """Several `Llama`s behind one object: requests go to them in turns.

    One `Llama` generates several texts at a time already. A pool is for more than one device, for copies of a model
    with contexts of their own, or for several models that are interchangeable. Members on the same device share one
    copy of the weights; each has a context (and a prefix cache) of its own.

    Args:
        model: A GGUF file or a `Model` (which stays the caller's to close); several of them for several models.
        pool_size: Number of members; None for one for each model and device.
        devices: Names of devices (`backend.devices()`): every model is loaded on each of them.
        warmup: Compute a short prompt on each member first. A failure is logged and does no harm.
        max_wait: Seconds that a request waits for a free place; None for as long as it takes.
        model_params: Everything else about loading.
        **options: Arguments for each `Llama`. Without `n_threads`, members share the processor's cores.

    Raises:
        InvalidArgumentError: `pool_size` is below the number of models and devices, or an option is wrong.
        ModelLoadError: A model could not be loaded.
        ContextError: A context could not be created.
    """

    def __init__(
        self,
        model: StrPath | Model | Sequence[StrPath | Model],
        *,
        pool_size: int | None = None,
        devices: Sequence[str] | None = None,
        warmup: bool = False,
        max_wait: float | None = None,
        model_params: ModelParams | None = None,
        **options: Any,
    ) -> None:
        models = [model] if isinstance(model, (str, os.PathLike, Model)) else list(model)
        if isinstance(devices, str) or (devices is not None and not devices):
            raise InvalidArgumentError(f"devices={devices!r}", hint="give a list of names, or None")
        if devices is not None and any(isinstance(item, Model) for item in models):
            raise InvalidArgumentError("devices with a Model that is loaded already", hint="give paths")
        n_sources = len(models) * len(devices or (None,))
        size = n_sources if pool_size is None else pool_size
        if not n_sources or isinstance(size, bool) or not hasattr(size, "__index__") or size < n_sources:
            raise InvalidArgumentError(
                f"pool_size={pool_size!r} for {n_sources} models and devices", hint=f"give {max(n_sources, 1)} or more"
            )
        if max_wait is not None:
            max_wait = real("max_wait", max_wait, 0.0, 1e9)
        for name in ("model", "model_path", "progress", "n_gpu_layers"):
            if name in options:
                raise InvalidArgumentError(f"a pool has no option {name!r}", hint="use model and model_params")
        if devices is None and options.get("n_threads") is None:
            options["n_threads"] = max(1, default_threads() // size)
        self._loaded: list[Model] = []
        self.members: tuple[Llama, ...] = ()
        try:
            sources = [self._source(item, device, model_params) for item in models for device in devices or (None,)]
            for number in range(size):
                self.members += (Llama(sources[number % n_sources], **options),)
        except BaseException:
            self._free()
            raise
        places = _AHEAD * self.members[0].context.n_seq_max
        self._slots = Slots(self.members, places, max_wait)
        self._closed = False
        if warmup:
            self._warm_up()

    def _source(self, item: StrPath | Model, device: str | None, params: ModelParams | None) -> Model:
        if isinstance(item, Model):
            return item
        params = merge(params or ModelParams(), {} if device is None else {"devices": (device,)})
        self._loaded.append(Model.load(item, params))
        return self._loaded[-1]

    def _warm_up(self) -> None:
        for member in self.members:
            try:
                member.generate(member.tokenize("a b c")[:3], max_tokens=1, cache_prompt=False)
            except LlamaCoreError as error:
                _log.warning("warming up %s failed: %s", member.name, error)

    @property
    def capacity(self) -> int:
        """Requests that are taken at a time; further ones wait."""
        return self._slots.capacity

    @property
    def taken(self) -> int:
        """Requests that are being served now."""
        return self._slots.taken

    @contextmanager
    def use(self) -> Iterator[Llama]:
        """Take a place and use the member as you like: `with pool.use() as llama:`.

        Raises:
            BusyError: No place became free in `max_wait` seconds.
            ClosedError: The pool is closed.
        """
        with self._slots.lend() as llama:
            yield llama

    @asynccontextmanager
    async def ause(self) -> AsyncIterator[Llama]:
        """`use` for event loops: `async with pool.ause() as llama:`."""
        async with self._slots.alend() as llama:
            yield llama

    # one request

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """`Llama.generate` on the next member."""
        with self.use() as llama:
            return llama.generate(prompt, **options)

    async def agenerate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """`generate` for event loops."""
        async with self.ause() as llama:
            return await llama.agenerate(prompt, **options)

    def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatReply:
        """`Llama.chat` on the next member."""
        with self.use() as llama:
            return llama.chat(messages, **options)

    async def achat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatReply:
        """`chat` for event loops."""
        async with self.ause() as llama:
            return await llama.achat(messages, **options)

    # many requests

    def generate_batch(
        self, prompts: Sequence[Prompt], *, errors: Errors = "raise", **options: Unpack[GenerateOptions]
    ) -> list[Any]:
        """Generate a text for each prompt, on all members at a time.

        A request that fails disturbs no other: all of them come to their end first.

        Args:
            prompts: Texts or lists of token ids.
            errors: "raise" raises the first error in the order of the prompts; "return" puts each error in its place.
            **options: See `GenerateOptions`.

        Returns:
            `Completion`s in the order of the prompts.
        """

        def work(llama: Llama, prompt: Prompt, begun: Callable[[Any], None]) -> Completion:
            generation = llama.stream(prompt, **options)
            begun(generation)
            return generation.result()

        return self._batch(_listed("prompts", prompts), work, errors)

    async def agenerate_batch(
        self, prompts: Sequence[Prompt], *, errors: Errors = "raise", **options: Unpack[GenerateOptions]
    ) -> list[Any]:
        """`generate_batch` for event loops: cancelling the task cancels all of it."""
        return await _gather([self.agenerate(prompt, **options) for prompt in _listed("prompts", prompts)], errors)

    def chat_batch(
        self, conversations: Sequence[Messages], *, errors: Errors = "raise", **options: Unpack[ChatOptions]
    ) -> list[Any]:
        """Answer each conversation, on all members at a time; the arguments are as those of `generate_batch`.

        Returns:
            `ChatReply`s in the order of the conversations.
        """

        def work(llama: Llama, messages: Messages, begun: Callable[[Any], None]) -> ChatReply:
            stream = llama.stream_chat(messages, **options)
            begun(stream)
            return stream.result()

        return self._batch(_listed("conversations", conversations), work, errors)

    async def achat_batch(
        self, conversations: Sequence[Messages], *, errors: Errors = "raise", **options: Unpack[ChatOptions]
    ) -> list[Any]:
        """`chat_batch` for event loops: cancelling the task cancels all of it."""
        listed = _listed("conversations", conversations)
        return await _gather([self.achat(messages, **options) for messages in listed], errors)

    def _batch(
        self, items: list[Item], work: Callable[[Llama, Item, Callable[[Any], None]], Result], errors: Errors
    ) -> list[Any]:
        """Work on all items in threads; what interrupts the caller cancels everything that runs."""
        if errors not in ("raise", "return"):
            raise InvalidArgumentError(f"errors={errors!r}", hint='give "raise" or "return"')
        running: set[Any] = set()
        lock = threading.Lock()
        stopped = False

        def begun(handle: Any) -> None:
            with lock:
                running.add(handle)
            if stopped:
                handle.cancel()

        def one(item: Item) -> Result | Exception:
            try:
                with self.use() as llama:
                    return work(llama, item, begun)
            except Exception as error:
                return error

        if not items:
            return []
        executor = ThreadPoolExecutor(min(len(items), self.capacity), thread_name_prefix="llamacore-pool")
        try:
            results = list(executor.map(one, items))
        except BaseException:
            stopped = True
            with lock:
                for handle in running:
                    handle.cancel()
            raise
        finally:
            executor.shutdown(cancel_futures=True)
        return _checked(results, errors)

    # the end

    def close(self) -> None:
        """End what is running and free everything that was loaded here. Calling it again does nothing."""
        self._closed = True
        self._slots.close()
        self._free()

    def _free(self) -> None:
        for member in self.members:
            member.close()
        for model in self._loaded:
            model.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def __len__(self) -> int:
        return len(self.members)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        return f"<LlamaPool of {len(self)} members{' (closed)' if self._closed else ''}>"


def _listed(name: str, items: Sequence[Item]) -> list[Item]:
    if isinstance(items, (str, bytes)) or not isinstance(items, Sequence):
        raise InvalidArgumentError(f"the {name} are a {type(items).__name__}", hint="give a list of them")
    return list(items)


async def _gather(work: Sequence[Awaitable[Any]], errors: Errors) -> list[Any]:
    if errors not in ("raise", "return"):
        for item in work:
            item.close()  # type: ignore[attr-defined]
        raise InvalidArgumentError(f"errors={errors!r}", hint='give "raise" or "return"')
    return _checked(await asyncio.gather(*work, return_exceptions=True), errors)


def _checked(results: list[Any], errors: Errors) -> list[Any]:
    if errors == "raise":
        for result in results:
            if isinstance(result, BaseException):
                raise result
    return results
