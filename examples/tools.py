"""A model that calls functions: `python examples/tools.py [MODEL.gguf]`."""

import sys
from typing import Literal

import llamacore as lc


def get_weather(city: Literal["Oslo", "Rome", "Lima"], unit: Literal["c", "f"] = "c") -> str:
    """Get the weather.

    Args:
        city: Where.
        unit: Celsius or Fahrenheit.
    """
    degrees = {"Oslo": 4, "Rome": 21, "Lima": 18}[city]
    return f"{degrees} degrees" if unit == "c" else f"{degrees * 9 // 5 + 32} degrees"


def main() -> None:
    """Run the example."""
    with lc.Llama(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
        talk = lc.Conversation(system="You are a helpful assistant.")
        try:
            reply = talk.chat(
                llm,
                "How is the weather in Oslo?",
                tools=[get_weather],
                tool_choice="required",
                run_tools=True,
                max_passes=4,
                max_tokens=200,
                temperature=0,
                on_tool_result=lambda result: print(f"{result.call.name}({result.call.arguments}): {result.text}"),
            )
        except lc.ToolError as error:
            raise SystemExit(f"the model did not come to an answer: {error}") from None
        print(reply.content)


if __name__ == "__main__":
    main()
