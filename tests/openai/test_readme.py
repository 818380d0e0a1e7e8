"""Code as in the README of llama-cpp-python runs with only the import changed: what docs/migrating.md calls covered."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
from hub_server import Hub, serving

import llamacore

PLANETS = """
from llama_cpp import Llama

llm = Llama(model_path="./models/7B/llama-model.gguf", n_gpu_layers=-1, seed=1337, n_ctx=2048)
output = llm("Q: What are the planets? A: ", max_tokens=32, stop=["Q:", "\\n"], echo=True)
assert output["id"].startswith("cmpl-")
assert output["object"] == "text_completion"
assert output["choices"][0]["text"].startswith("Q: What are the planets? A: ")
assert output["choices"][0]["index"] == 0
assert output["choices"][0]["logprobs"] is None
assert output["choices"][0]["finish_reason"] in ("stop", "length")
usage = output["usage"]
assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
again = llm.create_completion("Q: What are the planets? A: ", max_tokens=32, stop=["Q:", "\\n"], echo=True)
assert again["choices"][0]["text"] == output["choices"][0]["text"]  # the seed of the object
for piece in llm("Once", max_tokens=4, stream=True, temperature=0.2, top_p=0.9, min_p=0.1, repeat_penalty=1.1):
    assert piece["object"] == "text_completion" and "text" in piece["choices"][0]
"""

CHAT = """
from llama_cpp import Llama
llm = Llama(model_path="./models/7B/llama-model.gguf", chat_format="llama-2")
answer = llm.create_chat_completion(
    messages=[
        {"role": "system", "content": "You help with stories."},
        {"role": "user", "content": "Tell one."},
    ],
    max_tokens=12,
)
assert answer["object"] == "chat.completion"
assert answer["choices"][0]["message"]["role"] == "assistant"
assert isinstance(answer["choices"][0]["message"]["content"], str)
pieces = llm.create_chat_completion(messages=[{"role": "user", "content": "Tell one."}], stream=True, max_tokens=5)
roles, text = [], ""
for piece in pieces:
    delta = piece["choices"][0]["delta"]
    if "role" in delta:
        roles.append(delta["role"])
    elif "content" in delta:
        text += delta["content"]
assert roles == ["assistant"]
assert "None" not in text
"""

JSON_MODE = """
import json
from llama_cpp import Llama
llm = Llama(model_path="./models/7B/llama-model.gguf", chat_format="chatml", verbose=False)
answer = llm.create_chat_completion(
    messages=[{"role": "system", "content": "You answer in JSON."}, {"role": "user", "content": "Who won?"}],
    response_format={"type": "json_object"},
    temperature=0.7,
    max_tokens=60,
)
text = answer["choices"][0]["message"]["content"]
assert text.lstrip()[:1] in ("{", "")
answer = llm.create_chat_completion(
    messages=[{"role": "system", "content": "You answer in JSON."}, {"role": "user", "content": "Who won?"}],
    response_format={
        "type": "json_object",
        "schema": {"type": "object", "properties": {"won": {"enum": ["red", "blue"]}}, "required": ["won"]},
    },
    temperature=0,
    max_tokens=60,
)
if answer["choices"][0]["finish_reason"] == "stop":
    assert json.loads(answer["choices"][0]["message"]["content"])["won"] in ("red", "blue")
"""

TOOLS = """
import json
from llama_cpp import Llama
llm = Llama(model_path="./models/7B/llama-model.gguf", chat_format="chatml-function-calling")
answer = llm.create_chat_completion(
    messages=[{"role": "system", "content": "You call functions."}, {"role": "user", "content": "Ann is 25"}],
    tools=[{
        "type": "function",
        "function": {
            "name": "Person",
            "parameters": {
                "type": "object",
                "title": "Person",
                "properties": {"age": {"title": "Age", "type": "integer", "minimum": 1, "maximum": 99}},
                "required": ["age"],
            },
        },
    }],
    tool_choice={"type": "function", "function": {"name": "Person"}},
    temperature=0,
    max_tokens=100,
)
choice = answer["choices"][0]
if choice["finish_reason"] == "tool_calls":
    call = choice["message"]["tool_calls"][0]
    assert (call["type"], call["function"]["name"]) == ("function", "Person")
    assert 1 <= json.loads(call["function"]["arguments"])["age"] <= 99
else:
    assert choice["finish_reason"] == "length"  # text may stand before a call
"""

EMBEDDINGS = """
import llama_cpp
llm = llama_cpp.Llama(model_path="./models/7B/llama-model.gguf", embedding=True)
one = llm.create_embedding("Hello, world!")
assert len(one["data"]) == 1 and len(one["data"][0]["embedding"]) > 0
two = llm.create_embedding(["Hello, world!", "Goodbye, world!"])
assert [item["index"] for item in two["data"]] == [0, 1]
assert two["usage"]["total_tokens"] > 0
"""

CONTEXT = """
from llama_cpp import Llama
llm = Llama(model_path="./models/7B/llama-model.gguf", n_ctx=2048)
tokens = llm.tokenize(b"Hello")
assert llm.create_completion(tokens, max_tokens=None, stop=".", temperature=0)["choices"][0]["finish_reason"]
llm.close()
"""

SNIPPETS = {
    "planets": PLANETS, "chat": CHAT, "json": JSON_MODE, "tools": TOOLS, "embeddings": EMBEDDINGS, "context": CONTEXT
}  # fmt: skip


@pytest.fixture
def models(tmp_path, monkeypatch, demo_path):
    """A folder with a model where the snippets look for one."""
    folder = tmp_path / "models" / "7B"
    folder.mkdir(parents=True)
    os.symlink(demo_path, folder / "llama-model.gguf")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_runs_with_the_import_changed(name, models):
    code = SNIPPETS[name].replace("llama_cpp", "llamacore")
    names: dict[str, object] = {}
    exec(compile(code, name, "exec"), names)
    llm = names["llm"]
    assert isinstance(llm, llamacore.Llama)
    llm.close()


@pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="needs the extra hub")
def test_pulling_a_model(monkeypatch, tmp_path, run_child, tiny_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with serving(Hub({"community/Tiny-GGUF": {"Tiny-Q8_0.gguf": tiny_path().read_bytes()}})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        out = run_child(
            """
            from llamacore import Llama
            llm = Llama.from_pretrained(repo_id="community/Tiny-GGUF", filename="*Q8_0.gguf", verbose=False)
            print(llm("a", max_tokens=2)["model"])
            llm.close()
            """
        )
    assert out.split() == ["Tiny-Q8_0"]
