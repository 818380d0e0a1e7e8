"""Small vocabularies of the four tokenizer families of llama.cpp, made from a short word list, of any size.

Every text can be tokenised with each of them (WPM lower-cases and maps what it does not know to `[UNK]`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from string import ascii_letters, ascii_lowercase, digits, punctuation

from ..errors import InvalidArgumentError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # enum llama_token_type

_TEXT = """
    the of and to in is you that it he was for on are with as his they be at one have this from or had by hot word but
    what some we can out other were all there when up use your how said an each she which do their time if will way
    about many then them write would like so these her long make thing see him two has look more day could go come
"""
WORDS = _TEXT.split()

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CONTROL_TOKENS = {
    "<|endoftext|>": ("bos", "padding"),
    "<|im_start|>": (),
    "<|im_end|>": ("eos", "eot"),
    "<|fim_prefix|>": ("fim_pre",),
    "<|fim_middle|>": ("fim_mid",),
    "<|fim_suffix|>": ("fim_suf",),
    "<|fim_pad|>": ("fim_pad",),
    "<|repo_name|>": ("fim_rep",),
    "<|file_sep|>": ("fim_sep",),
}
MARK_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")


@dataclass(frozen=True)
class Vocabulary:
    """What the `tokenizer.*` metadata of a model says.

    Attributes:
        model: `tokenizer.ggml.model`: gpt2 (byte-level BPE), llama (SPM), bert (WPM) or t5 (UGM).
        tokens: Token texts as the file stores them; the index is the token id.
        types: `enum llama_token_type` of each token.
        special: Token id by role, named as in `tokenizer.ggml.<role>_token_id`.
        pre: Pre-tokenizer of a BPE vocabulary.
        merges: BPE merges, best first.
        scores: Token scores of an SPM or UGM vocabulary.
        flags: Other keys below `tokenizer.ggml`.
    """

    model: str
    tokens: Sequence[str]
    types: Sequence[int]
    special: Mapping[str, int]
    pre: str = ""
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    flags: Mapping[str, bool | int] = field(default_factory=dict)


def _byte_texts() -> list[str]:
    """The printable character that stands for each byte in a byte-level BPE vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    texts = [""] * 256
    for byte in printable:
        texts[byte] = chr(byte)
    others = (byte for byte in range(256) if not texts[byte])
    for i, byte in enumerate(others):
        texts[byte] = chr(256 + i)
    return texts


def _word_merges(space: str) -> Iterator[tuple[str, str]]:
    for word in WORDS:
        for text in (word, space + word):
            for end in range(1, len(text)):
                yield text[:end], text[end]


def _letter_merges(space: str) -> Iterator[tuple[str, str]]:
    """Every string of letters, shorter ones first, as its stem and its last letter: over 14 million tokens."""
    stems = [space, *ascii_lowercase]
    for _ in range(4):
        longer = [(stem, letter) for stem in stems for letter in ascii_lowercase]
        yield from longer
        stems = [stem + letter for stem, letter in longer]


def _pieces(space: str, room: int | None) -> list[tuple[str, str]]:
    """Merges that give `room` distinct tokens (None: only those of the word list), in the order they are learned."""
    seen: set[str] = set()

    def distinct() -> Iterator[tuple[str, str]]:
        for merges in (_word_merges(space), _letter_merges(space)) if room is not None else (_word_merges(space),):
            for left, right in merges:
                if left + right not in seen:
                    seen.add(left + right)
                    yield left, right

    return list(islice(distinct(), room))


def _room(n_vocab: int | None, n_fixed: int) -> int | None:
    if n_vocab is None:
        return None
    if n_vocab < n_fixed:
        raise InvalidArgumentError(
            f"a vocabulary of {n_vocab} tokens was asked for, and {n_fixed} are always in it", hint="raise n_vocab"
        )
    return n_vocab - n_fixed


def _special_ids(first: int) -> dict[str, int]:
    return {role: first + i for i, roles in enumerate(CONTROL_TOKENS.values()) for role in roles}


def bpe(n_vocab: int | None) -> Vocabulary:
    """Byte-level BPE with ChatML, fill-in-the-middle, thinking and tool tokens; at least 269 tokens."""
    alphabet = _byte_texts()
    extra = [*CONTROL_TOKENS, *MARK_TOKENS]
    merges = _pieces(alphabet[ord(" ")], _room(n_vocab, len(alphabet) + len(extra)))
    tokens = [*alphabet, *(left + right for left, right in merges), *extra]
    types = [NORMAL] * (len(tokens) - len(extra)) + [CONTROL] * len(CONTROL_TOKENS) + [USER_DEFINED] * len(MARK_TOKENS)
    return Vocabulary(
        model="gpt2",
        pre="gpt-2",
        tokens=tokens,
        types=types,
        merges=[f"{left} {right}" for left, right in merges],
        special=_special_ids(len(tokens) - len(extra)),
        flags={"add_bos_token": False},
    )


def spm(n_vocab: int | None) -> Vocabulary:
    """SentencePiece BPE with byte fallback, `<unk>`, `<s>`, `</s>` and the tokens of `bpe`; at least 367 tokens."""
    space = "\u2581"
    first = ["<unk>", "<s>", "</s>"]
    by = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = [space, *(chr(code) for code in range(0x21, 0x7F))]
    extra = [*CONTROL_TOKENS, *MARK_TOKENS]
    pieces = _pieces(space, _room(n_vocab, len(first) + len(by) + len(letters) + len(extra)))
    words = [left + right for left, right in pieces]
    special = _special_ids(len(first) + len(by) + len(words) + len(letters))
    special.update(unknown=0, bos=1, eos=2)
    return Vocabulary(
        model="llama",
        tokens=[*first, *by, *words, *letters, *extra],
        types=[
            *(UNKNOWN, CONTROL, CONTROL),
            *[BYTE] * len(by),
            *[NORMAL] * (len(words) + len(letters)),
            *[CONTROL] * len(CONTROL_TOKENS),
            *[USER_DEFINED] * len(MARK_TOKENS),
        ],
        scores=[
            *[0.0] * (len(first) + len(by)),
            *(-float(i) for i in range(len(words) + len(letters))),
            *[0.0] * len(extra),
        ],
        special=special,
        flags={"add_bos_token": True, "add_eos_token": False},
    )


def wpm(n_vocab: int | None) -> Vocabulary:
    """WordPiece of lower-case words and single characters; at least 143 tokens."""
    space = "\u2581"
    special = {"padding": 0, "unknown": 1, "bos": 2, "cls": 2, "eos": 3, "seperator": 3, "mask": 4}
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    starts = [space + c for c in ascii_lowercase + digits + punctuation]
    inner = list(ascii_lowercase + digits)
    room = _room(n_vocab, len(first) + len(starts) + len(inner))
    known = {*starts, *inner, space}
    words = [left + right for left, right in _pieces(space, None if room is None else room + len(starts))]
    words = [word for word in words if word not in known][:room]
    tokens = [*first, *starts, *inner, *words]
    return Vocabulary(
        model="bert",
        tokens=tokens,
        types=[CONTROL, UNKNOWN, CONTROL, CONTROL, CONTROL] + [NORMAL] * (len(tokens) - len(first)),
        special=special,
        flags={"token_type_count": 2},
    )


def ugm(n_vocab: int | None) -> Vocabulary:
    """SentencePiece unigram of words and ASCII characters; at least 98 tokens."""
    space = "\u2581"
    first = ["<pad>", "</s>", "<unk>"]
    letters = [space, *ascii_letters, *digits, *punctuation]
    words = [left + right for left, right in _pieces(space, _room(n_vocab, len(first) + len(letters)))]
    return Vocabulary(
        model="t5",
        tokens=[*first, *letters, *words],
        types=[CONTROL, CONTROL, UNKNOWN] + [NORMAL] * (len(letters) + len(words)),
        scores=[0.0] * len(first) + [-12.0] * len(letters) + [-8.0 - 1e-5 * i for i in range(len(words))],
        special={"padding": 0, "eos": 1, "unknown": 2},
        flags={"add_bos_token": False, "add_eos_token": True, "add_space_prefix": True},
    )


KINDS = {"bpe": bpe, "spm": spm, "wpm": wpm, "ugm": ugm}
