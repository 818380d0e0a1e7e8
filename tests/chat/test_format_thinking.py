"""Budgets for thoughts, and grammars that wait for the end of a thought; on the demo model, token for token."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from chat_cases import USER, WEATHER

import llamacore as lc
from llamacore.chat.format import ChatFormat, PreparedChat
from llamacore.chat.message import ChatMessage
from llamacore.core.reasoning import opening_tokens, reasoning_budget, reasoning_state
from llamacore.core.sampler import Sampler
from llamacore.errors import ClosedError, GrammarError, InvalidArgumentError
from llamacore.params import merge
from llamacore.sampling import SamplingParams

COUNTING, FORCING, WAITING, DONE = "counting", "forcing", "waiting_utf8", "done"
YES_NO = 'root ::= "yes" | "no"'


@pytest.fixture(scope="module")
def chat(demo_model: lc.Model) -> ChatFormat:
    return ChatFormat(demo_model)


def generated(model: lc.Model, prepared: PreparedChat, *, limit: int = 80, **options: Any) -> Iterator[int]:
    """Tokens of a reply, up to the one that ends it."""
    params = merge(SamplingParams(seed=1), {**prepared.sampling, **options})
    with model.context(n_ctx=512, n_threads=1, n_threads_batch=1) as ctx, params.chain(model) as sampler:
        batch = lc.Batch(512)
        batch.add_tokens(list(prepared.tokens), 0, outputs="last")
        for place in range(len(prepared.tokens), len(prepared.tokens) + limit):
            ctx.decode(batch)
            token = sampler.sample(ctx, -1)
            if model.vocab.is_eog(token):
                return
            yield token
            batch.clear()
            batch.add(token, place, output=True)


def reply(model: lc.Model, prepared: PreparedChat, **options: Any) -> tuple[ChatMessage, list[int]]:
    tokens = list(generated(model, prepared, **options))
    pieces = [model.vocab.token_to_piece(token, special=token in prepared.shown_tokens) for token in tokens]
    reader = prepared.new_reply()
    reader.push(b"".join(pieces).decode("utf-8", "replace"))
    return reader.finish(), tokens


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("budget", [0, 1, 2, 7])
def test_the_budget_is_held_exactly(budget: int, seed: int, chat: ChatFormat, demo_model: lc.Model) -> None:
    (end,) = demo_model.vocab.tokenize("</think>", parse_special=True, add_special=False)
    prepared = chat.prepare([USER], enable_thinking=True)
    tokens = list(generated(demo_model, prepared, reasoning_budget_tokens=budget, seed=seed, ignore_eos=True))
    free = list(generated(demo_model, prepared, seed=seed, ignore_eos=True))
    assert end in tokens[: budget + 1]
    if end in free[:budget]:  # the model was done before
        assert tokens == free
    else:
        assert tokens[: budget + 1] == [*free[:budget], end]


def test_a_budget_that_is_not_used_up_changes_nothing(chat: ChatFormat, demo_model: lc.Model) -> None:
    prepared = chat.prepare([USER], enable_thinking=True)
    free = list(generated(demo_model, prepared, temperature=0.0))
    assert list(generated(demo_model, prepared, temperature=0.0, reasoning_budget_tokens=500)) == free


def test_a_message_before_the_end(chat: ChatFormat, demo_model: lc.Model) -> None:
    prepared = chat.prepare([USER], enable_thinking=True)
    message, _ = reply(demo_model, prepared, reasoning_budget_tokens=3, reasoning_budget_message=" Enough.\n")
    assert message.reasoning_content is not None
    assert message.reasoning_content.endswith(" Enough.\n")


def test_no_thought_no_budget(chat: ChatFormat, demo_model: lc.Model) -> None:
    prepared = chat.prepare([USER], enable_thinking=False)
    free = list(generated(demo_model, prepared, temperature=0.0))
    assert list(generated(demo_model, prepared, temperature=0.0, reasoning_budget_tokens=0)) == free


def test_a_thought_that_the_model_opens_itself(demo_model: lc.Model) -> None:
    """The prompt does not open it; the tag is forced here by its logit, since the demo model does not do so."""
    vocab = demo_model.vocab
    start, end = (vocab.tokenize(tag, parse_special=True, add_special=False)[0] for tag in ("<think>", "</think>"))
    with Sampler.chain(reasoning_budget(demo_model, "<think>", ["</think>"], n_tokens=2), Sampler.greedy()) as chain:
        logits = [0.0] * len(vocab)
        logits[start], logits[7] = 9.0, 5.0
        chosen = []
        for _ in range(6):
            found = chain.apply(logits)
            token = int(found.ids[found.selected])
            chosen.append(token)
            chain.accept(token)
            logits[start] = 0.0
        assert chosen == [start, 7, 7, end, 7, 7]


def test_a_reset_starts_inside_the_thought_again(demo_model: lc.Model) -> None:
    vocab = demo_model.vocab
    opening = opening_tokens(demo_model, "<|im_start|>assistant\n<think>\n")
    (end,) = vocab.tokenize("</think>", parse_special=True, add_special=False)
    budget = reasoning_budget(demo_model, "<think>", ["</think>"], n_tokens=2, opening=opening)
    states = []
    with budget:
        copy = budget.clone()
        for token in (7, 7, end, 7):
            states.append(reasoning_state(budget))
            budget.accept(token)
        states.append(reasoning_state(budget))
        assert states == [COUNTING, COUNTING, FORCING, DONE, DONE]
        assert reasoning_state(copy) == COUNTING
        budget.reset()
        assert reasoning_state(budget) == COUNTING
        budget.copy_state(copy)
        budget.accept(7, is_generated=False)
        budget.accept(7, is_generated=False)
        budget.accept(7, is_generated=False)
        assert reasoning_state(budget) == COUNTING
        copy.close()
    with Sampler.greedy() as other:
        assert reasoning_state(other) is None


def test_a_character_is_finished_first(demo_model: lc.Model) -> None:
    """Where a token ends in a character, the tag waits for the next one, as upstream has it."""
    vocab = demo_model.vocab
    smile = vocab.tokenize("\N{GRINNING FACE}", add_special=False)
    assert len(smile) > 1
    letter = vocab.tokenize("a", add_special=False)[-1]
    opening = opening_tokens(demo_model, "<think>")
    with reasoning_budget(demo_model, "<think>", ["</think>"], n_tokens=1, opening=opening) as budget:
        budget.accept(smile[0])
        assert reasoning_state(budget) == WAITING
        budget.accept(letter)
        assert reasoning_state(budget) == FORCING


def test_a_grammar_waits_for_the_end_of_a_thought(chat: ChatFormat, demo_model: lc.Model) -> None:
    thinks = chat.prepare([USER], grammar=YES_NO, enable_thinking=True)
    for options in ({}, {"reasoning_budget_tokens": 4}, {"reasoning_budget_tokens": 0}):
        message, _ = reply(demo_model, thinks, **options)  # type: ignore[arg-type]
        assert message.content in ("yes", "no")
        if options.get("reasoning_budget_tokens") == 0:
            assert message.reasoning_content is None
    message, _ = reply(demo_model, chat.prepare([USER], grammar=YES_NO))
    assert message == ChatMessage("assistant", message.content)
    assert message.content in ("yes", "no")


def test_a_thought_may_come_before_a_grammar(demo_model: lc.Model) -> None:
    """A model that opens its thoughts itself may do so though the grammar of the answer has no place for them."""
    vocab = demo_model.vocab
    start, end = (vocab.tokenize(tag, parse_special=True, add_special=False)[0] for tag in ("<think>", "</think>"))
    yes = vocab.tokenize("yes", add_special=False)
    params = SamplingParams(
        grammar=YES_NO, temperature=0.0, reasoning_budget_start_tag="<think>", reasoning_budget_end_tags=["</think>"]
    )
    for path in ([start, 40, start, end, *yes], yes):
        with params.chain(demo_model) as chain:
            for token in path:
                logits = [0.0] * len(vocab)
                logits[token] = 9.0
                found = chain.apply(logits)
                assert int(found.ids[found.selected]) == token
                chain.accept(token)
    with params.chain(demo_model) as chain:
        chain.accept(yes[0])
        logits = [0.0] * len(vocab)
        logits[start] = 9.0
        found = chain.apply(logits)
        assert int(found.ids[found.selected]) != start


def test_a_tool_marker_in_a_thought_triggers_nothing(chat: ChatFormat, demo_model: lc.Model) -> None:
    vocab = demo_model.vocab
    prepared = chat.prepare([USER], tools=[WEATHER], enable_thinking=True)
    params = merge(SamplingParams(temperature=0.0), prepared.sampling)
    inside = vocab.tokenize("<tool_call>\nnot a call\n", parse_special=True, add_special=False)
    after = vocab.tokenize("</think>\n\n<tool_call>\n", parse_special=True, add_special=False)
    with params.chain(demo_model) as chain:
        for token in (*inside, *after):
            chain.accept(token)
        with pytest.raises(lc.SamplingError):  # now it is a call
            for token in vocab.tokenize("no call", add_special=False):
                chain.accept(token)


@pytest.mark.parametrize("thinking", [True, False])
def test_forced_calls_and_answers_in_json(thinking: bool, chat: ChatFormat, demo_model: lc.Model) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}
    options = {"enable_thinking": thinking}
    for seed in range(3):
        called, _ = reply(
            demo_model,
            chat.prepare([USER], tools=[WEATHER], tool_choice="required", **options),  # type: ignore[arg-type]
            seed=seed, reasoning_budget_tokens=10, temperature=0.3, limit=200,
        )  # fmt: skip
        if called.tool_calls and called.tool_calls[0].parsed is not None:
            assert called.tool_calls[0].name == "get_weather"
        answered, _ = reply(
            demo_model,
            chat.prepare([USER], json_schema=schema, **options),  # type: ignore[arg-type]
            seed=seed, reasoning_budget_tokens=10,
        )  # fmt: skip
        assert (answered.content or "").strip().startswith("{")
        assert thinking or answered.reasoning_content is None


def test_misuse_of_the_budget(demo_model: lc.Model) -> None:
    for tags, options in itertools.chain(
        [(("", ["</think>"]), {}), (("<think>", []), {}), (("<think>", [""]), {})],
        [(("<think>", ["</think>"]), {"n_tokens": value}) for value in (-2, 1.5, 2**31, "3")],
    ):
        with pytest.raises(InvalidArgumentError):
            reasoning_budget(demo_model, *tags, **options)  # type: ignore[arg-type]
    for wrong in (
        {"reasoning_budget_tokens": 3},
        {"reasoning_budget_tokens": -2},
        {"reasoning_budget_end_tags": "</think>"},
        {"grammar_type": "other"},
    ):
        with pytest.raises(InvalidArgumentError):
            SamplingParams(**wrong)  # type: ignore[arg-type]


def test_misuse_of_a_constrained_sampler(demo_model: lc.Model) -> None:
    def parts() -> tuple[Sampler, Sampler]:
        return Sampler.grammar(demo_model, YES_NO), Sampler.chain(Sampler.greedy())

    grammar, chain = parts()
    with pytest.raises(GrammarError, match="opening"):
        Sampler.constrained(grammar, chain, opening=demo_model.vocab.tokenize("maybe", add_special=False))
    with pytest.raises(InvalidArgumentError):
        Sampler.constrained(grammar, Sampler.greedy(), waits=True)
    with pytest.raises(InvalidArgumentError):
        Sampler.constrained(grammar, Sampler.chain(), replay=True)
    with pytest.raises(lc.OutOfRangeError):
        Sampler.constrained(grammar, chain, start=10**6)
    grammar, chain = parts()
    with Sampler.constrained(grammar, chain, opening=demo_model.vocab.tokenize("y", add_special=False)) as made:
        assert grammar.closed
        rest = demo_model.vocab.tokenize("es", add_special=False)
        for _ in range(2):
            for token in rest:
                made.accept(token)
            made.reset()
        copy = made.clone()
        for token in rest:
            copy.accept(token)
        copy.close()


def test_a_closed_model(demo_path: Any) -> None:
    with lc.Model.load(demo_path) as model:
        budget = reasoning_budget(model, "<think>", ["</think>"])
    assert budget.closed
    with pytest.raises(ClosedError):
        reasoning_budget(model, "<think>", ["</think>"])
