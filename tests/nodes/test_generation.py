"""`GenerationNode` on the demo model: turns, sessions, ports and interruptions."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import numpy as np
import pytest
from scripted import END, SMALL, ScriptedNode, call, history, run, running, turn

from llamacore.chat.message import ChatMessage
from llamacore.errors import (
    ClosedError,
    ContextFullError,
    InvalidArgumentError,
    ModelNotFoundError,
    OutOfRangeError,
    TemplateError,
    UnsupportedError,
)
from llamacore.nodes import Binary, ControlMessage, Json, NodeContext, Progress, Tensor, Text
from llamacore.nodes.generation import GenerationNode
from llamacore.nodes.ports import aux

STORY = "Tell me a happy story."


def node(**params: Any) -> GenerationNode:
    return GenerationNode({**SMALL, **params})


# a turn


def test_a_turn_is_text_and_one_sentinel():
    async def main() -> None:
        async with running(node(max_tokens=20)) as made:
            envelopes = [envelope async for envelope in made.stream(Text(STORY), "s")]
            assert len(envelopes) > 5
            assert all(isinstance(envelope, Text) and envelope.channel == "tts" for envelope in envelopes)
            assert [envelope.is_end for envelope in envelopes] == [False] * (len(envelopes) - 1) + [True]
            text = "".join(envelope.text for envelope in envelopes[:-1])
            assert history(made, "s") == [ChatMessage("user", STORY), ChatMessage("assistant", text)]
            again = await made.process(Text(STORY))
            assert isinstance(again, Text)
            assert again.text
            assert "text_end" not in again.text

    run(main)


def test_what_is_asked_can_be_json():
    async def main() -> None:
        async with running(node(max_tokens=10)) as made:
            asked = [Text(STORY), Json({"prompt": STORY, "text": "x"}), Json({"text": STORY, "prompt": 3})]
            assert len({(await made.process(data)).text for data in asked}) == 1
            odd = Json({"question": STORY})
            assert (await made.process(odd)).text == (await made.process(Text(odd.as_text))).text
            for wrong in (Binary(b"a"), ControlMessage("BatchHint"), Text("")):
                with pytest.raises(InvalidArgumentError):
                    await made.process(wrong)
                with pytest.raises(InvalidArgumentError):
                    await turn(made, wrong)  # type: ignore[arg-type]
            with pytest.raises(InvalidArgumentError, match="accepts Text or Json, got binary"):
                await made.process(Binary(b"a"))

    run(main)


def test_the_text_can_have_another_channel():
    async def main() -> None:
        async with running(ScriptedNode("hello", output_channel="voice")) as made:
            assert await turn(made) == [Text("hello", "voice"), END]

    run(main)


def test_thoughts_and_sentinels_of_the_model_are_not_given():
    async def main() -> None:
        async with running(ScriptedNode("a<think>b</think>c <|text_end|>d é🐈", "x<think>y")) as made:
            assert await turn(made, "1", "s") == [Text("ac d é🐈"), END]
            assert await turn(made, "2", "s") == [Text("x"), END]
            assert [message.text for message in history(made, "s")] == ["1", "ac d é🐈", "2", "x"]

    run(main)


def test_an_answer_without_text_is_not_remembered():
    async def main() -> None:
        async with running(ScriptedNode("<think>b</think>", '<tool_call>{"name": "say"')) as made:
            assert await turn(made, "1", "s") == [END]
            assert await turn(made, "2", "s") == [END]
            assert history(made, "s") == []

    run(main)


def test_seed_zero_is_random_and_others_are_not():
    async def texts(seed: int) -> set[str]:
        async with running(node(seed=seed, temperature=1.5, max_tokens=24)) as made:
            return {(await made.process(Text(STORY))).text for _ in range(3)}

    assert len(run(lambda: texts(7))) == 1
    assert len(run(lambda: texts(0))) > 1


def test_a_prompt_may_be_longer_than_a_batch():
    async def main() -> None:
        async with running(node(batch_size=32, max_tokens=8)) as made:
            text = STORY * 60
            assert len(made.llama.tokenize(text)) > 10 * 32
            assert len(await turn(made, text)) == 2

    run(main)


def test_a_prompt_without_room_is_an_error_after_the_sentinel():
    async def main() -> None:
        async with running(node(context_size=256, max_tokens=8)) as made:
            found: list[Any] = []
            with pytest.raises(ContextFullError):
                async for envelope in made.stream(Text(STORY * 100), "s"):
                    found.append(envelope)  # noqa: PERF401 - what came before the error counts
            assert found == [END]
            assert history(made, "s") == []
            assert len(await turn(made, STORY, "s")) == 2  # the session goes on

    run(main)


def test_a_long_conversation_forgets_its_oldest_turns():
    async def main() -> None:
        async with running(node(context_size=256, max_tokens=24, active_tools=[], system_prompt="Be kind.")) as made:
            for _ in range(12):
                assert (await turn(made, STORY, "s"))[-1] == END
            assert len(history(made, "s")) == 24

    run(main)


def test_drafting_with_the_models_own_layers_changes_no_text():
    async def text(**params: Any) -> str:
        async with running(node(max_tokens=60, repeat_penalty=1.0, **params)) as made:
            found = (await made.process(Text(STORY))).text
            assert (made.llama.engine.stats().speculation is not None) == ("mtp" in params)
            return str(found)

    plain = run(text)
    assert run(lambda: text(mtp={"enabled": True, "n_max": 2})) == plain


def test_drafting_and_activations_go_together():
    async def tapped(**params: Any) -> list[Any]:
        tap = {"layer": 3, "every_n_tokens": 4}
        async with running(node(max_tokens=21, repeat_penalty=1.0, activation_tap=tap, **params)) as made:
            return [envelope for envelope in await turn(made, STORY) if isinstance(envelope, Tensor)]

    plain, drafted = run(tapped), run(lambda: tapped(mtp={"enabled": True, "n_max": 2}))
    assert [tensor.metadata["token_index"] for tensor in drafted] == [0, 4, 8, 12, 16, 20]
    for one, other in zip(plain, drafted, strict=True):
        assert one.metadata["token_index"] == other.metadata["token_index"]
        assert np.allclose(one.array, other.array, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("every", [0, 5])
def test_activations_come_beside_the_text(every: int):
    async def main() -> None:
        tap = {"layer": 3, "every_n_tokens": every}
        async with running(node(max_tokens=17, activation_tap=tap, repeat_penalty=1.0, active_tools=[])) as made:
            envelopes = [envelope async for envelope in made.stream(Text(STORY), "s")]
            tapped = [envelope for envelope in envelopes if isinstance(envelope, Tensor)]
            about = [dict(tensor.metadata) for tensor in tapped]
            offsets = [one.pop("turn_offset_ms") for one in about]
            assert offsets == sorted(offsets)
            assert 0 <= offsets[0] <= offsets[-1] < 100_000
            indices = [0, *range(every, 17, every)] if every else [0]
            assert about == [
                {"kind": "activation_tap", "layer": 3, "phase": "response" if index else "input", "token_index": index}
                for index in indices
            ]
            assert all((tensor.shape, tensor.dtype) == ((made.llama.model.n_embd,), "f32") for tensor in tapped)
            assert len({tensor.data for tensor in tapped}) == len(tapped)
            prompt = made.llama.chat_prompt([{"role": "user", "content": STORY}], enable_thinking=False)
            seen = made.llama.generate(prompt, max_tokens=1, activation_layers=(3,), activation_every=0).activations
            assert np.allclose(tapped[0].array, seen[0].values, rtol=1e-3, atol=1e-3)
            assert envelopes[-1] == END
            assert isinstance(await made.process(Text(STORY)), Text)

    run(main)


def test_a_tap_on_a_layer_that_the_model_lacks():
    async def main() -> None:
        made = node(activation_tap={})
        with pytest.raises(OutOfRangeError, match="layer=15"):
            await made.initialize()
        await made.cleanup()

    run(main)


# its life


def test_initialize_tells_how_it_goes():
    async def main() -> None:
        told: list[Progress] = []
        made = node(typo=1)
        with pytest.raises(ClosedError, match="worker not running"):
            await made.process(Text(STORY))
        with pytest.raises(ClosedError, match="worker not running"):
            await turn(made)
        await made.initialize(NodeContext("llm", on_progress=told.append))
        assert [(news.status, news.node) for news in told] == [("loading_model", "llm"), ("ready", "llm")]
        with pytest.raises(InvalidArgumentError, match="initialize"):
            await made.initialize()
        assert made.status == "ready"
        await made.cleanup()
        await made.cleanup()
        with pytest.raises(ClosedError, match="stopped"):
            await made.process(Text(STORY))
        with pytest.raises(InvalidArgumentError, match="stopped"):
            await made.initialize()

    run(main)


def test_a_model_that_cannot_be_loaded(tiny_path: Any):
    async def main() -> None:
        told: list[Progress] = []
        for params, error in (
            ({"model_path": "/no/such.gguf"}, ModelNotFoundError),
            ({"model_path": str(tiny_path("llama")), "mtp": {"enabled": True}}, UnsupportedError),
        ):
            made = node(**params)
            with pytest.raises(error):
                await made.initialize(NodeContext("llm", on_progress=told.append))
            assert (made.status, told[-1].status) == ("error", "error")
            await made.cleanup()

    run(main)


def test_cleanup_ends_a_turn_that_runs():
    async def main() -> None:
        made = node(max_tokens=2000)
        await made.initialize()
        task = asyncio.ensure_future(turn(made, STORY, "s"))
        while not made._running:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await made.cleanup()
        assert (await task)[-1] == END

    run(main)


def test_a_stream_that_is_left_ends_its_turn():
    async def main() -> None:
        async with running(node(max_tokens=2000)) as made:
            stream = made.stream(Text(STORY), "s")
            await stream.__anext__()
            assert made.status == "processing"
            await stream.aclose()
            assert made.status == "ready"
            assert history(made, "s") == []  # it counts as interrupted
            assert made._running == set()
            made.params = node(max_tokens=4).params
            assert (await asyncio.wait_for(turn(made, STORY, "s"), 20))[-1] == END

    run(main)


def test_a_model_without_a_template_is_asked_in_chatml(tiny_path: Any, caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        async with running(node(model_path=str(tiny_path("llama", chat_template=None)), max_tokens=4)) as made:
            with pytest.raises(UnsupportedError):
                _ = made.llama.chat_format
            assert (await turn(made, "hi", "s"))[-1] == END
            assert (await turn(made, "hi", "s"))[-1] == END

    with caplog.at_level(logging.WARNING, "llamacore.nodes"):
        run(main)
    assert caplog.text.count("has no chat template") == 1


def test_a_conversation_that_the_template_refuses_is_written_in_chatml(caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        async with running(node(max_tokens=4)) as made:
            made.llama.__dict__["_chat_template_source"] = "{{ raise_exception('no') }}"
            with pytest.raises(TemplateError):
                made.llama.chat_prompt([{"role": "user", "content": "hi"}])
            assert (await turn(made, "hi", "s"))[-1] == END

    with caplog.at_level(logging.WARNING, "llamacore.nodes"):
        run(main)
    assert "ChatML, without tools" in caplog.text


# sessions


def test_sessions_do_not_share_a_history_and_calls_without_one_have_none():
    async def main() -> None:
        async with running(node(max_tokens=16)) as made:
            alone = await turn(made, "What happened next?")
            first = await turn(made, STORY, "a")
            await turn(made, "Tell me a sad story.", "b")
            assert await turn(made, "What happened next?") == alone
            assert [message.text for message in history(made, "a")] == [STORY, first[0].text]  # type: ignore[union-attr]
            assert await turn(made, "What happened next?", "a") != alone
            await made.end_session("a")
            assert history(made, "a") == []

    run(main)


def test_turns_of_a_session_follow_one_another_and_sessions_run_together():
    async def main() -> None:
        async with running(node(max_tokens=24, n_parallel=4)) as made:
            alone = {text: await turn(made, text) for text in (STORY, "Tell me a sad story.", "Who are you?")}
            jobs = [turn(made, text, f"{number}") for number in range(3) for text in alone]
            found = await asyncio.gather(*jobs)
            assert all(envelopes[-1] == END and envelopes.count(END) == 1 for envelopes in found)
            for number in range(3):
                assert [message.text for message in history(made, f"{number}")][::2] == list(alone)

    run(main)


def test_facts_and_the_system_prompt_reach_the_model():
    async def main() -> None:
        async with running(node(max_tokens=4, system_prompt="Be kind.")) as made:
            made.set_context("s", "It rains.")
            told = made.session("s").conversation.prompt([ChatMessage("user", "hi")])
            assert told[0] == ChatMessage("system", "Be kind.\nContext: It rains.")
            await turn(made, "hi", "s")
            assert made.finalize_turn("s", interrupted=True, elapsed=1.0)
            assert history(made, "s") == []
            await turn(made, "hi", "s")
            made.reset_history("s")
            assert history(made, "s") == []

    run(main)


# ports


def test_ports():
    async def main() -> None:
        async with running(node(max_tokens=4)) as made:
            take = made.process_control_message
            assert await take(aux("context", "It rains."), "s")
            assert await take(aux("system_prompt", {"text": "Be kind."}), "s")
            conversation = made.session("s").conversation
            assert conversation.system_message == ChatMessage("system", "Be kind.\nContext: It rains.")
            toolbox = made.session("s").toolbox
            assert await take(aux("disable_tool", "say"), "s")
            assert await take(aux("register_tool", {"spec": {"name": "wave"}}), "s")
            assert await take(aux("register_tool", {"name": "nod"}), "s")
            assert [tool.name for tool in toolbox.offered] == ["show", "wave", "nod"]
            assert await take(aux("enable_tool", {"name": "say"}), "s")
            assert await take(aux("set_active_tools", {"names": ["say", "nod"]}), "s")
            assert [tool.name for tool in toolbox.offered] == ["say", "nod"]
            assert await take(aux("set_active_tools", {"names": None}), "s")
            assert len(toolbox.offered) == 4
            assert [tool.name for tool in made.session("t").toolbox.offered] == ["say", "show"]
            await turn(made, "hi", "s")
            assert await take(aux("reset"), "s")
            assert history(made, "s") == []
            assert [envelope async for envelope in made.stream(aux("context", "x"), "s")] == []
            assert conversation.context == "x"
            assert not await take(aux("volume", {"level": 3}), "s")
            assert not await take(Json({"volume": 3}), "s")
            assert not await take(ControlMessage("BatchHint"), "s")

    run(main)


def test_ports_without_a_session_are_about_new_sessions():
    async def main() -> None:
        made = node(system_prompt="Be kind.")
        old = made.session("old")
        assert await made.process_control_message(aux("system_prompt", "Be brief."))
        assert await made.process_control_message(aux("disable_tool", "say"))
        assert old.conversation.system_prompt == "Be kind."
        assert made.session("new").conversation.system_prompt == "Be brief."
        assert made.session(None).conversation.system_prompt == "Be brief."
        assert [tool.name for tool in made.session("new").toolbox.offered] == ["show"]
        for port in ("context", "reset"):
            with pytest.raises(InvalidArgumentError, match="without a session"):
                await made.process_control_message(aux(port, "x"))

    run(main)


@pytest.mark.parametrize(
    ("port", "payload"),
    [
        ("context", {}), ("context", {"text": 3}), ("enable_tool", {"names": ["say"]}), ("disable_tool", {}),
        ("set_active_tools", {}), ("set_active_tools", {"names": "say"}), ("set_active_tools", {"names": [3]}),
        ("register_tool", {}), ("register_tool", {"spec": 3}), ("system_prompt", {"prompt": "x"}),
    ],
)  # fmt: skip
def test_a_wrong_payload_is_named(port: str, payload: dict[str, Any]):
    with pytest.raises(InvalidArgumentError):
        run(lambda: node().process_control_message(aux(port, payload), "s"))


# interrupting


async def interrupted_after(made: Any, n_envelopes: int, message: Any, session: str | None = "s") -> list[Any]:
    found = []
    async for envelope in made.stream(Text(STORY), session):
        found.append(envelope)
        if len(found) == n_envelopes:
            assert await made.process_control_message(message, session)
    return found


@pytest.mark.parametrize("message", [aux("barge_in"), ControlMessage("CancelSpeculation", {"from_timestamp": 3})])
def test_an_early_interruption_ends_the_turn_and_takes_it_back(message: Any):
    async def main() -> None:
        async with running(node(max_tokens=1500)) as made:
            found = await interrupted_after(made, 3, message)
            assert len(found) == 4
            assert found.count(END) == 1
            assert found[-1] == END
            assert history(made, "s") == []
            assert await made.process_control_message(message, "s")  # nothing runs: nothing happens
            made._prompter._max_tokens = 8
            assert len(await turn(made, STORY, "s")) == 2

    run(main)


def test_an_interruption_drops_what_is_ready_but_not_taken():
    async def main() -> None:
        async with running(ScriptedNode("one two three four five six seven eight")) as made:
            found: list[Any] = []
            async for envelope in made.stream(Text(STORY), "s"):
                found.append(envelope)
                if len(found) == 1:
                    await asyncio.sleep(0.5)  # the model has come to its end
                    made.request_cancel("s")
            assert found[1:] == [END]

    run(main)


def test_an_interruption_concerns_one_session():
    async def main() -> None:
        async with running(node(max_tokens=60)) as made:
            alone = await turn(made, STORY)
            other = asyncio.ensure_future(turn(made, STORY, "t"))
            found = await interrupted_after(made, 2, aux("barge_in"))
            assert len(found) < 50
            assert await other == alone
            without = await interrupted_after(made, 2, aux("barge_in"), None)
            assert len(without) < 50

    run(main)


def test_an_interruption_while_the_prompt_is_computed():
    async def main() -> None:
        async with running(node(batch_size=32, max_tokens=1000)) as made:
            task = asyncio.ensure_future(turn(made, STORY * 150, "s"))
            while not made._running:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert made.request_cancel("s")
            assert await task in ([END], [END])
            assert history(made, "s") == []

    run(main)


def test_a_late_interruption_keeps_what_was_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llamacore.nodes.conversation.ROLLBACK_SECONDS", 0.0)

    async def main() -> None:
        async with running(node(max_tokens=1500)) as made:
            found = await interrupted_after(made, 5, aux("barge_in"))
            said = "".join(envelope.text for envelope in found[:-1])
            assert history(made, "s") == [ChatMessage("user", STORY), ChatMessage("assistant", said)]

    run(main)


def test_a_call_that_must_not_be_cancelled_protects_its_turn():
    script = "well " + call("perform_motion", prompt="wave both arms") + "and so on and so on and so on"

    async def main() -> None:
        async with running(ScriptedNode(script, tools=["perform_motion"])) as made:
            found: list[Any] = []
            protected = []
            async for envelope in made.stream(Text("Wave."), "s"):
                found.append(envelope)
                protected.append(made.gate("s").is_protected)
                if protected[-1]:
                    assert await made.process_control_message(aux("barge_in"), "s")
            assert not protected[0]
            assert protected[-1] is False  # the sentinel comes after the guard
            assert Json({"kind": "motion_intent", "prompt": "wave both arms"}) in found
            assert "".join(e.text for e in found if isinstance(e, Text) and not e.is_end) == (
                "well and so on and so on and so on"
            )
            assert found[-1] == END
            assert len(history(made, "s")) == 3

    run(main)


def test_a_call_is_protected_from_its_tag_on():
    script = "a" + call("perform_motion", prompt="wave")

    async def main() -> None:
        async with running(ScriptedNode(script, tools=["perform_motion"])) as made:
            task = asyncio.ensure_future(turn(made, "Wave.", "s"))
            while not made.gate("s").is_protected:
                assert not task.done()
                await asyncio.sleep(0)
            assert not made.request_cancel("s")
            assert (await task)[-2:] == [Json({"kind": "motion_intent", "prompt": "wave"}), END]
            assert not made.gate("s").is_protected

    run(main)
