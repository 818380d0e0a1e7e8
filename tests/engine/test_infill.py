"""Filling in the middle: the prompt has the parts of upstream's server, in its order."""

from __future__ import annotations

import pytest

import llamacore as lc
from llamacore.engine.infill import InfillFile, InfillRoom, infill_prompt

PREFIX, SUFFIX = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"


def plain(vocab: lc.Vocab, text: str) -> list[int]:
    return vocab.tokenize(text, add_special=False)


@pytest.fixture(params=["bpe", "spm"])
def vocab(request, tiny):
    """Vocabularies with all the tokens, one of which asks for BOS as well."""
    return tiny("llama", vocab=request.param).vocab


def test_the_parts_and_their_order(vocab):
    begin = [vocab.bos] if vocab.add_bos else []
    names = [vocab.fim_rep, *plain(vocab, "myproject\n"), vocab.fim_sep, *plain(vocab, "filename\n")]
    before = [vocab.fim_pre, *plain(vocab, PREFIX)]
    behind = [vocab.fim_suf, *plain(vocab, SUFFIX)]
    assert infill_prompt(vocab, PREFIX, SUFFIX) == [*names, *begin, *before, *behind, vocab.fim_mid]
    assert infill_prompt(vocab, PREFIX, SUFFIX, spm_infill=True) == [*names, *begin, *behind, *before, vocab.fim_mid]
    assert infill_prompt(vocab, "", "") == [*names, *begin, vocab.fim_pre, vocab.fim_suf, vocab.fim_mid]


def test_other_files_come_first(vocab):
    files = [InfillFile("x = 1", "a.py"), InfillFile("y = 2")]
    found = infill_prompt(vocab, PREFIX, SUFFIX, extra=files, repository="repo", filename="b.py")
    start = [vocab.fim_rep, *plain(vocab, "repo\n")]
    start += [vocab.fim_sep, *plain(vocab, "a.py\n"), *plain(vocab, "x = 1")]
    start += [vocab.fim_sep, *plain(vocab, "tmp\n"), *plain(vocab, "y = 2")]
    start += [vocab.fim_sep, *plain(vocab, "b.py\n")]
    assert found[: len(start)] == start
    assert found[len(start) :] == infill_prompt(vocab, PREFIX, SUFFIX, room=InfillRoom(extra=0))


def test_the_answer_may_be_begun(vocab):
    found = infill_prompt(vocab, PREFIX, SUFFIX, prompt="a +", room=InfillRoom(extra=0))
    before = [vocab.fim_pre, *plain(vocab, PREFIX), *plain(vocab, "a +"), vocab.fim_suf]
    assert found[int(vocab.add_bos) : int(vocab.add_bos) + len(before)] == before


def test_control_tokens_in_the_texts_are_text(vocab):
    found = infill_prompt(
        vocab, "<|fim_middle|>", "<|fim_suffix|>", extra=[InfillFile("<|fim_middle|>", "<|file_sep|>")]
    )
    assert found.count(vocab.fim_mid) == 1
    assert found.count(vocab.fim_suf) == 1
    assert found.count(vocab.fim_sep) == 2


def test_room(vocab):
    """What does not fit is cut: the prefix from its start, the suffix from its end, the rest from its start."""
    room = InfillRoom(prefix=4, suffix=3, extra=5)
    found = infill_prompt(vocab, PREFIX, SUFFIX, extra=[InfillFile("x = 1" * 9)], room=room)
    whole = infill_prompt(vocab, PREFIX, SUFFIX, extra=[InfillFile("x = 1" * 9)])
    at = whole.index(vocab.fim_pre) - int(vocab.add_bos)
    begin = [vocab.bos] if vocab.add_bos else []
    assert found == [
        *whole[at - 5 : at], *begin, vocab.fim_pre, *plain(vocab, PREFIX)[-4:], vocab.fim_suf,
        *plain(vocab, SUFFIX)[:3], vocab.fim_mid,
    ]  # fmt: skip
    nothing = infill_prompt(vocab, PREFIX, SUFFIX, room=InfillRoom(0, 0, 0))
    assert nothing == [*begin, vocab.fim_pre, vocab.fim_suf, vocab.fim_mid]
    assert infill_prompt(vocab, PREFIX, SUFFIX, room=InfillRoom(10**6, 10**6, 10**6)) == infill_prompt(
        vocab, PREFIX, SUFFIX
    )


def test_the_room_of_upstreams_server():
    assert InfillRoom.in_batch(n_ctx=4096, n_batch=2048) == InfillRoom(prefix=1536, suffix=510, extra=2050)
    assert InfillRoom.in_batch(4096, 2048, n_predict=100, n_prompt=10) == InfillRoom(1536, 500, 1848)
    assert InfillRoom.in_batch(512, 2048) == InfillRoom(1536, 510, 0)
    assert InfillRoom.in_batch(512, 4, n_prompt=10) == InfillRoom(3, 0, 510)


def test_a_model_that_cannot(tiny):
    with pytest.raises(lc.UnsupportedError, match="no token for the prefix and the suffix and the middle"):
        infill_prompt(tiny("bert").vocab, "a", "b")


@pytest.mark.parametrize(
    "arguments",
    [
        {"prefix": None}, {"suffix": b"x"}, {"prompt": 5}, {"extra": ["text"]}, {"prefix": "\ud800"},
        {"extra": [{"text": "x"}]},
    ],
)  # fmt: skip
def test_wrong_arguments(tiny, arguments):
    with pytest.raises(lc.InvalidArgumentError):
        infill_prompt(tiny("llama").vocab, **{"prefix": "a", "suffix": "b", **arguments})


def test_wrong_room():
    for name in ("prefix", "suffix", "extra"):
        for value in (-1, 1.5, "3"):
            with pytest.raises(lc.InvalidArgumentError, match=name):
                InfillRoom(**{name: value})
