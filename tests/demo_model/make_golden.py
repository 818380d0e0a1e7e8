"""Writes `golden.npz`: logits that PyTorch computes from the bundled file, for the tests that run without PyTorch.

`python tests/demo_model/make_golden.py` after each new bundled file.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from tools.corpus import END_OF_TEXT, stream  # noqa: E402
from tools.export import read_gguf  # noqa: E402

#: Length of each prompt; 65 and more need several chunks of the delta net.
LENGTHS = (5, 40, 64, 65, 150, 300)
ROWS = 4


def main() -> None:
    """Computes and writes."""
    model, tokenizer = read_gguf(HERE.parent.parent / "llamacore" / "data" / "llamacore-demo-q8_0.gguf")
    text = END_OF_TEXT.join(islice(stream("golden-0"), 20))
    tokens = tokenizer.encode(text).ids[: max(LENGTHS)]
    arrays = {"tokens": np.array(tokens, np.int32)}
    for length in LENGTHS:
        rows = np.linspace(0, length - 1, ROWS).astype(np.int32)
        with torch.no_grad():
            logits = model.logits(model.states(torch.tensor([tokens[-length:]]))[0])[0]
        arrays[f"rows_{length}"] = rows
        arrays[f"logits_{length}"] = logits.numpy()[rows]
    np.savez_compressed(HERE / "golden.npz", **arrays)


if __name__ == "__main__":
    main()
