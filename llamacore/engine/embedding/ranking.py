"""Prompts for models that judge how well a document answers a query, and what they return."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ... import gguf
from ...chat.template import control_texts, protect
from ...chat.template import tokenize as tokenize_rendered
from ...errors import InvalidArgumentError
from .texts import Truncate, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...core.model import Model

_HEAD = ("cls.output.weight", "cls.weight")


@dataclass(frozen=True)
class RerankResult:
    """How well a document answers a query.

    Attributes:
        index: Place of the document in what was given.
        score: What the model's classifier says of it: a number that only orders the documents of one query, unless the
            model's authors give it a meaning. With `method="similarity"` a cosine.
        document: The document.
    """

    index: int
    score: float
    document: str


def has_head(model: Model) -> bool:
    """Whether a model has a classifier: without one upstream returns numbers that mean nothing.

    The tensors are asked and not the metadata: a file can say that it ranks and bring nothing to do it with.
    """
    return any(name in gguf.read(path).tensors for path in model.paths for name in _HEAD)


class RankPrompt:
    """Writes the query and a document as upstream's server does for a reranker.

    A model may carry a template named "rerank" with `{query}` and `{document}` in it; otherwise the two are put one
    after the other with the model's own BOS, EOS and SEP tokens. Control tokens written in either stay plain text.

    Args:
        model: The model.
        query: What is asked.
        limit: Most tokens of a prompt.
    """

    def __init__(self, model: Model, query: str, limit: int) -> None:
        self._vocab = model.vocab
        self._limit = limit
        self._template = model.chat_template("rerank")
        if self._template is None:
            self._before, self._after = self._around(query)
        else:
            self._controls = control_texts(self._vocab)
            self._query = protect(query, self._controls)

    def _around(self, query: str) -> tuple[list[int], list[int]]:
        vocab = self._vocab
        ending = vocab.eos if vocab.eos is not None else vocab.sep
        begin = [vocab.bos] if vocab.add_bos and vocab.bos is not None else []
        between = [vocab.sep] if vocab.add_sep and vocab.sep is not None else []
        end = [ending] if vocab.add_eos and ending is not None else []
        return [*begin, *vocab.tokenize(query, add_special=False), *end, *between], end

    def tokens(self, document: str, which: str, truncate: Truncate) -> NDArray[np.int32]:
        """Return the prompt for a document, int32 [n].

        Args:
            document: The document.
            which: What a message calls it.
            truncate: Whether and where a document is cut that is too long.

        Raises:
            InvalidArgumentError: The prompt is too long and the document is not to be cut, or the query alone is.
        """
        prompt = self._with(document)
        if len(prompt) > self._limit:
            if not truncate:
                raise InvalidArgumentError(
                    f"{which} ({shown(document)}) and the query have {len(prompt)} tokens, the limit is {self._limit}",
                    hint='split it, or cut it with truncate="end" or "start"',
                )
            prompt = self._cut(document, truncate)
        if not prompt:
            raise InvalidArgumentError(f"{which} and the query have no tokens", hint="give some text")
        return np.asarray(prompt, dtype=np.int32)

    def _with(self, document: str) -> list[int]:
        if self._template is None:
            return [*self._before, *self._vocab.tokenize(document, add_special=False), *self._after]
        given = {"{query}": self._query, "{document}": protect(document, self._controls)}
        parts: list[str] = re.split(r"(\{query\}|\{document\})", self._template)  # so that neither can name the other
        return tokenize_rendered(self._vocab, "".join(given.get(part, part) for part in parts), add_special=False)

    def _cut(self, document: str, truncate: Truncate) -> list[int]:
        tokens = self._vocab.tokenize(document, add_special=False)
        if self._template is None:
            room = self._limit - len(self._before) - len(self._after)
            kept = tokens[: max(room, 0)] if truncate == "end" else tokens[len(tokens) - max(room, 0) :]
            prompt = [*self._before, *kept, *self._after]
        else:
            prompt = self._with(document)
            while len(prompt) > self._limit and tokens:  # text that is cut may take another number of tokens
                excess = min(len(prompt) - self._limit, len(tokens))
                tokens = tokens[:-excess] if truncate == "end" else tokens[excess:]
                prompt = self._with(self._vocab.detokenize(tokens))
        if len(prompt) > self._limit:
            raise InvalidArgumentError(
                f"the query alone has {len(prompt)} tokens, the limit is {self._limit}", hint="shorten it"
            )
        return prompt
