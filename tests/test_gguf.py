"""Reading GGUF headers and refusing what llama.cpp would crash on."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gguf as reference
import numpy as np
import pytest
from fuzz.image import ARRAY, STRING, Image, Pair, array, scalar

from llamacore import gguf
from llamacore.errors import InvalidModelError, LlamaCoreError, ModelLoadError, ModelNotFoundError
from llamacore.testing import bench_model, tiny_lora, tiny_model

KINDS: dict[str, dict[str, object]] = {
    "llama": {},
    "llama-spm": {"vocab": "spm"},
    "llama-moe": {"n_expert": 4},
    "llama-q8_0": {"dtype": "q8_0", "tied": True},
    "gemma3": {"arch": "gemma3"},
    "qwen35": {"arch": "qwen35", "n_nextn": 1},
    "mamba": {"arch": "mamba"},
    "bert": {"arch": "bert"},
    "classifier": {"arch": "bert", "pooling": "rank", "labels": ["no", "yes"]},
    "t5": {"arch": "t5"},
}
Change = Callable[[Image], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_model(folder / f"{name}.gguf", **options) for name, options in KINDS.items()}  # type: ignore[arg-type]


@pytest.fixture
def damaged(models: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    def write(kind: str, change: Change, *, lay_out: bool = True) -> Path:
        image = Image.parse(models[kind].read_bytes())
        change(image)
        if lay_out:
            image.lay_out()
        path = tmp_path / "damaged.gguf"
        path.write_bytes(image.to_bytes())
        return path

    return write


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_the_reference_reader_reads(models: dict[str, Path], kind: str) -> None:
    ours, theirs = gguf.read(models[kind]), reference.GGUFReader(models[kind])
    keys = [key for key in theirs.fields if not key.startswith("GGUF.")]
    assert list(ours.metadata) == keys
    for key in keys:
        field, value = theirs.fields[key], ours.metadata[key]
        assert value == field.contents(), key
        assert ours.metadata.type(key) == int(field.types[0]), key
        assert ours.metadata.count(key) == (len(value) if isinstance(value, list) else 1), key
    assert [tensor.name for tensor in ours.tensors.values()] == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.shape == tuple(tensor.shape), tensor.name
        assert mine.offset == tensor.data_offset, tensor.name
        assert mine.nbytes == tensor.n_bytes, tensor.name
        assert mine.n_elements == tensor.n_elements, tensor.name
        assert mine.storage.name == tensor.tensor_type.name.lower(), tensor.name
    assert (ours.version, ours.alignment, ours.data_offset) == (3, theirs.alignment, theirs.data_offset)


def test_every_value_type(tmp_path: Path) -> None:
    writer = reference.GGUFWriter(tmp_path / "types.gguf", "test")
    scalars = {
        "UINT8": 255, "INT8": -128, "UINT16": 65535, "INT16": -32768, "UINT32": 2**32 - 1, "INT32": -(2**31),
        "FLOAT32": 0.5, "BOOL": True, "STRING": "żółw\n", "UINT64": 2**64 - 1, "INT64": -(2**63), "FLOAT64": 1e300,
    }  # fmt: skip
    for name, value in scalars.items():
        writer.add_key_value(f"test.{name}", value, reference.GGUFValueType[name])
    writer.add_array("test.strings", ["", "a", "żółw"])
    writer.add_array("test.empty", [1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = gguf.read(tmp_path / "types.gguf").metadata
    for name, value in scalars.items():
        assert metadata[f"test.{name}"] == value
        assert metadata.type(f"test.{name}") is gguf.ValueType[name]
        assert metadata.element_type(f"test.{name}") is None
    assert metadata["test.strings"] == ["", "a", "żółw"]
    assert metadata.element_type("test.strings") is gguf.ValueType.STRING
    assert metadata.longest("test.strings") == 7


@pytest.mark.parametrize("seed", range(8))
def test_long_string_arrays_are_passed_as_a_walk_would(tmp_path: Path, seed: int) -> None:
    # lengths below and above the 255 that the quick scan knows, empty strings, and text that looks like lengths
    rng = np.random.default_rng(seed)
    odd = [b"", b"\0" * 7, b"a\5\0\0\0\0\0\0\0bcdef", b"x" * 255, b"y" * 256, b"z" * 1500, b"\1" + b"\0" * 14]
    share = (0.0, 0.001, 0.01, 0.5)[seed % 4]
    strings = [
        odd[rng.integers(len(odd))] if rng.random() < share else rng.bytes(int(rng.integers(1, 12)))
        for _ in range(int(rng.integers(300, 20000)))
    ]
    image = Image([Pair(b"a", ARRAY, array(STRING, strings)), Pair(b"b", 4, scalar(4, 77))], [])
    path = tmp_path / "strings.gguf"
    path.write_bytes(image.to_bytes())
    metadata = gguf.read(path).metadata
    assert metadata["b"] == 77
    assert metadata["a"] == [text.decode("utf-8", "replace") for text in strings]
    assert metadata.longest("a") == max(map(len, strings))
    for cut in rng.integers(40, path.stat().st_size - 20, 20):
        short = tmp_path / "short.gguf"
        short.write_bytes(image.to_bytes()[: int(cut)])
        with pytest.raises(InvalidModelError):
            gguf.read(short)


def test_a_large_vocabulary_takes_little_time(tmp_path: Path) -> None:
    path = bench_model(tmp_path / "bench.gguf", n_vocab=150_000, dtype="q4_0")
    gguf.check(path)  # the first use imports numpy
    times = []
    for _ in range(7):
        started = time.process_time()
        file = gguf.check(path)
        times.append(time.process_time() - started)
    assert file.metadata.count("tokenizer.ggml.tokens") == 150_000
    # it is 10 ms; walking the strings one by one in Python would take 50
    assert min(times) < 0.04, times


def test_importing_it_needs_no_numpy() -> None:
    code = "import sys, llamacore.gguf; sys.exit('numpy' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


# --- sound files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_sound_models_pass(models: dict[str, Path], kind: str) -> None:
    assert gguf.check(models[kind]).path == str(models[kind])


def test_adapters_and_vocabularies_pass(models: dict[str, Path], tmp_path: Path) -> None:
    gguf.check(tiny_lora(tmp_path / "lora.gguf", models["llama"]))
    image = Image.parse(models["llama"].read_bytes())
    image.rows = []
    (tmp_path / "vocab.gguf").write_bytes(image.to_bytes())
    assert not gguf.check(tmp_path / "vocab.gguf").tensors


def test_bundled_models_pass() -> None:
    for path in (Path(gguf.__file__).parents[1] / "data").glob("*.gguf"):
        gguf.check(path)


# --- damaged files ----------------------------------------------------------------------------------------------------


def _set(key: str, value: float | bytes, kind: int | None = None) -> Change:
    def change(image: Image) -> None:
        pair = image.find(key.encode())
        if pair is None:
            pair = Pair(key.encode(), kind or 4, b"")
            image.pairs.append(pair)
        pair.kind = pair.kind if kind is None else kind
        pair.payload = scalar(pair.kind, value)

    return change


def _set_array(key: str, element: int, values: list[float] | list[bytes]) -> Change:
    def change(image: Image) -> None:
        image.pairs = [pair for pair in image.pairs if pair.key != key.encode()]
        image.pairs.append(Pair(key.encode(), ARRAY, array(element, values)))

    return change


def _row(row_name: str, /, **fields: object) -> Change:
    def change(image: Image) -> None:
        (row,) = (row for row in image.rows if row.name == row_name.encode())
        for field, value in fields.items():
            setattr(row, field, value)

    return change


def _without(*names: str) -> Change:
    def change(image: Image) -> None:
        image.rows = [row for row in image.rows if row.name.decode() not in names]

    return change


def _raw_array(element: int, count: int) -> Change:
    return lambda image: image.pairs.append(Pair(b"k", ARRAY, struct.pack("<IQ", element, count)))


HEADERS: dict[str, tuple[Change, str]] = {
    "magic": (lambda image: setattr(image, "magic", b"GGML"), "not a GGUF file"),
    "version 1": (lambda image: setattr(image, "version", 1), "version 1 is not supported"),
    "version 4": (lambda image: setattr(image, "version", 4), "version 4 is not supported"),
    "big-endian": (lambda image: setattr(image, "version", 3 << 24), "big-endian"),
    "too many keys": (lambda image: setattr(image, "n_pairs", 2**63), "claims"),
    "too many tensors": (lambda image: setattr(image, "n_rows", 2**40), "claims"),
    "a key too few": (lambda image: setattr(image, "n_pairs", len(image.pairs) - 1), "has 8 dimensions"),
    "alignment 0": (_set("general.alignment", 0), "no power of two"),
    "alignment 3": (_set("general.alignment", 3), "no power of two"),
    "alignment of another type": (_set("general.alignment", 32, 10), "has type UINT64"),
    "same key twice": (lambda image: image.pairs.append(image.pairs[0]), "is there twice"),
    "empty key": (lambda image: image.pairs.append(Pair(b"", 4, scalar(4, 1))), "key .* is ''"),
    "key that is no text": (lambda image: image.pairs.append(Pair(b"\xff", 4, scalar(4, 1))), "not UTF-8"),
    "key without end": (lambda image: image.pairs.append(Pair(b"k" * 70000, 4, scalar(4, 1))), "70000 bytes long"),
    "value type": (lambda image: image.pairs.append(Pair(b"k", 13, b"")), "type 13, which does not exist"),
    "element type": (_raw_array(99, 0), "type 99"),
    "array of arrays": (_raw_array(9, 0), "array of arrays"),
    "endless array": (_raw_array(4, 2**61), "ends inside"),
    "endless strings": (_raw_array(8, 2**40), "claims"),
    "endless string": (lambda image: image.pairs.append(Pair(b"k", STRING, struct.pack("<Q", 2**62))), "bytes long"),
    "same tensor twice": (lambda image: image.rows.append(image.rows[0]), "is there twice"),
    "unnamed tensor": (_row("output.weight", name=b""), "name of tensor"),
    "tensor name too long": (_row("output.weight", name=b"n" * 64), "64 bytes long"),
    "five dimensions": (_row("output.weight", shape=[64, 1, 1, 1, 1]), "5 dimensions"),
    "storage type": (_row("output.weight", storage=36), "type 36"),
    "row that is no block": (_row("output_norm.weight", shape=[33], storage=8), "needs a multiple of 32"),
    "huge tensor": (_row("output.weight", shape=[2**40, 2**20]), "larger than the file"),
    "overflowing tensor": (_row("output.weight", shape=[2**32, 2**32, 2**32]), "larger than the file"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_damaged_headers_are_named(damaged: Callable[..., Path], name: str) -> None:
    change, message = HEADERS[name]
    path = damaged("llama", change)
    with pytest.raises(InvalidModelError, match=message) as caught:
        gguf.check(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_tensor_offsets_must_follow_one_another(damaged: Callable[..., Path]) -> None:
    with pytest.raises(InvalidModelError, match="is said to be at 32"):
        gguf.check(damaged("llama", lambda image: setattr(image.rows[1], "offset", 32), lay_out=False))


def test_an_incomplete_download_says_so(models: dict[str, Path], tmp_path: Path) -> None:
    raw = models["llama"].read_bytes()
    path = tmp_path / "part.gguf"
    path.write_bytes(raw[:-100000])
    with pytest.raises(InvalidModelError, match=r"ends before its tensors do.*incomplete"):
        gguf.check(path)


def test_every_truncation_is_an_error(models: dict[str, Path], tmp_path: Path) -> None:
    raw = models["llama-q8_0"].read_bytes()
    end = gguf.read(models["llama-q8_0"]).data_offset
    path = tmp_path / "cut.gguf"
    for size in (*range(300), *range(300, end, 97), end, end + 1, len(raw) - 33):
        path.write_bytes(raw[:size])
        with pytest.raises(InvalidModelError):
            gguf.check(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model file"):
        gguf.check(tmp_path / "none.gguf")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        gguf.check(tmp_path)
    with pytest.raises(LlamaCoreError, match="cannot be read"):
        gguf.check("nul\0inside.gguf")


def _rwkv(tokens: list[bytes]) -> Change:
    def change(image: Image) -> None:
        _set("tokenizer.ggml.model", b"rwkv")(image)
        _set_array("tokenizer.ggml.tokens", STRING, tokens)(image)

    return change


def test_rwkv_vocabularies_with_every_byte_pass(damaged: Callable[..., Path]) -> None:
    every_byte = [repr(bytes([byte]))[2:-1].encode() for byte in range(256)]
    gguf.check(damaged("llama", _rwkv([b"<s>", *every_byte, b"the", rb"\n\n", rb"\xe2\x96\x81", "ż".encode()])))


# what upstream would crash on, one line for each check
MODELS: dict[str, tuple[str, Change, str]] = {
    "integer weights": ("llama", _row("output.weight", storage=26), "stored as i32"),
    "double weights": ("llama", _row("blk.0.ffn_up.weight", storage=28), "stored as f64"),
    "byte weights": ("gemma3", _row("blk.0.attn_k.weight", storage=24), "stored as i8"),
    "half-precision norm": ("llama", _row("blk.0.attn_norm.weight", storage=1), "must be f32"),
    "quantized bias": ("bert", _row("blk.0.attn_q.bias", storage=8), "must be f32"),
    "half-precision convolution": ("mamba", _row("blk.0.ssm_conv1d.weight", storage=1), "must be f32"),
    "empty tensor": ("llama", _row("blk.0.ffn_up.weight", shape=[64, 0]), "is empty"),
    "no rotary dimensions": ("qwen35", _set("qwen35.rope.dimension_count", 0), "dimension_count is 0"),
    "odd rotary dimensions": ("qwen35", _set("qwen35.rope.dimension_count", 7), "dimension_count is 7"),
    "too many rotary dimensions": ("gemma3", _set("gemma3.rope.dimension_count", 64), "dimension_count is 64"),
    "window rotary dimensions": ("gemma3", _set("gemma3.rope.dimension_count_swa", 0), "dimension_count_swa is 0"),
    "empty sections": ("qwen35", _set_array("qwen35.rope.dimension_sections", 5, [0, 0, 0, 0]), "dimension_sections"),
    "opposite sections": ("qwen35", _set_array("qwen35.rope.dimension_sections", 5, [4, -4, 0, 0]), "sections is"),
    "wide sections": ("qwen35", _set_array("qwen35.rope.dimension_sections", 5, [9, 9, 9, 9]), "dimension_sections"),
    "negative epsilon": ("llama", _set("llama.attention.layer_norm_rms_epsilon", -1.0), "must not be negative"),
    "epsilon not a number": ("bert", _set("bert.attention.layer_norm_epsilon", float("nan")), "must not be negative"),
    "interval of 0": ("qwen35", _set("qwen35.full_attention_interval", 0), "full_attention_interval is 0"),
    "huge heads": ("llama", _set("llama.attention.key_length", 2**31), "fit no memory"),
    "many heads": ("llama", _set("llama.attention.head_count_kv", 2**31), "fit no memory"),
    "huge state": ("qwen35", _set("qwen35.ssm.inner_size", 2**31), "fits no memory"),
    "huge encoder context": ("t5", _set("t5.context_length", 2**31), "context_length"),
    "no fused projection": ("qwen35", _without("blk.0.attn_qkv.weight"), "needs tensor 'blk.0.attn_qkv.weight'"),
    "no position bias": ("t5", _without("dec.blk.0.attn_rel_b.weight"), "dec.blk.0.attn_rel_b.weight"),
    "huge vocabulary": ("llama", _set("llama.vocab_size", 2**31), "vocab_size"),
    "long token in a trie": (
        "t5",
        _set_array("tokenizer.ggml.tokens", STRING, [b"a" * 70000, b"b", b"c"]),
        "one of 70000 bytes",
    ),
    "rwkv token without its first byte": ("llama", _rwkv([b"ab", b"b", rb"\n", rb"\x61c"]), "begin with b'a'"),
    "no tokens": ("llama", _set_array("tokenizer.ggml.tokens", STRING, []), "tokens is empty"),
    "open charsmap": (
        "t5",
        _set_array("tokenizer.ggml.precompiled_charsmap", 0, [4, 0, 0, 0, 0, 0, 0, 0, 97]),
        "does not end with a zero byte",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_that_would_crash_are_refused(damaged: Callable[..., Path], name: str) -> None:
    kind, change, message = MODELS[name]
    path = damaged(kind, change)
    gguf.read(path)  # the format is right
    with pytest.raises(InvalidModelError, match=message) as caught:
        gguf.check(path)
    assert caught.value.hint


def test_tensors_that_some_architectures_take_for_granted(tmp_path: Path) -> None:
    weights = reference.GGUFWriter(tmp_path / "hybrid.gguf", "falcon-h1")
    weights.add_tensor("blk.0.ssm_conv1d.weight", np.zeros((8, 4), np.float32))
    weights.add_tensor("blk.0.ssm_conv1d.bias", np.zeros(8, np.float32))
    weights.add_tensor("blk.1.ssm_conv1d.weight", np.zeros((8, 4), np.float32))
    weights.write_header_to_file()
    weights.write_kv_data_to_file()
    weights.write_tensors_to_file()
    weights.close()
    with pytest.raises(InvalidModelError, match=r"needs tensor 'blk\.1\.ssm_conv1d\.bias'"):
        gguf.check(tmp_path / "hybrid.gguf")


def test_keys_that_some_architectures_take_for_granted(damaged: Callable[..., Path]) -> None:
    with pytest.raises(InvalidModelError, match=r"afmoe\.attention\.sliding_window"):
        gguf.check(damaged("llama", _set("general.architecture", b"afmoe")))
    with pytest.raises(InvalidModelError, match=r"qwen3moe\.expert_used_count"):
        gguf.check(damaged("llama", _set("general.architecture", b"qwen3moe")))
    with pytest.raises(InvalidModelError, match=r"phimoe\.attention\.head_count"):
        gguf.check(damaged("mamba", _set("general.architecture", b"phimoe")))
