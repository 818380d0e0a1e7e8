"""Text to tokens and back."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError, NativeError, OutOfRangeError, UnsupportedError
from ._native import ffi, lib, text
from ._status import raise_status

if TYPE_CHECKING:
    from .model import Model

_INT32_MAX = 2**31 - 1


class TokenAttr(IntFlag):
    """Attributes of a token (`enum llama_token_attr`)."""

    UNKNOWN = lib.LLAMA_TOKEN_ATTR_UNKNOWN
    UNUSED = lib.LLAMA_TOKEN_ATTR_UNUSED
    NORMAL = lib.LLAMA_TOKEN_ATTR_NORMAL
    CONTROL = lib.LLAMA_TOKEN_ATTR_CONTROL
    USER_DEFINED = lib.LLAMA_TOKEN_ATTR_USER_DEFINED
    BYTE = lib.LLAMA_TOKEN_ATTR_BYTE
    NORMALIZED = lib.LLAMA_TOKEN_ATTR_NORMALIZED
    LSTRIP = lib.LLAMA_TOKEN_ATTR_LSTRIP
    RSTRIP = lib.LLAMA_TOKEN_ATTR_RSTRIP
    SINGLE_WORD = lib.LLAMA_TOKEN_ATTR_SINGLE_WORD


class Vocab:
    """The vocabulary of a model. Lives as long as the model; safe to use from several threads at once."""

    def __init__(self, model: Model, ptr: Any, n_tokens: int, kind: str) -> None:
        # nothing is asked of C here: the model may be closed by now
        self._model = model
        self._ptr = ptr
        self._n_tokens = n_tokens
        self._type = kind

    def __len__(self) -> int:
        return self._n_tokens

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return self._n_tokens

    @property
    def type(self) -> str:
        """Kind of tokenizer: none, spm, bpe, wpm, ugm, rwkv or plamo2."""
        return self._type

    def _require_tokenizer(self) -> None:
        if self._type == "none" or self._n_tokens == 0:
            raise UnsupportedError("this model has no tokenizer", hint="give token ids instead of text")

    def _token(self, token: int) -> int:
        if not 0 <= token < self._n_tokens:
            raise OutOfRangeError(
                f"token {token!r} is not in the vocabulary", hint=f"tokens are 0 to {self._n_tokens - 1}"
            )
        return token

    def tokenize(self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Turn text into tokens (upstream: `llama_tokenize`).

        Args:
            text: The text; bytes are taken as they are, and where they are not UTF-8 the tokenizer may refuse them.
            add_special: Add the tokens that the model wants around a text (BOS, EOS), if it wants any.
            parse_special: Read control tokens written in the text ("<|im_start|>") as such. Leave it off for text that
                users wrote.

        Returns:
            The token ids.

        Raises:
            InvalidArgumentError: The text is not valid Unicode or longer than 2 GiB.
            UnsupportedError: The model has no tokenizer.
        """
        self._require_tokenizer()
        if isinstance(text, str):
            try:
                raw = text.encode("utf-8")
            except UnicodeEncodeError as exc:
                raise InvalidArgumentError(
                    f"the text has a lone surrogate at character {exc.start}", hint="decode it properly, or pass bytes"
                ) from exc
        else:
            raw = bytes(memoryview(text))  # not bytes(text): that turns a number into as many NUL bytes
        if len(raw) > _INT32_MAX:
            raise InvalidArgumentError(f"the text has {len(raw)} bytes", hint="tokenise it in parts below 2 GiB")
        capacity = len(raw) + 8 if len(raw) < 4096 else len(raw) // 2 + 8
        count = ffi.new("int32_t *")
        self._model._enter()
        try:
            while True:
                tokens = ffi.new("llama_token[]", capacity)
                status = lib.llc_tokenize(
                    self._ptr, raw, len(raw), tokens, capacity, bool(add_special), bool(parse_special), count
                )
                if status != lib.LLC_OK:
                    if isinstance(text, str):
                        raise_status(status, "tokenising the text", NativeError)
                    raise_status(status, "tokenising the bytes", InvalidArgumentError, hint="give valid UTF-8")
                if count[0] >= 0:
                    return ffi.unpack(tokens, count[0]) if count[0] else []
                if count[0] == -(2**31):
                    raise InvalidArgumentError("the text has more than 2**31 tokens", hint="tokenise it in parts")
                capacity = -count[0]
        finally:
            self._model._exit()

    def detokenize_bytes(
        self, tokens: Sequence[int], *, remove_special: bool = False, unparse_special: bool = True
    ) -> bytes:
        """Turn tokens into the bytes they stand for (upstream: `llama_detokenize`).

        Args:
            tokens: Token ids.
            remove_special: Leave out a leading BOS and trailing EOS where the model adds them.
            unparse_special: Write control tokens as their text instead of leaving them out.

        Raises:
            OutOfRangeError: A token is not in the vocabulary.
        """
        self._require_tokenizer()
        tokens = [self._token(token) for token in tokens]
        if not tokens:
            return b""
        native = ffi.new("llama_token[]", tokens)
        capacity = 16 * len(tokens) + 64
        count = ffi.new("int32_t *")
        self._model._enter()
        try:
            while True:
                buffer = ffi.new("char[]", capacity)
                status = lib.llc_detokenize(
                    self._ptr, native, len(tokens), buffer, capacity, bool(remove_special), bool(unparse_special), count
                )
                if status != lib.LLC_OK:
                    raise_status(status, "detokenising", NativeError)
                if count[0] >= 0:
                    return bytes(ffi.buffer(buffer, count[0]))
                capacity = -count[0]
        finally:
            self._model._exit()

    def detokenize(self, tokens: Sequence[int], *, remove_special: bool = False, unparse_special: bool = True) -> str:
        """Turn tokens into text; bytes that are not UTF-8 become U+FFFD. See `detokenize_bytes`."""
        raw = self.detokenize_bytes(tokens, remove_special=remove_special, unparse_special=unparse_special)
        return raw.decode("utf-8", "replace")

    def token_to_piece(self, token: int, *, special: bool = True) -> bytes:
        """Return the bytes of one token, which may be a part of a character (upstream: `llama_token_to_piece`).

        Args:
            token: Token id.
            special: Return the text of control tokens too, instead of nothing.

        Raises:
            OutOfRangeError: The token is not in the vocabulary.
        """
        self._require_tokenizer()
        token = self._token(token)
        capacity = 64
        count = ffi.new("int32_t *")
        self._model._enter()
        try:
            while True:
                buffer = ffi.new("char[]", capacity)
                status = lib.llc_token_to_piece(self._ptr, token, buffer, capacity, bool(special), count)
                if status != lib.LLC_OK:
                    raise_status(status, f"reading token {token}", NativeError)
                if count[0] >= 0:
                    return bytes(ffi.buffer(buffer, count[0]))
                capacity = -count[0]
        finally:
            self._model._exit()

    def _ask(self, function: Any, token: int) -> Any:
        self._require_tokenizer()  # without one there are numbers of tokens, but upstream asserts when asked about them
        token = self._token(token)
        self._model._enter()
        try:
            return function(self._ptr, token)
        finally:
            self._model._exit()

    def text(self, token: int) -> str:
        """Return the entry of the vocabulary as the file writes it (byte-level BPE: its printable form)."""
        found: str = self._ask(lambda ptr, number: text(lib.llama_vocab_get_text(ptr, number)), token)
        return found

    def score(self, token: int) -> float:
        """Return the score of a token (SPM and unigram vocabularies)."""
        return float(self._ask(lib.llama_vocab_get_score, token))

    def attr(self, token: int) -> TokenAttr:
        """Return the attributes of a token."""
        return TokenAttr(int(self._ask(lib.llama_vocab_get_attr, token)))

    def with_attr(self, attr: TokenAttr) -> list[int]:
        """Return the tokens that have any of the attributes."""
        self._require_tokenizer()
        if not isinstance(attr, int):
            raise InvalidArgumentError(f"{attr!r} is no attribute", hint="combine values of TokenAttr")
        wanted, ptr, get = int(attr), self._ptr, lib.llama_vocab_get_attr
        self._model._enter()
        try:
            return [token for token in range(self._n_tokens) if get(ptr, token) & wanted]
        finally:
            self._model._exit()

    def is_eog(self, token: int) -> bool:
        """Whether the token ends a generation (EOS, EOT and the like)."""
        return bool(self._ask(lib.llama_vocab_is_eog, token))

    def is_control(self, token: int) -> bool:
        """Whether the token is a control token."""
        return bool(self._ask(lib.llama_vocab_is_control, token))

    def _special(self, function: Any) -> int | None:
        self._model._enter()
        try:
            token = int(function(self._ptr))
        finally:
            self._model._exit()
        return None if token == lib.LLAMA_TOKEN_NULL else token

    @property
    def bos(self) -> int | None:
        """Beginning of text; the same token is CLS in models that classify."""
        return self._special(lib.llama_vocab_bos)

    @property
    def eos(self) -> int | None:
        """End of text."""
        return self._special(lib.llama_vocab_eos)

    @property
    def eot(self) -> int | None:
        """End of turn."""
        return self._special(lib.llama_vocab_eot)

    @property
    def sep(self) -> int | None:
        """Separator of sentences."""
        return self._special(lib.llama_vocab_sep)

    @property
    def nl(self) -> int | None:
        """Line feed."""
        return self._special(lib.llama_vocab_nl)

    @property
    def pad(self) -> int | None:
        """Padding."""
        return self._special(lib.llama_vocab_pad)

    @property
    def mask(self) -> int | None:
        """Mask."""
        return self._special(lib.llama_vocab_mask)

    @property
    def fim_pre(self) -> int | None:
        """Fill in the middle: prefix."""
        return self._special(lib.llama_vocab_fim_pre)

    @property
    def fim_suf(self) -> int | None:
        """Fill in the middle: suffix."""
        return self._special(lib.llama_vocab_fim_suf)

    @property
    def fim_mid(self) -> int | None:
        """Fill in the middle: middle."""
        return self._special(lib.llama_vocab_fim_mid)

    @property
    def fim_pad(self) -> int | None:
        """Fill in the middle: padding."""
        return self._special(lib.llama_vocab_fim_pad)

    @property
    def fim_rep(self) -> int | None:
        """Fill in the middle: repository."""
        return self._special(lib.llama_vocab_fim_rep)

    @property
    def fim_sep(self) -> int | None:
        """Fill in the middle: separator of files."""
        return self._special(lib.llama_vocab_fim_sep)

    @property
    def add_bos(self) -> bool:
        """Whether the model wants BOS before a text."""
        return bool(self._special(lib.llama_vocab_get_add_bos))

    @property
    def add_eos(self) -> bool:
        """Whether the model wants EOS after a text."""
        return bool(self._special(lib.llama_vocab_get_add_eos))

    @property
    def add_sep(self) -> bool:
        """Whether the model wants SEP between texts."""
        return bool(self._special(lib.llama_vocab_get_add_sep))

    @property
    def suppress_tokens(self) -> list[int]:
        """Tokens that the model file asks never to sample."""
        count = ffi.new("int32_t *")
        self._model._enter()
        try:
            pointer = lib.llama_vocab_get_suppress_tokens(self._ptr, count)
            return ffi.unpack(pointer, count[0]) if count[0] > 0 else []
        finally:
            self._model._exit()
