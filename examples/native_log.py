"""What llama.cpp says while it works, and what an error carries of it: `python examples/native_log.py [MODEL.gguf]`."""

import logging
import sys

import llamacore as lc
from llamacore.core import log
from llamacore.hub import demo_model_path


class Lines(logging.Handler):
    """Keeps the native lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.lines.append(record.getMessage())


def main() -> None:
    """Run the example."""
    lines = Lines()
    logger = logging.getLogger("llamacore.native")
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)

    with lc.Llama(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
        llm.generate("Once upon a time", max_tokens=4)
    log.drain()  # what has come since the last slow call
    print(f"{len(lines.lines)} lines, such as:")
    for line in [line for line in lines.lines if "arch" in line][:3]:
        print("   ", line)

    with lc.Model.load(demo_model_path()) as model:
        try:
            model.context(n_ctx=256, type_v="q8_0", flash_attn="disabled")
        except lc.ContextError as error:
            print(f"{type(error).__name__}: {error.message}")
            print(f"native log: {error.native_log}")
            print(f"hint: {error.hint}")


if __name__ == "__main__":
    main()
