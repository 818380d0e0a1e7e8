"""How likely a text is, token by token: `python examples/perplexity.py [MODEL.gguf] [TEXT]`."""

import math
import sys

import llamacore as lc


def main() -> None:
    """Run the example."""
    path = sys.argv[1] if len(sys.argv) > 1 else None
    text = sys.argv[2] if len(sys.argv) > 2 else "Once upon a time there was a little dog."
    with lc.Llama(path) as llm:
        score = llm.score(text, top_k=1)
        for token, logprob, top in zip(score.tokens[score.first :], score.logprobs, score.top, strict=True):
            best = "" if top[0][0] == token else f"   rather {llm.detokenize([top[0][0]])!r}"
            print(f"{llm.detokenize([token])!r:15} {math.exp(logprob):4.0%}{best}")
        print(f"perplexity {score.perplexity:.2f} over {score.n_logprobs} tokens")


if __name__ == "__main__":
    main()
