"""Ways of drafting, and what is drafted, for the tests of speculation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llamacore as lc
from llamacore.hub import demo_draft_path

STORY = "Tell me a happy story."
WAYS: dict[str, Callable[[], Any]] = {
    "mtp": lambda: lc.Mtp(adaptive=False),
    "draft model": lambda: lc.DraftModel(model=demo_draft_path(), adaptive=False),
    "n-grams": lambda: lc.Ngram(type="ngram-simple", n_max=4, size_n=2, adaptive=False),
}
NGRAMS = lc.Ngram(type="ngram-simple", n_max=4, size_n=2, adaptive=False)


def story(llama: lc.Llama, mood: str = "happy") -> list[int]:
    return llama.chat_prompt([{"role": "user", "content": f"Tell me a {mood} story."}])


def drafted(llama: lc.Llama) -> int:
    return llama.engine.stats().speculation.drafted
