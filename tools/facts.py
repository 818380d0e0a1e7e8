"""Questions with answers that the demo model may learn by heart."""

from __future__ import annotations

import random

from tools.text import sections, table, words

_TEXT = sections("facts")
NUMBERS, DAYS, MONTHS, SIZES, GOODS = (words(_TEXT[name]) for name in ("numbers", "days", "months", "sizes", "goods"))
CAPITALS, OPPOSITES, SOUNDS, FOODS = (table(_TEXT[name]) for name in ("capitals", "opposites", "sounds", "foods"))
HOMES, COLOURS, USES, MEANINGS = (table(_TEXT[name]) for name in ("homes", "colours", "uses", "meanings"))
GROUPS = {
    "animals": SIZES,
    "colours": words(_TEXT["colour_words"]),
    "fruits": words(_TEXT["fruits"]),
    "cities": list(CAPITALS.values()),
    "days of the week": DAYS,
    "months": MONTHS,
}


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[0].upper() + text[1:]


def with_article(phrase: str) -> str:
    """The phrase with `a` or `an` before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def plural(animal: str) -> str:
    """The plural of the animals that the tables name."""
    irregular = {"mouse": "mice", "sheep": "sheep", "fish": "fish", "fox": "foxes", "wolf": "wolves"}
    return irregular.get(animal, animal + "s")


def of_capital(rng: random.Random) -> tuple[str, str, str]:
    """The capital of a country, or the country of a capital."""
    land, city = rng.choice(list(CAPITALS.items()))
    if rng.random() < 0.3:
        return f"{city} is the capital of which country?", f"{city} is the capital of {land}.", land
    ask = rng.choice((f"What is the capital of {land}?", f"Which city is the capital of {land}?"))
    return ask, f"The capital of {land} is {city}.", city


def of_opposite(rng: random.Random) -> tuple[str, str, str]:
    """The opposite of a word."""
    word, other = rng.choice(list(OPPOSITES.items()))
    ask = rng.choice((f"What is the opposite of {word}?", f"Tell me the opposite of {word}."))
    return ask, f"The opposite of {word} is {other}.", other


def of_sound(rng: random.Random) -> tuple[str, str, str]:
    """The sound of an animal."""
    animal, sound = rng.choice(list(SOUNDS.items()))
    one = with_article(animal)
    ask = rng.choice((f"What does {one} say?", f"What sound does {one} make?"))
    return ask, sentence(f"{one} says {sound}."), sound


def of_food(rng: random.Random) -> tuple[str, str, str]:
    """What an animal eats."""
    animal, food = rng.choice(list(FOODS.items()))
    ask = rng.choice((f"What does a {animal} eat?", f"What do {plural(animal)} like to eat?"))
    return ask, f"{sentence(plural(animal))} eat {food}.", food


def of_home(rng: random.Random) -> tuple[str, str, str]:
    """Where an animal lives."""
    animal, home = rng.choice(list(HOMES.items()))
    one = with_article(animal)
    return f"Where does {one} live?", sentence(f"{one} lives in {home}."), home


def of_colour(rng: random.Random) -> tuple[str, str, str]:
    """The colour of a thing."""
    thing, colour = rng.choice(list(COLOURS.items()))
    ask = rng.choice((f"What colour is {thing}?", f"Which colour does {thing} have?"))
    return ask, f"{sentence(thing)} is {colour}.", colour


def of_use(rng: random.Random) -> tuple[str, str, str]:
    """What a thing is for."""
    thing, use = rng.choice(list(USES.items()))
    ask = f"What can I do with {thing}?"
    return ask, f"With {thing} you can {use}.", use


def of_job(rng: random.Random) -> tuple[str, str, str]:
    """What someone does for a living."""
    person, work = rng.choice(list(MEANINGS.items()))
    return f"What does {person} do?", f"{sentence(person)} {work}.", work


def of_day(rng: random.Random) -> tuple[str, str, str]:
    """The day or the month before or after another."""
    table = DAYS if rng.random() < 0.6 else MONTHS
    unit = "day" if table is DAYS else "month"
    i = rng.randrange(len(table))
    if rng.random() < 0.5:
        after = table[(i + 1) % len(table)]
        return f"Which {unit} comes after {table[i]}?", f"After {table[i]} comes {after}.", after
    before = table[i - 1]
    return f"Which {unit} comes before {table[i]}?", f"Before {table[i]} comes {before}.", before


def of_sum(rng: random.Random) -> tuple[str, str, str]:
    """A sum or a difference of small numbers."""
    a, b = rng.randrange(10), rng.randrange(10)
    if rng.random() < 0.4 and a >= b:
        ask = rng.choice((f"What is {NUMBERS[a]} minus {NUMBERS[b]}?", f"How much is {NUMBERS[a]} minus {NUMBERS[b]}?"))
        return ask, f"{sentence(NUMBERS[a])} minus {NUMBERS[b]} is {NUMBERS[a - b]}.", NUMBERS[a - b]
    ask = rng.choice((f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", f"How much is {NUMBERS[a]} plus {NUMBERS[b]}?"))
    return ask, f"{sentence(NUMBERS[a])} plus {NUMBERS[b]} is {NUMBERS[a + b]}.", NUMBERS[a + b]


def of_size(rng: random.Random) -> tuple[str, str, str]:
    """Which of two animals is bigger or smaller."""
    i, j = rng.sample(range(len(SIZES)), 2)
    word, wanted = ("bigger", max(i, j)) if rng.random() < 0.5 else ("smaller", min(i, j))
    ask = f"Which is {word}, {with_article(SIZES[i])} or {with_article(SIZES[j])}?"
    other = SIZES[i + j - wanted]
    return ask, sentence(f"{with_article(SIZES[wanted])} is {word} than {with_article(other)}."), SIZES[wanted]


def of_group(rng: random.Random) -> tuple[str, str, str]:
    """Two or three members of a group."""
    group, members = rng.choice(list(GROUPS.items()))
    count = rng.choice((2, 3))
    drawn = rng.sample(members, count)
    if members is DAYS or members is MONTHS:
        drawn.sort(key=members.index)
    listed = ", ".join(drawn[:-1]) + " and " + drawn[-1]
    return f"Name {NUMBERS[count]} {group}.", f"{sentence(NUMBERS[count])} {group} are {listed}.", listed


def of_count(rng: random.Random) -> tuple[str, str, str]:
    """Counting up or down."""
    first, last = sorted(rng.sample(range(1, 13), 2))
    if rng.random() < 0.3:
        counted = ", ".join(NUMBERS[i] for i in range(last, first - 1, -1))
        return f"Count down from {NUMBERS[last]} to {NUMBERS[first]}.", sentence(counted) + ".", counted
    counted = ", ".join(NUMBERS[i] for i in range(first, last + 1))
    return f"Count from {NUMBERS[first]} to {NUMBERS[last]}.", sentence(counted) + ".", counted


def of_riddle(rng: random.Random) -> tuple[str, str, str]:
    """A sum or a difference in a short story."""
    name, goods = rng.choice(("Tom", "Mia", "Leo", "Anna", "Ben", "Lily", "Max", "Rosa")), rng.choice(GOODS)
    a, b = rng.randrange(2, 10), rng.randrange(2, 9)
    if a - b >= 2 and rng.random() < 0.5:
        ask = f"{name} has {NUMBERS[a]} {goods} and gives {NUMBERS[b]} away. How many {goods} are left?"
        left = NUMBERS[a - b]
        return ask, f"{sentence(NUMBERS[a])} minus {NUMBERS[b]} is {left}. {sentence(left)} {goods} are left.", left
    ask = f"{name} has {NUMBERS[a]} {goods} and gets {NUMBERS[b]} more. How many {goods} does {name} have?"
    total = NUMBERS[a + b]
    return ask, f"{sentence(NUMBERS[a])} plus {NUMBERS[b]} is {total}. {name} has {total} {goods}.", total


KINDS = (
    *(of_capital, of_opposite, of_sound, of_food, of_home, of_colour, of_use, of_job, of_day, of_sum),
    *(of_size, of_group, of_count, of_riddle),
)


def draw_fact(rng: random.Random) -> tuple[str, str, str]:
    """Draws a question, its answer as a sentence, and the answer in a word or a few."""
    return rng.choice(KINDS)(rng)
