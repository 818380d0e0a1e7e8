"""`Llama` with or without speculation, measured from outside: one line of JSON in, one out, as speculative.py asks."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import llamacore as lc


def method_of(settings: dict[str, Any] | str | None) -> Any:
    """The value of `speculative=`, from its class and its arguments."""
    if settings is None or isinstance(settings, str):
        return settings
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return getattr(lc, options.pop("method"))(**options)


def write(llama: lc.Llama, asked: dict[str, Any]) -> dict[str, Any]:
    """Texts from all prompts, `n_streams` at a time."""
    prompts = [llama.model.vocab.tokenize(text, add_special=True, parse_special=True) for text in asked["prompts"]]
    written: list[lc.Completion | None] = [None] * len(prompts)
    waiting = iter(range(len(prompts)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(waiting, None)
            if number is None:
                return
            written[number] = llama.generate(
                prompts[number],
                max_tokens=asked["n_predict"],
                ignore_eos=asked["ignore_eos"],
                temperature=0.0,
                cache_prompt=False,
            )

    before = llama.engine.stats()
    threads = [threading.Thread(target=work) for _ in range(asked["n_streams"])]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    after = llama.engine.stats()
    texts = [text for text in written if text is not None]
    assert len(texts) == len(prompts), "a text failed; its error is above"
    return {
        "n_prompt": sum(map(len, prompts)),
        "tokens": [text.tokens for text in texts],
        "seconds": seconds,
        "predicted_seconds": sum(text.timings.predicted_ms for text in texts) / 1e3,
        "steps": after.steps - before.steps,
        "positions": after.speculation.positions if after.speculation is not None else [],
    }


def main() -> None:
    """Load, warm up, and answer each line of standard input."""
    settings = json.loads(sys.argv[1])
    method = method_of(settings.pop("speculative"))
    with lc.Llama(settings.pop("model"), speculative=method, **settings) as llama:
        llama.generate([1, 2, 3], max_tokens=8, ignore_eos=True)
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(write(llama, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
