"""A pipeline: a user's node in front of a model, as a manifest describes it. `pipeline.json` is another manifest."""

import asyncio
from pathlib import Path

from llamacore.nodes import Node, Pipeline, Text, register_node


@register_node("AskForAStory")
class AskForAStory(Node):
    """Makes a prompt of a topic."""

    async def process(self, data: Text) -> Text:
        """Return the prompt."""
        return Text(f"Tell me a {data.text} story.")


MANIFEST = {
    "version": "v1",
    "nodes": [
        {"id": "ask", "node_type": "AskForAStory"},
        {
            "id": "llm",
            "node_type": "LlamaCppGenerationNode",
            "params": {"model_path": "demo", "max_tokens": 40, "seed": 1},
        },
    ],
    "connections": [{"from": "ask", "to": "llm"}],
}


async def main() -> None:
    """Run both manifests."""
    async with Pipeline(MANIFEST) as pipeline:
        async for item in pipeline.run("happy", "sad"):
            if isinstance(item.data, Text):
                print("\n" if item.data.is_end else item.data.text, end="", flush=True)

    async with Pipeline.load(Path(__file__).with_name("pipeline.json")) as pipeline, pipeline.session("me") as session:
        await session.send("Tell me a story.")
        await session.finish()
        async for item in session:
            print(item.data.text if isinstance(item.data, Text) else f"[{item.data.value['status']}]", end=" ")


asyncio.run(main())
