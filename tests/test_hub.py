"""Models of the hub: which file is chosen, and the real client against a hub on this machine."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, serving

import llamacore as lc
from llamacore import hub

needs_client = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="needs the extra hub")

REPO = [
    "README.md",
    "imatrix.gguf",
    "mmproj-Tiny-F16.gguf",
    "Tiny-Q4_K_M.gguf",
    "Tiny-Q8_0.gguf",
    "Tiny-UD-Q4_K_XL.gguf",
    "Tiny-IQ4_NL.gguf",
    "BF16/Tiny-BF16-00001-of-00003.gguf",
    "BF16/Tiny-BF16-00002-of-00003.gguf",
    "BF16/Tiny-BF16-00003-of-00003.gguf",
    "Tiny-Q6_K-00001-of-00002.gguf",
    "F16/Tiny.gguf",
]
MODELS = hub.group_models(REPO)


def test_the_files_of_a_repository_become_models():
    assert {(model.name, model.quant, len(model.files), model.complete) for model in MODELS} == {
        ("Tiny-Q4_K_M.gguf", "Q4_K_M", 1, True),
        ("Tiny-Q8_0.gguf", "Q8_0", 1, True),
        ("Tiny-UD-Q4_K_XL.gguf", "UD-Q4_K_XL", 1, True),
        ("Tiny-IQ4_NL.gguf", "IQ4_NL", 1, True),
        ("BF16/Tiny-BF16-00001-of-00003.gguf", "BF16", 3, True),
        ("Tiny-Q6_K-00001-of-00002.gguf", "Q6_K", 1, False),
        ("F16/Tiny.gguf", "F16", 1, True),
    }


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("model.gguf", None),
        ("model-q5_1.gguf", "Q5_1"),
        ("llama.Q3_K_L.gguf", "Q3_K_L"),
        ("qwen3-4b-iq2_xxs.gguf", "IQ2_XXS"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Q4-the-movie.gguf", "Q4"),
        ("phi-fp16.gguf", "FP16"),
        ("a-Q4_0/b-TQ1_0.gguf", "TQ1_0"),
        ("Q4_0/model.gguf", "Q4_0"),
        ("faq8_0.gguf", None),
    ],
)
def test_a_name_tells_the_quantisation(name, quant):
    (model,) = hub.group_models([name])
    assert model.quant == quant


@pytest.mark.parametrize(
    ("wish", "name"),
    [
        ({}, "Tiny-Q4_K_M.gguf"),
        ({"quant": "q8_0"}, "Tiny-Q8_0.gguf"),
        ({"quant": "ud-q4_k_xl"}, "Tiny-UD-Q4_K_XL.gguf"),
        ({"quant": "bf16"}, "BF16/Tiny-BF16-00001-of-00003.gguf"),
        ({"file": "*Q8_0.gguf"}, "Tiny-Q8_0.gguf"),
        ({"file": "F16/Tiny.gguf"}, "F16/Tiny.gguf"),
        ({"file": "Tiny.gguf"}, "F16/Tiny.gguf"),
        ({"file": "*-00002-of-00003.gguf"}, "BF16/Tiny-BF16-00001-of-00003.gguf"),
    ],
)
def test_a_model_is_chosen(wish, name):
    assert hub.choose_model(MODELS, **wish).name == name


@pytest.mark.parametrize(
    ("wish", "error", "words"),
    [
        ({"quant": "Q2_K"}, lc.ModelNotFoundError, ["'Q2_K'", "Tiny-Q4_K_M.gguf (Q4_K_M)", "BF16/"]),
        ({"quant": ""}, lc.ModelNotFoundError, ["quantisation ''"]),
        ({"quant": "q6_k"}, lc.ModelNotFoundError, ["lacks parts of Tiny-Q6_K-00001-of-00002.gguf"]),
        ({"file": "no.gguf"}, lc.ModelNotFoundError, ["'no.gguf'"]),
        ({"file": "mmproj*"}, lc.ModelNotFoundError, ["mmproj"]),
        ({"file": "Tiny-*Q4*"}, lc.InvalidArgumentError, ["3 models", "Tiny-IQ4_NL.gguf", "file="]),
    ],
)
def test_what_cannot_be_chosen_says_what_there_is(wish, error, words):
    with pytest.raises(error) as caught:
        hub.choose_model(MODELS, **wish)
    for word in words:
        assert word in str(caught.value)


def test_the_order_of_preference():
    names = ["a-Q5_K_M.gguf", "a-Q8_0.gguf", "a-F16.gguf"]
    assert hub.choose_model(hub.group_models(names)).quant == "Q8_0"
    assert hub.choose_model(hub.group_models(names[:1])).quant == "Q5_K_M"
    assert hub.choose_model(hub.group_models(["odd.gguf"])).name == "odd.gguf"
    with pytest.raises(lc.InvalidArgumentError, match=r"2 models for GGUF model: a\.gguf, b\.gguf"):
        hub.choose_model(hub.group_models(["a.gguf", "b.gguf"]))
    with pytest.raises(lc.InvalidArgumentError, match="2 models"):
        hub.choose_model(hub.group_models(["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"]), "q4_k_m")
    with pytest.raises(lc.ModelNotFoundError, match="no GGUF models at all"):
        hub.choose_model(())


@pytest.mark.parametrize("repo", ["", "justname", "a/b/c", "../x", "a b/c", None, 3, "a/..", "a/b?c"])
def test_a_name_that_is_no_repository(repo):
    with pytest.raises(lc.InvalidArgumentError, match="owner/name"):
        hub.download(repo)


def test_two_wishes_at_once():
    with pytest.raises(lc.InvalidArgumentError, match="give one of them"):
        hub.download("a/b", "Q8_0", file="x.gguf")
    with pytest.raises(lc.InvalidArgumentError, match="give one of them"):
        hub.download("a/b:Q4_0", "Q8_0")


def test_the_client_is_missing(run_child):
    """Without the extra the error names the command, and importing the package never asked for it."""
    out = run_child(
        """
        sys.modules["huggingface_hub"] = None  # what an import of a missing package meets
        from llamacore import hub
        try:
            hub.download("a/b")
        except lc.UnsupportedError as error:
            print(error)
        """
    )
    assert "pip install 'llamacore[hub]'" in out


@pytest.fixture
def model_bytes(tiny_path):
    return tiny_path().read_bytes()


@pytest.fixture
def hub_at(monkeypatch, tmp_path, model_bytes):
    """A hub that children of this process talk to, with a cache of its own."""
    noise = b"GGUF" + b"\0" * 64
    repos = {
        "tiny/llama-GGUF": {
            "README.md": b"# hello",
            "mmproj-F16.gguf": noise,
            "llama-Q4_K_M.gguf": model_bytes,
            "llama-Q8_0.gguf": noise,
            "big/llama-F16-00001-of-00002.gguf": noise,
            "big/llama-F16-00002-of-00002.gguf": noise + b"2",
        },
        "tiny/empty": {"README.md": b"nothing"},
        "tiny/gated": {"m-Q8_0.gguf": noise},
    }
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serving(Hub(repos, gated=("tiny/gated",))) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@needs_client
def test_a_model_is_fetched_once_and_found_offline(hub_at, run_child, model_bytes):
    code = """
        import json
        from llamacore import hub
        seen = []
        got = hub.download("tiny/llama-GGUF", progress=lambda *step: seen.append(step))
        again = hub.download("tiny/llama-GGUF", "q4_k_m", local_files_only=True)
        assert again == got
        listed = [model.name for model in hub.list_models("tiny/llama-GGUF")]
        cached = [model.name for model in hub.list_models("tiny/llama-GGUF", local_files_only=True)]
        with lc.Model.load(got.path, vocab_only=True) as model:
            n_vocab = model.n_vocab
        print(json.dumps([str(got.path), got.quant, got.commit, seen[-1], listed, cached, n_vocab]))
    """
    path, quant, commit, last, listed, cached, n_vocab = json.loads(run_child(code).splitlines()[-1])
    assert (quant, commit) == ("Q4_K_M", COMMIT)
    assert Path(path).read_bytes() == model_bytes
    assert last == ["llama-Q4_K_M.gguf", len(model_bytes), len(model_bytes)]
    assert listed == ["big/llama-F16-00001-of-00002.gguf", "llama-Q4_K_M.gguf", "llama-Q8_0.gguf"]
    assert cached == ["llama-Q4_K_M.gguf"]
    assert n_vocab > 0
    assert len(hub_at.fetched()) == 1


@needs_client
def test_all_parts_of_a_split_model_are_fetched(hub_at, run_child, tmp_path):
    code = """
        from llamacore import hub
        got = hub.download("tiny/llama-GGUF:f16", local_dir=sys.argv[1], revision=sys.argv[2])
        print(*[path.name for path in got.paths], got.path == got.paths[0], got.commit, sep="|")
    """
    out = run_child(code, tmp_path / "mine", COMMIT).splitlines()[-1]
    assert out == "llama-F16-00001-of-00002.gguf|llama-F16-00002-of-00002.gguf|True|None"
    assert len({path.parent for path in (tmp_path / "mine").rglob("*.gguf")}) == 1


@needs_client
def test_errors_of_the_hub_are_ours(hub_at, run_child):
    code = """
        from llamacore import hub
        def attempt(*arguments, **options):
            try:
                print("got", hub.download(*arguments, **options).path.name)
            except lc.LlamaCoreError as error:
                print(type(error).__name__, str(error).replace("\\n", " "))
        attempt("tiny/missing")
        attempt("tiny/empty")
        attempt("tiny/llama-GGUF", revision="nowhere")
        attempt("tiny/llama-GGUF", "Q2_K")
        attempt("tiny/gated")
        attempt("tiny/gated", token="hf_secret")
        attempt("tiny/llama-GGUF", local_files_only=True)
        attempt("tiny/llama-GGUF", progress=lambda *step: False)
        attempt("tiny/llama-GGUF", progress=lambda *step: None)
    """
    lines = run_child(code).splitlines()
    for line, words in zip(
        lines,
        [
            "ModelNotFoundError listing tiny/missing: there is no such repository",
            "ModelNotFoundError the repository tiny/empty has no GGUF model",
            "ModelNotFoundError listing tiny/llama-GGUF: there is no such revision",
            "ModelNotFoundError the repository tiny/llama-GGUF has no quantisation 'Q2_K'. it has",
            "ModelLoadError",
            "got m-Q8_0.gguf",
            "ModelNotFoundError listing tiny/llama-GGUF: it is not in the cache",
            "LoadCancelledError downloading llama-Q4_K_M.gguf: cancelled",
            "got llama-Q4_K_M.gguf",
        ],
        strict=True,
    ):
        assert line.startswith(words), lines
    assert "accept its terms" in lines[4]


@needs_client
def test_a_hub_that_is_not_there(monkeypatch, tmp_path, run_child):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code = """
        from llamacore import hub
        try:
            hub.download("tiny/llama-GGUF")
        except lc.ModelLoadError as error:
            print(error)
    """
    assert "check the network" in run_child(code)


@needs_client
def test_a_llama_from_the_hub(hub_at, run_child):
    """As the README of llama-cpp-python has it, and by quantisation; other arguments are those of `Llama`."""
    code = """
        with lc.Llama.from_pretrained(repo_id="tiny/llama-GGUF", filename="*Q4_K_M.gguf", n_ctx=64) as llama:
            print(llama.name, llama.context.n_ctx)
        for wish in ("Q4_K_M", "*Q4_K_M.gguf", "llama-Q4_K_M.gguf"):
            given = {"n_ctx": 64, "n_threads": 1, "local_files_only": True}
            with lc.Llama.from_pretrained("tiny/llama-GGUF", wish, **given) as llama:
                print(llama.generate("a", max_tokens=2, ignore_eos=True).usage.completion_tokens)
        try:
            lc.Llama.from_pretrained("tiny/llama-GGUF", "Q8_0", n_ctx=64)  # its bytes are noise
        except lc.InvalidModelError as error:
            print("refused")
        try:
            lc.Llama.from_pretrained("tiny/llama-GGUF", nonsense=1)
        except (TypeError, lc.InvalidArgumentError) as error:
            print("nonsense" in str(error))
    """
    out = run_child(code).splitlines()
    assert out == ["llama-Q4_K_M 256", "2", "2", "2", "refused", "True"]
