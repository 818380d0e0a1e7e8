"""A queue of bounded length that can be closed: who puts more into it than it holds waits."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from ..errors import ClosedError

if TYPE_CHECKING:
    from typing_extensions import Self

Item = TypeVar("Item")


class Channel(Generic[Item]):
    """Connects tasks of one event loop. Iterating over it ends when it is closed and empty.

    Args:
        limit: Most items that it holds.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: deque[Item] = deque()
        self._room = asyncio.Event()
        self._some = asyncio.Event()
        self._closed = False
        self._error: BaseException | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def closed(self) -> bool:
        """Whether nothing can be put into it any more."""
        return self._closed

    async def put(self, item: Item) -> None:
        """Put an item at its end, when there is room.

        Raises:
            ClosedError: It was closed, before or while this waited; if with an error, that is raised instead.
        """
        while len(self._items) >= self.limit and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise self._error or ClosedError(
                "nothing more can be put in: the input has ended", hint="open a new session"
            )
        self._items.append(item)
        self._some.set()

    def put_over(self, item: Item) -> None:
        """Put an item at its end at once, room or not, unless it is closed: for the little that must not wait."""
        if not self._closed:
            self._items.append(item)
            self._some.set()

    def put_newest(self, item: Item) -> None:
        """Put an item at its end at once; where there is no room, the oldest one makes it."""
        if len(self._items) >= self.limit:
            self._items.popleft()
        self.put_over(item)

    def close(self, error: BaseException | None = None) -> None:
        """Let nothing more in. What is in it can still be taken; then comes the error, if there is one."""
        if not self._closed:
            self._closed, self._error = True, error
        self._some.set()
        self._room.set()

    def clear(self) -> None:
        """Drop what is in it."""
        self._items.clear()
        self._room.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while not self._items:
            if self._closed:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._some.clear()
            await self._some.wait()
        item = self._items.popleft()
        self._room.set()
        return item
