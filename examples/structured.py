"""Text that must follow a grammar or a JSON schema: `python examples/structured.py [MODEL.gguf]`."""

import json
import sys

import llamacore as lc

YES_OR_NO = 'root ::= "yes" | "no"'
MOOD = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["happy", "sad", "angry", "calm", "afraid"]},
        "intensity": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["mood", "intensity"],
    "additionalProperties": False,
}


def main() -> None:
    """Run the example."""
    with lc.Llama(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
        question = llm.chat_prompt([{"role": "user", "content": "Is the sky blue?"}])
        print(llm.generate(question, grammar=YES_OR_NO, temperature=0).text)

        task = llm.chat_prompt([{"role": "user", "content": "Which mood has this story? Tom lost his kite and cried."}])
        completion = llm.generate(task, json_schema=MOOD, temperature=0, max_tokens=100)
        if completion.finish_reason == "length":
            raise SystemExit("the model did not come to an end: its JSON is incomplete")
        print(json.loads(completion.text))


if __name__ == "__main__":
    main()
