"""Saving and restoring what a context remembers."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from enum import IntFlag
from typing import TYPE_CHECKING

from ..errors import InvalidArgumentError, OutOfRangeError, StateError, UnsupportedError
from ..params import StrPath
from . import log
from ._native import ffi, lib, path_bytes
from ._status import raise_status

if TYPE_CHECKING:
    from .context import Context


_MAGIC = b"LLCSTATE"
# magic, whole or sequence, flags, fingerprint of model and context, payload bytes; then CRC-32 of these and the payload
_HEADER = struct.Struct("<8sII16sQ")
_CRC = struct.Struct("<I")
_PAYLOAD = _HEADER.size + _CRC.size
_SOURCE = struct.Struct("=4xi")  # upstream's head of a sequence state: magic, sequence it was taken from
_LENGTH = struct.Struct("=I")
_FILE_HEAD = struct.Struct("=III")  # of upstream's session files: magic, version, number of tokens


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

    def _require_weights(self) -> None:
        if self._context.model.params.no_alloc:
            raise UnsupportedError("the model was loaded with no_alloc: its contexts have no memory to save or restore")

    def _fingerprint(self, flags: int, seq: int) -> bytes:
        context = self._context
        if not flags & StateFlags.ON_DEVICE:
            return self.fingerprint()
        # such a state is a reference to memory of this context, which the next one of the sequence overwrites
        reference = (context._serial, context._device_states.get(seq))
        return hashlib.sha256(self.fingerprint() + repr(reference).encode()).digest()[:16]

    def fingerprint(self) -> bytes:
        """Return 16 bytes that say for which model, kind of memory and llama.cpp a sequence state of this context is.

        Two files with equal metadata and shapes have equal ones, whatever their weights.
        """
        context, model = self._context, self._context.model
        with context._held():
            if context._state_identity is None:
                parts = (
                    lib.LLAMA_STATE_SEQ_VERSION, lib.LLAMA_SESSION_VERSION, ffi.string(lib.llc_build_commit()),
                    model.desc, model.size, model.n_params, model.n_vocab, model.n_embd, model.n_layer,
                    sorted(model.metadata.items()), *context._memory_types, context.params.ctx_type,
                    context.kv_unified, bool(context.params.disable_attn_rot),
                )  # fmt: skip
                context._state_identity = hashlib.sha256(repr(parts).encode()).digest()[:16]
            return context._state_identity

    def size(self, seq_id: int | None = None, flags: StateFlags = StateFlags.NONE) -> int:
        """Return the bytes that the state takes, without the header of `to_bytes`.

        Args:
            seq_id: One sequence, or None for the whole context.
            flags: Which variant of a sequence state.

        Raises:
            OutOfRangeError: There is no such sequence.
            InvalidArgumentError: There are no such flags.
            UnsupportedError: `ON_DEVICE` with a quantised memory.
            StateError: The native code refused.
        """
        seq = self._seq(seq_id)
        if not 0 <= flags <= StateFlags.PARTIAL_ONLY | StateFlags.ON_DEVICE:
            raise InvalidArgumentError(f"flags={flags!r}", hint="combine values of StateFlags")
        if flags & StateFlags.ON_DEVICE and any(map(lib.ggml_is_quantized, self._context._memory_types)):
            raise UnsupportedError("a quantised memory has no states on the device", hint="leave ON_DEVICE out")
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
        """Return the state of the whole context or of one sequence.

        Args:
            seq_id: One sequence, or None for the whole context.
            flags: Which variant of a sequence state.

        Raises:
            OutOfRangeError: There is no such sequence.
            InvalidArgumentError: There are no such flags.
            UnsupportedError: The model was loaded with `no_alloc`, or `ON_DEVICE` with a quantised memory.
            StateError: The native code refused.
        """
        self._require_weights()
        seq = self._seq(seq_id)
        capacity = self.size(seq_id, flags)
        if flags & StateFlags.ON_DEVICE:
            self._context._device_states[seq] = self._context._device_states.get(seq, 0) + 1
        fingerprint = self._fingerprint(int(flags), seq)
        result = bytearray(_PAYLOAD + capacity)
        written = ffi.new("size_t *")
        ptr = self._context._enter()
        try:
            mark = log.mark()
            target = ffi.from_buffer("uint8_t[]", memoryview(result)[_PAYLOAD:], require_writable=True)
            status = lib.llc_state_get(ptr, seq, int(flags), target, capacity, written)
            ffi.release(target)
            if status != lib.LLC_OK:
                self._context._note(status)
                raise_status(status, "copying the state", StateError, mark=mark)
        finally:
            self._context._exit()
        del result[_PAYLOAD + written[0] :]
        _HEADER.pack_into(result, 0, _MAGIC, seq >= 0, int(flags), fingerprint, written[0])
        _CRC.pack_into(result, _HEADER.size, _checksum(result))
        return bytes(result)

    def from_bytes(self, data: bytes, seq_id: int | None = None) -> None:
        """Restore what `to_bytes` returned.

        Args:
            data: The bytes, unchanged.
            seq_id: The sequence to restore it into, or None for the whole context.

        Raises:
            OutOfRangeError: There is no such sequence.
            UnsupportedError: The model was loaded with `no_alloc`.
            StateError: The bytes are damaged, are not a state, or do not fit this model and context. The memory may
                have been cleared.
        """
        self._require_weights()
        seq = self._seq(seq_id)
        what = "restoring a state"
        if len(data) < _PAYLOAD or data[: len(_MAGIC)] != _MAGIC:
            raise StateError(
                f"{what}: these bytes are not a state", hint="pass what State.to_bytes returned, unchanged"
            )
        _, is_seq, flags, fingerprint, size = _HEADER.unpack_from(data)
        payload = memoryview(data)[_PAYLOAD:]
        if data is not self._context._sound_state:  # a checkpoint is mostly restored many times
            if len(payload) != size or _CRC.unpack_from(data, _HEADER.size)[0] != _checksum(data):
                raise StateError(f"{what}: the bytes are damaged", hint="take the state again")
            if flags & StateFlags.PARTIAL_ONLY and type(data) is bytes:
                self._context._sound_state = data
        if bool(is_seq) != (seq >= 0):
            kind, wanted = ("one sequence", "a seq_id") if is_seq else ("the whole context", "no seq_id")
            raise StateError(f"{what}: it is the state of {kind}", hint=f"call from_bytes with {wanted}")
        source = _SOURCE.unpack_from(payload)[0] if flags & StateFlags.ON_DEVICE and size >= _SOURCE.size else -1
        if fingerprint != self._fingerprint(flags, source):
            raise StateError(
                f"{what}: it was made by another model, memory layout or llama.cpp, or its device memory was reused",
                hint="use it with the same file, type_k, type_v, kv_unified and libraries",
            )
        self._restore(seq, flags, payload, what, "does it fit n_ctx and n_seq_max?")

    def _restore(self, seq: int, flags: int, payload: bytes | bytearray | memoryview, what: str, hint: str) -> None:
        context = self._context
        if seq >= 0:
            context._rollback.forget(seq)
        else:
            context._rollback.forget_all()
        if seq >= 0 and context._has_memory and not flags & StateFlags.PARTIAL_ONLY:
            context.memory.seq_rm(seq)  # upstream leaves it as it is when the saved one was empty
        read = ffi.new("size_t *")
        ptr = context._enter()
        try:
            mark = log.mark()
            status = lib.llc_state_set(ptr, seq, flags, ffi.from_buffer("uint8_t[]", payload), len(payload), read)
            if status == lib.LLC_OK and read[0] == len(payload):
                return
            context._note(status)
            try:
                if status == lib.LLC_OK:
                    raise StateError(f"{what}: {len(payload) - read[0]} bytes are left over", hint=hint)
                raise_status(status, what, StateError, mark=mark, hint=hint)
            finally:
                if context._has_memory and status != lib.LLC_ABORTED:  # cells may be left whose data was never written
                    if seq >= 0:
                        lib.llc_memory_seq_rm(ptr, seq, -1, -1, ffi.new("bool *"))
                    else:
                        lib.llc_memory_clear(ptr, True)
        finally:
            context._exit()

    def save(self, path: StrPath, tokens: Sequence[int] = (), seq_id: int | None = None) -> None:
        """Write a session file, made aside and renamed.

        Args:
            path: Where to.
            tokens: The tokens that the state stands for; `load` returns them.
            seq_id: One sequence, or None for the whole context.

        Raises:
            StateError: Writing failed.
        """
        self._require_weights()
        seq = self._seq(seq_id)
        target = os.fspath(path)
        aside = f"{target}.{os.getpid()}.part"
        tokens = list(tokens)
        if not all(-(2**31) <= token < 2**31 for token in tokens):
            raise OutOfRangeError("a token to save has more than 32 bits", hint="give token ids")
        native = ffi.new("llama_token[]", tokens)
        ptr = self._context._enter()
        try:
            mark = log.mark()
            status = lib.llc_state_save_file(ptr, seq, path_bytes(aside), native, len(tokens))
            if status != lib.LLC_OK:
                self._context._note(status)
                raise_status(status, f"saving the state to {target}", StateError, mark=mark, hint="can it be written?")
            try:
                os.replace(aside, target)
            except OSError as exc:
                raise StateError(
                    f"saving the state to {target}: {exc.strerror}", hint="give the path of a file"
                ) from exc
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
        self._require_weights()
        seq = self._seq(seq_id)
        source = os.fspath(path)
        path_bytes(source)  # refuses a NUL
        what = f"loading the state {source}"
        data = self._read_file(source, seq >= 0, what)
        n_tokens = _FILE_HEAD.unpack_from(data)[2]
        start = _FILE_HEAD.size + 4 * n_tokens
        if start > len(data):
            raise StateError(f"{what}: the file is cut short", hint="save it again")
        tokens = struct.unpack_from(f"={n_tokens}i", data, _FILE_HEAD.size)
        # not upstream's own reader, which goes on past the end of a file
        payload = memoryview(data)[start:]
        name = self._context.model.arch.encode()
        if seq < 0 and payload[: _LENGTH.size + len(name)] != _LENGTH.pack(len(name)) + name:
            # upstream looks too, after allocating as much as the file says that the name takes
            raise StateError(f"{what}: it was saved by a model of another architecture", hint="use the same model")
        whole = payload if seq < 0 else b"".join((self._sequence_head(seq), payload))
        self._restore(seq, 0, whole, what, "was it saved by this model and context size?")
        return list(tokens)

    def _sequence_head(self, seq: int) -> bytes:
        """What upstream puts before the state of a sequence in memory, but not in a file."""
        if self._context._has_memory:
            self._context.memory.seq_rm(seq)
        return self.to_bytes(seq)[_PAYLOAD : _PAYLOAD + _SOURCE.size]

    def _read_file(self, source: str, one_sequence: bool, what: str) -> bytes:
        """Read a session file whose head (magic, version) is right."""
        magic, version = (
            (lib.LLAMA_STATE_SEQ_MAGIC, lib.LLAMA_STATE_SEQ_VERSION)
            if one_sequence
            else (lib.LLAMA_SESSION_MAGIC, lib.LLAMA_SESSION_VERSION)
        )
        try:
            with open(source, "rb") as file:
                head = file.read(_FILE_HEAD.size)
                if len(head) < _FILE_HEAD.size:
                    raise StateError(f"{what}: the file is too short", hint="save it again")
                if _FILE_HEAD.unpack(head)[:2] != (magic, version):
                    raise StateError(
                        f"{what}: it is no {'sequence' if one_sequence else 'context'} state of this llama.cpp",
                        hint="files of one sequence are loaded with a seq_id, others without",
                    )
                return head + file.read()
        except OSError as exc:
            raise StateError(f"{what}: {exc.strerror}", hint="check the path") from exc


def _checksum(data: bytes | bytearray) -> int:
    view = memoryview(data)
    return zlib.crc32(view[_PAYLOAD:], zlib.crc32(view[: _HEADER.size]))
