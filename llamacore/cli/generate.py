"""`llamacore generate`: text from a prompt, streamed."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llamacore.engine.generation import Generation
from llamacore.engine.records import Completion
from llamacore.engine.stats import SpeculationStats
from llamacore.errors import InvalidArgumentError
from llamacore.hub import demo_model_path
from llamacore.llama import Llama

from . import _devices as dev
from . import _sampling as opt
from . import _speculation as spec_opt
from ._errors import EXIT_INTERRUPTED, reported
from ._terminal import loading_progress, note

_MODEL_PANEL = "Model"
_OUTPUT_PANEL = "Output"


def generate(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; '-' or nothing reads standard input.")] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Read the prompt from a file.")] = None,
    system: Annotated[str | None, typer.Option("--system", "-sys", help="System prompt of the chat.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is: no chat template.")] = False,
    think: Annotated[
        bool | None,
        typer.Option(
            "--think/--no-think", help="Let the model think first, where its template can.", show_default=False
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            "-n",
            "--n-predict",
            help="Most tokens to generate; default: until the end or a full context.",
            show_default=False,
        ),
    ] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Stop at this text (repeat).")] = None,
    model: Annotated[
        Path | None,
        typer.Option("-m", "--model", help="GGUF file; default: the bundled demo model.", rich_help_panel=_MODEL_PANEL),
    ] = None,
    ctx_size: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx-size",
            help="Tokens of context; default: the model's, at most 4096.",
            rich_help_panel=_MODEL_PANEL,
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "-t",
            "--threads",
            help="Threads; default: physical cores.",
            rich_help_panel=_MODEL_PANEL,
            show_default=False,
        ),
    ] = None,
    gpu_layers: dev.GpuLayersOption = None,
    device: dev.DeviceNames = None,
    split_mode: dev.SplitModeOption = None,
    main_gpu: dev.MainGpu = None,
    tensor_split: dev.TensorSplit = None,
    flash_attn: dev.FlashAttnOption = None,
    rpc: dev.Rpc = None,
    json_output: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object at the end instead of streaming text.", rich_help_panel=_OUTPUT_PANEL
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.", rich_help_panel=_OUTPUT_PANEL)
    ] = False,
    spec: spec_opt.Spec = None,
    draft_max: spec_opt.DraftMax = None,
    draft_min: spec_opt.DraftMin = None,
    draft_p_min: spec_opt.DraftPMin = None,
    draft_model: spec_opt.DraftModelFile = None,
    seed: opt.Seed = None,
    temperature: opt.Temperature = None,
    top_k: opt.TopK = None,
    top_p: opt.TopP = None,
    min_p: opt.MinP = None,
    top_n_sigma: opt.TopNSigma = None,
    xtc_probability: opt.XtcProbability = None,
    xtc_threshold: opt.XtcThreshold = None,
    typ_p: opt.Typical = None,
    penalty_last_n: opt.RepeatLastN = None,
    penalty_repeat: opt.RepeatPenalty = None,
    penalty_present: opt.PresencePenalty = None,
    penalty_freq: opt.FrequencyPenalty = None,
    dry_multiplier: opt.DryMultiplier = None,
    dry_base: opt.DryBase = None,
    dry_allowed_length: opt.DryAllowedLength = None,
    dry_penalty_last_n: opt.DryPenaltyLastN = None,
    dry_sequence_breaker: opt.DrySequenceBreaker = None,
    adaptive_target: opt.AdaptiveTarget = None,
    adaptive_decay: opt.AdaptiveDecay = None,
    dynatemp_range: opt.DynatempRange = None,
    dynatemp_exponent: opt.DynatempExp = None,
    mirostat: opt.Mirostat = None,
    mirostat_eta: opt.MirostatLr = None,
    mirostat_tau: opt.MirostatEnt = None,
    min_keep: opt.MinKeep = None,
    logit_bias: opt.LogitBias = None,
    ignore_eos: opt.IgnoreEos = None,
    samplers: opt.Samplers = None,
    sampler_seq: opt.SamplerSeq = None,
    grammar: opt.Grammar = None,
    grammar_file: opt.GrammarFile = None,
    json_schema: opt.JsonSchema = None,
    json_schema_file: opt.JsonSchemaFile = None,
) -> None:
    """Generate text from a prompt and stream it to standard output.

    The prompt is put into the model's chat template; with --raw it is continued as it is.
    """
    given = {name: value for name, value in locals().items() if name in opt.PLAIN_FIELDS}
    with reported():
        options = opt.sampling_options(
            given, logit_bias=logit_bias, breakers=dry_sequence_breaker, samplers=samplers, sampler_seq=sampler_seq,
            grammar=grammar, grammar_file=grammar_file, json_schema=json_schema, json_schema_file=json_schema_file,
        )  # fmt: skip
        way = spec_opt.speculative(
            spec, draft_max=draft_max, draft_min=draft_min, draft_p_min=draft_p_min, draft_model=draft_model,
            demo=model is None,
        )  # fmt: skip
        text = read_prompt(prompt, file)
        if raw and system is not None:
            raise InvalidArgumentError(
                "--system needs the chat template", hint="leave out --raw, or write it into the prompt"
            )
        if model is None:
            note(f"no --model given: using the bundled demo model {demo_model_path().name}", quiet=quiet)
        on = dev.device_options(
            gpu_layers=gpu_layers, device=device, split_mode=split_mode, main_gpu=main_gpu, tensor_split=tensor_split
        )
        llama = Llama(
            model, n_threads=threads, n_parallel=1, n_ctx=ctx_size, flash_attn=dev.flash_attn_of(flash_attn), rpc=rpc,
            speculative=way, progress=loading_progress(quiet), **on,
        )  # fmt: skip
        with llama:
            use_template = not raw and llama.model.chat_template() is not None
            if use_template:
                messages = [{"role": "system", "content": system}] if system is not None else []
                tokens = llama.chat_prompt([*messages, {"role": "user", "content": text}], enable_thinking=think)
            else:
                tokens = llama.tokenize(text)
            generation = llama.stream(tokens, max_tokens=max_tokens, stop=stop or (), **options)
            completion = write_out(generation, stream=not json_output)
            drafting = llama.engine.stats().speculation
        if json_output:
            print(json.dumps(_as_json(completion, drafting), ensure_ascii=False))
        elif not quiet and sys.stderr.isatty():
            note(_footer(completion))
            if drafting is not None:
                note(f"[{spec_opt.summary(drafting)}]")
        if completion.finish_reason == "cancelled":
            raise typer.Exit(EXIT_INTERRUPTED)


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """Return the prompt that is given, or that a file or standard input has."""
    if prompt is not None and file is not None:
        raise InvalidArgumentError("a prompt and --file exclude one another", hint="give one of them")
    if file is not None:
        return opt.read_text(file)
    if prompt is None and sys.stdin.isatty():
        raise InvalidArgumentError("there is no prompt", hint='write one: llamacore generate "Once upon a time"')
    if prompt is None or prompt == "-":
        try:
            return sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as exc:
            raise InvalidArgumentError("standard input is not UTF-8 text", hint="convert it first") from exc
    return prompt


def write_out(generation: Generation, *, stream: bool) -> Completion:
    """Run to the end; the first Ctrl-C cancels and keeps the text, the second one ends the program."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, previous)
        generation.cancel()

    previous = signal.signal(signal.SIGINT, interrupt)
    if stream:
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    last = "\n"
    try:
        for chunk in generation:
            if stream and chunk.text:
                last = chunk.text[-1]
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
        if stream and last != "\n":
            sys.stdout.write("\n")
            sys.stdout.flush()
        return generation.result()
    finally:
        signal.signal(signal.SIGINT, previous)
        generation.close()


def _as_json(completion: Completion, drafting: SpeculationStats | None) -> dict[str, Any]:
    usage = dataclasses.asdict(completion.usage) | {"total_tokens": completion.usage.total_tokens}
    found = {
        "text": completion.text,
        "tokens": list(completion.tokens),
        "finish_reason": completion.finish_reason,
        "stop": completion.stop,
        "usage": usage,
        "timings": dataclasses.asdict(completion.timings),
        "model": completion.model,
    }
    return found if drafting is None else found | {"speculation": dataclasses.asdict(drafting)}


def _footer(completion: Completion) -> str:
    usage, timings = completion.usage, completion.timings
    return (
        f"[{completion.model}: prompt {usage.prompt_tokens} tokens, {timings.prompt_per_second:.1f} per second; "
        f"generated {usage.completion_tokens} tokens, {timings.predicted_per_second:.1f} per second; "
        f"{completion.finish_reason}]"
    )
