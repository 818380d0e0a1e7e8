"""`CancelGate` and `ProtectGuard`."""

from __future__ import annotations

import asyncio
import gc
import threading

from llamacore.nodes import CancelGate


def test_a_fresh_gate_is_not_protected():
    gate = CancelGate()
    assert not gate.is_protected
    assert gate.try_cancel()


def test_a_guard_holds_a_cancel_off_and_gives_the_gate_back():
    gate = CancelGate()
    guard = gate.protect()
    assert gate.is_protected
    assert not gate.try_cancel()
    guard.release()
    guard.release()
    assert guard.released
    assert not gate.is_protected
    assert gate.try_cancel()


def test_a_dropped_guard_is_released():
    gate = CancelGate()
    guard = gate.protect()
    del guard
    gc.collect()
    assert gate.try_cancel()


def test_guards_are_counted():
    gate = CancelGate()
    with gate.protect() as outer:
        with gate.protect():
            assert not gate.try_cancel()
        assert not outer.released
        assert not gate.try_cancel()
    assert gate.try_cancel()


def test_a_cancel_wakes_who_waits():
    async def main() -> None:
        gate = CancelGate()
        waiting = [gate.notified(), gate.notified()]
        assert gate.try_cancel()
        await asyncio.wait_for(asyncio.gather(*waiting), 10)

    asyncio.run(main())


def test_a_cancel_that_is_held_off_wakes_nobody_and_force_does():
    async def main() -> None:
        gate = CancelGate()
        waiting = gate.notified()
        with gate.protect():
            assert not gate.try_cancel()
            await asyncio.sleep(0.01)
            assert not waiting.done()
            gate.cancel_force()
            await asyncio.wait_for(waiting, 10)
            assert gate.is_protected

    asyncio.run(main())


def test_a_cancel_is_not_kept_for_later():
    async def main() -> None:
        gate = CancelGate()
        assert gate.try_cancel()
        waiting = gate.notified()
        await asyncio.sleep(0.01)
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(main())


def test_cancels_that_went_through_are_counted_at_once():
    gate = CancelGate()
    assert gate.cancels == 0
    gate.try_cancel()
    with gate.protect():
        gate.try_cancel()
        assert gate.cancels == 1
        gate.cancel_force()
    assert gate.cancels == 2


def test_a_cancel_from_another_thread():
    async def main() -> None:
        gate = CancelGate()
        waiting = gate.notified()
        thread = threading.Thread(target=gate.try_cancel)
        thread.start()
        await asyncio.wait_for(waiting, 10)
        thread.join()

    asyncio.run(main())


def test_who_gave_up_waiting_is_forgotten_and_a_closed_loop_is_no_error():
    gate = CancelGate()

    async def main() -> None:
        gave_up = gate.notified()
        gave_up.cancel()
        await asyncio.sleep(0)
        assert gate._waiting == []
        gate.notified()

    asyncio.run(main())
    assert gate.try_cancel()  # its waiter's loop is closed
