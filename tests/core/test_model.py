"""Loading, describing and saving models."""

from __future__ import annotations

import os
import shutil
import threading

import gguf
import numpy as np
import pytest
from decoding import ARCHS, feed, words

import llamacore as lc
from llamacore.core.splits import all_parts, split_path, split_prefix


@pytest.mark.parametrize("arch", ARCHS)
def test_what_a_model_says_of_itself(tiny, tiny_path, arch):
    """Every property agrees with the file that it was written to."""
    model, reader = tiny(arch), gguf.GGUFReader(tiny_path(arch))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert model.arch == arch == fields["general.architecture"]
    assert model.n_embd == model.n_embd_inp == fields[f"{arch}.embedding_length"]
    assert model.n_ctx_train == fields[f"{arch}.context_length"]
    assert model.n_layer == (fields[f"{arch}.block_count"])
    assert model.n_vocab == len(model.vocab) == len(fields["tokenizer.ggml.tokens"])
    assert model.n_params == sum(int(np.prod(tensor.shape)) for tensor in reader.tensors)
    assert model.size == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert model.metadata["general.name"] == fields["general.name"] == f"tiny {arch}"
    assert "tokenizer.ggml.tokens" not in model.metadata or len(model.metadata["tokenizer.ggml.tokens"]) > 0
    assert arch in model.desc and model.ftype
    assert (model.is_recurrent, model.is_hybrid) == (arch == "mamba", arch == "qwen35")
    assert (model.has_encoder, model.has_decoder) == (arch == "t5", True)
    assert model.n_swa == (32 if arch == "gemma3" else 0)
    assert model.rope_type in ("none", "norm", "neox", "imrope")
    assert model.n_head == (0 if arch == "mamba" else 4)
    assert model.n_expert == model.n_layer_nextn == 0
    assert model.rope_freq_scale_train == 1.0
    assert not model.is_diffusion and model.devices == [] and model.cls_labels == [""]
    assert model.decoder_start_token == (0 if arch == "t5" else None)
    assert model.chat_template() == fields.get("tokenizer.chat_template")
    assert model.chat_template("nonsense") is None
    assert repr(model) == f"<Model {tiny_path(arch)}>"


def test_experts_and_labels(tiny):
    """A mixture tells its experts, a classifier its labels, an MTP model its extra layers."""
    assert tiny(n_expert=4).n_expert == 4
    assert tiny("bert", pooling="rank", labels=("a", "b")).cls_labels == ["a", "b"]
    assert tiny("qwen35", n_nextn=1).n_layer_nextn == 1


def test_ways_to_read_a_file(tiny_path, tiny):
    """Every load mode, device list and lazy mode gives the same model."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        expected = feed(ctx, words(9))
    for options in (
        *({"load_mode": mode} for mode in ("auto", "none", "mmap", "mlock", "mmap_mlock", "direct_io")),
        *({"lazy_mode": mode} for mode in ("off", "auto", "on")),
        {"devices": []},
        {"devices": ["CPU"]},
        {"n_gpu_layers": "all"},
        {"n_gpu_layers": "none"},
        {"n_gpu_layers": np.int64(1)},
        {"split_mode": "none", "main_gpu": -1},
        {"check_tensors": True, "use_extra_bufts": False, "no_host": True},
        {"tensor_overrides": {".*attn.*": "CPU"}, "tensor_split": [1.0]},
    ):
        with lc.Model.load(tiny_path(), **options) as model, model.context(n_ctx=256, n_threads=1) as ctx:
            assert np.abs(feed(ctx, words(9)) - expected).max() < 1e-4


def test_paths(tiny_path, tmp_path):
    """Strings, path objects, lists and names that are no ASCII or no UTF-8 all open; bytes and numbers do not."""
    source = tiny_path()
    odd = tmp_path / os.fsdecode("m\u00f6del \u65e5".encode())
    shutil.copy(source, odd)
    for path in (source, str(source), [source], odd):
        lc.Model.load(path).close()
    raw = os.fsencode(tmp_path) + b"/\xff.gguf"
    shutil.copy(source, raw)
    lc.Model.load(os.fsdecode(raw)).close()
    for wrong in (5, None, b"x", [b"x"], [5]):
        with pytest.raises((TypeError, lc.LlamaCoreError)):
            lc.Model.load(wrong)


@pytest.mark.parametrize("path", ["/nonexistent", "a\0b", "\udc80", "x" * 5000, "/", "", "/dev/null", "/dev/zero"])
def test_no_model_there(path):
    """A path without a model is one named error that repeats the path."""
    with pytest.raises(lc.ModelLoadError) as caught:
        lc.Model.load(path)
    assert isinstance(caught.value, (lc.ModelNotFoundError, lc.InvalidModelError))


def test_a_pipe_is_no_model(tmp_path):
    """A FIFO is refused instead of waited for."""
    os.mkfifo(tmp_path / "pipe")
    errors = []

    def load():
        try:
            lc.Model.load(tmp_path / "pipe")
        except lc.ModelLoadError as error:
            errors.append(error)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(5)
    assert errors


def test_progress(tiny_path):
    """It is told shares that only grow and end at 1, and returning nothing lets the load go on."""
    shares: list[float] = []
    lc.Model.load(tiny_path(), progress=shares.append).close()
    assert shares == sorted(shares) and shares[-1] == 1.0 and shares[0] >= 0.0


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_progress_cancels_and_raises(tiny_path, at):
    """False cancels; what the callback raises arrives, whenever it is raised and whatever it is."""
    with pytest.raises(lc.LoadCancelledError):
        lc.Model.load(tiny_path(), progress=lambda share: share < at)
    for error in (ZeroDivisionError, KeyboardInterrupt, SystemExit, lc.StateError("mine")):

        def fail(share, error=error):
            if share >= at:
                raise error

        with pytest.raises(error if isinstance(error, type) else type(error)):
            lc.Model.load(tiny_path(), progress=fail)
    with pytest.raises(TypeError):
        lc.Model.load(tiny_path(), progress=5)


def test_progress_may_use_the_library(tiny_path, tiny):
    """Loading, decoding and closing other things inside the callback works."""
    done = []

    def work(share):
        with lc.Model.load(tiny_path("mamba")) as other, other.context(n_ctx=256, n_threads=1) as ctx:
            done.append(feed(ctx, words(3)))

    lc.Model.load(tiny_path(), progress=work).close()
    assert done


@pytest.fixture
def split(tiny_path, tmp_path):
    """The two files of a split model, by upstream's names."""
    reader = gguf.GGUFReader(tiny_path())
    half = len(reader.tensors) // 2
    paths = []
    for number, tensors in enumerate((reader.tensors[:half], reader.tensors[half:])):
        path = split_path(str(tmp_path / "model"), number, 2)
        writer = gguf.GGUFWriter(path, "llama")
        if number == 0:
            for name, field in reader.fields.items():
                if name.startswith("GGUF.") or name == "general.architecture":
                    continue
                kind = field.types[0]
                if kind is gguf.GGUFValueType.ARRAY:
                    writer.add_array(name, field.contents())
                else:
                    writer.add_key_value(name, field.contents(), kind)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(path)
    return paths


def test_split_models(split, tiny, tmp_path):
    """The first part finds the others; under other names all parts are listed; a missing part is named."""
    with tiny().context(n_ctx=256, n_threads=1) as ctx:
        expected = feed(ctx, words(9))
    renamed = [str(tmp_path / name) for name in ("one.gguf", "two.gguf")]
    for source, target in zip(split, renamed, strict=True):
        shutil.copy(source, target)
    for path in (split[0], split, renamed):
        with lc.Model.load(path) as model, model.context(n_ctx=256, n_threads=1) as ctx:
            assert np.array_equal(feed(ctx, words(9)), expected)
    with pytest.raises(lc.InvalidArgumentError, match="part 2 of 2"):
        lc.Model.load(split[1])
    for wrong in ([split[0], split[0]], renamed[:1], renamed[::-1], [split[0], str(tmp_path / "none.gguf")]):
        with pytest.raises(lc.ModelLoadError):
            lc.Model.load(wrong)
    os.unlink(split[1])
    with pytest.raises(lc.ModelNotFoundError, match="00002-of-00002"):
        lc.Model.load(split[0])


def test_split_names():
    """Names are made and taken apart as upstream does."""
    assert split_path("a/b", 0, 3) == "a/b-00001-of-00003.gguf"
    assert split_prefix("a/b-00002-of-00003.gguf") == ("a/b", 1, 3)
    assert split_prefix("a/b.gguf") is None
    assert all_parts(("a/b-00001-of-00002.gguf",)) == ["a/b-00001-of-00002.gguf", "a/b-00002-of-00002.gguf"]
    for number, count in ((-1, 2), (2, 2), (0, 0)):
        with pytest.raises(lc.OutOfRangeError):
            split_path("a", number, count)


def test_metadata_overrides(tiny_path):
    """A replaced number is used, a wrong kind is ignored by upstream, what cannot be stored is refused."""
    with lc.Model.load(tiny_path(), kv_overrides={"llama.context_length": 99}) as model:
        assert model.n_ctx_train == 99
    with lc.Model.load(tiny_path(), kv_overrides={"llama.context_length": "many"}) as model:
        assert model.n_ctx_train == 512
    for overrides in ({"x": None}, {"x" * 200: 1}, {"x": "y" * 200}, {"": 1}, {"x": 2**64}, {"a\0b": 1}, {5: 1}):
        with pytest.raises(lc.InvalidArgumentError):
            lc.Model.load(tiny_path(), kv_overrides=overrides)
    with pytest.raises(lc.ModelLoadError):
        lc.Model.load(tiny_path(), kv_overrides={"general.architecture": "gpt2"})


@pytest.mark.parametrize(
    "pattern", ["(", "a" * 5000, "(?:" * 500 + "a" + ")" * 500, "(?<=a)b", "((a{100}){100}){100}", "\udc80", "a\0b", 5]
)
def test_patterns_that_the_native_side_cannot_take(tiny_path, pattern):
    """A pattern of tensor_overrides that would overflow the stack of std::regex is refused like a wrong one."""
    with pytest.raises((lc.InvalidArgumentError, lc.ModelLoadError)):
        lc.Model.load(tiny_path(), tensor_overrides={pattern: "CPU"})
    with pytest.raises(lc.InvalidArgumentError, match="CPU"):
        lc.Model.load(tiny_path(), tensor_overrides={".*": "nonsense"})


def test_the_vocabulary_alone(tiny_path, tmp_path):
    """vocab_only has tokens and metadata, no contexts and nothing to save."""
    with lc.Model.load(tiny_path(), vocab_only=True) as model:
        assert model.vocab.detokenize(model.vocab.tokenize("hello")) == "hello"
        assert model.metadata["general.name"] == "tiny llama"
        with pytest.raises(lc.UnsupportedError, match="vocab_only"):
            model.context()
        with pytest.raises(lc.UnsupportedError):
            model.save(tmp_path / "copy.gguf")


def test_loading_without_memory(tiny_path, tmp_path):
    """no_alloc tells what a context would take, computes nothing, and does not map the file."""
    with lc.Model.load(tiny_path()) as model, model.context(n_ctx=2048, n_threads=1) as ctx:
        expected = sum(row.context for row in ctx.memory_use())
    with pytest.raises(lc.InvalidArgumentError, match="load_mode"):
        lc.Model.load(tiny_path(), no_alloc=True, load_mode="mmap")
    with lc.Model.load(tiny_path(), no_alloc=True) as model:
        with model.context(n_ctx=2048) as ctx:
            assert sum(row.context for row in ctx.memory_use()) == expected
            ctx.memory.clear()
            with pytest.raises(lc.UnsupportedError, match="no_alloc"):
                feed(ctx, [5])
            with pytest.raises(lc.UnsupportedError, match="no_alloc"):
                ctx.warmup()
        with pytest.raises(lc.UnsupportedError):
            model.save(tmp_path / "copy.gguf")


@pytest.mark.parametrize("arch", ARCHS)
def test_saving(tiny, tmp_path, arch):
    """A saved model computes the same, or upstream cannot write all of it and nothing is left behind."""
    target = tmp_path / "copy.gguf"
    if arch in ("bert", "t5"):
        with pytest.raises(lc.UnsupportedError):
            tiny(arch).save(target)
        assert not list(tmp_path.iterdir())
        return
    tiny(arch).save(target)
    tiny(arch).save(target)
    assert [path.name for path in tmp_path.iterdir()] == ["copy.gguf"]
    with tiny(arch).context(n_ctx=256, n_threads=1) as ctx:
        expected = feed(ctx, words(9))
    with lc.Model.load(target) as model, model.context(n_ctx=256, n_threads=1) as ctx:
        assert np.array_equal(feed(ctx, words(9)), expected)


def test_saving_where_it_cannot_be(tiny, tmp_path):
    """A folder and a path without one are errors that leave no file."""
    for target in (tmp_path, tmp_path / "no" / "folder.gguf"):
        with pytest.raises(lc.ModelLoadError):
            tiny().save(target)
    assert not list(tmp_path.iterdir())


def test_the_demo_model(demo_model):
    """The bundled model loads and goes on with a text."""
    with demo_model.context(n_ctx=256) as ctx:
        logits = feed(ctx, demo_model.vocab.tokenize("Once upon a"))
        assert logits.shape == (demo_model.n_vocab,) and np.isfinite(logits).all()
