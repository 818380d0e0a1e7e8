"""Tokens, text, logits and perplexity are those of upstream's own tools, built from the same source."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from upstream_tools import UpstreamTools

import llamacore as lc

PROMPTS = (
    "Once upon a time",
    "The dog was very angry because",
    "What is the capital of France?",
    "1, 2, 3, 4,",
    "<|im_start|>user\nTell me a happy story.<|im_end|>\n<|im_start|>assistant\n",
    "Ein Märchen: 昔々、🙂 there was",
)
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz      ",
    "ABC def 0123456789 .,;:!?'\"()[]{}<>|/\\-_=+*&^%$#@~`",
    " \t\n\r\x0b\u00a0\u2003\u3000",
    "äöüßéèñçøåœαβγδЖдюяשלוםمرحبا",
    "日本語テスト中文测试한국어",
    "🙂👍🏽👨‍👩‍👧‍👦🇩🇪🏳️‍🌈",
    "\x01\x7f\u0300\u0301\u200b\u200d\ufeff\ufffd\U0010ffff",
)
PHRASES = (
    " leading space", "trailing space ", "don't we'll I'm THEY'VE", "1234567890 12 345", "a\n\n\nb\n", "\n", " ",
    "x" * 500,
    "<|im_start|>user\nhi<|im_end|>", "<|im_start|", "<think>\n</think>", "<tool_call>{\"name\": \"say\"}</tool_call>",
    "https://example.org/a?b=c&d=%20", "def f(x):\n    return x ** 2  # square\n", "\\n \\t \\x41",
)  # fmt: skip


def strings() -> list[str]:
    """Two hundred strings: the phrases, and random mixtures of the alphabets."""
    generator = random.Random(7)
    mixtures = []
    for _ in range(200 - len(PHRASES)):
        parts = [generator.choices(generator.choice(ALPHABETS), k=generator.randrange(1, 12)) for _ in range(4)]
        mixtures.append("".join(letter for part in parts for letter in part))
    return [*PHRASES, *mixtures]


def llama_tokenize(upstream: UpstreamTools, text: str, *, parse_special: bool) -> list[int]:
    options = ["--ids", "--log-disable", "--no-escape", "--stdin"]
    if not parse_special:
        options.append("--no-parse-special")
    tokens: list[int] = json.loads(upstream.run("llama-tokenize", *options, text=text.encode()).stdout)
    return tokens


def test_tokens_are_those_of_llama_tokenize(llama: lc.Llama, upstream: UpstreamTools) -> None:
    for number, text in enumerate(strings()):
        parse_special = number % 2 == 0
        expected = llama_tokenize(upstream, text, parse_special=parse_special)
        assert llama.tokenize(text, parse_special=parse_special) == expected, repr(text)


@pytest.mark.parametrize("parse_special", [False, True])
def test_tokens_of_a_long_text_are_those_of_llama_tokenize(
    llama: lc.Llama, upstream: UpstreamTools, parse_special: bool
) -> None:
    text = "\n".join(strings()) * 5
    expected = llama_tokenize(upstream, text, parse_special=parse_special)
    assert llama.tokenize(text, parse_special=parse_special) == expected


def completion(upstream: UpstreamTools, prompt: str, *arguments: str) -> str:
    options = ("--no-escape", "-no-cnv", "--no-display-prompt", "--no-warmup", "--simple-io", "--no-perf", "-lv", "0")
    answer = upstream.run("llama-completion", "-p", prompt, "-n", "48", "-c", "1024", *options, *arguments)
    return answer.stdout.decode("utf-8", "replace")


def ours(llama: lc.Llama, prompt: str, **options: object) -> str:
    result = llama.generate(prompt, max_tokens=48, parse_special=True, **options)  # type: ignore[arg-type]
    return result.text + (" [end of text]" if result.finish_reason == "stop" else "")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_that_of_llama_completion(llama: lc.Llama, upstream: UpstreamTools, prompt: str) -> None:
    expected = completion(upstream, prompt, "--temp", "0")
    assert ours(llama, prompt, temperature=0.0).strip() == expected.strip()
    assert expected.strip()


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("--seed", "42"), {"seed": 42}),
        (("--seed", "3", "--temp", "1.5", "--top-k", "0", "--top-p", "0.8"),
         {"seed": 3, "temperature": 1.5, "top_k": 0, "top_p": 0.8}),
        (("--seed", "5", "--repeat-penalty", "1.3", "--presence-penalty", "0.5", "--dry-multiplier", "0.8"),
         {"seed": 5, "penalty_repeat": 1.3, "penalty_present": 0.5, "dry_multiplier": 0.8}),
        (("--seed", "6", "--mirostat", "2"), {"seed": 6, "mirostat": 2}),
    ],
    ids=["default", "hot", "penalties", "mirostat"],
)  # fmt: skip
def test_sampled_text_is_that_of_llama_completion(
    llama: lc.Llama, upstream: UpstreamTools, arguments: Sequence[str], options: dict[str, object]
) -> None:
    for prompt in PROMPTS[:3]:
        expected = completion(upstream, prompt, "--ignore-eos", *arguments)
        assert ours(llama, prompt, ignore_eos=True, **options).strip() == expected.strip()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_are_those_of_llama_debug(llama: lc.Llama, upstream: UpstreamTools, tmp_path: Path, prompt: str) -> None:
    upstream.run(
        "llama-debug", "-p", prompt, "--no-escape", "--no-warmup", "-c", "1024",
        "--save-logits", "--logits-output-dir", str(tmp_path),
    )  # fmt: skip
    stem = f"llamacpp-{upstream.model.stem}"
    expected = np.fromfile(tmp_path / f"{stem}.bin", dtype=np.float32)
    tokens = np.fromfile(tmp_path / f"{stem}-tokens.bin", dtype=np.int32).tolist()
    assert llama.tokenize(prompt) == tokens
    llama.context.memory.clear()
    batch = lc.Batch(len(tokens))
    batch.add_tokens(tokens)
    llama.context.decode(batch)
    np.testing.assert_allclose(llama.context.logits(), expected, rtol=0, atol=1e-5)


def test_perplexity_is_that_of_llama_perplexity(llama: lc.Llama, upstream: UpstreamTools, tmp_path: Path) -> None:
    n_ctx = 128
    text = llama.generate("Once upon a time", max_tokens=5 * n_ctx, ignore_eos=True, seed=1).text
    file = tmp_path / "text"
    file.write_text(text, encoding="utf-8")
    sizes = ("-c", str(n_ctx), "-b", str(n_ctx))
    answer = upstream.run("llama-perplexity", "-f", str(file), "--no-escape", "--no-warmup", *sizes)
    found = re.search(rb"Final estimate: PPL = ([0-9.]+)", answer.stdout + answer.stderr)
    assert found is not None
    assert perplexity(llama.model, text.rstrip("\n"), n_ctx) == pytest.approx(float(found[1]), rel=2e-5)


def perplexity(model: lc.Model, text: str, n_ctx: int) -> float:
    """Of the second half of each full window, as upstream counts it."""
    tokens = model.vocab.tokenize(text)
    first, losses = n_ctx // 2, []
    with model.context(n_ctx=n_ctx, n_batch=n_ctx, n_threads=1) as context:
        for start in range(0, len(tokens) - n_ctx + 1, n_ctx):
            window = tokens[start : start + n_ctx]
            if model.vocab.add_bos:
                window = [model.vocab.bos or 0, *window[1:]]
            context.memory.clear()
            batch = lc.Batch(n_ctx)
            for position, token in enumerate(window):
                batch.add(token, position, output=position >= first)
            context.decode(batch)
            losses += [-context.logprobs(i, token=window[i + 1])[0] for i in range(first, n_ctx - 1)]
    return math.exp(sum(losses) / len(losses))
