"""The same tokens decoded each time, whatever a model would say; arguments: model, prompt file, n_predict, threads."""

from __future__ import annotations

import sys
import time
from typing import Any

from child import read_tokens, serve

import llamacore as lc


def main() -> None:
    """Load, and decode once per line of standard input: the prompt at once, then its tokens again one by one."""
    path, prompt_file, n_predict, n_threads = sys.argv[1:]
    prompt, count = read_tokens(prompt_file), int(n_predict)
    model = lc.Model.load(path)
    ctx = model.context(n_ctx=len(prompt) + count, n_batch=len(prompt), n_threads=int(n_threads))
    whole, single = lc.Batch(len(prompt)), lc.Batch(1)
    whole.add_tokens(prompt)

    def run() -> dict[str, Any]:
        ctx.memory.clear()
        started, cpu = time.perf_counter(), time.process_time()
        ctx.decode(whole)
        ctx.logits(-1)
        prompted = time.perf_counter()
        for number in range(count):
            single.clear()
            single.add(prompt[number % len(prompt)], len(prompt) + number, output=True)
            ctx.decode(single)
            ctx.logits(-1)
        ended = time.perf_counter()
        return {
            "prompt_ms": (prompted - started) * 1e3,
            "predicted_ms": (ended - prompted) * 1e3,
            "first_text_ms": (prompted - started) * 1e3,
            "cpu_ms": (time.process_time() - cpu) * 1e3,
            "tokens": [prompt[-1], *(prompt[number % len(prompt)] for number in range(count))],
        }

    run()
    serve(run)


if __name__ == "__main__":
    main()
