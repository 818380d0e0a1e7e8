"""How sure the model was of each token: `python examples/logprobs.py [MODEL.gguf]`."""

import math
import sys

import llamacore as lc


def main() -> None:
    """Run the example."""
    with lc.Llama(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
        completion = llm.generate("The little dog was", max_tokens=12, temperature=0, logprobs=3)
        for entry in completion.logprobs:
            others = ", ".join(f"{llm.detokenize([token])!r} {math.exp(value):.0%}" for token, value in entry.top)
            print(f"{entry.text!r:15} {math.exp(entry.logprob):4.0%}   of {others}")
        mean = sum(entry.logprob for entry in completion.logprobs) / len(completion.logprobs)
        print(f"perplexity of what it wrote: {math.exp(-mean):.2f}")


if __name__ == "__main__":
    main()
