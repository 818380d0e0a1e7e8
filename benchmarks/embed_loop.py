"""Embeds the same texts whenever it is told to: one JSON line for each line of standard input.

python benchmarks/embed_loop.py MODEL N_TEXTS THREADS N_BATCH
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import numpy as np

import llamacore as lc
from llamacore.engine.embedding import Embedder
from llamacore.testing.vocabularies import WORDS

SHORTEST, LONGEST = 4, 40  # words of a text


def some_texts(number: int) -> list[str]:
    """Short texts of common words."""
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(SHORTEST, LONGEST))) for _ in range(number)]


def main() -> None:
    """Answer until standard input ends."""
    path, n_texts, threads, n_batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    texts = some_texts(n_texts)
    with lc.Model.load(path) as model, Embedder(model, n_threads=threads, n_batch=n_batch or None) as embedder:
        n_tokens = sum(len(embedder.tokenize(text)) for text in texts)
        print("{}", flush=True)
        for line in sys.stdin:
            started = time.perf_counter()
            answer: dict[str, Any] = {"tokens": n_tokens}
            if line.strip() == "compare":
                alone = np.concatenate([embedder.embed(text) for text in texts])
                answer["seconds"] = time.perf_counter() - started
                answer["difference"] = float(1 - (alone * embedder.embed(texts)).sum(axis=1).min())
            else:
                embedder.embed(texts)
                answer["seconds"] = time.perf_counter() - started
                for text in texts:
                    embedder.tokenize(text)
                answer["tokenizing_seconds"] = time.perf_counter() - started - answer["seconds"]
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
