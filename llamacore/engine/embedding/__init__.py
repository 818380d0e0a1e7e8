"""Texts in, vectors and scores out.

embedder.py   Embedder: embed and rerank, from any thread
texts.py      texts to tokens, and what is too long or too short
packing.py    which texts share a decode
lane.py       a context that grows with the texts, and a batch
pooling.py    from the vectors of tokens to the vector of a text
ranking.py    prompts for rerankers, and what they return
"""

from .embedder import Embedder
from .ranking import RerankResult

__all__ = ["Embedder", "RerankResult"]
