"""The pieces that a prompt with images or audio becomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ._handle import SharedHandle
from ._native import ffi, lib, text

if TYPE_CHECKING:
    from .multimodal import MultimodalContext

ChunkType = Literal["text", "image", "audio"]

_TYPES: dict[int, ChunkType] = {
    lib.MTMD_INPUT_CHUNK_TYPE_TEXT: "text",
    lib.MTMD_INPUT_CHUNK_TYPE_IMAGE: "image",
    lib.MTMD_INPUT_CHUNK_TYPE_AUDIO: "audio",
}


@dataclass(frozen=True, eq=False)
class Chunk:
    """One piece of a tokenized prompt. It can be used for as long as its `Chunks` are open.

    Attributes:
        type: "text", "image" or "audio".
        n_tokens: Rows that it takes in a batch and in the memory.
        n_pos: Positions that it takes; fewer than tokens for an image of an M-RoPE model.
        tokens: Token ids of text, empty for media.
        id: The `id` of the bitmap, empty for text.
    """

    type: ChunkType
    n_tokens: int
    n_pos: int
    tokens: tuple[int, ...]
    id: str
    _chunks: Chunks = field(repr=False)
    _index: int = field(repr=False)


class Chunks(SharedHandle):
    """A tokenized prompt, a sequence of `Chunk`. Made by `MultimodalContext.tokenize`, which it belongs to.

    Attributes:
        n_tokens: Tokens of all chunks.
        n_pos: Positions of all chunks: what `eval_chunks` adds to n_past.
    """

    def __init__(self, ptr: Any, context: MultimodalContext) -> None:
        self.context = context
        natives = [lib.mtmd_input_chunks_get(ptr, i) for i in range(lib.mtmd_input_chunks_size(ptr))]
        self._fields = [_describe(native) for native in natives]  # not Chunks: those would keep this one in a cycle
        self.n_tokens = sum(fields[1] for fields in self._fields)
        self.n_pos = sum(fields[2] for fields in self._fields)
        super().__init__(ptr, lib.mtmd_input_chunks_free, parent=context)

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index: int) -> Chunk:
        number = range(len(self._fields))[index]
        return Chunk(*self._fields[number], self, number)

    def __iter__(self) -> Iterator[Chunk]:
        return (self[index] for index in range(len(self._fields)))

    def __repr__(self) -> str:
        return f"<Chunks {', '.join(f'{chunk.type} {chunk.n_tokens}' for chunk in self)}>"


def _describe(native: Any) -> tuple[ChunkType, int, int, tuple[int, ...], str]:
    count = ffi.new("size_t *")
    tokens = lib.mtmd_input_chunk_get_tokens_text(native, count)
    return (
        _TYPES[lib.mtmd_input_chunk_get_type(native)],
        int(lib.mtmd_input_chunk_get_n_tokens(native)),
        int(lib.mtmd_input_chunk_get_n_pos(native)),
        tuple(ffi.unpack(tokens, count[0])) if count[0] else (),
        text(lib.mtmd_input_chunk_get_id(native)),
    )
