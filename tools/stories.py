"""Short stories, each in one of five moods, drawn from a grammar of our own."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tools.facts import with_article
from tools.text import sections, words

MOODS = ("happy", "sad", "angry", "calm", "afraid")

_TEXT = sections("stories")
HE_NAMES, SHE_NAMES = words(_TEXT["he_names"]), words(_TEXT["she_names"])
ANIMALS, PEOPLE, MEN, WOMEN = (words(_TEXT[name]) for name in ("animals", "people", "men", "women"))
ADJECTIVES, COLOURS, THINGS, CLOTHES = (words(_TEXT[name]) for name in ("adjectives", "colours", "things", "clothes"))
DEEDS = words(_TEXT["deeds"])
PLACES, OPENINGS, HABITS, NEXT_DAYS = (_TEXT[name] for name in ("places", "openings", "habits", "next_days"))


@dataclass(frozen=True)
class Mood:
    """What a story of one mood is made of; every tuple holds alternatives of one place in the story.

    Attributes:
        days: How the day of the story begins.
        plots: Pairs of an event and what follows from it.
        feelings: What the hero feels.
        talks: What hero and friend say to each other.
        endings: How it ends.
    """

    days: tuple[str, ...]
    plots: tuple[tuple[str, str], ...]
    feelings: tuple[str, ...]
    talks: tuple[str, ...]
    endings: tuple[str, ...]

    @classmethod
    def read(cls, name: str) -> Mood:
        """Reads the file of a mood."""
        text = sections(name)
        plots = [plot.split(" | ") for plot in text["plots"]]
        return cls(
            days=tuple(text["days"]),
            plots=tuple((event, consequence) for event, consequence in plots),
            feelings=tuple(text["feelings"]),
            talks=tuple(text["talks"]),
            endings=tuple(text["endings"]),
        )


GRAMMAR = {mood: Mood.read(mood) for mood in MOODS}


@dataclass(frozen=True)
class Story:
    """A story and what a request for it may name.

    Attributes:
        mood: One of `MOODS`.
        kind: What the hero is, such as `fox`.
        name: The hero's name.
        thing: An object of the story, or an empty string when the text does not mention it.
        place: Where the hero lives, such as `by the sea`.
        sentences: The text in order.
    """

    mood: str
    kind: str
    name: str
    thing: str
    place: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole story on one line."""
        return " ".join(self.sentences)


def draw_kind(rng: random.Random) -> tuple[str, bool | None]:
    """A kind of hero, and whether it is female when the word says so."""
    roll = rng.random()
    if roll < 0.6:
        return rng.choice(ANIMALS), None
    if roll < 0.8:
        return rng.choice(PEOPLE), None
    return (rng.choice(MEN), False) if roll < 0.9 else (rng.choice(WOMEN), True)


def draw_story(rng: random.Random, mood: str | None = None) -> Story:
    """Draws a story of `mood`, or of any mood when it is `None`."""
    mood = mood or rng.choice(MOODS)
    grammar = GRAMMAR[mood]
    kind, female = draw_kind(rng)
    if female is None:
        female = rng.random() < 0.5
    name = rng.choice(SHE_NAMES if female else HE_NAMES)
    friend = rng.choice([n for n in HE_NAMES + SHE_NAMES if n != name])
    friend_kind = rng.choice([k for k in ANIMALS if k != kind])
    thing = f"{rng.choice(COLOURS)} {rng.choice(THINGS)}"
    new = f"{rng.choice(COLOURS)} {rng.choice([t for t in THINGS if t not in thing])}"
    adjective = rng.choice(ADJECTIVES)
    place = rng.choice(PLACES)
    clothing = f"{rng.choice(COLOURS)} {rng.choice(CLOTHES)}"
    open_places = {
        "N": name,
        "F": friend,
        "k": kind,
        "fk": friend_kind,
        "p": place,
        "o": thing,
        "he": "she" if female else "he",
        "his": "her" if female else "his",
        "him": "her" if female else "him",
        "He": "She" if female else "He",
        "His": "Her" if female else "His",
        "a_adj": with_article(adjective),
        "a_o": with_article(thing),
        "a_o2": with_article(clothing),
        "a_new": with_article(new),
        "a_fk": with_article(friend_kind),
    }
    event, consequence = rng.choice(grammar.plots)
    parts = [rng.choice(OPENINGS), *rng.sample(HABITS, rng.choice((0, 1, 1, 2)))]
    parts += [rng.choice(grammar.days), event, consequence]
    feelings = rng.sample(grammar.feelings, 2)
    parts.append(feelings[0])
    if rng.random() < 0.8:
        parts.append(rng.choice(grammar.talks))
    if rng.random() < 0.25:
        other, after = rng.choice([plot for plot in grammar.plots if plot[0] != event])
        parts += [rng.choice(NEXT_DAYS), other, after, feelings[1]]
    elif rng.random() < 0.4:
        parts.append(feelings[1])
    parts.append(rng.choice(grammar.endings))
    sentences = tuple(part.format_map(open_places) for part in parts)
    used = next((t for t in (thing, new) if any(t in sentence for sentence in sentences)), "")
    return Story(mood, kind, name, used, place, sentences)
