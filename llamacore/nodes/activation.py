"""`ActivationNode`: texts in, what layers of the model make of them out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..chat.format import ChatFormat
from ..core.model import Model
from ..core.tap import Rows
from ..errors import ClosedError
from .data import Data, Json, Tensor
from .layer_reader import LayerReader
from .loading import LoadingNode
from .params import BackendParams
from .ports import text_of
from .reading import Params, choice, flag, invalid, text, whole
from .shared import Lease, lease_model

_ROWS: Mapping[str, Rows] = {"last_token": "last", "mean": "mean", "first_token": "first"}


@dataclass(frozen=True)
class ActivationNodeParams(Params):
    """Parameters of `ActivationNode`.

    Attributes:
        model_path: A GGUF file; "demo" for the demo model of the package.
        backend: Where and how it is computed.
        context_size: Most tokens of a text (`n_ctx`).
        batch_size: Tokens that are computed at a time (`n_batch`). Texts may be longer.
        layers: Layers whose output is taken, counted from 0.
        pooling: Which row of a layer: "last_token", "mean" or "first_token".
        normalize: Give each vector the length 1.
        system_prompt: Put the text into the model's chat template, after this; None takes the text as it is.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"n_ctx": "context_size", "n_batch": "batch_size"}
    NESTED: ClassVar[Mapping[str, type[Params]]] = {"backend": BackendParams}

    model_path: str = ""
    backend: BackendParams = field(default_factory=BackendParams)
    context_size: int = 4096
    batch_size: int = 512
    layers: Sequence[int] = (21,)
    pooling: Literal["last_token", "mean", "first_token"] = "last_token"
    normalize: bool = True
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        self._require_blocks()
        text("model_path", self.model_path, empty=False)
        whole("context_size", self.context_size, 1)
        whole("batch_size", self.batch_size, 1)
        given: object = self.layers
        if not isinstance(given, (list, tuple)) or not given:
            raise invalid(f"layers={given!r}", "give a list of at least one layer number")
        for layer in self.layers:
            whole("layers", layer, 0)
        if len(set(self.layers)) < len(self.layers):
            raise invalid(f"layers={given!r}", "name each layer once")
        object.__setattr__(self, "layers", tuple(self.layers))
        choice("pooling", self.pooling, tuple(_ROWS))
        flag("normalize", self.normalize)
        text("system_prompt", self.system_prompt, or_none=True)


class ActivationNode(LoadingNode[Model]):
    """Reads the outputs of layers while a model computes a text.

    A text (`Text`, or `Json` with "text" or "prompt") becomes one `Tensor` of float32 [n_embd] for each layer, in the
    order of `layers`, with the metadata `{model, layer, hidden_size, pooling, normalized, raw_norm}`; `raw_norm` is the
    length before normalising. "emotion" of a `Json` input goes along into the metadata. `process(data)` returns the
    first layer's.

    Args:
        config: `ActivationNodeParams` as a mapping or JSON text, a `NodeConfig`, or None.

    Raises:
        InvalidArgumentError: The parameters are wrong, beginning with "Invalid config".
    """

    node_type = "LlamaCppActivationNode"
    params_type: ClassVar[Any] = ActivationNodeParams
    params: ActivationNodeParams

    _reader: LayerReader | None = None
    _format: ChatFormat | None = None

    def _take_lease(self) -> Lease[Model]:
        return lease_model(self.params.model_path, self.params.backend)

    def _open(self, loaded: Model) -> None:
        params = self.params
        self._turns = asyncio.Lock()
        if params.system_prompt is not None:
            self._format = ChatFormat(loaded)
        self._reader = LayerReader(
            loaded, params.layers, _ROWS[params.pooling], params.backend,
            n_ctx=params.context_size, n_batch=params.batch_size,
        )  # fmt: skip

    def _close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    async def process(self, data: Data) -> Tensor:
        """Return what the first of the layers makes of a text; see `stream` for all of them.

        Raises:
            InvalidArgumentError: It is neither Text nor Json, empty, or longer than `context_size`.
            ClosedError: The node is not initialised.
        """
        return (await self._tensors(data))[0]

    async def stream(self, data: Data, session_id: str | None = None) -> AsyncIterator[Data]:
        """Yield what each of the layers makes of a text; sessions make no difference. Raises as `process`."""
        for tensor in await self._tensors(data):
            yield tensor

    async def _tensors(self, data: Data) -> list[Tensor]:
        prompt = text_of(data, ("text", "prompt"))
        if self._reader is None:
            raise ClosedError(
                f"{self.node_type}: worker not running, the node is {self.status}", hint="await initialize() first"
            )
        values = await self._read(self._reader, prompt)
        params, tensors = self.params, []
        emotion = data.value.get("emotion") if isinstance(data, Json) and isinstance(data.value, dict) else None
        for layer, vector in values.items():
            norm = math.sqrt(float(vector @ vector))
            if params.normalize and norm > 0:
                vector = vector / norm
            about = {
                "model": params.model_path, "layer": layer, "hidden_size": len(vector), "pooling": params.pooling,
                "normalized": params.normalize, "raw_norm": norm, **({} if emotion is None else {"emotion": emotion}),
            }  # fmt: skip
            tensors.append(Tensor(vector, metadata=about))
        return tensors

    async def _read(self, reader: LayerReader, prompt: str) -> dict[int, Any]:
        """Compute in a thread; cancelling this ends the computation before it returns."""
        async with self._turns:
            work = asyncio.ensure_future(asyncio.to_thread(lambda: reader.read(self._tokens(prompt))))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                reader.cancel()
                await asyncio.gather(work, return_exceptions=True)
                reader.resume()
                raise

    def _tokens(self, prompt: str) -> Sequence[int]:
        assert self._lease is not None
        if self._format is None:
            return self._lease.value.vocab.tokenize(prompt, add_special=True, parse_special=False)
        messages: list[Mapping[str, Any]] = [
            {"role": "system", "content": self.params.system_prompt},
            {"role": "user", "content": prompt},
        ]
        return self._format.prepare(messages, tool_choice="none", enable_thinking=False).tokens
