"""Reads a prompt once and continues it from saved states: `python examples/state.py [MODEL.gguf]`."""

import sys
import tempfile
from pathlib import Path

import llamacore as lc
from llamacore.hub import demo_model_path


def continue_text(ctx: lc.Context, token: int, pos: int, seed: int) -> str:
    """Sample a few tokens after `token`, which stands at `pos`."""
    tokens = []
    batch = lc.Batch(n_tokens=1)
    with lc.Sampler.chain(lc.Sampler.temp(0.8), lc.Sampler.dist(seed)) as sampler:
        for offset in range(16):
            batch.clear()
            batch.add(token, pos=pos + offset, output=True)
            ctx.decode(batch)
            token = sampler.sample(ctx)
            tokens.append(token)
    return ctx.model.vocab.detokenize(tokens)


def main() -> None:
    """Run the example."""
    path = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
    with lc.Model.load(path) as model, tempfile.TemporaryDirectory() as folder:
        *most, last = model.vocab.tokenize("One day the little dog found")
        file = Path(folder, "prompt.bin")
        with model.context(n_ctx=256) as ctx:
            batch = lc.Batch(n_tokens=64)
            batch.add_tokens(most, outputs="none")
            ctx.decode(batch)
            saved = ctx.state.to_bytes()
            ctx.state.save(file, most)
            print(f"state of {len(most)} tokens: {len(saved) >> 10} KiB")
            for seed in (1, 2):
                ctx.state.from_bytes(saved)
                print(repr(continue_text(ctx, last, len(most), seed)))

        with model.context(n_ctx=256) as other:
            assert other.state.load(file) == most
            print(repr(continue_text(other, last, len(most), seed=2)), "(from the file)")


if __name__ == "__main__":
    main()
