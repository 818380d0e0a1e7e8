"""Embeddings in the OpenAI API's form."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError
from .types import EmbeddingItem, EmbeddingResponse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .requests import EmbeddingRequest


def embedding_response(
    request: EmbeddingRequest, vectors: NDArray[Any], n_tokens: int, model: str
) -> EmbeddingResponse:
    """Write the response to a request for embeddings.

    Args:
        request: What was asked.
        vectors: float32 [number of inputs, n_embd].
        n_tokens: Tokens of all inputs.
        model: Name of the model.

    Raises:
        InvalidArgumentError: More dimensions are asked for than there are.
    """
    import numpy as np

    if request.dimensions is not None:
        if request.dimensions > vectors.shape[1]:
            raise InvalidArgumentError(
                f"create_embedding: dimensions={request.dimensions}", hint=f"the model has {vectors.shape[1]}"
            )
        vectors = vectors[:, : request.dimensions]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.where(norms == 0, 1, norms)
    data: list[EmbeddingItem] = [
        {
            "object": "embedding",
            "index": number,
            "embedding": base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode()
            if request.encoding == "base64"
            else row.tolist(),
        }
        for number, row in enumerate(vectors)
    ]
    return {
        "object": "list",
        "model": request.model or model,
        "data": data,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
