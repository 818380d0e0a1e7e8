"""Loads the demo model, generates and closes it, many times; prints resident memory after warm-up and at the end."""

from __future__ import annotations

import sys

from process_memory import resident

import llamacore as lc


def live() -> None:
    with lc.Llama(n_ctx=256, n_threads=1) as llama:
        for chunk in llama.stream("Once upon a time", max_tokens=8, seed=1, logprobs=1):
            _ = chunk.text
        llama.generate(
            llama.chat_prompt([{"role": "user", "content": "hello"}]), max_tokens=4, grammar="root ::= [a-z ]+"
        )


rounds = int(sys.argv[1])
warm_up = rounds // 5
for _ in range(warm_up):
    live()
first = resident()
for _ in range(rounds - warm_up):
    live()
print(first, resident())
