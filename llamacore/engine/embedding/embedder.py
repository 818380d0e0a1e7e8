"""`Embedder`: vectors of texts and scores of documents, packed into as few decodes as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from ...errors import AbortedError, DecodeError, InvalidArgumentError, UnsupportedError
from ..exclusive import Exclusive, Turn
from ..own_context import settings
from . import pooling as pools
from .lane import Lane
from .packing import pack
from .pooling import EmbeddingPooling
from .ranking import RankPrompt, RerankResult, has_head
from .texts import Text, Texts, Truncate, as_list, fit, require_truncate, to_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...core.adapters import LoraAdapter
    from ...core.model import Model
    from ...params import ContextParams

Pooled = Literal["mean", "last", "first", "cls"]
RankMethod = Literal["rank", "similarity"]
Progress = Callable[[int, int], "bool | None"]


class Embedder(Exclusive):
    """Embeds and ranks texts with one model, from any thread: calls wait for their turn.

    Many texts are decoded together as sequences of one batch. The contexts are its own: they are made when they are
    first needed, grow with the texts, and are freed by `close()` or with the model.

    Args:
        model: The model, which stays the caller's to close.
        n_ctx: Most tokens of a text; None for what the model was trained with. Memory is taken for texts that come.
        n_batch: Tokens of texts that are computed together; None for 256 on a CPU and 512 on a device. A model without
            causal attention takes a text in one piece: a longer one is computed at once all the same.
        n_ubatch: Most tokens of a causal model that are computed at a time; None for `n_batch`.
        n_threads: Threads; None for the number of physical cores.
        pooling: How the vectors of tokens become one where a call does not say; None for what the model file says, and
            "mean" where it says nothing.
        context_params: Everything else about the contexts.

    Raises:
        InvalidArgumentError: A number is out of range, or there is no such pooling.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int | None = None,
        n_batch: int | None = None,
        n_ubatch: int | None = None,
        n_threads: int | None = None,
        pooling: Pooled | None = None,
        context_params: ContextParams | None = None,
    ) -> None:
        super().__init__(model)
        params = settings(context_params, n_ctx=n_ctx, n_batch=n_batch, n_ubatch=n_ubatch, n_threads=n_threads)
        if pooling is not None and pools.choose(model, pooling) == "none":
            raise InvalidArgumentError('pooling="none" for every call', hint='ask for it in embed(pooling="none")')
        self._pooling = pooling
        self._limit = params.n_ctx or model.n_ctx_train
        self._has_head: bool | None = None
        self._rows = Lane(model, params, "none", self._limit)
        self._rank = Lane(model, params, "rank", self._limit)

    @property
    def n_embd(self) -> int:
        """Length of an embedding."""
        return self.model.n_embd_out

    @property
    def n_ctx(self) -> int:
        """Most tokens of a text."""
        return self._limit

    def tokenize(self, text: Text) -> list[int]:
        """Return the tokens that are computed for a text, with those that the model wants around it."""
        tokens: list[int] = to_tokens(self.model.vocab, text, "the text").tolist()
        return tokens

    # embedding

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
        """Return the embeddings of texts.

        Args:
            texts: Texts, or token ids of texts, which are used as they are; one of them counts as a list of one.
                Control tokens that are written in a text stay plain text.
            pooling: How the vectors of a text's tokens become one: "mean"; "last" or "first" (also called "cls") for
                that of one token; "none" for those of all tokens. None for the embedder's. What is chosen here counts
                for more than what the model file says.
            normalize: Give every vector the L2 length 1.
            truncate: What happens to a text longer than `n_ctx`: False refuses it, "end" cuts its end off and "start"
                its start. The tokens that the model wants around a text are kept.
            loras: LoRA adapters of the model with their scales, for this call.
            progress: Called after each decode with the number of texts that are done and of all; returning False
                cancels. What it raises is raised here.

        Returns:
            float32 [n_texts, n_embd]; with pooling "none" a list of float32 [n_tokens, n_embd].

        Raises:
            InvalidArgumentError: A text has no tokens or is too long, or an option is wrong; the message names it.
            OutOfRangeError: A token is not in the vocabulary.
            UnsupportedError: The model ranks and no pooling was chosen, or it has no embeddings.
            AbortedError: It was cancelled.
            AdapterError: An adapter does not fit the model.
            DecodeError: It failed, or an embedding came out as no number.
            ClosedError: The embedder or the model is closed.
        """
        return self._embed(texts, pooling, normalize, truncate, progress, Turn(loras))

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
        """`embed` for an event loop: computed in a thread, cancelled with the task that awaits it."""
        call = partial(self._embed, texts, pooling, normalize, truncate, progress)
        return await self._in_thread(call, Turn(loras))

    def _embed(
        self,
        texts: Texts,
        pooling: str | None,
        normalize: bool,
        truncate: Truncate,
        progress: Progress | None,
        turn: Turn,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        self._require_open()
        chosen = pools.choose(self.model, pooling if pooling is not None else self._pooling)
        require_truncate(truncate)
        given = as_list(texts)
        vocab = self.model.vocab
        tokens = []
        for number, text in enumerate(given):
            turn.require_wanted()
            which = f"text {number}"
            tokens.append(fit(to_tokens(vocab, text, which), self._limit, truncate, which, text, vocab))
        with self._turn(turn):
            vectors = self._vectors(turn, tokens, chosen, _Count(len(given), progress))
        if chosen == "none":
            return [pools.unit(rows) for rows in vectors] if normalize else vectors
        matrix = np.stack(vectors) if vectors else np.empty((0, self.n_embd), dtype=np.float32)
        return pools.unit(matrix) if normalize else matrix

    def _vectors(
        self, turn: Turn, texts: Sequence[NDArray[np.int32]], pooling: str, count: _Count
    ) -> list[NDArray[np.float32]]:
        """The vector of each text, float32 [n_embd], or those of its tokens, [n_tokens, n_embd], without pooling."""
        lane = self._rows
        vectors: dict[int, NDArray[np.float32]] = {}
        for group in pack([len(text) for text in texts], lane.n_tokens, lane.n_texts):
            members = [texts[item] for item in group.items]
            lane.prepare(len(members[0]))  # the longest text of all comes first: it grows once
            if group.n_tokens > lane.capacity:
                long_text = pools.LongText(pooling, group.n_tokens)
                for n_tokens in lane.compute_parts(turn, members[0]):
                    long_text.add(lane.rows(n_tokens))
                found = [long_text.result()]
            else:
                lane.compute(turn, members)
                found = pools.pool(lane.rows(group.n_tokens), [len(text) for text in members], pooling)
            for item, vector in zip(group.items, found, strict=True):
                _require_finite(vector, f"text {item}")
                vectors[item] = vector
            count.add(len(group.items))
        return [vectors[item] for item in range(len(texts))]

    # ranking

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
        """Order documents by how well they answer a query.

        Args:
            query: The query.
            documents: The documents.
            top_n: How many of the best to return; None for all.
            method: "rank" asks the classifier of a reranker. "similarity" compares embeddings instead, which works with
                every model.
            truncate: What happens to a document that is too long together with the query: False refuses it, "end" cuts
                its end off and "start" its start.
            loras: LoRA adapters of the model with their scales, for this call.
            progress: As for `embed`, in documents.

        Returns:
            The best first; of two with the same score, the one that was given first.

        Raises:
            UnsupportedError: The model has no classifier.
            InvalidArgumentError: A document is no text or too long, or an option is wrong.
            AbortedError: It was cancelled.
            AdapterError: An adapter does not fit the model.
            DecodeError: It failed, or a score came out as no number.
            ClosedError: The embedder or the model is closed.
        """
        return self._rerank(query, documents, top_n, method, truncate, progress, Turn(loras))

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
        """`rerank` for an event loop: computed in a thread, cancelled with the task that awaits it."""
        call = partial(self._rerank, query, documents, top_n, method, truncate, progress)
        return await self._in_thread(call, Turn(loras))

    def _rerank(
        self,
        query: str,
        documents: Iterable[str],
        top_n: int | None,
        method: str,
        truncate: Truncate,
        progress: Progress | None,
        turn: Turn,
    ) -> list[RerankResult]:
        self._require_open()
        require_truncate(truncate)
        if method not in ("rank", "similarity"):
            raise InvalidArgumentError(f"method={method!r}", hint='give "rank" or "similarity"')
        if top_n is not None and not (hasattr(top_n, "__index__") and top_n >= 1):
            raise InvalidArgumentError(f"top_n={top_n!r}", hint="give 1 or more, or None for all")
        given = _documents(query, documents)
        if method == "rank":
            self._require_head()
            scores = self._scores(turn, query, given, truncate, progress)
        else:
            own = pools.pooling_of(self.model)
            pooling = self._pooling or ("mean" if own == "rank" else None)
            vectors = self._embed([query, *given], pooling, True, truncate, progress, turn)
            assert isinstance(vectors, np.ndarray)
            scores = (vectors[1:] @ vectors[0]).tolist()
        order = sorted(range(len(given)), key=lambda index: (-scores[index], index))
        return [RerankResult(index, scores[index], given[index]) for index in order[:top_n]]

    def _require_head(self) -> None:
        if self._has_head is None:
            self._has_head = has_head(self.model)  # reads the file: once is enough
        if not self._has_head:
            raise UnsupportedError(
                "this model has no classifier to rank documents with",
                hint='use a reranker, or order the documents by their embeddings with method="similarity"',
            )

    def _scores(
        self, turn: Turn, query: str, documents: Sequence[str], truncate: Truncate, progress: Progress | None
    ) -> list[float]:
        prompt = RankPrompt(self.model, query, self._limit)
        texts = [prompt.tokens(text, f"document {number}", truncate) for number, text in enumerate(documents)]
        lengths = [len(text) for text in texts]
        lane, count = self._rank, _Count(len(texts), progress)
        scores = np.empty(len(texts), dtype=np.float32)
        with self._turn(turn):
            for group in pack(lengths, lane.n_tokens, lane.n_texts):
                lane.prepare(lengths[group.items[0]])
                if group.n_tokens > lane.capacity:
                    for _ in lane.compute_parts(turn, texts[group.items[0]]):
                        pass  # a causal reranker judges by the last token
                else:
                    lane.compute(turn, [texts[item] for item in group.items])
                found = lane.scores(len(group.items))[:, 0]
                for item, score in zip(group.items, found, strict=True):
                    _require_finite(score, f"document {item}")
                    scores[item] = score
                count.add(len(group.items))
        as_floats: list[float] = scores.tolist()
        return as_floats

    def _free(self) -> None:
        self._rows.close()
        self._rank.close()


class _Count:
    """Tells a caller how many texts are done."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, texts: int) -> None:
        self._done += texts
        if self._progress is not None and self._progress(self._done, self._total) is False:
            raise AbortedError("cancelled by the progress callback", hint="what was computed so far is lost")


def _require_finite(values: NDArray[np.float32], what: str) -> None:
    if not np.isfinite(values).all():
        raise DecodeError(
            f"the model computed NaN or infinite values for {what}",
            hint="check the model file, or use another data type or device",
        )


def _documents(query: object, documents: Iterable[str]) -> list[str]:
    if not isinstance(query, str):
        raise InvalidArgumentError(f"the query is {type(query).__name__}", hint="give a string")
    if isinstance(documents, (str, bytes)) or not isinstance(documents, Iterable):
        raise InvalidArgumentError(f"documents is {type(documents).__name__}", hint="give a list of strings")
    given = list(documents)
    for number, document in enumerate(given):
        if not isinstance(document, str):
            raise InvalidArgumentError(f"document {number} is {type(document).__name__}", hint="give strings")
    return given
