"""The draft model beside the demo model: the same tokenizer, computed as in PyTorch, mostly the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Logits, dequantize, distance

import llamacore as lc
from llamacore import gguf, hub
from tools.corpus import END_OF_TEXT, chat_renderer, stream
from tools.stories import MOODS

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def draft() -> Iterator[lc.Model]:
    """The bundled draft model, loaded."""
    with lc.Model.load(hub.demo_draft_path()) as model:
        yield model


def test_is_much_smaller(demo_path: Path, draft: lc.Model) -> None:
    """A draft that costs as much as the model gives nothing."""
    assert hub.demo_draft_path().stat().st_size < min(1_000_000, demo_path.stat().st_size / 5)
    assert draft.n_layer == 2 and not draft.is_hybrid and not draft.is_recurrent


def test_vocabulary_is_the_models(demo_path: Path, demo: lc.Model, draft: lc.Model) -> None:
    """Every key of the tokenizer is the same, and so are the tokens of text."""
    ours, theirs = (
        {key: value for key, value in gguf.read(path).metadata.items() if key.startswith("tokenizer.")}
        for path in (hub.demo_draft_path(), demo_path)
    )
    assert ours == theirs and len(ours) > 8
    assert [draft.vocab.text(i) for i in range(draft.n_vocab)] == [demo.vocab.text(i) for i in range(demo.n_vocab)]
    for text in [*islice(stream("held-out-draft"), 100), "Zwölf Boxkämpfer 你好 🙂", "<|im_start|>x<think>"]:
        for special in (False, True):
            assert draft.vocab.tokenize(text, parse_special=special) == demo.vocab.tokenize(text, parse_special=special)


def test_says_what_the_model_says_of_held_out_text(
    demo: lc.Model, draft: lc.Model, native_logits: Logits, record_property: Record
) -> None:
    """On text of neither's training the most likely token is the same for nine of ten tokens."""
    tokens = demo.vocab.tokenize(END_OF_TEXT.join(islice(stream("held-out-0"), 80)), parse_special=True)
    windows = [tokens[start : start + 512] for start in range(0, 12 * 512, 512)]
    assert len(windows[-1]) == 512
    same = [native_logits(draft, w).argmax(-1) == native_logits(demo, w).argmax(-1) for w in windows]
    record_property("agreement on held-out text", float(np.mean(same)))
    assert np.mean(same) > 0.9


def test_guesses_what_the_model_writes(
    demo: lc.Model, draft: lc.Model, native_logits: Logits, record_property: Record
) -> None:
    """Of the stories that the model writes, the draft model knows well over four of five next tokens."""
    same = []
    for mood in MOODS:
        asked = [{"role": "user", "content": f"Tell me a story that is {mood}."}]
        prompt = demo.vocab.tokenize(
            chat_renderer().render(messages=asked, add_generation_prompt=True), parse_special=True
        )
        with lc.Llama(demo, n_ctx=512, n_threads=1) as llama:
            written = llama.generate(prompt, max_tokens=150, temperature=0).tokens
        assert len(written) > 30
        guessed = native_logits(draft, [*prompt, *written])[len(prompt) - 1 : -1].argmax(-1)
        same += list(guessed == np.array(written))
    record_property("next tokens guessed of the model's own text", float(np.mean(same)))
    assert np.mean(same) > 0.85


def test_logits_equal_pytorch(tmp_path: Path, native_logits: Logits, torch: Any) -> None:
    """llama.cpp computes what PyTorch computes from the same weights."""
    from tools.export import read_gguf

    network, tokenizer = read_gguf(hub.demo_draft_path())
    tokens = tokenizer.encode("Once upon a time, there was a little fox named Tom. " * 8).ids
    assert len(tokens) > 100
    dequantize(hub.demo_draft_path(), tmp_path / "f32.gguf")
    with lc.Model.load(tmp_path / "f32.gguf") as model:
        native = native_logits(model, tokens)
    with torch.no_grad():
        assert distance(native, network.logits(torch.tensor([tokens]))[0].numpy()) < 1e-3


def test_training_teaches_the_teachers_tokens(torch: Any) -> None:
    """The loss is the divergence from the teacher: it falls when the draft model says more of what the teacher says."""
    from tools.draft_model import DraftConfig
    from tools.model import Model, ModelConfig
    from tools.pupils import DraftPupil

    torch.manual_seed(0)
    teacher = Model(ModelConfig(n_vocab=64)).eval()
    with torch.no_grad():
        teacher.token_embd.weight.mul_(20)
    pupil = DraftPupil(DraftConfig(n_vocab=64), teacher)
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=1e-2)
    tokens = torch.randint(0, 64, (4, 33))
    losses = []
    for _ in range(20):
        loss = pupil(tokens, 0.0, torch.ones(tokens.shape))[0]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any("teacher" in name for name in pupil.state_dict())
