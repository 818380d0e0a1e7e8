"""The training text of the demo model: an endless stream of documents, drawn from a seed and nothing else.

`python -m tools.corpus --documents 5 --seed 1` prints some.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from tools import conversations
from tools.facts import draw_fact, sentence, with_article
from tools.stories import ANIMALS, DEEDS, HE_NAMES, SHE_NAMES, draw_story

END_OF_TEXT = "<|endoftext|>"
CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")

#: Kinds of documents with their share of the stream.
SHARES = {
    "story": 0.12,
    "mood_story": 0.06,
    "fill_in": 0.03,
    "story_chat": 0.18,
    "reading_chat": 0.08,
    "question_chat": 0.15,
    "question_text": 0.02,
    "repetition": 0.04,
    "who_did_what": 0.10,
    "persona_chat": 0.07,
    "memory_chat": 0.05,
    "tool_chat": 0.08,
    "json_chat": 0.06,
}


def raise_exception(message: str) -> None:
    """What a chat template calls when it cannot render."""
    raise ValueError(message)


def chat_renderer(template: str = CHAT_TEMPLATE) -> Any:
    """Compiles a chat template the way that inference programs do.

    Args:
        template: Jinja source.

    Returns:
        Any: A Jinja template; `render` takes `messages`, `tools`, `add_generation_prompt`, `enable_thinking`.
    """
    extensions = ["jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template)


def draw_list(rng: random.Random) -> str:
    """Names, words or numbers in no order, so that the only way to know them is to look back."""
    roll = rng.random()
    if roll < 0.5:
        items = rng.choices(HE_NAMES + SHE_NAMES, k=rng.randrange(2, 12))
    elif roll < 0.8:
        items = rng.choices([word.strip(',.!?:"') for word in draw_story(rng).text.split()], k=rng.randrange(2, 16))
    else:
        items = [str(rng.randrange(1000)) for _ in range(rng.randrange(2, 8))]
    return " ".join(items)


def draw_deeds(rng: random.Random) -> str:
    """Short sentences about one to three heroes: every second word or so is one that was said before."""
    names = rng.sample(HE_NAMES + SHE_NAMES, rng.choice((1, 1, 2, 3)))
    kinds = rng.sample(ANIMALS, len(names))
    lines = [f"{name} is {with_article(kind)}." for name, kind in zip(names, kinds, strict=True)]
    for _ in range(rng.randrange(4, 12)):
        i = rng.randrange(len(names))
        hero, deed = rng.choice((names[i], f"The {kinds[i]}")), rng.choice(DEEDS)
        lines.append(f"{hero} {deed}." if len(names) == 1 or rng.random() < 0.6 else f"{hero} saw {rng.choice(names)}.")
    i = rng.randrange(len(names))
    lines.append(
        f"Who is the {kinds[i]}? {names[i]}."
        if rng.random() < 0.5
        else f"What is {names[i]}? {sentence(with_article(kinds[i]))}."
    )
    return " ".join(lines)


def draw_document(rng: random.Random, renderer: Any, kind: str | None = None) -> tuple[str, str]:
    """Draws one document.

    Args:
        rng: Source of all chance.
        renderer: From `chat_renderer`.
        kind: A key of `SHARES`; None draws one.

    Returns:
        tuple[str, str]: A key of `SHARES` and the text, without `END_OF_TEXT`.
    """
    kind = kind or rng.choices(list(SHARES), list(SHARES.values()))[0]
    if kind == "story":
        return kind, draw_story(rng).text
    if kind == "mood_story":
        story = draw_story(rng)
        return kind, f"Mood: {story.mood}\n{story.text}"
    if kind == "question_text":
        ask, answer, _ = draw_fact(rng)
        return kind, f"Question: {ask}\nAnswer: {answer}"
    if kind == "fill_in":
        sentences = draw_story(rng).sentences
        i = rng.randrange(1, len(sentences) - 1)
        before, after = " ".join(sentences[:i]) + " ", " " + " ".join(sentences[i + 1 :])
        return kind, f"<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>{sentences[i]}"
    if kind == "repetition":
        listed = draw_list(rng)
        return kind, f"{rng.choice(('List', 'Words', 'Say'))}: {listed}\nAgain: {listed}"
    if kind == "who_did_what":
        return kind, draw_deeds(rng)
    conversation = getattr(conversations, kind)(rng)
    text = renderer.render(messages=list(conversation.messages), tools=list(conversation.tools) or None)
    return kind, text.removesuffix("\n")


def stream(seed: int | str) -> Iterator[str]:
    """Endless documents; two seeds give two unrelated streams.

    Args:
        seed: Any seed. Training uses `train-...`, held-out text `held-out-...`.

    Yields:
        str: One document after the other.
    """
    rng = random.Random(seed)
    renderer = chat_renderer()
    while True:
        yield draw_document(rng, renderer)[1]


def main() -> None:
    """Prints documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10, help="how many to print")
    parser.add_argument("--seed", default="train-0", help="seed of the stream")
    options = parser.parse_args()
    documents = stream(options.seed)
    for _ in range(options.documents):
        print(next(documents) + END_OF_TEXT)


if __name__ == "__main__":
    main()
