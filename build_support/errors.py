"""The one error that a build raises."""

from __future__ import annotations


class BuildError(Exception):
    """A build step failed.

    Args:
        cause: What went wrong, one or more lines.
        next_step: What the reader should do now.
    """

    def __init__(self, cause: str, next_step: str) -> None:
        super().__init__(cause, next_step)
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.cause}\n  next step: {self.next_step}"
