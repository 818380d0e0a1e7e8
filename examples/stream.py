"""Streams a story, and shows what the last chunk tells: `python examples/stream.py [MODEL.gguf]`."""

import sys

import llamacore as lc


def main() -> None:
    """Run the example."""
    with lc.Llama(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
        prompt = llm.chat_prompt([{"role": "user", "content": "Tell me a happy story."}])
        for chunk in llm.stream(prompt, max_tokens=120, temperature=0.7, seed=1):
            print(chunk.text, end="", flush=True)
        completion = chunk.result
        assert completion is not None  # the last chunk has it
        print(f"\n\n{completion.finish_reason}, {completion.usage.completion_tokens} tokens, ", end="")
        print(f"{completion.timings.predicted_per_second:.0f} per second")


if __name__ == "__main__":
    main()
