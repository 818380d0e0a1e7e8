"""Models that are loaded when they are needed: `python examples/models.py [MODEL.gguf]`."""

import sys

from llamacore.hub import demo_model_path
from llamacore.managed import ManagedModel, ModelRegistry
from llamacore.pool import LlamaPool


def main() -> None:
    """Run the example."""
    path = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
    with ModelRegistry(max_loaded=1) as registry:
        for name in ("first", "second"):
            registry.add(ManagedModel(path, name=name, llama_options={"n_ctx": 512}, idle_seconds=60))
        for name in ("first", "second", "first"):
            with registry.use(name) as llm:
                text = llm.generate("Once upon a time", max_tokens=8).text
                print(f"{name}:{text} (loaded: {', '.join(registry.loaded)})")
    with LlamaPool(path, pool_size=2, n_ctx=512) as pool:
        for completion in pool.generate_batch(["Once", "The cat", "A dog"], max_tokens=8):
            print("-", completion.text)


if __name__ == "__main__":
    main()
