"""One model with a life of its own: COLD (a path), WARM (weights in host memory), ACTIVE (ready to generate)."""

from __future__ import annotations

import enum
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..core import backend
from ..core.model import Model, Progress
from ..core.sampler_checks import real
from ..core.splits import all_parts
from ..errors import (
    BusyError,
    ClosedError,
    InvalidArgumentError,
    LlamaCoreError,
    LoadCancelledError,
    ModelNotFoundError,
    UnsupportedError,
)
from ..llama import Llama
from ..params import GpuLayers, ModelParams, StrPath, merge
from .idle import IdleWatch
from .uses import Uses

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger("llamacore.managed")


class ModelState(str, enum.Enum):
    """Where a managed model stands."""

    COLD = "cold"
    WARM = "warm"
    ACTIVE = "active"


class ManagedModel:
    """A model that is loaded, made ready and unloaded again as it is needed.

    COLD -> `load()` -> WARM -> `activate()` -> ACTIVE -> `deactivate()` -> WARM -> `unload()` -> COLD. Each call does
    nothing where its state is reached already. Calls take turns; `state` can be read at any time without waiting. A
    call that fails leaves the state as it was and sets `last_error`.

    Args:
        path: A GGUF file, or all parts of one in order.
        name: What it is called; None for the stem of its file.
        n_gpu_layers: Layers in device memory while it is ACTIVE; a WARM model has none there.
        use_mlock: Keep the weights from being swapped out.
        model_params: Everything else about loading.
        llama_options: Arguments for its `Llama`, without the model and `n_gpu_layers`.
        idle_seconds: Leave ACTIVE after so many seconds without use; None for never. Work in flight is never
            interrupted.
        idle_state: Where to then.
        before_load: Called with the path before the file is loaded; returning False cancels.
        on_unload: Called with the state that is being left, before the memory is freed. What it raises is logged.

    Raises:
        InvalidArgumentError: An option is wrong.
    """

    def __init__(
        self,
        path: StrPath | Sequence[StrPath],
        *,
        name: str | None = None,
        n_gpu_layers: GpuLayers = "all",
        use_mlock: bool = True,
        model_params: ModelParams | None = None,
        llama_options: Mapping[str, Any] | None = None,
        idle_seconds: float | None = None,
        idle_state: Literal["warm", "cold"] = "cold",
        before_load: Callable[[Path], bool | None] | None = None,
        on_unload: Callable[[ModelState], None] | None = None,
    ) -> None:
        paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        if not paths:
            raise InvalidArgumentError("there is no file to load", hint="give at least one path")
        if idle_seconds is not None:
            idle_seconds = real("idle_seconds", idle_seconds, 1e-3, 1e9)
        if idle_state not in ("warm", "cold"):
            raise InvalidArgumentError(f"idle_state={idle_state!r}", hint='give "warm" or "cold"')
        wrong = {"model", "model_path", "n_gpu_layers", "model_params", "progress"} & set(llama_options or ())
        if wrong:
            raise InvalidArgumentError(f"llama_options has {sorted(wrong)[0]!r}", hint="give it to ManagedModel itself")
        base = model_params or ModelParams()
        if base.load_mode is None:
            base = merge(base, {"load_mode": "mmap_mlock" if use_mlock else "mmap"})
        self.paths = tuple(Path(item) for item in paths)
        self.name = name if name is not None else self.paths[0].stem
        self.idle_seconds = idle_seconds
        self._warm_params = merge(base, {"n_gpu_layers": "none"})
        self._active_params = merge(base, {"n_gpu_layers": n_gpu_layers})
        self._llama_options = dict(llama_options or {})
        self._idle_state = ModelState(idle_state)
        self._before_load = before_load
        self._on_unload = on_unload
        self._changed = threading.Condition(threading.RLock())
        self._state = ModelState.COLD
        self._model: Model | None = None
        self._llama: Llama | None = None
        self._last_error: LlamaCoreError | None = None
        self._closed = False
        self._moving = False
        self._uses = Uses(self.name, self._changed)
        self._watch: IdleWatch[ManagedModel] | None = None

    # what can be read at any time

    @property
    def state(self) -> ModelState:
        """Where it stands, without waiting for a transition that is under way."""
        return self._state

    @property
    def last_error(self) -> LlamaCoreError | None:
        """Why the last transition failed; None when it did not."""
        return self._last_error

    @property
    def uses(self) -> int:
        """How many are using it now."""
        return self._uses.count

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def file_bytes(self) -> int:
        """Size of its files, which is about what its weights take in memory.

        Raises:
            ModelNotFoundError: There is no such file.
        """
        try:
            return sum(os.path.getsize(part) for part in all_parts(tuple(map(os.fspath, self.paths))))
        except OSError as exc:
            raise ModelNotFoundError(f"{self.name}: there is no file {exc.filename}", hint="check the path") from exc

    # transitions

    def load(self, progress: Progress | None = None) -> bool:
        """COLD to WARM: load the weights into host memory.

        Args:
            progress: Called with the share that is loaded; returning False cancels.

        Returns:
            True: it is WARM or ACTIVE.

        Raises:
            ModelLoadError: The file could not be loaded.
            LoadCancelledError: `before_load` or `progress` returned False.
            ClosedError: It was closed.
        """
        with self._transition("load"):
            return self._load(progress)

    def activate(self) -> bool:
        """WARM to ACTIVE: move what fits onto the devices and make its `Llama`.

        Returns:
            Whether it is ACTIVE: False, and `last_error` is set, when it is COLD.

        Raises:
            ModelLoadError: The weights could not be moved.
            ContextError: The context could not be created.
        """
        with self._transition("activate"):
            if self._state is ModelState.COLD:
                self._last_error = UnsupportedError(
                    f"{self.name}: a cold model cannot be activated", hint="call load() first, or load_and_activate()"
                )
                return False
            return self._activate()

    def load_and_activate(self, progress: Progress | None = None) -> bool:
        """From wherever it stands to ACTIVE; see `load` and `activate`."""
        with self._transition("activate"):
            return self._load(progress) and self._activate()

    def deactivate(self, wait: float | None = None) -> bool:
        """ACTIVE to WARM: free the context and the devices, once nobody uses it.

        Args:
            wait: Seconds to wait for those who use it; None for as long as it takes.

        Returns:
            True: it is not ACTIVE.

        Raises:
            BusyError: It is still in use after that, or the caller uses it.
        """
        with self._transition("deactivate"):
            if self._state is not ModelState.ACTIVE:
                return True
            self._drain(wait)
            return self._deactivate()

    def unload(self, wait: float | None = None) -> bool:
        """From wherever it stands to COLD: free everything, once nobody uses it; see `deactivate`."""
        with self._transition("unload"):
            self._drain(wait)
            return self._unload()

    def close(self, wait: float | None = None) -> None:
        """Unload it for good; see `unload`. Calling it again does nothing."""
        with self._changed:
            if self._closed:
                return
            try:
                self.unload(wait)
            except ClosedError:  # by another thread, while this one waited
                return
            self._closed = True
            if self._watch is not None:
                self._watch.stop()
            self._changed.notify_all()

    # use

    @contextmanager
    def use(self, timeout: float | None = None) -> Iterator[Llama]:
        """Use it: `with managed.use() as llama:`. It is loaded and activated first where it is not.

        Until the end of the block it is neither deactivated nor unloaded. Results of requests must be taken within.

        Args:
            timeout: Seconds to wait for a transition of others; None for as long as it takes.

        Raises:
            BusyError: The time is up.
            ClosedError: It was closed.
        """
        me = threading.get_ident()
        llama = self._acquire(timeout, me)
        try:
            yield llama
        finally:
            self._release(me)

    @asynccontextmanager
    async def ause(self, timeout: float | None = None) -> AsyncIterator[Llama]:
        """`use` for event loops: `async with managed.ause() as llama:`."""
        import asyncio

        owner = asyncio.current_task()
        task = asyncio.ensure_future(asyncio.to_thread(self._acquire, timeout, owner))
        try:
            llama = await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(
                lambda done: self._release_unused(done, owner)
            )  # the thread goes on and may still get it
            raise
        try:
            yield llama
        finally:
            self._release(owner)

    def _release_unused(self, task: Any, owner: object) -> None:
        if not task.cancelled() and task.exception() is None:
            self._release(owner)

    def _acquire(self, timeout: float | None, owner: object) -> Llama:
        end = None if timeout is None else time.monotonic() + timeout
        if not self._changed.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            raise BusyError(f"{self.name}: busy for {timeout} seconds", hint="wait longer, or try again")
        try:
            left = None if end is None else max(end - time.monotonic(), 0)
            if not self._uses.wait_for_turn(owner, left):
                raise BusyError(f"{self.name}: being unloaded for {timeout} seconds", hint="try again")
            with self._transition("use"):
                self._load(None)
                self._activate()
            assert self._llama is not None
            self._uses.begin(owner)
            return self._llama
        finally:
            self._changed.release()

    def _release(self, owner: object) -> None:
        with self._changed:
            self._uses.end(owner)

    # inside: the lock is held

    @contextmanager
    def _transition(self, what: str) -> Iterator[None]:
        with self._changed:
            if self._closed:
                raise ClosedError(f"{self.name}: {what} after close()", hint="make a new ManagedModel")
            if self._moving:
                raise BusyError(f"{self.name}: {what} from within a hook of a transition", hint="do it afterwards")
            self._heal()
            self._moving = True
            try:
                yield
            except LlamaCoreError as error:
                self._last_error = error
                raise
            finally:
                self._moving = False
                self._changed.notify_all()

    def _heal(self) -> None:
        """Somebody who used it may have closed it."""
        if self._llama is not None and self._llama.closed:
            self._llama = None
            self._state = ModelState.WARM
        if self._model is not None and self._model.closed:
            self._model = None
            self._state = ModelState.COLD

    def _load(self, progress: Progress | None) -> bool:
        if self._state is ModelState.COLD:
            if self._before_load is not None and self._before_load(self.paths[0]) is False:
                raise LoadCancelledError(f"loading {self.paths[0]}: cancelled by before_load")
            self._model = Model.load(self.paths, self._warm_params, progress=progress)
            self._state = ModelState.WARM
            self._last_error = None
        return True

    def _activate(self) -> bool:
        if self._state is ModelState.ACTIVE:
            return True
        warm = self._model
        assert warm is not None
        model = Model.load(self.paths, self._active_params) if self._reloads() else warm
        try:
            self._llama = Llama(model, **self._llama_options)
        except BaseException:
            if model is not warm:
                model.close()
            raise
        self._model = model
        self._state = ModelState.ACTIVE
        self._last_error = None
        self._uses.last_end = time.monotonic()
        if model is not warm:
            warm.close()
        if self.idle_seconds is not None and self._watch is None:
            self._watch = IdleWatch(self, ManagedModel._look)
        return True

    def _deactivate(self) -> bool:
        assert self._llama is not None and self._model is not None
        warm = Model.load(self.paths, self._warm_params) if self._reloads() else self._model
        self._llama.close()
        if warm is not self._model:
            self._model.close()
        self._llama, self._model = None, warm
        self._state = ModelState.WARM
        self._last_error = None
        return True

    def _unload(self) -> bool:
        if self._state is ModelState.COLD:
            return True
        if self._on_unload is not None:
            try:
                self._on_unload(self._state)
            except Exception:
                _log.exception("%s: on_unload failed", self.name)
        if self._llama is not None:
            self._llama.close()
        if self._model is not None:
            self._model.close()
        self._llama = self._model = None
        self._state = ModelState.COLD
        self._last_error = None
        return True

    def _reloads(self) -> bool:
        """Whether WARM and ACTIVE keep the weights at different places; without a device for them they do not."""
        if self._active_params.n_gpu_layers in ("none", 0):
            return False
        return any(device.type in (backend.DeviceType.GPU, backend.DeviceType.IGPU) for device in backend.devices())

    def _drain(self, wait: float | None) -> None:
        """Wait until nobody uses it; new users wait until the transition is over."""
        self._moving = False  # others may load and activate it meanwhile
        try:
            self._uses.drain(wait)
        finally:
            self._moving = True
        if self._closed:
            raise ClosedError(f"{self.name}: closed while it waited", hint="make a new ManagedModel")
        self._heal()

    # the idle thread

    def _look(self) -> float | None:
        """Leave ACTIVE when it is time; returns when to look again, None when there is nothing to look after."""
        with self._changed:
            if self._closed or self.idle_seconds is None or self._state is not ModelState.ACTIVE:
                self._watch = None
                return None
            left = self._uses.last_end + self.idle_seconds - time.monotonic()
            if self._uses.count or left > 0:
                return self.idle_seconds if self._uses.count else left
            try:
                if self._idle_state is ModelState.COLD:
                    self.unload(0)
                else:
                    self.deactivate(0)
            except LlamaCoreError:
                _log.warning("%s: cannot be unloaded: %s", self.name, self._last_error)
                return self.idle_seconds
            self._watch = None
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ManagedModel {self.name} {'closed' if self._closed else self._state.value}>"
