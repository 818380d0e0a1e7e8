"""`llamacore bench spec`: what speculation gains with a model on this machine."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from llamacore.core.model import Model
from llamacore.engine.speculation.params import DraftModel, Mtp, Ngram, Speculative
from llamacore.errors import InvalidArgumentError, LlamaCoreError, UnsupportedError
from llamacore.hub import demo_draft_path, demo_model_path
from llamacore.llama import Llama

from ._devices import gpu_layers_of
from ._errors import reported
from ._terminal import loading_progress, note

app = typer.Typer(help="Measure a model on this machine.", no_args_is_help=True)

PROMPTS = tuple(f"Tell me {mood} story." for mood in ("a happy", "a sad", "an angry", "a calm"))
BASELINE = "plain"


@dataclass(frozen=True)
class Run:
    """All texts of a round with one method.

    Attributes:
        tokens: The texts.
        seconds: Wall time, prompts included.
        steps: Batches that were decoded.
        positions: For each place of a draft, how many tokens were drafted there and how many accepted.
        failure: Why drafting ended early, if it did.
    """

    tokens: tuple[tuple[int, ...], ...]
    seconds: float
    steps: int
    positions: tuple[tuple[int, int], ...] = ()
    failure: str | None = None

    @property
    def rate(self) -> float:
        """Generated tokens per second."""
        return sum(map(len, self.tokens)) / self.seconds


@dataclass(frozen=True)
class Result:
    """The figures of a method.

    Attributes:
        method: Its name.
        n_max: Most tokens of a draft.
        tokens_per_second: Median of the rounds.
        gain: Median of the rounds' ratios to plain decoding of the same round.
        tokens_per_step: Generated tokens of a text over decoded batches; 1 for plain decoding.
        drafted: Tokens that were drafted.
        accepted: Those of them that were right.
        acceptance: For each place of a draft, accepted over drafted tokens; None where nothing was drafted.
        same_texts: Texts that are the baseline's, token for token.
        failure: Why drafting ended early, if it did.
    """

    method: str
    n_max: int
    tokens_per_second: float
    gain: float
    tokens_per_step: float
    drafted: int
    accepted: int
    acceptance: tuple[float | None, ...]
    same_texts: int
    failure: str | None


@app.command()
def spec(
    model: Annotated[Path | None, typer.Argument(help="GGUF file; default: the bundled demo model.")] = None,
    draft_model: Annotated[
        Path | None,
        typer.Option(
            "--draft-model",
            "-md",
            help="GGUF file of a draft model; default for the demo model: its own.",
            show_default=False,
        ),
    ] = None,
    draft_max: Annotated[
        int | None, typer.Option("--draft-max", "--draft", help="Most tokens of a draft.", show_default=False)
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="A prompt (repeat); default: four stories.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompts as they are: no chat template.")] = False,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Most tokens of a text.")] = 128,
    streams: Annotated[int, typer.Option("--streams", help="Texts at a time.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", "-r", help="Rounds, in which all methods take turns.")] = 5,
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", help="Threads; default: physical cores.", show_default=False)
    ] = None,
    gpu_layers: Annotated[
        str | None,
        typer.Option("-ngl", "--gpu-layers", help="Layers on the GPU: a number, 'all' or 'none'.", show_default=False),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False,
) -> None:
    """Measure what each way of drafting gains over plain decoding, greedily, with every way that the model allows.

    The methods take turns in each round, in another order each time; figures are medians of the rounds.
    """  # fmt: skip
    with reported():
        for name, value in (("--max-tokens", max_tokens), ("--streams", streams), ("--rounds", rounds)):
            if value < 1:
                raise InvalidArgumentError(f"{name} {value}", hint="give 1 or more")
        if model is None:
            draft_model = draft_model or demo_draft_path()
            note(f"no model given: using the bundled demo model {demo_model_path().name}", quiet=quiet)
        layers, progress = gpu_layers_of(gpu_layers), loading_progress(quiet)
        with contextlib.ExitStack() as opened:
            target = opened.enter_context(
                Model.load(model or demo_model_path(), load_mtp=True, n_gpu_layers=layers, progress=progress)
            )
            draft = (
                opened.enter_context(Model.load(draft_model, n_gpu_layers=layers)) if draft_model is not None else None
            )
            bench = _Bench(target, draft, draft_max, max_tokens, streams, threads)
            report = bench.report(list(prompt or PROMPTS), raw, rounds, quiet)
        print(json.dumps(report) if json_output else "\n".join(_table(report)))


class _Bench:
    """The methods that a model allows, and their turns."""

    def __init__(
        self,
        model: Model,
        draft: Model | None,
        draft_max: int | None,
        max_tokens: int,
        streams: int,
        threads: int | None,
    ) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._streams = streams
        self._threads = threads
        limit: dict[str, Any] = {} if draft_max is None else {"n_max": draft_max}
        self.methods: dict[str, Speculative | None] = {BASELINE: None}
        if model.n_layer_nextn:
            self.methods["mtp"] = Mtp(adaptive=False, **limit)
        if draft is not None:
            self.methods["draft model"] = DraftModel(model=draft, adaptive=False, **limit)
        self.methods["ngram-simple"] = Ngram(type="ngram-simple", adaptive=False, **limit)
        self.methods["ngram-mod"] = Ngram(adaptive=False, **limit)

    def report(self, prompts: Sequence[str], raw: bool, rounds: int, quiet: bool) -> dict[str, Any]:
        """Measure, and return everything there is to print."""
        impossible: dict[str, str] = {}
        tokens = self._tokens(prompts, raw)
        runs: dict[str, list[Run]] = {name: [] for name in self.methods}
        for turn in range(rounds):
            names = list(self.methods)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                _show(f"round {turn + 1} of {rounds}: {name}", quiet)
                try:
                    runs[name].append(self._run(self.methods[name], tokens))
                except UnsupportedError as error:
                    if name == "draft model" or name == BASELINE:
                        raise  # it was asked for
                    impossible[name] = str(error)
                    del self.methods[name], runs[name]
        _show("", quiet)
        return {
            "model": Path(self._model.paths[0]).stem,
            "threads": self._threads,
            "streams": self._streams,
            "texts": len(prompts),
            "max_tokens": self._max_tokens,
            "rounds": rounds,
            "methods": [asdict(_result(name, self.methods[name], runs[name], runs[BASELINE])) for name in runs],
            "impossible": impossible,
        }

    def _tokens(self, prompts: Sequence[str], raw: bool) -> list[list[int]]:
        with Llama(self._model, n_ctx=256, n_parallel=1, n_threads=self._threads) as llama:
            if raw or self._model.chat_template() is None:
                return [llama.tokenize(prompt) for prompt in prompts]
            return [llama.chat_prompt([{"role": "user", "content": prompt}]) for prompt in prompts]

    def _run(self, way: Speculative | None, prompts: Sequence[list[int]]) -> Run:
        """One turn, on a context of its own: what n-grams have seen before would make them look better."""
        longest = max(map(len, prompts)) + self._max_tokens + 8
        with Llama(
            self._model,
            n_ctx=max(longest * self._streams, 256),
            n_parallel=self._streams,
            n_threads=self._threads,
            speculative=way,
        ) as llama:
            llama.generate(prompts[0][:1], max_tokens=2, cache_prompt=False, ignore_eos=True)
            before = llama.engine.stats()
            started = time.perf_counter()
            running = [
                llama.stream(prompt, max_tokens=self._max_tokens, temperature=0.0, cache_prompt=False)
                for prompt in prompts
            ]
            texts = tuple(generation.result().tokens for generation in running)
            seconds = time.perf_counter() - started
            after = llama.engine.stats()
        if not any(texts):
            raise LlamaCoreError("the model wrote nothing", hint="give other prompts with --prompt, or --raw")
        now, then = after.speculation, before.speculation
        if now is None or then is None:
            return Run(texts, seconds, after.steps - before.steps)
        positions = tuple((a - c, b - d) for (a, b), (c, d) in zip(now.positions, then.positions, strict=True))
        return Run(texts, seconds, after.steps - before.steps, positions, now.failure)


def _show(text: str, quiet: bool) -> None:
    if not quiet and sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _result(name: str, way: Speculative | None, runs: Sequence[Run], plain: Sequence[Run]) -> Result:
    first = runs[0]
    places = [tuple(map(sum, zip(*place, strict=True))) for place in zip(*(run.positions for run in runs), strict=True)]
    generated = sum(len(text) for run in runs for text in run.tokens)
    steps, usual = sum(run.steps for run in runs), sum(run.steps for run in plain)
    return Result(
        method=name,
        n_max=0 if way is None else way.n_max,
        tokens_per_second=statistics.median(run.rate for run in runs),
        gain=statistics.median(run.rate / other.rate for run, other in zip(runs, plain, strict=True)),
        # per text, however many are in a batch: a step of plain decoding is one token of each
        tokens_per_step=usual / steps * generated / sum(len(text) for run in plain for text in run.tokens),
        drafted=sum(drafted for drafted, _ in places),
        accepted=sum(accepted for _, accepted in places),
        acceptance=tuple(accepted / drafted if drafted else None for drafted, accepted in places),
        same_texts=sum(ours == theirs for ours, theirs in zip(first.tokens, plain[0].tokens, strict=True)),
        failure=next((run.failure for run in runs if run.failure is not None), None),
    )


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    texts = report["texts"]
    at_a_time = f", {report['streams']} at a time" if report["streams"] > 1 else ""
    yield (
        f"{report['model']}: {texts} texts of at most {report['max_tokens']} tokens{at_a_time}, greedy, "
        f"median of {report['rounds']} rounds"
    )
    yield (
        f"{'method':<14}{'draft':>6}{'tokens/s':>10}{'gain':>7}{'tokens/step':>13}{'same texts':>12}  accepted by place"
    )
    for row in report["methods"]:
        shown = ["-" if rate is None else f"{rate:.0%}" for rate in row["acceptance"]]
        while shown and shown[-1] == "-":
            shown.pop()
        same = "" if row["method"] == BASELINE else f"{row['same_texts']} of {texts}"
        accepted = " ".join(shown) or ("" if row["method"] == BASELINE else "nothing was drafted")
        yield (
            f"{row['method']:<14}{row['n_max'] or '':>6}{row['tokens_per_second']:>10.1f}{row['gain']:>7.2f}"
            f"{row['tokens_per_step']:>13.2f}{same:>12}  {accepted}"
        ).rstrip()
        if row["failure"] is not None:
            yield f"    drafting ended early: {row['failure']}"
    for name, reason in report["impossible"].items():
        yield f"{name}: not possible: {reason}"
