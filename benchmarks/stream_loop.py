"""`Llama.stream` as a user calls it, measured from outside; arguments as those of native_loop.c, without the folder."""

from __future__ import annotations

import sys
import time
from typing import Any

from child import STOP, read_tokens, serve

from llamacore import Llama


def main() -> None:
    """Load, warm up, and generate once per line of standard input."""
    model, prompt_file, n_predict, n_ctx, n_threads, temperature, seed = sys.argv[1:]
    prompt = read_tokens(prompt_file)
    llama = Llama(model, n_ctx=int(n_ctx), n_threads=int(n_threads))
    llama.generate(prompt[:1], max_tokens=1, cache_prompt=False)  # a text in the cache would move this one

    def run() -> dict[str, Any]:
        first, text = 0.0, []
        started, cpu = time.perf_counter(), time.process_time()
        generation = llama.stream(
            prompt,
            max_tokens=int(n_predict),
            stop=STOP,
            temperature=float(temperature),
            seed=int(seed),
            cache_prompt=False,
        )
        prepared = time.perf_counter()
        for chunk in generation:
            first = first or time.perf_counter()
            text.append(chunk.text)
        ended, cpu = time.perf_counter(), time.process_time() - cpu
        result = generation.result()
        assert "".join(text) == result.text
        prompt_ms = (prepared - started) * 1e3 + result.timings.prompt_ms  # text may come later than its token
        return {
            "prompt_ms": prompt_ms,
            "predicted_ms": (ended - started) * 1e3 - prompt_ms,
            "first_text_ms": (first - started) * 1e3,
            "cpu_ms": cpu * 1e3,
            "tokens": result.tokens,
        }

    serve(run)


if __name__ == "__main__":
    main()
