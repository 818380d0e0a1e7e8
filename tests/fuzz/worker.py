"""Child process of the fuzz test: makes mutants, loads each with `llamacore.Model.load` and decodes once.

Reads lines `base seed header_only` from standard input. Says what it is about to do before it does it, so that the
parent knows which mutant ended the process: `start base seed what`, then `done base seed seconds mebibytes outcome`,
where mebibytes is by how much the process has grown.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

from llamacore import Batch, Model
from llamacore.errors import LlamaCoreError, OutputError

from .image import Image
from .mutate import mutant

TEXT = "Hello the world\n\N{GRINNING FACE} 1<|im_end|>"
N_CTX = 64
MEMORY_LIMIT = 12 << 30  # a machine of the tests must survive what a mutant asks for
_MAX_TOKENS = 48


def exercise(path: Path, n_threads: int = 1) -> str:
    """Load a file, tokenise, decode; return "ok", or the error's class and message."""
    try:
        with Model.load(path, n_gpu_layers=0) as model:
            vocab = model.vocab
            tokens: list[int] = []
            with contextlib.suppress(LlamaCoreError):  # a vocabulary that cannot tokenise may still decode
                tokens = vocab.tokenize(TEXT, add_special=True, parse_special=True)[:_MAX_TOKENS]
            for token in range(min(model.n_vocab, 600)):
                vocab.token_to_piece(token)
            tokens = tokens or list(range(min(3, model.n_vocab)))
            sizes = {"n_ctx": N_CTX, "n_batch": N_CTX, "n_ubatch": N_CTX}
            with model.context(**sizes, n_threads=n_threads, n_threads_batch=n_threads) as context:
                batch = Batch(n_tokens=N_CTX)
                for position, token in enumerate(tokens):
                    batch.add(token, pos=position, seq_ids=(0,), output=True)
                if model.has_encoder:
                    context.encode(batch)
                if model.has_decoder:
                    context.decode(batch)
                    with contextlib.suppress(OutputError):  # an embedding model has none
                        context.logits(-1)
    except LlamaCoreError as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


def _limit_memory() -> None:
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def peak_mebibytes() -> int:
    """Peak resident memory of this process, 0 where that cannot be asked."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def say(*words: str) -> None:
    """Tell the parent, at once."""
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Work through standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bases", type=Path, help="folder of the sound files")
    parser.add_argument("mutant", type=Path, help="where to write each mutant")
    arguments = parser.parse_args()
    _limit_memory()
    images: dict[str, Image] = {}
    for line in sys.stdin:
        base, seed, header_only = line.split()
        if base not in images:
            images[base] = Image.parse((arguments.bases / base).read_bytes())
        what, raw = mutant(images[base], int(seed), header_only=header_only == "1")
        arguments.mutant.write_bytes(raw)
        say("start", base, seed, what)
        started, before = time.monotonic(), peak_mebibytes()
        n_threads = 2 if int(seed) % 4 == 0 else 1
        outcome = exercise(arguments.mutant, n_threads).replace("\n", " ")
        say("done", base, seed, f"{time.monotonic() - started:.3f}", str(peak_mebibytes() - before), outcome)


if __name__ == "__main__":
    main()
