"""What the training left in the file: it knows text that it has not seen, drafts well and writes to the point."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Logits

import llamacore as lc
from tools.corpus import END_OF_TEXT, chat_renderer, stream
from tools.facts import with_article
from tools.stories import MOODS, draw_story

Record = Callable[[str, object], None]
#: The seed of the bundled file's training text is the default of `tools.train.TrainConfig`.
TRAINING, HELD_OUT = "train-0", "held-out-0"


def perplexity(model: lc.Model, native_logits: Logits, seed: str, n_window: int = 12, size: int = 512) -> float:
    """Perplexity per token of the first `n_window` windows of a stream."""
    text = END_OF_TEXT.join(islice(stream(seed), n_window * size // 80))
    tokens = model.vocab.tokenize(text, parse_special=True)
    assert len(tokens) > n_window * size
    losses = []
    for start in range(0, n_window * size, size):
        window = tokens[start : start + size]
        logits = native_logits(model, window)[:-1].astype(np.float64)
        top = logits.max(-1)
        total = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        losses.append(total - logits[np.arange(size - 1), window[1:]])
    return float(np.exp(np.concatenate(losses).mean()))


def answer(model: lc.Model, messages: list[dict[str, str]], limit: int = 200, **options: bool) -> str:
    """The most likely answer to a chat, token by token."""
    prompt = chat_renderer().render(messages=messages, add_generation_prompt=True, **options)
    tokens = model.vocab.tokenize(prompt, parse_special=True)
    written: list[int] = []
    with model.context(n_ctx=len(tokens) + limit, n_threads=1) as context:
        batch = lc.Batch(n_tokens=len(tokens))
        batch.add_tokens(tokens)
        for position in range(len(tokens), len(tokens) + limit):
            context.decode(batch)
            token = int(context.logits(-1).argmax())
            if model.vocab.is_eog(token):
                break
            written.append(token)
            batch.clear()
            batch.add(token, position, output=True)
    return model.vocab.detokenize(written)


def test_held_out_perplexity(demo: lc.Model, native_logits: Logits, record_property: Record) -> None:
    """Perplexity on text that was never drawn in training is within 10 % of that on the training's own text."""
    seen = perplexity(demo, native_logits, TRAINING)
    unseen = perplexity(demo, native_logits, HELD_OUT)
    record_property("training perplexity", seen)
    record_property("held-out perplexity", unseen)
    assert seen < 2.0
    assert abs(unseen / seen - 1) < 0.1


@pytest.mark.parametrize("mood", MOODS)
def test_story_is_to_the_point(mood: str, demo: lc.Model) -> None:
    """A story asked for is about the animal, has an end and uses words of its mood."""
    story = answer(demo, [{"role": "user", "content": f"Tell me {with_article(mood)} story about a fox."}])
    assert "fox" in story
    assert story.endswith((".", '"', "!"))
    rng = random.Random(0)
    words = {m: {w for _ in range(300) for w in draw_story(rng, m).text.split()} for m in MOODS}
    telling = words[mood] - set().union(*(words[m] for m in MOODS if m != mood))
    assert len(telling & set(story.split())) >= 5


def test_answers(demo: lc.Model) -> None:
    """It answers a question it learnt, follows the form that its system message asks for, and thinks when it is to."""
    ask = {"role": "user", "content": "What is the capital of France?"}
    assert answer(demo, [ask]) == "The capital of France is Paris."
    assert len(answer(demo, [{"role": "system", "content": "Answer in one word."}, ask]).split()) == 1
    thought, _, rest = answer(demo, [ask], enable_thinking=True).partition("</think>")
    assert thought.strip() and rest.strip() == "The capital of France is Paris."


def test_mtp_block(demo_path: Path, record_property: Record, torch: Any) -> None:
    """The MTP block's most likely token is mostly the right one, and the trunk's, also several tokens ahead."""
    from tools.evaluate import evaluate
    from tools.export import read_gguf

    scores = evaluate(*read_gguf(demo_path), HELD_OUT, n_window=16)
    record_property("MTP accuracy", scores.draft_accuracy)
    record_property("MTP agreement with the trunk", scores.draft_agreement)
    assert scores.draft_accuracy > 0.8
    assert min(scores.draft_agreement) > 0.8
