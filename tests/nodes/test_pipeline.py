"""Pipelines of nodes that users write: queues, sessions, failures, news, shutdown. Real asyncio throughout."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import types
from typing import Any

import pytest
import user_nodes

import llamacore as lc
from llamacore.nodes.data import ControlMessage, Text
from llamacore.nodes.node import Node
from llamacore.nodes.node_error import NodeError
from llamacore.nodes.pipeline import Pipeline
from llamacore.nodes.registry import node_class, node_types, register_node, registered_nodes
from llamacore.nodes.session import SYSTEM


def manifest(*nodes: str | tuple[str, dict[str, Any]], links: str = "", **more: Any) -> dict[str, Any]:
    """A manifest of nodes "id:Type" (with further fields) and links "a>b c>d:port"."""
    listed = []
    for node in nodes:
        name, fields = node if isinstance(node, tuple) else (node, {})
        listed.append({"id": name.split(":")[0], "node_type": "Test" + name.split(":")[1], **fields})
    connections = []
    for link in links.split():
        source, target = link.split(">")
        target, _, port = target.partition(":")
        source, _, from_port = source.partition(":")
        connections.append({"from": source, "to": target, "to_port": port or None, "from_port": from_port or None})
    return {"version": "v1", "nodes": listed, "connections": connections, **more}


def run(coroutine: Any, seconds: float = 20) -> Any:
    """Run a test's coroutine; none of its tasks may be left over."""

    async def bounded() -> Any:
        made = await asyncio.wait_for(coroutine, seconds)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return made

    return asyncio.run(bounded())


async def texts(source: Any) -> list[str]:
    return [f"{item.node}:{user_nodes.as_text(item.data)}" async for item in source if item.node != SYSTEM]


def statuses(items: Any) -> list[tuple[str, str]]:
    return [(item.data.value["status"], item.data.value.get("node", "")) for item in items if item.node == SYSTEM]


def test_a_chain():
    async def main():
        async with Pipeline(manifest("a:Words", "b:Upper", links="a>b")) as pipeline:
            assert await texts(pipeline.run("one two", "three")) == ["b:ONE", "b:TWO", "b:THREE"]

    run(main())


def test_output_nodes_and_fan_out():
    async def main():
        made = manifest(("a:Words", {"is_output_node": True}), "b:Upper", "c:Upper", links="a>b a>c")
        async with Pipeline(made) as pipeline:
            given = await texts(pipeline.run("one two"))
            for node, wanted in (("a", ["one", "two"]), ("b", ["ONE", "TWO"]), ("c", ["ONE", "TWO"])):
                assert [text.split(":")[1] for text in given if text.startswith(node)] == wanted

    run(main())


def test_inputs_go_to_the_nodes_that_no_other_feeds_or_to_one():
    async def main():
        async with Pipeline(manifest("a:Upper", "b:Upper", "c:Upper", links="a>c b>c")) as pipeline:
            assert await texts(pipeline.run("x")) == ["c:X", "c:X"]
            async with pipeline.session() as session:
                await session.send("y", to="b")
                await session.send("z", to="c")
                with pytest.raises(lc.InvalidArgumentError, match=r"there is no node 'd'.*a, b, c"):
                    await session.send("z", to="d")
                with pytest.raises(lc.InvalidArgumentError, match="no envelope"):
                    await session.send(3)
                await session.finish()
                await session.finish()
                with pytest.raises(lc.ClosedError, match="the input has ended"):
                    await session.send("late")
                with pytest.raises(lc.ClosedError, match="the input has ended"):
                    await session.barge_in()
                assert sorted(await texts(session)) == ["c:Y", "c:Z"]
                assert await texts(session) == []

    run(main())


def test_ports_choose_what_goes_where():
    async def main():
        made = manifest("a:Counting", "b:Upper", "c:Upper", links="a:count>b a>c")
        async with Pipeline(made) as pipeline:
            given = await texts(pipeline.run("x"))
            assert sorted(given) == ["b:{'COUNT': 1}", "c:1 X", "c:{'COUNT': 1}"]

    run(main())


def test_sessions_have_their_own_state():
    async def main():
        async with Pipeline(manifest("a:Counting")) as pipeline:

            async def one(name, count):
                return await texts(pipeline.run(*[name] * count, session_id=name))

            first, second = await asyncio.gather(one("x", 3), one("y", 2))
            assert [text for text in first if "count" not in text] == ["a:1 x", "a:2 x", "a:3 x"]
            assert [text for text in second if "count" not in text] == ["a:1 y", "a:2 y"]
            assert (await one("x", 1))[0] == "a:1 x"  # it was forgotten
            assert pipeline.nodes["a"]._states == {}

    run(main())


def test_a_session_name_is_open_once():
    async def main():
        async with Pipeline(manifest("a:Upper")) as pipeline:
            session = pipeline.session("x")
            async with session:
                with pytest.raises(lc.BusyError, match="'x' is open"):
                    async with pipeline.session("x"):
                        pass
            with pytest.raises(lc.BusyError, match="opened before"):
                async with session:
                    pass
            async with pipeline.session("x"):
                pass
            with pytest.raises(lc.InvalidArgumentError):
                pipeline.session("")
            with pytest.raises(lc.InvalidArgumentError):
                pipeline.session(3)
            assert pipeline.session().session_id != pipeline.session().session_id

    run(main())


def test_nodes_wait_while_nobody_takes_their_results():
    """An endless source is bounded by the queues: 256 results, 1024 on their way."""

    async def main():
        async with Pipeline(manifest("a:Words")) as pipeline, pipeline.session() as session:
            await session.send("word " * 20_000)
            given = -1
            while given != getattr(pipeline.nodes["a"], "given", 0):
                given = getattr(pipeline.nodes["a"], "given", 0)
                await asyncio.sleep(0.05)
            assert 1024 <= given <= 1024 + 256 + 16
            await session.finish()
            assert len(await texts(session)) == 20_000

    run(main())


def test_send_waits_while_the_nodes_are_behind():
    async def main():
        async with Pipeline(manifest("a:Slow")) as pipeline, pipeline.session() as session:
            sent = 0

            async def feed():
                nonlocal sent
                for number in range(100):
                    await session.send(str(number))
                    sent += 1
                await session.finish()

            feeding = asyncio.ensure_future(feed())
            await asyncio.sleep(0.1)
            assert sent == 1 + 16 + 1 + 8  # at work, in its inbox, in the hand of the router, in its queue
            pipeline.nodes["a"].go.set()
            assert len([text for text in await texts(session) if "begun" not in text]) == 100
            await feeding

    run(main())


def test_a_failing_node_ends_its_session_alone():
    async def main():
        seen = []
        async with Pipeline(manifest("a:Upper", "f:Failing", links="f>a")) as pipeline:
            async with pipeline.session("other") as other, pipeline.session("bad") as bad:
                for text in ("x", "boom", "y"):
                    await bad.send(text)
                with pytest.raises(NodeError) as caught:
                    async for item in bad:
                        seen.append(item)  # noqa: PERF401 - what came before the error counts
                assert str(caught.value) == "node 'f' failed: ZeroDivisionError: it went boom"
                assert caught.value.node == "f"
                assert isinstance(caught.value.__cause__, ZeroDivisionError)
                assert statuses(seen)[-1] == ("error", "f")
                with pytest.raises(NodeError):  # not only "closed": why
                    await bad.send("more")
                await other.send("fine")
                await other.finish()
                others = [item async for item in other]
                assert [item.data.text for item in others if item.node == "a"] == ["FINE"]
                assert ("error", "f") not in statuses(others)
            with pytest.raises(NodeError, match="boom"):
                await texts(pipeline.run("boom", *["more"] * 100))
            assert await texts(pipeline.run("again")) == ["a:AGAIN"]

    run(main())


def test_the_node_that_failed_is_the_one_that_is_named():
    """Also when another one delivers to it, and when a port waits in line."""

    @register_node("TestFussy")
    class Fussy(user_nodes.Slow):
        async def process_control_message(self, message, session_id=None):
            raise KeyError("no such thing")

    async def main():
        for port in ("barge_in", "context"):
            made = manifest("a:Upper", "z:Fussy", links=f"a>z:{port}")
            async with Pipeline(made) as pipeline, pipeline.session() as session:
                await session.send("x", to="a")
                with pytest.raises(NodeError, match="node 'z' failed: KeyError: 'no such thing'") as caught:
                    await texts(session)
                assert caught.value.node == "z"
        async with Pipeline(manifest("z:Fussy")) as pipeline, pipeline.session() as session:
            with pytest.raises(NodeError, match="node 'z' failed"):  # who interrupts is told, the session goes on
                await session.barge_in()
            await session.send("x")
            await session.finish()
            pipeline.nodes["z"].go.set()
            assert await texts(session) == ["z:begun", "z:x"]

    run(main())


def test_an_error_of_ours_keeps_its_hint():
    @register_node("TestPicky")
    class Picky(Node):
        async def process(self, data):
            raise lc.InvalidArgumentError("not this one", hint="give another")

    async def main():
        async with Pipeline(manifest("p:Picky")) as pipeline:
            with pytest.raises(NodeError) as caught:
                await texts(pipeline.run("x"))
            assert str(caught.value) == "node 'p' failed: not this one. give another"

    run(main())


def test_news_of_the_start_reach_the_first_session_and_the_callback():
    heard = []

    async def main():
        made = manifest("a:Upper", "b:Broken", links="a>b")
        async with Pipeline(made, on_progress=heard.append) as pipeline:
            first = [item async for item in pipeline.run("x")]
            assert statuses(first) == [
                ("initializing", ""),
                ("loading_node", "a"),
                ("node_ready", "a"),
                ("loading_node", "b"),
                ("warming", "b"),
                ("node_ready", "b"),
                ("ready", ""),
            ]
            assert all(item.data.value["kind"] == "loading" for item in first if item.node == SYSTEM)
            assert all(isinstance(item.data.value["ts_ms"], int) for item in first if item.node == SYSTEM)
            assert first[-1].node == "b"
            assert statuses([item async for item in pipeline.run("x")]) == []
            assert {node.status for node in pipeline.nodes.values()} == {"ready"}
        assert {node.status for node in pipeline.nodes.values()} == {"stopped"}

    run(main())
    assert [news.status for news in heard][-1] == "ready"


@pytest.mark.parametrize("at", ["initialize", "cleanup", "end_session"])
def test_broken_nodes(at):
    async def main():
        heard = []
        made = manifest("a:Upper", ("b:Broken", {"params": {"at": at}}), "c:Upper", links="a>b b>c")
        pipeline = Pipeline(made, on_progress=heard.append)
        if at == "initialize":
            with pytest.raises(NodeError, match="node 'b' failed: OSError: no disk"):
                async with pipeline.session():
                    pass
            assert pipeline.nodes["a"].status == "stopped"
            with pytest.raises(lc.ClosedError, match="pipeline is closed"):
                await pipeline.start()
        else:
            assert await texts(pipeline.run("x")) == ["c:X"]
        if at == "cleanup":
            with pytest.raises(NodeError, match="node 'b' failed: ValueError: cannot let go"):
                await pipeline.close()
        await pipeline.close()
        await pipeline.close()
        assert {node.status for node in pipeline.nodes.values()} <= {"stopped", "idle"}
        assert ("error" in [news.status for news in heard]) == (at != "cleanup")
        with pytest.raises(lc.ClosedError, match="pipeline is closed"):
            async with pipeline.session():
                pass

    run(main())


def test_what_is_wrong_in_a_manifest_is_said_before_anything_runs():
    for made, said in (
        (manifest("a:Upper", "b:Uper"), "nodes[1].node_type: there is no node type 'TestUper'. did you mean TestUpper"),
        (manifest(("a:Broken", {"params": {"at": "make"}})), "node 'a' failed: KeyError: 'made badly'"),
        (
            {"version": "v1", "nodes": [{"id": "x", "node_type": "LlamaCppGenerationNode", "params": {"top_k": -1}}]},
            "nodes[0].params.model_path must not be empty",
        ),
        (manifest("a:Upper", plugins=["./missing.py"]), "plugins[0]: "),
        (manifest("a:Upper", "j:Join", links="a>j:left j>a"), "connections[1] closes a circle: a -> j -> a"),
    ):
        with pytest.raises(lc.LlamaCoreError) as caught:
            Pipeline(made)
        assert str(caught.value).startswith(said)


def test_barge_in_drops_what_runs_and_the_next_input_follows():
    async def main():
        async with Pipeline(manifest("s:Slow", "u:Upper", links="s>u")) as pipeline, pipeline.session() as session:
            for text in ("one", "two"):
                await session.send(text)
            while len(pipeline.nodes["s"].log) < 1:
                await asyncio.sleep(0.01)
            await session.barge_in("the user speaks")
            while len(pipeline.nodes["s"].log) < 3:
                await asyncio.sleep(0.01)
            pipeline.nodes["s"].go.set()
            await session.finish()
            assert await texts(session) == ["u:BEGUN", "u:BEGUN", "u:TWO"]
            assert pipeline.nodes["s"].log == ["begin one", "cancelled", "begin two", "end"]

    run(main())


def test_barge_in_does_not_wait_behind_inputs_and_protection_holds():
    async def main():
        async with Pipeline(manifest("s:Slow", "p:Protected")) as pipeline, pipeline.session() as session:
            feeding = [asyncio.ensure_future(session.send(str(number))) for number in range(60)]
            while not (pipeline.nodes["s"].log and pipeline.nodes["p"].log):
                await asyncio.sleep(0.01)
            await session.send({"__aux_port__": "barge_in", "payload": {}}, to="s")
            await session.send("stop", to="p.in.barge_in")
            while len(pipeline.nodes["s"].log) < 3:
                await asyncio.sleep(0.01)
            assert pipeline.nodes["s"].log[:3] == ["begin 0", "cancelled", "begin 1"]
            assert pipeline.nodes["p"].log == ["begin 0"]
            for task in feeding:
                task.cancel()
            await asyncio.gather(*feeding, return_exceptions=True)

    run(main())


def test_barge_in_by_a_connection():
    """What one node says interrupts another; the circle that this makes is allowed."""

    async def main():
        made = manifest("s:Slow", "u:Upper", links="s>u u>s:barge_in")
        async with Pipeline(made) as pipeline, pipeline.session() as session:
            await session.send("one")
            await session.finish()
            assert await texts(session) == ["u:BEGUN"]
            assert pipeline.nodes["s"].log == ["begin one", "cancelled"]

    run(main())


def test_other_ports_wait_in_line(caplog):
    async def main():
        async with Pipeline(manifest("c:Counting")) as pipeline, pipeline.session() as session:
            await session.send("x")
            await session.send({"count": 7}, to="c.in.reset")
            await session.send("y")
            await session.send({"__aux_port__": "nonsense", "payload": {}})
            await session.send(ControlMessage("BatchHint", {"suggested_batch_size": 3}))
            await session.finish()
            assert [text for text in await texts(session) if "count" not in text] == ["c:1 x", "c:8 y"]

    with caplog.at_level(logging.WARNING):
        run(main())
    assert "node 'c' has no port 'nonsense'" in caplog.text


def test_nodes_of_several_inputs():
    async def main():
        made = manifest("a:Upper", "b:Words", "j:Join", links="a>j:left b>j:right")
        async with Pipeline(made) as pipeline, pipeline.session() as session:
            await session.send("one two", to="b")
            for text in ("x", "y", "z"):
                await session.send(text, to="a")
            await session.finish()
            assert await texts(session) == ["j:left=X right=one", "j:left=Y right=two"]
        async with Pipeline(manifest("j:Join")) as pipeline:
            assert await texts(pipeline.run("alone")) == ["j:default=alone"]
            with pytest.raises(lc.InvalidArgumentError, match="several inputs"):
                await pipeline.nodes["j"].process(Text("x"))

    run(main())


def test_switches_taps_and_intercepts():
    async def main():
        async with Pipeline(manifest("a:Words", "b:Upper", links="a>b")) as pipeline, pipeline.session() as session:
            tap = session.tap("a.out")

            def edit(data):
                return {"two": None, "one": Text("ONE!")}.get(data.text, data)

            async def late(data):
                await asyncio.sleep(1)
                return Text("never")

            session.intercept("a.out", edit)
            await session.send("one two three")
            first = [await session.__anext__() for _ in range(len(statuses_at_start) + 2)]
            assert [item.data.text for item in first if item.node == "b"] == ["ONE!", "THREE"]
            session.intercept("a.out", late)
            await session.send("four")
            assert (await session.__anext__()).data.text == "FOUR"
            session.intercept("a.out", None)
            session.set_node_state("b", "bypass")
            await session.send("five")
            assert (await session.__anext__()).data.text == "five"
            session.set_node_state("b", "disabled")
            await session.send("six")
            await session.finish()
            assert await texts(session) == []
            assert [data.text async for data in tap] == ["ONE!", "three", "four", "five", "six"]
            for wrong in (
                lambda: session.tap("z.out"),
                lambda: session.set_node_state("z", "bypass"),
                lambda: session.set_node_state("a", "off"),
                lambda: session.intercept("a.out", 3),
                lambda: session.tap(None),
            ):
                with pytest.raises(lc.InvalidArgumentError):
                    wrong()

    statuses_at_start = ["initializing", *["loading_node", "node_ready"] * 2, "ready"]
    run(main())


def test_an_intercept_that_fails_ends_the_session():
    async def main():
        async with Pipeline(manifest("a:Upper")) as pipeline, pipeline.session() as session:
            session.intercept("a.out", lambda data: data.nonsense)
            await session.send("x")
            with pytest.raises(NodeError, match="node 'a' failed: AttributeError"):
                await texts(session)

    run(main())


def test_a_tap_that_nobody_reads_keeps_the_newest():
    async def main():
        async with Pipeline(manifest("a:Words")) as pipeline, pipeline.session() as session:
            tap = session.tap("a.out")
            await session.send(" ".join(map(str, range(3000))))
            await session.finish()
            assert len(await texts(session)) == 3000
            assert [data.text async for data in tap] == [str(number) for number in range(3000 - 1024, 3000)]

    run(main())


def test_closing_in_the_middle():
    """Leaving the block, closing the pipeline and cancelling the reader all end what runs, at once."""

    async def main():
        async with Pipeline(manifest("s:Slow", "u:Upper", links="s>u")) as pipeline:
            slow = pipeline.nodes["s"]
            async with pipeline.session() as session:
                await session.send("one")
                async for item in session:
                    if item.node == "u":
                        break
            assert slow.log == ["begin one", "cancelled"]
            await session.close()
            assert [item async for item in session] == []

            reader = asyncio.ensure_future(texts(pipeline.run("two")))
            while "begin two" not in slow.log:
                await asyncio.sleep(0.01)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert slow.log[-1] == "cancelled"

            async for item in pipeline.run("three"):
                if item.node == "u":
                    break
            await asyncio.sleep(0.05)
            gc.collect()
            for _ in range(100):
                if slow.log[-2:] == ["begin three", "cancelled"]:
                    break
                await asyncio.sleep(0.01)
            assert slow.log[-2:] == ["begin three", "cancelled"]

            left = pipeline.session("left")
            await left.__aenter__()
            await left.send("four")
            while "begin four" not in slow.log:
                await asyncio.sleep(0.01)
        assert slow.log[-1] == "cancelled"
        assert await texts(left) == []

    run(main())


def test_a_node_that_cancels_itself_is_an_error_and_no_hang():
    @register_node("TestSelfCancelling")
    class SelfCancelling(Node):
        async def process(self, data):
            raise asyncio.CancelledError

    async def main():
        async with Pipeline(manifest("a:SelfCancelling")) as pipeline:
            with pytest.raises(NodeError, match="node 'a' failed: RuntimeError: it cancelled itself"):
                await texts(pipeline.run("x"))

    run(main())


def test_many_sessions_at_once():
    async def main():
        async with Pipeline(manifest("a:Words", "b:Counting", "c:Upper", links="a>b b>c")) as pipeline:

            async def one(name):
                given = await texts(pipeline.run(*[f"{name} {name}"] * 20))
                return [text for text in given if "COUNT" not in text]

            for number, given in enumerate(await asyncio.gather(*(one(f"s{i}") for i in range(50)))):
                assert given == [f"c:{i} S{number}" for i in range(1, 41)]
            assert pipeline._sessions == {}

    run(main(), 60)


def test_the_registry(monkeypatch):
    known = node_types()
    ours = {f"LlamaCpp{kind}Node" for kind in ("Generation", "Embedding", "Activation", "Steer")}
    assert ours <= set(known)
    assert "TestUpper" in known
    assert node_class("TestUpper") is user_nodes.Upper
    assert user_nodes.Upper.node_type == "TestUpper"
    for wrong in ("", 3, None):
        with pytest.raises(lc.InvalidArgumentError):
            register_node(wrong)
    with pytest.raises(lc.InvalidArgumentError, match="no node class"):
        register_node("X")(dict)


def test_registered_nodes():
    """Those that this process registered and no others, the last class of a name; later ones are not in it."""
    before = registered_nodes()
    assert before["TestUpper"] is user_nodes.Upper
    assert not {f"LlamaCpp{kind}Node" for kind in ("Generation", "Embedding", "Activation", "Steer")} & set(before)
    for cls in (type("First", (Node,), {}), type("Second", (Node,), {})):
        register_node("TestTwice")(cls)
        assert registered_nodes() == {**before, "TestTwice": cls}
    assert "TestTwice" not in before


def test_entry_points(tmp_path, monkeypatch):
    """Packages name their nodes in the entry point group; a package is imported when its node is used."""
    package = tmp_path / "their_nodes.py"
    package.write_text(
        "from llamacore.nodes import Node, Text\n"
        "class Echo(Node):\n"
        "    async def process(self, data):\n"
        "        return Text('echo ' + data.text)\n"
        "NotANode = dict\n"
    )
    info = tmp_path / "their_nodes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-nodes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[llamacore.nodes]\nTheirEcho = their_nodes:Echo\nTheirWrong = their_nodes:NotANode\n"
        "TheirGone = gone_nodes:Echo\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert {"TheirEcho", "TheirGone"} <= set(node_types())
    assert "their_nodes" not in sys.modules

    async def main():
        async with Pipeline({"version": "v1", "nodes": [{"id": "e", "node_type": "TheirEcho"}]}) as pipeline:
            assert await texts(pipeline.run("hello")) == ["e:echo hello"]

    run(main())
    with pytest.raises(lc.InvalidArgumentError, match="no node class"):
        node_class("TheirWrong")
    with pytest.raises(lc.UnsupportedError, match="gone_nodes"):
        node_class("TheirGone")


def test_plugins_that_are_python_files(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from llamacore.nodes import Node, Text, register_node\n"
        "@register_node('TestFromFile')\n"
        "class FromFile(Node):\n"
        "    async def process(self, data):\n"
        "        return Text('file ' + data.text)\n"
    )
    made = manifest("f:FromFile", plugins=["llama-cpp@v0.2.0", "./mine.py"])
    (tmp_path / "pipeline.json").write_text(__import__("json").dumps(made))

    async def main():
        async with Pipeline.load(tmp_path / "pipeline.json") as pipeline:
            assert pipeline.warnings == []
            assert await texts(pipeline.run("x")) == ["f:file x"]

    run(main())
    (tmp_path / "bad.py").write_text("1 / 0\n")
    made["plugins"] = [{"path": str(tmp_path / "bad.py")}]
    with pytest.raises(lc.UnsupportedError, match="ZeroDivisionError"):
        Pipeline(made)
    assert not [name for name in sys.modules if "plugin_bad" in name]
    assert isinstance(sys, types.ModuleType)
