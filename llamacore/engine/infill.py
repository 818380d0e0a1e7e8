"""Prompts for filling in the middle: what stands before and after a gap, for a model that was trained to fill it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InvalidArgumentError, UnsupportedError

if TYPE_CHECKING:
    from ..core.vocab import Vocab

# where a model has no token between files, as upstream's server writes it
_SNIPPET = "\n\n--- snippet ---\n\n"


@dataclass(frozen=True)
class InfillFile:
    """A file, or a part of one, that a model should know when it fills a gap.

    Attributes:
        text: What is in it.
        filename: Its name.
    """

    text: str
    filename: str = "tmp"


@dataclass(frozen=True)
class InfillRoom:
    """How many tokens there are for the parts of a prompt; None for no limit.

    Attributes:
        prefix: Tokens of the text before the gap; its end is kept.
        suffix: Tokens of the text behind the gap; its beginning is kept.
        extra: Tokens of the other files, their names included; their end is kept.
    """

    prefix: int | None = None
    suffix: int | None = None
    extra: int | None = None

    def __post_init__(self) -> None:
        for name in ("prefix", "suffix", "extra"):
            value = getattr(self, name)
            if value is not None and not (hasattr(value, "__index__") and value >= 0):
                raise InvalidArgumentError(f"{name}={value!r}", hint="give 0 or more tokens, or None for no limit")

    @classmethod
    def in_batch(cls, n_ctx: int, n_batch: int, n_predict: int = -1, n_prompt: int = 0) -> InfillRoom:
        """The room that upstream's server gives: three quarters of a batch before the gap, one behind it.

        Args:
            n_ctx: Tokens of context.
            n_batch: Tokens of a batch.
            n_predict: Most tokens to generate, as upstream writes it: -1 for no limit.
            n_prompt: Tokens that the answer is begun with.
        """
        return cls(
            prefix=3 * (n_batch // 4),
            suffix=max(0, n_batch // 4 - (2 + n_prompt)),
            extra=max(0, n_ctx - n_batch - 2 * n_predict),
        )


def infill_prompt(
    vocab: Vocab,
    prefix: str,
    suffix: str,
    *,
    extra: Sequence[InfillFile] = (),
    prompt: str = "",
    repository: str = "myproject",
    filename: str = "filename",
    spm_infill: bool = False,
    room: InfillRoom | None = None,
) -> list[int]:
    """Write a prompt for filling in the middle, as upstream's server does for `/infill`.

    The order is: repository and other files, where the vocabulary has tokens for them; BOS, where the model wants it;
    prefix, suffix, and the token that asks for the middle. Control tokens in the texts stay plain text.

    Args:
        vocab: The vocabulary of the model.
        prefix: Text before the gap.
        suffix: Text behind the gap.
        extra: Other files, the most important last.
        prompt: Beginning of what fills the gap.
        repository: Name of the project; written only where the vocabulary has a token for it.
        filename: Name of the file with the gap; written only where the vocabulary has a token between files.
        spm_infill: Put the suffix before the prefix, as some models were trained (upstream: `--spm-infill`).
        room: How many tokens there are for each part; what does not fit is cut. None cuts nothing.

    Returns:
        The token ids.

    Raises:
        UnsupportedError: The vocabulary has no tokens for this.
        InvalidArgumentError: An argument is no text.
    """
    pre, suf, mid = _markers(vocab)
    room = room or InfillRoom()
    for name, text in (("prefix", prefix), ("suffix", suffix), ("prompt", prompt)):
        if not isinstance(text, str):
            raise InvalidArgumentError(f"{name} is {type(text).__name__}", hint="give a string")
    before = _end(_plain(vocab, prefix), room.prefix)
    behind = _plain(vocab, suffix)[: room.suffix]
    # the beginning of the answer may hold control tokens: it is the caller's, as upstream takes it
    before = [pre, *before, *vocab.tokenize(prompt, add_special=False, parse_special=True)]
    behind = [suf, *behind]
    others = _end(_others(vocab, extra, repository, filename), room.extra)
    begin = [vocab.bos] if vocab.add_bos and vocab.bos is not None else []
    gap = [*behind, *before] if spm_infill else [*before, *behind]
    return [*others, *begin, *gap, mid]


def _markers(vocab: Vocab) -> tuple[int, int, int]:
    found = {"prefix": vocab.fim_pre, "suffix": vocab.fim_suf, "middle": vocab.fim_mid}
    missing = [name for name, token in found.items() if token is None]
    if missing:
        raise UnsupportedError(
            f"this model cannot fill in the middle: it has no token for the {' and the '.join(missing)}",
            hint="use a model that was trained for it, such as a coder model",
        )
    pre, suf, mid = found.values()
    assert pre is not None
    assert suf is not None
    assert mid is not None
    return pre, suf, mid


def _others(vocab: Vocab, extra: Sequence[InfillFile], repository: str, filename: str) -> list[int]:
    tokens: list[int] = []
    if vocab.fim_rep is not None:
        tokens += [vocab.fim_rep, *_plain(vocab, f"{repository}\n")]
    for file in extra:
        if not isinstance(file, InfillFile):
            raise InvalidArgumentError(f"extra has {type(file).__name__}", hint="give a list of InfillFile")
        if vocab.fim_sep is not None:
            tokens += [vocab.fim_sep, *_plain(vocab, f"{file.filename}\n")]
        else:
            tokens += _plain(vocab, _SNIPPET)
        tokens += _plain(vocab, file.text)
    if vocab.fim_sep is not None:
        tokens += [vocab.fim_sep, *_plain(vocab, f"{filename}\n")]
    return tokens


def _plain(vocab: Vocab, text: str) -> list[int]:
    return vocab.tokenize(text, add_special=False, parse_special=False)


def _end(tokens: list[int], room: int | None) -> list[int]:
    return tokens if room is None else tokens[len(tokens) - min(room, len(tokens)) :]
