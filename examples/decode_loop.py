"""The loop behind `Llama.stream`, on the objects of llama.cpp: `python examples/decode_loop.py [MODEL.gguf]`."""

import codecs
import sys

import llamacore as lc
from llamacore.hub import demo_model_path


def main() -> None:
    """Run the example."""
    path = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
    with lc.Model.load(path) as model, model.context(n_ctx=512, no_perf=False) as ctx:
        vocab = model.vocab
        tokens = vocab.tokenize("Once upon a time")
        sampler = lc.Sampler.chain(lc.Sampler.top_k(40), lc.Sampler.temp(0.8), lc.Sampler.dist(seed=1))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a token may end within a character

        batch = lc.Batch(n_tokens=ctx.n_batch)
        batch.add_tokens(tokens)  # only the last row is an output
        n_past = len(tokens)
        print(vocab.detokenize(tokens), end="")
        while n_past < 100:
            ctx.decode(batch)
            token = sampler.sample(ctx, -1)
            if vocab.is_eog(token):
                break
            print(decoder.decode(vocab.token_to_piece(token, special=False)), end="", flush=True)
            batch.clear()
            batch.add(token, pos=n_past, output=True)
            n_past += 1

        perf = ctx.perf()
        print(f"\n\n{perf.n_p_eval} tokens read in {perf.t_p_eval_ms:.1f} ms", end=", ")
        print(f"{perf.n_eval} made in {perf.t_eval_ms:.1f} ms")
        sampler.close()


if __name__ == "__main__":
    main()
