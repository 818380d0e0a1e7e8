"""Thinks before it answers, but only for so long, and reads the reply piece by piece."""

import llamacore as lc
from llamacore.chat.format import ChatFormat

with lc.Llama() as llm:
    prepared = ChatFormat(llm.model).prepare([{"role": "user", "content": "Is the sky blue?"}], enable_thinking=True)
    stream = llm.stream(
        prepared.tokens,
        max_tokens=60,
        stop=prepared.stop,
        shown_tokens=prepared.shown_tokens,
        checkpoints=prepared.checkpoints,
        **{**prepared.sampling, "reasoning_budget_tokens": 12},
    )
    for chunk in stream:
        for delta in prepared.reply.push(chunk.text):
            if delta.reasoning_content:
                print("thinks:", repr(delta.reasoning_content))
            if delta.content:
                print("says:", repr(delta.content))
    print(prepared.reply.finish())
