"""`EmbeddingNode`: texts in, one vector for each out."""

from __future__ import annotations

from typing import Any, ClassVar

from ..core.model import Model
from ..engine.embedding import Embedder
from ..errors import ClosedError
from ..params import ContextParams
from .data import Data, Tensor
from .loading import LoadingNode
from .params import EmbeddingNodeParams
from .ports import text_of
from .shared import Lease, lease_model


class EmbeddingNode(LoadingNode[Model]):
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

    _embedder: Embedder | None = None

    def _take_lease(self) -> Lease[Model]:
        return lease_model(self.params.model_path, self.params.backend)

    def _open(self, loaded: Model) -> None:
        params = self.params
        own = ContextParams(
            n_threads_batch=params.backend.threads_batch,
            flash_attn="enabled" if params.backend.flash_attention else None,
        )
        self._embedder = Embedder(
            loaded, n_ctx=params.context_size, n_batch=params.batch_size, n_threads=params.backend.threads,
            pooling=params.engine_pooling, context_params=own,
        )  # fmt: skip

    def _close(self) -> None:
        embedder, self._embedder = self._embedder, None
        if embedder is not None:
            embedder.close()

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
