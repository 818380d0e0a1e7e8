"""Text and tokens, for every kind of tokenizer."""

from __future__ import annotations

import math
import random
import threading

import pytest

import llamacore as lc

KINDS = {"bpe": "llama", "spm": "gemma3", "wpm": "bert", "ugm": "t5"}
TEXTS = ["", " ", "hello world", "The other day; 12 times!", "a\nb\tc", "x" * 300, "  two  spaces  "]


@pytest.fixture(params=KINDS)
def vocab(request, tiny):
    """The vocabulary of one kind."""
    vocab = tiny(KINDS[request.param]).vocab
    assert vocab.type == request.param
    return vocab


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(vocab, text):
    """Detokenised tokens are the text again, where the kind of tokenizer keeps it."""
    tokens = vocab.tokenize(text, add_special=False)
    assert all(0 <= token < len(vocab) for token in tokens)
    back = vocab.detokenize(tokens)
    if vocab.type == "bpe":
        assert back == text
    elif vocab.type == "spm":
        assert back == text or back == text.lstrip(" ") or back == f" {text}"
    elif text.isprintable():  # word pieces are lower case and separated anew
        assert "".join(back.lower().split()) == "".join(text.lower().split())


def test_bytes_that_are_no_text(tiny):
    """Bytes are taken as they are, and pieces are bytes: half a character is no error."""
    vocab = tiny().vocab
    assert vocab.tokenize(b"hello") == vocab.tokenize("hello") == vocab.tokenize(memoryview(b"hello"))
    emoji = "\N{PARTY POPPER}"
    tokens = vocab.tokenize(emoji)
    assert b"".join(vocab.token_to_piece(token) for token in tokens) == emoji.encode()
    assert vocab.detokenize_bytes(tokens[:1]) == emoji.encode()[:1]
    assert vocab.detokenize(tokens[:1]) == "\ufffd"
    assert vocab.tokenize("a\0b") == [*vocab.tokenize("a"), *vocab.tokenize("\0"), *vocab.tokenize("b")]
    refused = 0
    for noise in (random.Random(seed).randbytes(200) for seed in range(20)):
        try:
            assert vocab.tokenize(noise)
        except lc.InvalidArgumentError as error:
            refused += 1
            assert "UTF-8" in str(error)
    assert refused < 20


def test_special_tokens(vocab):
    """BOS and EOS are added where the model wants them, and control tokens are read only when asked."""
    plain, special = vocab.tokenize("hello", add_special=False), vocab.tokenize("hello")
    expected = [*([vocab.bos] if vocab.add_bos or vocab.type == "wpm" else []), *plain]
    if vocab.add_eos or vocab.type == "wpm":
        expected.append(vocab.sep if vocab.type == "wpm" else vocab.eos)
    assert special == expected
    if vocab.type in ("bpe", "spm"):
        start = vocab.tokenize("<|im_start|>", add_special=False, parse_special=True)
        assert len(start) == 1 and vocab.is_control(start[0])
        assert len(vocab.tokenize("<|im_start|>", add_special=False)) > 1
        assert vocab.detokenize(start) == "<|im_start|>"
        assert vocab.detokenize(start, unparse_special=False) == ""
        assert vocab.token_to_piece(start[0]) == b"<|im_start|>"
        assert vocab.token_to_piece(start[0], special=False) == b""


def test_the_entries(vocab):
    """Every token has a text, a score, attributes and a piece; the special ones are in the vocabulary."""
    assert len(vocab) == vocab.n_tokens
    for token in range(len(vocab)):
        assert vocab.text(token)
        assert math.isfinite(vocab.score(token))
        assert vocab.attr(token) != lc.TokenAttr(0)
        assert isinstance(vocab.token_to_piece(token), bytes)
        assert vocab.is_control(token) == bool(vocab.attr(token) & lc.TokenAttr.CONTROL)
    names = (
        "bos", "eos", "eot", "sep", "nl", "pad", "mask", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep",
        "fim_sep",
    )  # fmt: skip
    found = [getattr(vocab, name) for name in names]
    assert any(token is not None for token in found)
    assert all(token is None or 0 <= token < len(vocab) for token in found)
    assert vocab.eos is not None and vocab.is_eog(vocab.eos)
    assert isinstance(vocab.add_sep, bool) and vocab.suppress_tokens == []


def test_long_text(vocab):
    """A megabyte without a space neither overflows a stack nor takes for ever."""
    text = "ab" * 2**17 if vocab.type in ("wpm", "ugm") else "a" * 2**20
    tokens = vocab.tokenize(text, add_special=False)
    assert tokens
    if vocab.type == "bpe":
        assert vocab.detokenize(tokens) == text


def test_several_threads(tiny):
    """A vocabulary is used by several threads at once without errors or mixed results."""
    vocab = tiny().vocab
    expected = [vocab.tokenize(text) for text in TEXTS]
    wrong = []

    def work():
        for _ in range(50):
            found = [vocab.tokenize(text) for text in TEXTS]
            if found != expected:
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_model_without_a_tokenizer(tiny_path):
    """It has numbers of tokens and nothing else; upstream would end the process when asked for more."""
    path = tiny_path(metadata={"tokenizer.ggml.model": "none", "llama.vocab_size": 580})
    with lc.Model.load(path) as model:
        vocab = model.vocab
        assert (vocab.type, len(vocab), vocab.bos, vocab.eos, vocab.add_bos) == ("none", 580, None, None, False)
        for refused in (
            lambda: vocab.tokenize("a"),
            lambda: vocab.detokenize([1]),
            lambda: vocab.token_to_piece(1),
            lambda: vocab.text(1),
            lambda: vocab.score(1),
            lambda: vocab.attr(1),
            lambda: vocab.is_eog(1),
            lambda: vocab.is_control(1),
        ):
            with pytest.raises(lc.UnsupportedError, match="tokenizer"):
                refused()
        with model.context(n_ctx=256) as ctx:
            ctx.warmup()


def test_the_vocabulary_keeps_its_model_alive(tiny_path):
    """Held alone it works on, because it holds the model."""
    vocab = lc.Model.load(tiny_path()).vocab
    assert vocab.tokenize("hello")
    vocab._model.close()
    with pytest.raises(lc.ClosedError):
        vocab.tokenize("hello")
