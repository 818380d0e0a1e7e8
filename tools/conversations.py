"""Conversations for the demo model: questions, stories on request, personas, thoughts, tool calls and JSON answers.

Every function draws one conversation and returns the arguments of the chat template.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from tools.facts import draw_fact, sentence, with_article
from tools.stories import ANIMALS, HE_NAMES, SHE_NAMES, Story, draw_story
from tools.text import sections, table, words

Message = dict[str, Any]
NAMES = HE_NAMES + SHE_NAMES
_TEXT = sections("conversations")
CITIES, PHRASES, SYSTEM_PLAIN = (_TEXT[name] for name in ("cities", "phrases", "system"))
WEATHER, JOBS = words(_TEXT["weather"]), words(_TEXT["jobs"])
#: Other words for the moods in requests.
MOOD_WORDS = {mood: synonyms.split() for mood, synonyms in table(_TEXT["mood_words"]).items()}
#: System messages, each with the styles of its answers.
PERSONAS = {line.split(" | ")[0]: line.split(" | ")[1:] for line in _TEXT["personas"]}
#: Pairs of what may be said and what may be answered.
SMALL_TALK = [[side.split(" | ") for side in line.split(" => ")] for line in _TEXT["small_talk"]]


@dataclass(frozen=True)
class Conversation:
    """One conversation, in the terms of the chat template.

    Attributes:
        messages: Messages with `role`, `content` and, where they apply, `reasoning_content` and `tool_calls`.
        tools: Tool definitions that the template lists in the system message.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = field(default=())


def user(content: str) -> Message:
    """A message of the user."""
    return {"role": "user", "content": content}


def system(content: str) -> Message:
    """The system message."""
    return {"role": "system", "content": content}


def assistant(content: str, thought: str = "", calls: tuple[tuple[str, dict[str, Any]], ...] = ()) -> Message:
    """An answer, with the thought before it and the tool calls after it."""
    message: Message = {"role": "assistant", "content": content}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in calls
        ]
    return message


def at_times(rng: random.Random, thought: str) -> str:
    """The thought in a third of the cases, else none."""
    return thought if rng.random() < 0.35 else ""


def story_request(rng: random.Random, story: Story) -> str:
    """A request that `story` fulfils."""
    mood = story.mood if rng.random() < 0.75 else rng.choice(MOOD_WORDS[story.mood])
    what = f"{with_article(mood)} story"
    if rng.random() < 0.9:
        what += f" about {with_article(story.kind)}"
        if rng.random() < 0.3:
            what += f" named {story.name}"
        if story.thing and rng.random() < 0.35:
            what += f" and {with_article(story.thing)}"
        if rng.random() < 0.15:
            what += f" {story.place}"
    return rng.choice(
        (f"Tell me {what}.", f"Write {what}.", f"Please tell me {what}.", f"Can you tell me {what}?", f"I want {what}.")
    )


def story_chat(rng: random.Random) -> Conversation:
    """A request for a story of a mood, at times after a thought, at times with a second request."""
    story = draw_story(rng)
    head = [system(rng.choice(SYSTEM_PLAIN))] if rng.random() < 0.25 else []
    thought = ""
    what, hero = f"{with_article(story.mood)} story", with_article(story.kind)
    if rng.random() < 0.3:
        thought = rng.choice(
            (
                f"The user wants {what} about {hero}. I will call the {story.kind} {story.name}.",
                f"I should write {what}. The hero is {hero} named {story.name}, who lives {story.place}.",
            )
        )
    messages = [*head, user(story_request(rng, story)), assistant(story.text, thought)]
    if rng.random() < 0.1:
        other = draw_story(rng)
        messages += [user(f"Now tell me {with_article(other.mood)} story about {with_article(other.kind)}.")]
        messages += [assistant(other.text)]
    return Conversation(tuple(messages))


def mood_question(rng: random.Random) -> tuple[str, str, str]:
    """A question about what mood a sentence of a story is in."""
    story = draw_story(rng)
    tail = story.sentences[-2:] if rng.random() < 0.5 else story.sentences[-3:]
    ask = f"What mood is this? {' '.join(tail)}"
    return ask, f"The mood is {story.mood}.", story.mood


def reading_chat(rng: random.Random) -> Conversation:
    """A story of the user's and questions about it, or the rest of a story that the user began."""
    story = draw_story(rng)
    if rng.random() < 0.3:
        cut = rng.randrange(1, 4)
        ask = rng.choice(("Go on with this story: {}", "Continue: {}", "How does this story end? {}"))
        begun = " ".join(story.sentences[:cut])
        thought = f"The story is about {with_article(story.kind)} named {story.name}. I will go on with it."
        rest_of_story = " ".join(story.sentences[cut:])
        return Conversation((user(ask.format(begun)), assistant(rest_of_story, at_times(rng, thought))))
    hero = with_article(story.kind)
    questions = [
        (f"What is the name of the {story.kind}?", f"The name of the {story.kind} is {story.name}."),
        (f"Where does {story.name} live?", f"{story.name} lives {story.place}."),
        (f"What is {story.name}?", f"{story.name} is {hero}."),
        ("What mood is the story in?", f"The mood of the story is {story.mood}."),
        (
            rng.choice(("Sum it up.", "What is it about?")),
            f"It is {with_article(story.mood)} story about {hero} named {story.name}, who lives {story.place}.",
        ),
    ]
    rng.shuffle(questions)
    length = rng.choice((2, 4, len(story.sentences)))
    questions = questions[: rng.choice((1, 2, 3))]
    (first, answer), rest = questions[0], questions[1:]
    shown = story.text if story.mood in str(questions) else " ".join(story.sentences[:length])
    thought = f"The story is about {hero} named {story.name}."
    messages = [user(rng.choice((f"{shown} {first}", f"Read this: {shown} {first}")))]
    messages += [assistant(answer, at_times(rng, thought))]
    for ask, answer in rest:
        messages += [user(ask), assistant(answer, at_times(rng, thought))]
    return Conversation(tuple(messages))


def question_chat(rng: random.Random) -> Conversation:
    """One to three questions with their answers, some answered after a thought."""
    messages = [system(rng.choice(SYSTEM_PLAIN))] if rng.random() < 0.3 else []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        roll = rng.random()
        if roll < 0.2:
            asks, answers = rng.choice(SMALL_TALK)
            thought = at_times(rng, "This is small talk. I will give a short and friendly answer.")
            messages += [user(rng.choice(asks)), assistant(rng.choice(answers), thought)]
            continue
        if roll < 0.27:
            text = draw_phrase(rng)
            ask = rng.choice((f"Repeat: {text}", f'Repeat "{text}".', f"Say it again: {text}"))
            messages += [user(ask), assistant(text, at_times(rng, "I only have to repeat the text."))]
            continue
        ask, answer, short = draw_fact(rng) if roll < 0.85 else mood_question(rng)
        known = (f"This is an easy question. The answer is {short}.", f"Let me think. I know this one: {short}.")
        thought = at_times(rng, rng.choice(known))
        messages += [user(ask), assistant(answer, thought)]
    return Conversation(tuple(messages))


def persona_chat(rng: random.Random) -> Conversation:
    """A chat whose system prompt decides how the answers sound."""
    roll = rng.random()
    if roll < 0.3:
        rules = ("Answer in one word.", "Answer only with the word, nothing else.", "Reply with one word only.")
        messages = [system(rng.choice(rules))]
        for _ in range(rng.choice((1, 2))):
            ask, _, short = draw_fact(rng)
            messages += [user(ask), assistant(sentence(short) + ".", at_times(rng, f"In one word: {short}."))]
        return Conversation(tuple(messages))
    if roll < 0.5:
        name = rng.choice(NAMES)
        ask = rng.choice(("What is your name?", "Who are you?", "How should I call you?"))
        thought = at_times(rng, "The system message gives me a name.")
        messages = [system(f"Your name is {name}. You are a helpful assistant."), user(ask)]
        messages += [assistant(f"My name is {name}.", thought)]
        if rng.random() < 0.5:
            other, answer, _ = draw_fact(rng)
            messages += [user(other), assistant(answer)]
        return Conversation(tuple(messages))
    persona, styles = rng.choice(list(PERSONAS.items()))
    messages = [system(persona)]
    for _ in range(rng.choice((1, 2, 2))):
        if rng.random() < 0.2:
            asks, answers = rng.choice(SMALL_TALK[:1] + SMALL_TALK[3:5])
            ask, answer = rng.choice(asks), rng.choice(answers)
        else:
            ask, answer, _ = draw_fact(rng)
        thought = at_times(rng, f"I must sound like {persona.removeprefix('You are ')}")
        messages += [user(ask), assistant(rng.choice(styles).format(answer), thought)]
    return Conversation(tuple(messages))


def memory_chat(rng: random.Random) -> Conversation:
    """The user says something about themselves and asks for it later."""
    name, animal, city = rng.choice(NAMES), rng.choice(ANIMALS), rng.choice(CITIES)
    facts = [
        (f"My name is {name}.", "What is my name?", f"Your name is {name}."),
        (f"I have {with_article(animal)}.", "Which animal do I have?", f"You have {with_article(animal)}."),
        (f"I live in {city}.", "Where do I live?", f"You live in {city}."),
    ]
    rng.shuffle(facts)
    facts = facts[: rng.choice((1, 2, 3))]
    told = " ".join(fact[0] for fact in facts)
    reply = rng.choice(("Nice to meet you!", "Thank you for telling me.", "Good to know!"))
    messages = [user(told), assistant(reply)]
    if rng.random() < 0.3:
        ask, answer, _ = draw_fact(rng)
        messages += [user(ask), assistant(answer)]
    for fact, ask, answer in rng.sample(facts, rng.choice((1, len(facts)))):
        messages += [user(ask), assistant(answer, at_times(rng, f'The user said: "{fact}"'))]
    return Conversation(tuple(messages))


def tool(name: str, description: str, argument: str, meaning: str) -> dict[str, Any]:
    """The definition of a tool with one string argument."""
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string", "description": meaning} if meaning else {"type": "string"}},
        "required": [argument],
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def draw_tools(rng: random.Random, needed: str | None) -> tuple[dict[str, Any], ...]:
    """One to three of the tools, `needed` among them when it is given, described in varying words."""
    every = {
        "say": tool(
            "say", rng.choice(("Say a text aloud.", "Speak a text.", "Says something.")), "text",
            rng.choice(("", "What to say.", "The text to speak.")),
        ),
        "show": tool(
            "show", rng.choice(("Show a picture.", "Show a picture on the screen.", "Shows something.")), "picture",
            rng.choice(("", "What to show.", "Name of the picture.")),
        ),
        "get_weather": tool(
            "get_weather", rng.choice(("Get the weather of a city.", "Get the current weather.", "Weather in a city.")),
            "city", rng.choice(("", "Name of the city.", "The city.")),
        ),
    }  # fmt: skip
    names = [name for name in every if name != needed]
    rng.shuffle(names)
    names = names[: rng.choice((0, 1, 2, 2) if needed else (1, 2, 3))] + ([needed] if needed else [])
    rng.shuffle(names)
    return tuple(every[name] for name in names)


def draw_phrase(rng: random.Random) -> str:
    """A text to speak or to repeat: a greeting, a piece of a story or loose words, so that copying is learnt."""
    roll = rng.random()
    if roll < 0.4:
        return rng.choice(PHRASES) + rng.choice(("", "!", f", {rng.choice(NAMES)}", f", {rng.choice(NAMES)}!"))
    words = draw_story(rng).text.replace('"', "").split()
    if roll < 0.7:
        start = rng.randrange(len(words) - 8)
        return " ".join(words[start : start + rng.randrange(1, 8)])
    return " ".join(word.strip(".,!?:") for word in rng.sample(words, rng.randrange(1, 6)))


def draw_call(rng: random.Random) -> tuple[str, str, dict[str, Any], str, str, str]:
    """A request for a tool: request, tool, arguments, thought, what the tool returns, and the answer after that."""
    name = rng.choice(("say", "show", "get_weather"))
    if name == "say":
        text = draw_phrase(rng)
        ask = rng.choice((f'Say "{text}".', f"Please say: {text}", f'Can you say "{text}"?'))
        thought = "The user wants me to speak. I will call say."
        return ask, name, {"text": text}, thought, '{"ok": true}', rng.choice(("I said it.", "Done, I said it."))
    if name == "show":
        picture = f"{rng.choice(('red', 'blue', 'green', 'yellow', 'white', 'black'))} {rng.choice(ANIMALS)}"
        picture = picture if rng.random() < 0.4 else rng.choice((*ANIMALS, "house", "tree", "star", "flower", "heart"))
        ask = rng.choice((f"Show me {with_article(picture)}.", f"Show {with_article(picture)}, please.",
                          f"I want to see {with_article(picture)}."))  # fmt: skip
        thought = "The user wants to see a picture. I will call show."
        return ask, name, {"picture": picture}, thought, '{"ok": true}', f"Here is {with_article(picture)}."
    city, sky, degrees = rng.choice(CITIES), rng.choice(WEATHER), rng.randrange(-5, 35)
    asks = ("What is the weather in {}?", "How is the weather in {}?", "Is it warm in {} today?")
    ask = rng.choice((*asks, "Tell me the weather in {}.")).format(city)
    thought = f"I need the weather in {city}. I will call get_weather."
    result = json.dumps({"city": city, "weather": sky, "temperature": degrees})
    return ask, name, {"city": city}, thought, result, f"The weather in {city} is {sky} with {degrees} degrees."


def tool_chat(rng: random.Random) -> Conversation:
    """A chat with tools: a call and its result, two calls at once, or a question that needs no tool."""
    head = [system(rng.choice(SYSTEM_PLAIN))] if rng.random() < 0.3 else []
    if rng.random() < 0.2:
        ask, answer, _ = draw_fact(rng)
        if rng.random() < 0.3:
            asks, answers = rng.choice(SMALL_TALK)
            ask, answer = rng.choice(asks), rng.choice(answers)
        thought = "No tool is needed here." if rng.random() < 0.4 else ""
        return Conversation((*head, user(ask), assistant(answer, thought)), draw_tools(rng, None))
    ask, name, arguments, thought, result, answer = draw_call(rng)
    thinks = rng.random() < 0.4
    if rng.random() < 0.12:
        # two cities, two calls in one message
        first, second = rng.sample(CITIES, 2)
        calls = (("get_weather", {"city": first}), ("get_weather", {"city": second}))
        ask = f"What is the weather in {first} and in {second}?"
        message = assistant("", f"I need the weather in {first} and in {second}." if thinks else "", calls)
        return Conversation((*head, user(ask), message), draw_tools(rng, "get_weather"))
    messages = [*head, user(ask), assistant("", thought if thinks else "", ((name, arguments),))]
    if rng.random() < 0.6:
        messages += [{"role": "tool", "content": result}, assistant(answer, "Now I can answer." if thinks else "")]
        if rng.random() < 0.15:
            ask, answer, _ = draw_fact(rng)
            messages += [user(ask), assistant(answer)]
    return Conversation(tuple(messages), draw_tools(rng, name))


def json_chat(rng: random.Random) -> Conversation:
    """A request whose answer is one JSON object."""
    name, age, city, job = rng.choice(NAMES), rng.randrange(3, 90), rng.choice(CITIES), rng.choice(JOBS)
    he = "He" if name in HE_NAMES else "She"
    roll = rng.random()
    if roll < 0.5:
        known: dict[str, Any] = {"name": name, "age": age}
        text = f"{name} is {age} years old."
        if rng.random() < 0.6:
            known["city"] = city
            text += f" {he} lives in {city}."
        if rng.random() < 0.4:
            known["job"] = job
            text += f" {he} is {with_article(job)}."
        ask = rng.choice((f"{text} Answer as JSON.", f"Write this as JSON: {text}", f"{text} Give me JSON."))
        answer = json.dumps(known)
    elif roll < 0.75:
        question, _, short = draw_fact(rng)
        ask = rng.choice((f"{question} Answer as JSON.", f"{question} Give me JSON."))
        answer = json.dumps({"answer": short})
    else:
        story = draw_story(rng)
        ask = f"{story.sentences[0]} {story.sentences[-1]} Give me the name, the animal and the mood as JSON."
        ask = ask.replace("the animal", "the kind") if story.kind not in ANIMALS else ask
        key = "animal" if story.kind in ANIMALS else "kind"
        answer = json.dumps({"name": story.name, key: story.kind, "mood": story.mood})
    head = [system("Answer with a JSON object.")] if rng.random() < 0.3 else []
    if head:
        ask = ask.replace(" Answer as JSON.", "").replace(" Give me JSON.", "")
    thought = "The answer must be a JSON object." if rng.random() < 0.25 else ""
    return Conversation((*head, user(ask), assistant(answer, thought)))
