"""`EmbeddingNode`: texts in, one vector for each out."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

from ..core.model import Model
from ..engine.embedding import Embedder
from ..errors import ClosedError, InvalidArgumentError, LlamaCoreError
from ..params import ContextParams
from .data import Data, Tensor
from .node import Node, NodeContext
from .params import EmbeddingNodeParams
from .ports import text_of
from .shared import Lease, lease_model, leased

_log = logging.getLogger("llamacore.nodes")


class EmbeddingNode(Node):
    """Embeds texts with a model, which is loaded once.

    A text (`Text`, or `Json` with "text" or "prompt") becomes a `Tensor` of float32 [n_embd], with the metadata
    `{model, pooling, normalized}`.

    Args:
        config: `EmbeddingNodeParams` as a mapping or JSON, a `NodeConfig`, or None.

    Raises:
        InvalidArgumentError: The parameters are wrong, beginning with "Invalid config".
    """

    node_type = "LlamaCppEmbeddingNode"
    params_type: ClassVar[Any] = EmbeddingNodeParams
    params: EmbeddingNodeParams

    _lease: Lease[Model] | None = None
    _embedder: Embedder | None = None

    async def initialize(self, context: NodeContext | None = None) -> None:
        """Load the model, or share it with other nodes of this process.

        Raises:
            InvalidArgumentError: It was called before.
            ModelLoadError: The model could not be loaded.
        """
        if self.status != "idle":
            raise InvalidArgumentError(f"initialize() of a node that is {self.status}", hint="make a new node")
        self.status = "initializing"
        if context is not None:
            self.context = context
        for warning in self.warnings:
            _log.warning("node %s: %s", self.context.node_id or self.node_type, warning)
        params = self.params
        self.context.emit_progress("loading_model", f"loading {params.model_path}")
        try:
            self._lease = await leased(lambda: lease_model(params.model_path, params.backend))
            own = ContextParams(
                n_threads_batch=params.backend.threads_batch,
                flash_attn="enabled" if params.backend.flash_attention else None,
            )
            self._embedder = Embedder(
                self._lease.value, n_ctx=params.context_size, n_batch=params.batch_size,
                n_threads=params.backend.threads, pooling=params.engine_pooling, context_params=own,
            )  # fmt: skip
        except LlamaCoreError as exc:
            self.status = "error"
            self.context.emit_progress("error", exc.message)
            await self._free()
            raise
        self.status = "ready"
        self.context.emit_progress("ready", f"{params.model_path} is loaded")

    async def process(self, data: Data) -> Tensor:
        """Return the embedding of a text.

        Raises:
            InvalidArgumentError: It is neither Text nor Json, empty, or longer than `context_size`.
            ClosedError: The node is not initialised.
        """
        text = text_of(data, ("text", "prompt"))
        if self._embedder is None:
            raise ClosedError(
                f"{self.node_type}: worker not running, the node is {self.status}", hint="await initialize() first"
            )
        params = self.params
        vectors = await self._embedder.aembed(text, normalize=params.l2_normalize)
        about = {"model": params.model_path, "pooling": params.pooling, "normalized": params.l2_normalize}
        return Tensor(vectors[0], metadata=about)

    async def cleanup(self) -> None:
        """Free its context and give the model back; the last node that uses it frees it."""
        await super().cleanup()
        await self._free()

    async def _free(self) -> None:
        embedder, self._embedder = self._embedder, None
        lease, self._lease = self._lease, None
        if embedder is not None:
            await asyncio.to_thread(embedder.close)
        if lease is not None:
            await asyncio.to_thread(lease.close)
