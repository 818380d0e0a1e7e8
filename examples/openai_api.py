"""Completions and chat in the OpenAI API's form: `python examples/openai_api.py [MODEL.gguf]`."""

import asyncio
import sys

import llamacore as lc

MESSAGES = [{"role": "user", "content": "Tell me a happy story."}]


async def several(llm: lc.Llama) -> None:
    """Ask for several replies at the same time: they are generated in one batch."""
    answers = await asyncio.gather(
        *(llm.acreate_chat_completion(MESSAGES, max_tokens=16, seed=seed) for seed in range(3))
    )
    for answer in answers:
        print("-", answer["choices"][0]["message"]["content"])


def main() -> None:
    """Run the example."""
    with lc.Llama(model_path=sys.argv[1] if len(sys.argv) > 1 else None) as llm:
        output = llm("Once upon a time", max_tokens=16, n=2, seed=1)
        for choice in output["choices"]:
            print(choice["index"], choice["text"], f"({choice['finish_reason']})")
        for piece in llm.create_chat_completion(MESSAGES, max_tokens=32, stream=True):
            print(piece["choices"][0]["delta"].get("content") or "", end="", flush=True)
        print()
        asyncio.run(several(llm))


if __name__ == "__main__":
    main()
