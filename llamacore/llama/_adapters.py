"""LoRA adapters of a `Llama`, at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.adapters import LoraAdapter
from ..errors import InvalidArgumentError
from ..params import StrPath
from ._base import LlamaBase


class AdapterMixin(LlamaBase):
    """The part of `Llama` that changes its weights. Requests that run keep what they started with."""

    @property
    def loras(self) -> dict[LoraAdapter, float]:
        """The adapters that requests get unless they say otherwise (`loras=`), with their scales."""
        return dict(self._loras)

    def load_lora(self, path: StrPath, scale: float | None = 1.0) -> LoraAdapter:
        """Load a LoRA adapter.

        Args:
            path: GGUF file of the adapter.
            scale: Scale with which all further requests use it; None to load it for `loras=` of single requests.

        Returns:
            The adapter; it is closed with the model, or with `remove_lora`.

        Raises:
            AdapterError: The file is no adapter, or does not fit the model.
        """
        adapter = LoraAdapter.load(self.model, path)
        if scale is not None:
            self.set_lora({**self._loras, adapter: scale})
        return adapter

    def set_lora(self, scales: Mapping[LoraAdapter, float]) -> None:
        """Let all further requests use these adapters with these scales, and no others.

        Raises:
            InvalidArgumentError: An adapter is closed or belongs to another model.
        """
        given: Any = scales
        if not isinstance(given, Mapping) or not all(isinstance(adapter, LoraAdapter) for adapter in given):
            raise InvalidArgumentError(f"{given!r} are no adapters with scales", hint="give {adapter: scale}")
        for adapter in scales:
            if adapter.closed or adapter.model is not self.model:
                raise InvalidArgumentError(f"{adapter!r} is closed, or belongs to another model", hint="load it here")
        self._loras = dict(scales)

    def remove_lora(self, adapter: LoraAdapter) -> None:
        """Stop using an adapter and free it, once no running request uses it. Doing it again does nothing.

        Raises:
            BusyError: A request that is running uses it.
        """
        self._loras = {other: scale for other, scale in self._loras.items() if other is not adapter}
        if not adapter.closed:
            self.engine.release_lora(adapter)
            adapter.close()
