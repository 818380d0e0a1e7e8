"""`Llama`, embedding and ranking texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, overload

from ..errors import ClosedError
from ._base import LlamaBase

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..core.adapters import LoraAdapter
    from ..engine.embedding import Embedder, RerankResult
    from ..engine.embedding.embedder import Pooled, Progress, RankMethod
    from ..engine.embedding.pooling import EmbeddingPooling
    from ..engine.embedding.texts import Texts, Truncate
    from ..params import ContextParams


class EmbedMixin(LlamaBase):
    """Embeddings and ranking, beside generation and without disturbing it."""

    @property
    def embedder(self) -> Embedder:
        """What embeds and ranks for this object: its contexts, apart from the one that generates, are made when needed.

        They have the threads and data types of the context that generates. A text may be as long as the model was
        trained for; make an `Embedder` of your own for other sizes.
        """
        made: Embedder | None = self.__dict__.get("_embedder")
        if made is None:
            from ..engine.embedding import Embedder

            if self.closed:
                raise ClosedError("this Llama is closed", hint="make a new one; a closed object stays closed")
            made = self.__dict__.setdefault("_embedder", Embedder(self.model, context_params=self._own_sizes()))
        return made

    def _loras_or(self, loras: Mapping[LoraAdapter, float] | None) -> Mapping[LoraAdapter, float]:
        return self._loras if loras is None else loras

    def _own_sizes(self) -> ContextParams:
        return dataclasses.replace(self.context.params, n_ctx=None, n_batch=None, n_ubatch=None)

    @overload
    def embed(
        self, texts: Texts, *, pooling: Pooled | None = None, normalize: bool = True, truncate: Truncate = False,
        loras: Mapping[LoraAdapter, float] | None = None, progress: Progress | None = None,
    ) -> NDArray[np.float32]: ...  # fmt: skip
    @overload
    def embed(
        self, texts: Texts, *, pooling: Literal["none"], normalize: bool = True, truncate: Truncate = False,
        loras: Mapping[LoraAdapter, float] | None = None, progress: Progress | None = None,
    ) -> list[NDArray[np.float32]]: ...  # fmt: skip
    def embed(
        self,
        texts: Texts,
        *,
        pooling: EmbeddingPooling | None = None,
        normalize: bool = True,
        truncate: Truncate = False,
        loras: Mapping[LoraAdapter, float] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Return the embeddings of texts, float32 [n_texts, n_embd]; see `Embedder.embed`.

        The adapters of `set_lora` are used unless `loras` gives others.
        """
        return self.embedder.embed(
            texts, pooling=pooling, normalize=normalize, truncate=truncate, loras=self._loras_or(loras),
            progress=progress,
        )  # fmt: skip

    @overload
    async def aembed(
        self, texts: Texts, *, pooling: Pooled | None = None, normalize: bool = True, truncate: Truncate = False,
        loras: Mapping[LoraAdapter, float] | None = None, progress: Progress | None = None,
    ) -> NDArray[np.float32]: ...  # fmt: skip
    @overload
    async def aembed(
        self, texts: Texts, *, pooling: Literal["none"], normalize: bool = True, truncate: Truncate = False,
        loras: Mapping[LoraAdapter, float] | None = None, progress: Progress | None = None,
    ) -> list[NDArray[np.float32]]: ...  # fmt: skip
    async def aembed(
        self,
        texts: Texts,
        *,
        pooling: EmbeddingPooling | None = None,
        normalize: bool = True,
        truncate: Truncate = False,
        loras: Mapping[LoraAdapter, float] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """`embed` for event loops: cancelling the task cancels the computation."""
        return await self.embedder.aembed(
            texts, pooling=pooling, normalize=normalize, truncate=truncate, loras=self._loras_or(loras),
            progress=progress,
        )  # fmt: skip

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_n: int | None = None,
        method: RankMethod = "rank",
        truncate: Truncate = False,
        loras: Mapping[LoraAdapter, float] | None = None,
        progress: Progress | None = None,
    ) -> list[RerankResult]:
        """Order documents by how well they answer a query, the best first; see `Embedder.rerank`."""
        return self.embedder.rerank(
            query, documents, top_n=top_n, method=method, truncate=truncate, loras=self._loras_or(loras),
            progress=progress,
        )  # fmt: skip

    async def arerank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_n: int | None = None,
        method: RankMethod = "rank",
        truncate: Truncate = False,
        loras: Mapping[LoraAdapter, float] | None = None,
        progress: Progress | None = None,
    ) -> list[RerankResult]:
        """`rerank` for event loops: cancelling the task cancels the computation."""
        return await self.embedder.arerank(
            query, documents, top_n=top_n, method=method, truncate=truncate, loras=self._loras_or(loras),
            progress=progress,
        )  # fmt: skip

    def close(self) -> None:
        """End what is running and free everything; see `LlamaBase.close`."""
        made: Embedder | None = self.__dict__.get("_embedder")
        if made is not None:
            made.close()
        super().close()
