"""Several models by name, of which only some are loaded at a time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from ..errors import BusyError, ClosedError, InvalidArgumentError, LlamaCoreError, OutOfMemoryError
from .model import ManagedModel, ModelState

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..llama import Llama

_RETRY_SECONDS = 0.5  # a model may be left through its own use() as well, which nobody tells of here


class ModelRegistry:
    """Models by name: each is loaded when it is first used, and the least recently used ones make room.

    Args:
        max_loaded: Most models that are WARM or ACTIVE at a time; None for any number.
        max_bytes: Most bytes of their files; None for any number. Contexts come on top.

    Raises:
        InvalidArgumentError: A limit is not above 0.
    """

    def __init__(self, *, max_loaded: int | None = None, max_bytes: int | None = None) -> None:
        for name, value in (("max_loaded", max_loaded), ("max_bytes", max_bytes)):
            if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__") or value < 1):
                raise InvalidArgumentError(f"{name}={value!r}", hint="give a whole number above 0, or None")
        self.max_loaded = max_loaded
        self.max_bytes = max_bytes
        self._changed = threading.Condition(threading.RLock())
        self._models: OrderedDict[str, ManagedModel] = OrderedDict()  # the least recently used first
        self._coming: dict[object, str] = {}  # whoever is about to use a model, and its name
        self._closed = False

    def add(self, model: ManagedModel) -> ManagedModel:
        """Add a model under its name; from then on it is closed with the registry.

        Raises:
            InvalidArgumentError: There is one of that name.
        """
        with self._changed:
            self._require_open()
            if not isinstance(model, ManagedModel):
                raise InvalidArgumentError(f"a {type(model).__name__} is no ManagedModel", hint="give a ManagedModel")
            if model.name in self._models:
                raise InvalidArgumentError(f"there is a model {model.name!r} already", hint="give another name=")
            self._models[model.name] = model
            self._models.move_to_end(model.name, last=False)  # it was never used
            return model

    def remove(self, name: str, wait: float | None = None) -> None:
        """Close a model, once nobody uses it, and forget it; see `ManagedModel.close`."""
        self[name].close(wait)
        with self._changed:
            self._models.pop(name, None)
            self._changed.notify_all()

    @property
    def names(self) -> list[str]:
        """All names, the most recently used first."""
        with self._changed:
            return list(reversed(self._models))

    @property
    def loaded(self) -> list[str]:
        """Names of those that are WARM or ACTIVE, the most recently used first."""
        with self._changed:
            return [name for name, model in reversed(self._models.items()) if model.state is not ModelState.COLD]

    @contextmanager
    def use(self, name: str, timeout: float | None = None) -> Iterator[Llama]:
        """Use a model: `with registry.use("name") as llama:`; see `ManagedModel.use`.

        Args:
            name: Its name.
            timeout: Seconds to wait for room; None for as long as it takes.

        Raises:
            InvalidArgumentError: There is no model of that name; the message lists them.
            BusyError: The time is up, and every loaded model is in use.
            OutOfMemoryError: It alone is larger than `max_bytes`.
        """
        end = None if timeout is None else time.monotonic() + timeout
        ticket = object()
        try:
            model = self._reserve(name, ticket, end)
            with model.use(_left(end)) as llama:
                self._return(ticket)
                yield llama
        finally:
            self._return(ticket)

    @asynccontextmanager
    async def ause(self, name: str, timeout: float | None = None) -> AsyncIterator[Llama]:
        """`use` for event loops: `async with registry.ause("name") as llama:`."""
        import asyncio

        end = None if timeout is None else time.monotonic() + timeout
        ticket = object()
        task = asyncio.ensure_future(asyncio.to_thread(self._reserve, name, ticket, end))
        try:
            model = await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: self._return(ticket) if not done.exception() else None)
            raise
        try:
            async with model.ause(_left(end)) as llama:
                self._return(ticket)
                yield llama
        finally:
            self._return(ticket)

    def close(self, wait: float | None = None) -> None:
        """Close all models, once nobody uses them. Calling it again does nothing."""
        with self._changed:
            self._closed = True
            models = list(self._models.values())
            self._changed.notify_all()
        for model in models:
            model.close(wait)

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("this registry is closed", hint="make a new one")

    def _return(self, ticket: object) -> None:
        """Its holder uses the model by now, or never will."""
        with self._changed:
            self._coming.pop(ticket, None)
            self._changed.notify_all()

    def _reserve(self, name: str, ticket: object, end: float | None) -> ManagedModel:
        """Make room for a model; while the ticket is out, it is not chosen to make room for another."""
        with self._changed:
            while True:
                self._require_open()
                model = self[name]
                if self._has_room(model):
                    self._models.move_to_end(name)
                    self._coming[ticket] = name
                    return model
                if self._evict(model):
                    continue
                left = _left(end)
                if left == 0:
                    used = ", ".join(other for other, item in self._models.items() if item.uses)
                    raise BusyError(
                        f"there is no room for {name!r}: {used or 'others'} in use",
                        hint="wait longer, or raise the limits",
                    )
                self._changed.wait(_RETRY_SECONDS if left is None else min(left, _RETRY_SECONDS))

    def _has_room(self, model: ManagedModel) -> bool:
        if self.max_bytes is not None and model.file_bytes > self.max_bytes:
            raise OutOfMemoryError(
                f"{model.name} has {model.file_bytes} bytes, the registry takes {self.max_bytes} (max_bytes)",
                hint="raise max_bytes, or use a smaller model",
            )
        if self._is_loaded(model):
            return True
        loaded = [other for other in self._models.values() if self._is_loaded(other)]
        if self.max_loaded is not None and len(loaded) >= self.max_loaded:
            return False
        return self.max_bytes is None or sum(item.file_bytes for item in [*loaded, model]) <= self.max_bytes

    def _is_loaded(self, model: ManagedModel) -> bool:
        return model.state is not ModelState.COLD or model.name in self._coming.values()

    def _evict(self, wanted: ManagedModel) -> bool:
        """Unload the least recently used model that nobody uses; whether there was one."""
        for name, model in self._models.items():
            if model is wanted or model.uses or name in self._coming.values() or model.state is ModelState.COLD:
                continue
            try:
                model.unload(0)
            except LlamaCoreError:  # somebody was quicker, or its own hook fails: the next one
                continue
            return True
        return False

    def __getitem__(self, name: str) -> ManagedModel:
        with self._changed:
            if name not in self._models:
                known = ", ".join(self._models) or "none"
                raise InvalidArgumentError(f"there is no model {name!r}", hint=f"the registry has {known}")
            return self._models[name]

    def __contains__(self, name: object) -> bool:
        with self._changed:
            return name in self._models

    def __len__(self) -> int:
        with self._changed:
            return len(self._models)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ModelRegistry of {len(self)} models, {len(self.loaded)} loaded>"


def _left(end: float | None) -> float | None:
    return None if end is None else max(end - time.monotonic(), 0.0)
