"""The bounded queue of pipelines."""

from __future__ import annotations

import asyncio

import pytest

import llamacore as lc
from llamacore.nodes.channel import Channel


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 10))


def test_in_order_and_bounded():
    async def main():
        channel = Channel(3)
        most = 0

        async def put(start):
            nonlocal most
            for number in range(start, start + 100):
                await channel.put(number)
                most = max(most, len(channel))

        putting = asyncio.gather(put(0), put(1000))
        putting.add_done_callback(lambda _: channel.close())
        got = [item async for item in channel]
        await putting
        assert [item for item in got if item < 1000] == list(range(100))
        assert [item for item in got if item >= 1000] == list(range(1000, 1100))
        assert most == 3

    run(main())


def test_closing_wakes_who_waits():
    async def main():
        empty, full = Channel(1), Channel(1)
        await full.put(1)
        taking = [asyncio.ensure_future(empty.__anext__()) for _ in range(2)]
        putting = [asyncio.ensure_future(full.put(2)) for _ in range(2)]
        await asyncio.sleep(0.01)
        empty.close(ValueError("why"))
        full.close()
        full.close(ValueError("too late to say why"))
        assert [type(item) for item in await asyncio.gather(*taking, return_exceptions=True)] == [ValueError] * 2
        assert {type(item) for item in await asyncio.gather(*putting, return_exceptions=True)} == {lc.ClosedError}
        assert [item async for item in full] == [1]
        with pytest.raises(ValueError, match="why"):
            await empty.put(1)
        empty.put_over(1)
        assert len(empty) == 0

    run(main())


def test_what_does_not_wait():
    async def main():
        channel = Channel(2)
        for number in range(4):
            channel.put_over(number)
        assert len(channel) == 4
        waiting = asyncio.ensure_future(channel.put(9))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        channel.clear()
        await waiting
        for number in range(4):
            channel.put_newest(number)
        channel.close()
        assert [item async for item in channel] == [2, 3]

    run(main())


def test_a_cancelled_put_or_take_loses_nothing():
    async def main():
        channel = Channel(1)
        take = asyncio.ensure_future(channel.__anext__())
        await asyncio.sleep(0)
        take.cancel()
        await channel.put(1)
        put = asyncio.ensure_future(channel.put(2))
        await asyncio.sleep(0)
        put.cancel()
        await asyncio.gather(take, put, return_exceptions=True)
        channel.close()
        assert [item async for item in channel] == [1]

    run(main())
