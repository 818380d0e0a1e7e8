"""Arguments of llama-cpp-python's constructor: taken under our names, or refused with the way to do it here."""

from __future__ import annotations

import pytest

import llamacore as lc
from llamacore.chat.template import ChatTemplate
from llamacore.core.model import Model
from llamacore.openai.chat_formats import CHAT_FORMATS, chat_format
from llamacore.openai.constructor import ARGUMENTS, translate
from llamacore.params import ContextParams, ModelParams

TALK = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "u1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "u2"},
]


def test_every_default_of_llama_cpp_python_is_taken():
    """Its own defaults written out are no error, and mean nothing special but what they say."""
    found = translate(
        {
            "model_path": "m.gguf", "split_mode": 1, "main_gpu": 0, "tensor_split": None, "vocab_only": False,
            "use_mmap": True, "use_mlock": False, "kv_overrides": None, "seed": 0xFFFFFFFF, "rope_scaling_type": -1,
            "pooling_type": -1, "attention_type": -1, "rope_freq_base": 0.0, "rope_freq_scale": 0.0,
            "yarn_ext_factor": -1.0, "yarn_attn_factor": 1.0, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0,
            "yarn_orig_ctx": 0, "logits_all": False, "embedding": False, "offload_kqv": True,
            "op_offload": None, "swa_full": None, "no_perf": False, "last_n_tokens_size": 64, "lora_base": None,
            "lora_scale": 1.0, "lora_path": None, "numa": False, "chat_format": None, "chat_handler": None,
            "draft_model": None, "tokenizer": None, "spm_infill": False, "verbose": False,
        },
        {"flash_attn": False, "type_k": None},
    )  # fmt: skip
    assert found.llama == {
        "model": "m.gguf", "chat_template": None, "flash_attn": "disabled", "type_k": None, "type_v": None
    }  # fmt: skip
    assert found.seed is None
    ModelParams(**found.model)
    ContextParams(**found.context)


def test_values_are_turned_into_ours(tiny_path):
    found = translate(
        {
            "use_mmap": False, "use_mlock": True, "split_mode": 0, "pooling_type": 3, "rope_scaling_type": 2,
            "attention_type": "causal", "seed": 1337, "no_perf": True, "kv_overrides": {"general.name": "x"},
            "embedding": True,
        },
        {"type_k": 8, "type_v": "f16", "flash_attn": True, "model": "m.gguf", "chat_template": "x"},
    )  # fmt: skip
    assert found.model == {"load_mode": "mlock", "split_mode": "none", "kv_overrides": {"general.name": "x"}}
    assert found.context == {
        "pooling_type": "last",
        "rope_scaling_type": "yarn",
        "attention_type": "causal",
        "no_perf": True,
    }
    assert found.llama == {
        "type_k": "q8_0", "type_v": "f16", "flash_attn": "enabled", "model": "m.gguf", "chat_template": "x"
    }  # fmt: skip
    assert found.seed == 1337
    with Model.load(tiny_path(), **found.model) as model:
        model.context(n_ctx=64, type_v=found.llama["type_v"], flash_attn="enabled", **found.context).close()


@pytest.mark.parametrize(
    ("mmap", "mlock", "mode"),
    [
        (None, True, "mmap_mlock"),
        (True, None, "mmap"),
        (False, None, "none"),
        (False, True, "mlock"),
        (True, True, "mmap_mlock"),
    ],
)
def test_how_the_file_is_read(mmap, mlock, mode):
    assert translate({"use_mmap": mmap, "use_mlock": mlock}).model == {"load_mode": mode}


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("verbose", True, lc.UnsupportedError, "llamacore.native"),
        ("lora_path", "a.gguf", lc.UnsupportedError, "load_lora"),
        ("chat_handler", object(), lc.UnsupportedError, "chat_template="),
        ("draft_model", object(), lc.UnsupportedError, "draft_model"),
        ("tokenizer", object(), lc.UnsupportedError, "own tokenizer"),
        ("spm_infill", True, lc.UnsupportedError, "spm_infill"),
        ("numa", 3, lc.UnsupportedError, "numactl"),
        ("last_n_tokens_size", 32, lc.UnsupportedError, "penalty_last_n"),
        ("chat_format", "functionary-v2", lc.InvalidArgumentError, "the model's own template"),
        ("split_mode", 9, lc.InvalidArgumentError, "none, layer"),
        ("split_mode", True, lc.InvalidArgumentError, "none, layer"),
        ("split_mode", -1, lc.InvalidArgumentError, "none, layer"),
        ("pooling_type", "max", lc.InvalidArgumentError, "mean"),
        ("use_mmap", "yes", lc.InvalidArgumentError, "True or False"),
        ("use_mlock", 1, lc.InvalidArgumentError, "True or False"),
        ("seed", "x", lc.InvalidArgumentError, "seed='x'"),
        ("n_gpu_layer", 3, lc.InvalidArgumentError, "'n_gpu_layers'"),
        ("modelpath", 3, lc.InvalidArgumentError, "'model_path'"),
    ],
)
def test_what_cannot_be_honoured_says_what_to_do(name, value, error, words):
    with pytest.raises(error) as caught:
        translate({name: value}, {"n_gpu_layers": None, "n_ctx": None})
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["type_k", "type_v"])
@pytest.mark.parametrize("value", [4, True, -1, 999])
def test_numbers_of_types_that_there_are_not(name, value):
    with pytest.raises(lc.InvalidArgumentError, match="q8_0"):
        translate({}, {name: value})


def test_one_thing_under_two_names():
    with pytest.raises(lc.InvalidArgumentError, match="both model and model_path"):
        translate({"model_path": "a"}, {"model": "b"})
    with pytest.raises(lc.InvalidArgumentError, match="both chat_template and chat_format"):
        translate({"chat_format": "chatml"}, {"chat_template": "b"})


def test_every_name_is_either_taken_or_refused():
    for name in ARGUMENTS:
        try:
            translate({name: object()})
        except lc.LlamaCoreError as error:
            assert name in str(error)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        (
            "chatml",
            (
                "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nu1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
                "<|im_start|>user\nu2<|im_end|>\n<|im_start|>assistant\n"
            ),
        ),
        ("llama-2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nu1 [/INST] a1 </s><s>[INST] u2 [/INST]"),
        (
            "llama-3",
            (
                "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>"
                "\n\nu1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\na1<|eot_id|><|start_header_id|>user"
                "<|end_header_id|>\n\nu2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
        ),
        (
            "gemma",
            (
                "<s><start_of_turn>user\nS\n\nu1<end_of_turn>\n<start_of_turn>model\na1<end_of_turn>\n"
                "<start_of_turn>user\nu2<end_of_turn>\n<start_of_turn>model\n"
            ),
        ),
        ("mistral-instruct", "<s>[INST] S\n\nu1 [/INST] a1</s>[INST] u2 [/INST]"),
        ("zephyr", "<|system|>\nS</s>\n<|user|>\nu1</s>\n<|assistant|>\na1</s>\n<|user|>\nu2</s>\n<|assistant|>\n"),
        ("vicuna", "S\n\nUSER: u1\nASSISTANT: a1</s>\nUSER: u2\nASSISTANT:"),
        ("alpaca", "S\n\n### Instruction:\nu1\n\n### Response:\na1\n\n### Instruction:\nu2\n\n### Response:\n"),
    ],
)
def test_chat_formats(name, prompt):
    assert ChatTemplate(chat_format(name), bos_token="<s>", eos_token="</s>").render(TALK) == prompt
    assert translate({"chat_format": name}).llama["chat_template"] == CHAT_FORMATS[name]


def test_a_chat_format_with_tools():
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    talk = [*TALK[:2], {"role": "assistant", "content": None, "tool_calls": calls}, {"role": "tool", "content": "ok"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    prompt = ChatTemplate(chat_format("chatml-function-calling")).render(talk, tools=tools)
    assert prompt.count("<|im_start|>system") == 1
    assert '{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}' in prompt
    assert (
        '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n' in prompt
    )
    assert "<|im_start|>user\n<tool_response>\nok\n</tool_response><|im_end|>\n<|im_start|>assistant\n" in prompt


def test_a_llama_takes_them(demo_path):
    """The seed is that of every call without one, and of no other."""
    given = {"n_gpu_layers": -1, "verbose": False, "n_ctx": 256, "n_threads": 1, "flash_attn": True, "type_k": 1}
    with lc.Llama(model_path=str(demo_path), seed=3, use_mmap=False, no_perf=True, **given) as llama:
        assert (llama.model.params.load_mode, llama.context.params.flash_attn) == ("none", "enabled")
        assert (llama.context.params.type_k, llama.context.params.no_perf) == ("f16", True)
        once, again, other = (
            llama.generate("Once", max_tokens=8, temperature=1.5, cache_prompt=False, **more).text
            for more in ({}, {"seed": 3}, {"seed": 4})
        )
        assert once == again != other
        own = lc.SamplingParams(seed=4, temperature=1.5)
        assert llama.generate("Once", max_tokens=8, sampling=own, cache_prompt=False).text != once
    with pytest.raises(lc.InvalidArgumentError, match="did you mean 'n_threads'"):
        lc.Llama(n_thread=1)
    with pytest.raises(lc.InvalidArgumentError, match="both model and model_path"):
        lc.Llama(demo_path, model_path=demo_path)
    with pytest.raises(lc.UnsupportedError, match="load_lora"):
        lc.Llama(lora_path="a.gguf")
