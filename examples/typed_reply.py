"""An answer as an object of a class of one's own: `python examples/typed_reply.py [MODEL.gguf]`.

The class may just as well be a pydantic model, which then checks the values too.
"""

import dataclasses
import sys
from typing import Literal

import llamacore as lc


@dataclasses.dataclass
class Mood:
    """The mood of a story."""

    mood: Literal["happy", "sad", "angry", "calm", "afraid"]
    intensity: Literal[1, 2, 3, 4, 5]


def main() -> None:
    """Run the example."""
    with lc.Llama(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
        question = "Which mood has this story, and how strong is it? Tom lost his kite and cried."
        for chunk in (stream := llm.stream_chat(question, response_format=Mood, max_tokens=200, temperature=0)):
            print(chunk.content, end="", flush=True)
        mood = stream.result().parsed
        print(f"\n{mood.mood}, {mood.intensity} of 5")


if __name__ == "__main__":
    main()
