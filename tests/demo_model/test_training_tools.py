"""The scripts that make the model: text from a seed, and a network whose fast form is its slow form."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import pytest

from tools.corpus import SHARES, chat_renderer, draw_document, stream
from tools.stories import MOODS, draw_story


def test_stream_repeats_from_its_seed() -> None:
    """One seed, one text; another seed, another text."""
    assert list(islice(stream("a"), 50)) == list(islice(stream("a"), 50))
    assert len(set(islice(stream("a"), 50)) & set(islice(stream("b"), 50))) < 10  # short answers recur


def test_every_kind_of_document_is_drawn() -> None:
    """All kinds appear, and no place of a template is left open."""
    rng, renderer = random.Random(0), chat_renderer()
    drawn = [draw_document(rng, renderer) for _ in range(1000)]
    assert {kind for kind, _ in drawn} == set(SHARES)
    for kind, text in drawn:
        assert text == text.strip()
        assert kind in ("tool_chat", "json_chat") or "{" not in text


@pytest.mark.parametrize("mood", MOODS)
def test_stories_vary(mood: str) -> None:
    """A thousand stories of a mood are all different and name their hero."""
    rng = random.Random(0)
    stories = [draw_story(rng, mood) for _ in range(1000)]
    assert len({story.text for story in stories}) == 1000
    assert all(story.mood == mood and story.name in story.text and story.kind in story.text for story in stories)


@pytest.mark.parametrize("n_tok", [1, 31, 32, 33, 130])
def test_chunked_delta_rule_is_the_recurrent_one(n_tok: int, torch: Any) -> None:
    """The form used in training equals the definition, in float64."""
    from tools.model import chunked_delta_rule, recurrent_delta_rule

    torch.manual_seed(n_tok)
    q, k, v = torch.randn(3, 2, 3, n_tok, 16, dtype=torch.float64)
    k = k / k.norm(dim=-1, keepdim=True)
    g, beta = -torch.rand(2, 3, n_tok, dtype=torch.float64), torch.rand(2, 3, n_tok, dtype=torch.float64)
    torch.testing.assert_close(chunked_delta_rule(q, k, v, g, beta), recurrent_delta_rule(q, k, v, g, beta))


def test_chunked_delta_rule_holds_when_keys_are_alike(torch: Any) -> None:
    """Nearly equal keys make the system of a chunk ill-natured; float32 outputs and gradients stay right."""
    from tools.model import chunked_delta_rule, recurrent_delta_rule

    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 130, 32)
    k = k + 3 * torch.randn(32)
    k = (k / k.norm(dim=-1, keepdim=True)).requires_grad_()
    g, beta = -0.05 * torch.rand(2, 3, 130), torch.rand(2, 3, 130)
    found = []
    for rule in (chunked_delta_rule, recurrent_delta_rule):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rule is chunked_delta_rule):
            out = rule(q, k, v, g, beta)
        (gradient,) = torch.autograd.grad(out.square().sum(), k)
        found.append((out, gradient))
    (ours, our_gradient), (theirs, their_gradient) = found
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()
    assert (our_gradient - their_gradient).norm() < 1e-5 * their_gradient.norm()


def test_drafts_see_no_later_state(torch: Any) -> None:
    """Row `t` of the MTP block depends on tokens up to `t`, and on nothing after."""
    from tools.model import Model, ModelConfig

    torch.manual_seed(0)
    model = Model(ModelConfig(n_vocab=64)).eval()
    tokens = torch.randint(0, 64, (1, 70))
    other = tokens.clone()
    other[0, 40:] = (other[0, 40:] + 1) % 64
    with torch.no_grad():
        for ours, theirs in zip(model.states(tokens, n_draft=2), model.states(other, n_draft=2), strict=True):
            torch.testing.assert_close(ours[:, :40], theirs[:, :40])
            assert not torch.allclose(ours[:, 40:], theirs[:, 40:])


def test_mtp_block_learns_from_the_trunk(torch: Any) -> None:
    """Its guesses come closer to what the trunk says, the last ones too, and the trunk stays as it is."""
    from tools.model import Model, ModelConfig
    from tools.pupils import MtpPupil

    torch.manual_seed(0)
    model = Model(ModelConfig(n_vocab=64)).eval()
    with torch.no_grad():
        model.token_embd.weight.mul_(20)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pupil = MtpPupil(model)
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=1e-2)
    tokens = torch.randint(0, 64, (4, 33))
    losses = []
    for _ in range(20):
        loss, first, last = pupil(tokens, 0.0, torch.ones(tokens.shape))
        losses.append((float(first), float(last)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(after < 0.7 * start for start, after in zip(losses[0], losses[-1], strict=True))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
