"""The same generation through llama-cpp-python, in the interpreter that --peer-python names; see stream_loop.py."""

from __future__ import annotations

import sys
import time
from typing import Any

from child import STOP, read_tokens, serve
from llama_cpp import Llama


def main() -> None:
    """Load, warm up, and generate once per line of standard input."""
    model, prompt_file, n_predict, n_ctx, n_threads, temperature, seed = sys.argv[1:]
    prompt = read_tokens(prompt_file)
    llama = Llama(
        model, n_ctx=int(n_ctx), n_threads=int(n_threads), n_threads_batch=int(n_threads),
        flash_attn=True, no_perf=True, verbose=False,
    )  # fmt: skip
    llama.create_completion(prompt[:1], max_tokens=1)

    def run() -> dict[str, Any]:
        llama.reset()  # else it would keep the prompt of the last time
        first, text = 0.0, []
        started, cpu = time.perf_counter(), time.process_time()
        chunks = llama.create_completion(
            prompt, max_tokens=int(n_predict), stop=[STOP], stream=True, temperature=float(temperature), seed=int(seed)
        )
        for chunk in chunks:
            first = first or time.perf_counter()
            text.append(chunk["choices"][0]["text"])
        ended, cpu = time.perf_counter(), time.process_time() - cpu
        return {
            "prompt_ms": (first - started) * 1e3,
            "predicted_ms": (ended - first) * 1e3,
            "first_text_ms": (first - started) * 1e3,
            "cpu_ms": cpu * 1e3,
            "tokens": llama.input_ids[len(prompt) : llama.n_tokens].tolist(),
        }

    serve(run)


if __name__ == "__main__":
    main()
