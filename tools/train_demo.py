"""Makes the bundled demo model from nothing: vocabulary, training, GGUF files, scores.

`python -m tools.train_demo --work build/demo` trains for about half an hour on two CPU cores; when it is interrupted,
the same command goes on from the last checkpoint in the `--work` folder. When the whole model is trained, its MTP block
learns from its trunk to draft several tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenizers import Tokenizer

from tools.evaluate import evaluate
from tools.export import write_gguf
from tools.model import Model, ModelConfig
from tools.pupils import MtpPupil
from tools.tokenizer import train as train_tokenizer
from tools.train import TrainConfig, train

VOCABULARY = Path(__file__).with_name("vocabulary.json")
BUNDLED = Path(__file__).parent.parent / "llamacore" / "data" / "llamacore-demo-q8_0.gguf"


def main() -> None:
    """Runs all steps."""
    default = TrainConfig()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint and of the F32 file")
    parser.add_argument("--output", type=Path, default=BUNDLED, help="the Q8_0 file to write")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--new-vocabulary", action="store_true", help="train one instead of taking the one kept here")
    parser.add_argument("--steps", type=int, default=default.steps)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    shape = ModelConfig()
    vocabulary = options.work / "tokenizer.json" if options.new_vocabulary else VOCABULARY
    if not vocabulary.exists():
        train_tokenizer(shape.n_vocab).save(str(vocabulary))
    tokenizer = Tokenizer.from_file(str(vocabulary))
    config = TrainConfig(seed=options.seed, steps=options.steps)
    model = train(tokenizer, lambda: Model(shape), config, options.work / "checkpoint.pt")
    finish = TrainConfig(seed=options.seed + 1, steps=600, lr=1e-3, opening=0.0, recall_end=0.0, mtp_weight=0.0)
    pupil = train(tokenizer, lambda: MtpPupil(model), finish, options.work / "mtp.pt")
    model.mtp.load_state_dict(pupil.mtp.state_dict())
    write_gguf(options.work / "llamacore-demo-f32.gguf", model, tokenizer, quantized=False)
    write_gguf(options.output, model, tokenizer, quantized=True)
    n_params = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.output}: {options.output.stat().st_size} bytes, {n_params} parameters")
    for seed in (f"train-{options.seed}", "held-out-0"):
        print(seed, evaluate(model, tokenizer, seed))


if __name__ == "__main__":
    main()
