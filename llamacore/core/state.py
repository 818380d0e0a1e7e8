"""Saving and restoring what a context remembers."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from enum import IntFlag
from typing import TYPE_CHECKING, Union

from ..errors import OutOfRangeError, StateError
from . import log
from ._native import ffi, lib, path_bytes
from ._status import raise_status

if TYPE_CHECKING:
    from .context import Context

StrPath = Union[str, "os.PathLike[str]"]

_MAGIC = b"LLCSTATE"
# magic, whole or sequence, flags, fingerprint of model and context, payload bytes, CRC-32 of the payload
_HEADER = struct.Struct("<8sII16sQI")


class StateFlags(IntFlag):
    """Variants of a sequence state (upstream: `LLAMA_STATE_SEQ_FLAGS_*`)."""

    NONE = lib.LLAMA_STATE_SEQ_FLAGS_NONE
    PARTIAL_ONLY = lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
    """Only what cannot be trimmed: recurrent state and sliding windows."""
    ON_DEVICE = lib.LLAMA_STATE_SEQ_FLAGS_ON_DEVICE
    """Tensor data stays on the device. Taking another one of the same sequence makes the earlier one invalid."""


class State:
    """State of a context as bytes or files. Lives as long as the context.

    Bytes carry a header of ours: they are refused, before any native code reads them, when they are damaged or were
    made by another model, another kind of memory or another llama.cpp. Files are upstream's session files, which its
    own tools read and write too.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def _seq(self, seq_id: int | None) -> int:
        if seq_id is None:
            return -1
        n_seq_max = self._context.n_seq_max
        if not 0 <= seq_id < n_seq_max:
            raise OutOfRangeError(f"sequence {seq_id!r}", hint=f"this context has sequences 0 to {n_seq_max - 1}")
        return seq_id

    def _fingerprint(self, flags: int) -> bytes:
        context, model = self._context, self._context.model
        parts = (
            lib.LLAMA_STATE_SEQ_VERSION, lib.LLAMA_SESSION_VERSION, ffi.string(lib.llc_build_commit()),
            model.desc, model.size, model.n_params, model.n_vocab, model.n_embd, model.n_layer,
            sorted(model.metadata.items()), context.params.type_k, context.params.type_v, context.params.ctx_type,
            context.kv_unified,
            context._serial if flags & StateFlags.ON_DEVICE else 0,  # such a state means nothing elsewhere
        )  # fmt: skip
        return hashlib.sha256(repr(parts).encode()).digest()[:16]

    def size(self, seq_id: int | None = None, flags: StateFlags = StateFlags.NONE) -> int:
        """Return the bytes that the state takes, of the whole context or of one sequence."""
        seq = self._seq(seq_id)
        out = ffi.new("size_t *")
        ptr = self._context._enter()
        try:
            status = lib.llc_state_size(ptr, seq, int(flags), out)
            if status != lib.LLC_OK:
                self._context._note(status)
                raise_status(status, "measuring the state", StateError)
            return int(out[0])
        finally:
            self._context._exit()

    def to_bytes(self, seq_id: int | None = None, flags: StateFlags = StateFlags.NONE) -> bytes:
        """Return the state of the whole context (None) or of one sequence.

        Raises:
            StateError: The native code refused.
        """
        seq = self._seq(seq_id)
        fingerprint = self._fingerprint(int(flags))
        capacity = self.size(seq_id, flags)
        result = bytearray(_HEADER.size + capacity)
        written = ffi.new("size_t *")
        ptr = self._context._enter()
        try:
            mark = log.mark()
            target = ffi.from_buffer("uint8_t[]", memoryview(result)[_HEADER.size :], require_writable=True)
            status = lib.llc_state_get(ptr, seq, int(flags), target, capacity, written)
            ffi.release(target)
            if status != lib.LLC_OK:
                self._context._note(status)
                raise_status(status, "copying the state", StateError, mark=mark)
        finally:
            self._context._exit()
        del result[_HEADER.size + written[0] :]
        checksum = zlib.crc32(memoryview(result)[_HEADER.size :])
        _HEADER.pack_into(result, 0, _MAGIC, seq >= 0, int(flags), fingerprint, written[0], checksum)
        return bytes(result)

    def from_bytes(self, data: bytes, seq_id: int | None = None) -> None:
        """Restore what `to_bytes` returned, into the whole context (None) or into one sequence.

        Raises:
            StateError: The bytes are damaged, are not a state, or do not fit this model and context.
        """
        seq = self._seq(seq_id)
        what = "restoring a state"
        if len(data) < _HEADER.size or data[: len(_MAGIC)] != _MAGIC:
            raise StateError(f"{what}: these bytes are not a state", hint="pass what State.to_bytes returned, unchanged")
        _, is_seq, flags, fingerprint, size, checksum = _HEADER.unpack_from(data)
        payload = memoryview(data)[_HEADER.size :]
        if len(payload) != size or zlib.crc32(payload) != checksum:
            raise StateError(f"{what}: the bytes are damaged", hint="take the state again")
        if bool(is_seq) != (seq >= 0):
            kind, wanted = ("one sequence", "a seq_id") if is_seq else ("the whole context", "no seq_id")
            raise StateError(f"{what}: it is the state of {kind}", hint=f"call from_bytes with {wanted}")
        if fingerprint != self._fingerprint(flags):
            raise StateError(
                f"{what}: it was made by another model, memory layout or llama.cpp",
                hint="use it with the same file, type_k, type_v, kv_unified and libraries",
            )
        read = ffi.new("size_t *")
        ptr = self._context._enter()
        try:
            mark = log.mark()
            status = lib.llc_state_set(ptr, seq, flags, ffi.from_buffer("uint8_t[]", payload), size, read)
            if status != lib.LLC_OK:
                self._context._note(status)
                raise_status(status, what, StateError, mark=mark, hint="does it fit n_ctx and n_seq_max?")
        finally:
            self._context._exit()

    def save(self, path: StrPath, tokens: Sequence[int] = (), seq_id: int | None = None) -> None:
        """Write a session file, made aside and renamed.

        Args:
            path: Where to.
            tokens: The tokens that the state stands for; `load` returns them.
            seq_id: One sequence, or None for the whole context.

        Raises:
            StateError: Writing failed.
        """
        seq = self._seq(seq_id)
        target = os.fspath(path)
        aside = f"{target}.{os.getpid()}.part"
        native = ffi.new("llama_token[]", list(tokens))
        ptr = self._context._enter()
        try:
            mark = log.mark()
            status = lib.llc_state_save_file(ptr, seq, path_bytes(aside), native, len(tokens))
            if status != lib.LLC_OK:
                self._context._note(status)
                raise_status(status, f"saving the state to {target}", StateError, mark=mark, hint="can it be written?")
            os.replace(aside, target)
        finally:
            self._context._exit()
            if os.path.exists(aside):
                os.unlink(aside)

    def load(self, path: StrPath, seq_id: int | None = None) -> list[int]:
        """Read a session file.

        Args:
            path: A file that `save` or an upstream tool wrote.
            seq_id: The sequence to restore it into, or None for a file of the whole context.

        Returns:
            The tokens that were saved with it.

        Raises:
            StateError: The file is missing, damaged, or does not fit this model and context. The memory may have been
                cleared.
        """
        seq = self._seq(seq_id)
        source = os.fspath(path)
        what = f"loading the state {source}"
        capacity = self._stored_tokens(source, seq >= 0, what)
        tokens = ffi.new("llama_token[]", max(capacity, 1))
        count = ffi.new("size_t *")
        ptr = self._context._enter()
        try:
            mark = log.mark()
            status = lib.llc_state_load_file(ptr, seq, path_bytes(source), tokens, max(capacity, 1), count)
            if status != lib.LLC_OK:
                self._context._note(status)
                raise_status(status, what, StateError, mark=mark, hint="was it saved by this model and context size?")
            return ffi.unpack(tokens, count[0]) if count[0] else []
        finally:
            self._context._exit()

    def _stored_tokens(self, source: str, one_sequence: bool, what: str) -> int:
        """Check the head of a session file (magic, version, number of tokens) and return the number of tokens."""
        magic, version = (
            (lib.LLAMA_STATE_SEQ_MAGIC, lib.LLAMA_STATE_SEQ_VERSION)
            if one_sequence
            else (lib.LLAMA_SESSION_MAGIC, lib.LLAMA_SESSION_VERSION)
        )
        try:
            with open(source, "rb") as file:
                head = file.read(12)
                size = os.fstat(file.fileno()).st_size
        except OSError as exc:
            raise StateError(f"{what}: {exc.strerror}", hint="check the path") from exc
        if len(head) < 12:
            raise StateError(f"{what}: the file is too short", hint="save it again")
        found_magic, found_version, n_tokens = struct.unpack("<III", head)
        if (found_magic, found_version) != (magic, version):
            raise StateError(
                f"{what}: it is no {'sequence' if one_sequence else 'context'} state of this llama.cpp",
                hint="files of one sequence are loaded with a seq_id, others without",
            )
        if 12 + 4 * n_tokens > size:
            raise StateError(f"{what}: the file is cut short", hint="save it again")
        return int(n_tokens)
