"""Which of these texts is nearest to a question: `python examples/semantic_search.py [MODEL.gguf] [QUESTION]`."""

import sys

import llamacore as lc

TEXTS = [
    "The dog was very happy and ran to the house.",
    "The sun was hot and the sky was blue.",
    "Two and two make four.",
    "The little cat sat on the bed and slept.",
]


def main() -> None:
    """Run the example."""
    path = sys.argv[1] if len(sys.argv) > 1 else None
    question = sys.argv[2] if len(sys.argv) > 2 else "Where did the dog run?"
    with lc.Llama(path) as llm:
        vectors = llm.embed([question, *TEXTS])
        print(f"{question}  ({vectors.shape[1]} numbers for each text)")
        for result in llm.rerank(question, TEXTS, method="similarity"):
            print(f"{result.score:6.3f}  {result.document}")


if __name__ == "__main__":
    main()
