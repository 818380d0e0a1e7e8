"""What stands between two texts: `python examples/infill.py [MODEL.gguf]`, best with a coder model."""

import sys

import llamacore as lc

PREFIX = "def add(a, b):\n    return "
SUFFIX = "\n\nprint(add(1, 2))\n"


def main() -> None:
    """Run the example."""
    with lc.Llama(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
        print(f"{PREFIX}[", end="")
        for chunk in llm.stream_infill(PREFIX, SUFFIX, filename="add.py", max_tokens=16, temperature=0):
            print(chunk.text, end="", flush=True)
        print(f"]{SUFFIX}")


if __name__ == "__main__":
    main()
