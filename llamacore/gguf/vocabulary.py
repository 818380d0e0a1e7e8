"""What in a vocabulary would bring upstream's tokenizers (src/llama-vocab.cpp) to a crash or an endless loop."""

from __future__ import annotations

from .format import ValueType
from .model_file import ModelFile

_MAX_VOCAB = 1 << 24
_MAX_TRIE_TOKEN = 1024  # bytes; the longest known is 128
_TOKENS = "tokenizer.ggml.tokens"
_CHARSMAP = "tokenizer.ggml.precompiled_charsmap"


def _unescape_rwkv(escaped: bytes) -> bytes:
    """Undo the escapes of an RWKV token as `llama_unescape_rwkv_token` does."""
    output = bytearray()
    digits, value, escaping = 0, 0, False
    for byte in escaped:
        if digits:
            value = ((value << 4) + (byte - 0x57 if byte >= 0x61 else byte - 0x30)) & 0xFF
            digits -= 1
            if not digits:
                output.append(value)
                value = 0
        elif escaping:
            escaping = False
            if byte == ord("x"):
                digits = 2
            else:
                output.append({ord("t"): 9, ord("n"): 10, ord("r"): 13}.get(byte, byte))
        elif byte == ord("\\"):
            escaping = True
        else:
            output.append(byte)
    return bytes(output)


def _check_rwkv(model: ModelFile) -> None:
    """The tokenizer starts over from the beginning of the text when a token starts to match and none is complete."""
    tokens = [_unescape_rwkv(raw) if b"\\" in raw else raw for raw in model.file.metadata.byte_strings(_TOKENS)]
    missing = {token[:1] for token in tokens} - {token for token in tokens if len(token) <= 1}
    if missing:
        model.fail(f"its rwkv tokens begin with {min(missing)!r}, which is no token, and it would tokenise forever")


def check_vocabulary(model: ModelFile) -> None:
    """Refuse a vocabulary that would crash or hang a tokenizer.

    Raises:
        InvalidModelError: It would.
    """
    metadata = model.file.metadata
    if model.number("vocab_size") > _MAX_VOCAB:  # a model without tokenizer gets that many made-up tokens
        model.fail(f"{model.describe('vocab_size')}, and the most is {_MAX_VOCAB}")
    kind = model.text("tokenizer.ggml.model")
    if _TOKENS in metadata and metadata.element_type(_TOKENS) is ValueType.STRING:
        if not metadata.count(_TOKENS) and kind not in ("none", "no_vocab"):
            model.fail(f"{_TOKENS} is empty")  # the "test" tokenizer divides by the number of tokens
        # naive_trie::insert takes a stack frame for each byte, llm_tokenizer_plamo2 the square of the length in memory
        longest = metadata.longest(_TOKENS)
        if kind in ("t5", "rwkv", "plamo2") and longest > _MAX_TRIE_TOKEN:
            model.fail(f"{_TOKENS} has one of {longest} bytes, and {_MAX_TRIE_TOKEN} is the most for this tokenizer")
        if kind == "rwkv":
            _check_rwkv(model)
    charsmap = metadata.element_type(_CHARSMAP) if _CHARSMAP in metadata else None
    if charsmap in (ValueType.UINT8, ValueType.INT8) and not metadata.raw(_CHARSMAP).endswith(b"\0"):
        # its replacements are C strings, read up to their terminator
        model.fail(f"{_CHARSMAP} does not end with a zero byte")
