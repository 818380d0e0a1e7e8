"""What a session of a pipeline ends with when one of its nodes fails."""

from __future__ import annotations

from ..errors import LlamaCoreError


class NodeError(LlamaCoreError, RuntimeError):
    """A node of a pipeline failed, which ended its session; `__cause__` is what it raised.

    Attributes:
        node: Id of the node.
    """

    node: str = ""

    @classmethod
    def of(cls, node: str, cause: BaseException) -> NodeError:
        """Make one from what a node raised; one that names its node already stays as it is."""
        if isinstance(cause, cls):
            return cause
        if isinstance(cause, LlamaCoreError):
            made = cls(f"node {node!r} failed: {cause.message}", hint=cause.hint, native_log=cause.native_log)
        else:
            made = cls(f"node {node!r} failed: {type(cause).__name__}: {cause}")
        made.node = node
        made.__cause__ = cause
        return made
