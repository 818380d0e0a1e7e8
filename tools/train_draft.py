"""Makes the bundled draft model: a small network that learns to say what the demo model says.

`python -m tools.train_draft --work build/draft` trains for about twenty minutes on two CPU cores; when it is
interrupted, the same command goes on from the last checkpoint in the `--work` folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.draft_model import DraftConfig
from tools.evaluate import agreement
from tools.export import Card, read_gguf, write_gguf
from tools.pupils import DraftPupil
from tools.train import TrainConfig, train
from tools.train_demo import BUNDLED as TEACHER

BUNDLED = TEACHER.with_name("llamacore-demo-draft-q8_0.gguf")
CARD = Card(
    name="llamacore demo draft",
    description="A draft model for llamacore demo: it was trained to guess that model's next token. Of no use alone.",
)


def main() -> None:
    """Runs all steps."""
    default = TrainConfig(steps=2400, lr=3e-3, mtp_weight=0.0)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--teacher", type=Path, default=TEACHER, help="the model to draft for")
    parser.add_argument("--output", type=Path, default=BUNDLED, help="the Q8_0 file to write")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--steps", type=int, default=default.steps)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    teacher, tokenizer = read_gguf(options.teacher)
    shape = DraftConfig(n_vocab=teacher.config.n_vocab)
    config = TrainConfig(seed=options.seed, steps=options.steps, lr=default.lr, mtp_weight=0.0)
    model = train(tokenizer, lambda: DraftPupil(shape, teacher), config, options.work / "checkpoint.pt")
    write_gguf(options.output, model, tokenizer, quantized=True, card=CARD)
    n_params = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.output}: {options.output.stat().st_size} bytes, {n_params} parameters")
    share = agreement(read_gguf(options.output)[0], teacher, tokenizer, "held-out-0")
    print(f"says the same as the teacher for {share:.1%} of all tokens of held-out text")


if __name__ == "__main__":
    main()
