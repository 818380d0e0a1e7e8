"""What `Llama` remembers of a text, outside of it: bytes and files."""

from __future__ import annotations

import os

from ..engine.snapshots import Snapshot
from ..errors import StateError
from ..params import StrPath
from ._base import LlamaBase, Prompt


class StateMixin(LlamaBase):
    """The part of `Llama` that saves computed texts. A text that is loaded again is continued without computing it."""

    def state_to_bytes(self, prompt: Prompt) -> bytes:
        """Compute a text, as far as it is not in the prefix cache, and return what the model remembers of it.

        Args:
            prompt: Text, or token ids.

        Raises:
            InvalidArgumentError: It has no tokens.
            ContextFullError: It is longer than the context.
        """
        return self.engine.snapshot(self._tokens(prompt)).to_bytes()

    def state_from_bytes(self, data: bytes) -> list[int]:
        """Put a text into the prefix cache that `state_to_bytes` returned, here or in another process.

        Returns:
            Its tokens: a prompt that begins with them continues there.

        Raises:
            StateError: The bytes are damaged, or were made with another model, memory layout or llama.cpp.
            BusyError: As many texts are being generated as there are sequences.
        """
        snapshot = Snapshot.from_bytes(data)
        self.engine.restore(snapshot)
        return list(snapshot.tokens)

    def save_state(self, path: StrPath, prompt: Prompt) -> None:
        """Write what `state_to_bytes` returns to a file, made aside and renamed.

        Raises:
            StateError: It cannot be written.
        """
        target = os.fspath(path)
        data = self.state_to_bytes(prompt)
        aside = f"{target}.{os.getpid()}.part"
        try:
            with open(aside, "wb") as file:
                file.write(data)
            os.replace(aside, target)
        except OSError as error:
            raise StateError(
                f"saving the state to {target}: {error.strerror}", hint="give the path of a file"
            ) from error
        finally:
            if os.path.exists(aside):
                os.unlink(aside)

    def load_state(self, path: StrPath) -> list[int]:
        """Read what `save_state` wrote; see `state_from_bytes`.

        Raises:
            StateError: It cannot be read, or does not fit.
        """
        source = os.fspath(path)
        try:
            with open(source, "rb") as file:
                data = file.read()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise StateError(f"loading the state {source!r}: {why}", hint="check the path") from error
        return self.state_from_bytes(data)

    async def asave_state(self, path: StrPath, prompt: Prompt) -> None:
        """`save_state` for event loops."""
        import asyncio

        await asyncio.to_thread(self.save_state, path, prompt)

    async def aload_state(self, path: StrPath) -> list[int]:
        """`load_state` for event loops."""
        import asyncio

        return await asyncio.to_thread(self.load_state, path)

    def _tokens(self, prompt: Prompt) -> list[int]:
        return self.tokenize(prompt) if isinstance(prompt, (str, bytes)) else list(prompt)
