"""`Llama` with many streams at a time, measured from outside: one line of JSON in, one out, as engine.py asks."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from llamacore import ContextParams, Llama
from llamacore.core.context import Context
from llamacore.core.sample_rows import RowSampler


class NativeTime:
    """CPU time of the engine's thread inside the native calls of a step, by wrapping those two."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for kind, name in ((Context, "decode"), (RowSampler, "sample")):
            setattr(kind, name, self._timed(getattr(kind, name)))

    def _timed(self, function: Any) -> Any:
        def timed(*args: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*args)
            finally:
                self.seconds += time.thread_time() - started

        return timed


def texts(llama: Llama, asked: dict[str, Any], native: NativeTime | None) -> dict[str, float]:
    """Generate from all prompts at a time; a thread waits for each, or reads it as a stream."""
    prompts, n_predict = asked["prompts"], asked["n_predict"]
    clock: list[float] = []
    if native is not None:
        native.seconds = 0.0
        llama.engine.call(lambda _: clock.append(time.thread_time()))
    counts = [0] * len(prompts)

    def read(number: int) -> None:
        options: Any = {"max_tokens": n_predict, "temperature": 0.0, "ignore_eos": True}
        if asked["stream"]:
            counts[number] = sum(len(chunk.tokens) for chunk in llama.stream(prompts[number], **options))
        else:
            counts[number] = len(llama.generate(prompts[number], **options).tokens)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(prompts))]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    tokens = sum(counts)
    assert tokens == n_predict * len(prompts), (tokens, n_predict, len(prompts))
    answer = {"tokens_per_second": tokens / seconds}
    if native is not None:
        llama.engine.call(lambda _: clock.append(time.thread_time()))
        answer["python_us_per_token"] = (clock[1] - clock[0] - native.seconds) / tokens * 1e6
    return answer


def first_token(llama: Llama, prefix: list[int], rounds: int) -> dict[str, float]:
    """Time to the first token after a cached prefix, and of one token more: medians in milliseconds."""
    llama.generate(prefix, max_tokens=0)
    firsts, singles = [], []
    for number in range(rounds):
        prompt = [*prefix, 20 + number]
        started = time.perf_counter()
        generation = llama.stream(prompt, max_tokens=24, temperature=0.0, ignore_eos=True)
        next(chunk for chunk in generation if chunk.tokens)
        firsts.append((time.perf_counter() - started) * 1e3)
        result = generation.result()
        assert result.usage.cached_tokens == len(prefix), result.usage
        singles.append(1e3 / result.timings.predicted_per_second)
    return {"first_token_ms": sorted(firsts)[rounds // 2], "token_ms": sorted(singles)[rounds // 2]}


def main() -> None:
    """Load, warm up, and answer each line of standard input."""
    settings = json.loads(sys.argv[1])
    native = NativeTime() if settings.pop("overhead") else None
    model, n_parallel = settings.pop("model"), settings.pop("n_parallel")
    params = ContextParams(n_seq_max=n_parallel, n_outputs_max=n_parallel, **settings)
    with Llama(model, context_params=params) as llama:
        llama.generate([1, 2, 3], max_tokens=2)
        print("ready", flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            if "prefix" in asked:
                answer = first_token(llama, asked["prefix"], asked["rounds"])
            else:
                answer = texts(llama, asked, native)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
