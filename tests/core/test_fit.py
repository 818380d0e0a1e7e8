"""What fits: planned without loading, by upstream's own rules; and what is done when memory runs out all the same."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rpc_server import RpcServer

import llamacore as lc
from llamacore.core import backend, log, rpc
from llamacore.core.fit import Fit, FitExtra, FitParams, fit
from llamacore.errors import InvalidArgumentError, InvalidModelError, ModelNotFoundError, OutOfMemoryError

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def device() -> Iterator[backend.Device]:
    """A device with as much memory as this machine has."""
    with RpcServer() as server:
        yield rpc.add_rpc_server(server.endpoint)[0]


@pytest.fixture(scope="module")
def pair() -> Iterator[list[backend.Device]]:
    """Two of them."""
    with RpcServer() as first, RpcServer() as second:
        yield [rpc.add_rpc_server(server.endpoint)[0] for server in (first, second)]


def leaving(device: backend.Device, n_bytes: int, **options: Any) -> FitParams:
    """Margins that leave so much of a device to be used."""
    return FitParams(margins=device.memory_free - n_bytes, **options)


def of(found: Fit, name: str) -> Any:
    return next(row for row in found.devices if row.name == name)


def test_on_the_cpu_a_small_model_fits(exact_path: Path) -> None:
    """The context is as large as the model was trained for; the table says what the real ones take."""
    found = fit(exact_path)
    assert (found.status, found.fits, found.reason, found.n_ctx) == ("unchanged", True, "", 2048)
    assert found.model_params == lc.ModelParams()
    assert found.context_params == lc.ContextParams(n_ctx=2048)
    assert [row.name for row in found.devices] == ["host"]
    with lc.Model.load(exact_path, found.model_params) as model, model.context(found.context_params) as ctx:
        use = ctx.memory_use()
        assert found.devices[0].model == sum(row.model for row in use)
        assert found.devices[0].context == sum(row.context for row in use)
        assert found.devices[0].used == pytest.approx(sum(r.model + r.context + r.compute for r in use), rel=0.2)


def test_the_context_has_a_cap_and_a_size_that_is_asked_for_stays(exact_path: Path) -> None:
    """n_ctx_max bounds what is chosen; a given n_ctx is not changed."""
    assert fit(exact_path, params=FitParams(n_ctx_max=512, n_ctx_min=256)).n_ctx == 512
    assert fit(exact_path, params=FitParams(n_ctx_max=None)).n_ctx == 2048
    assert fit(exact_path, context_params=lc.ContextParams(n_ctx=300)).n_ctx == 300


def test_nothing_fits_when_all_is_to_be_left_free(exact_path: Path) -> None:
    """A failed fit has a reason, and parameters as they were asked for."""
    found = fit(exact_path, params=FitParams(margins=2**50))
    assert (found.status, found.fits) == ("failed", False)
    assert "unable to fit" in found.reason
    assert found.model_params == lc.ModelParams()
    assert found.devices[0].used > 10 * MIB


def test_a_device_takes_what_it_can(exact_path: Path, device: backend.Device) -> None:
    """With less and less memory first the context shrinks, then layers stay behind; never is too much taken."""
    on = lc.ModelParams(devices=[device.name])
    seen = []
    for room in (100, 18, 13, 9, 5):
        found = fit(exact_path, on, params=leaving(device, room * MIB, n_ctx_min=256))
        assert found.fits, found.reason
        assert of(found, device.name).used <= room * MIB
        seen.append((found.n_ctx, 99 if found.n_gpu_layers == "all" else found.n_gpu_layers))
        with lc.Model.load(exact_path, found.model_params) as model, model.context(found.context_params) as ctx:
            rows = {row.buffer_type.partition("[")[0]: row for row in ctx.memory_use()}
            assert rows["RPC0"].model == of(found, device.name).model
            assert rows["RPC0"].context == of(found, device.name).context
    assert seen[0] == (2048, 99)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1][1] < 6
    assert seen[-1][0] == 256


def test_two_devices_share_a_model(exact_path: Path, pair: list[backend.Device]) -> None:
    """Each has its own margin; the split that is found is one that fits."""
    names = [device.name for device in pair]
    aim = FitParams(margins=[pair[0].memory_free - 9 * MIB, pair[1].memory_free - 7 * MIB], n_ctx_min=256)
    found = fit(exact_path, lc.ModelParams(devices=names), params=aim)
    assert found.fits, found.reason
    assert len(found.tensor_split) == 2
    assert [row.name for row in found.devices] == [*names, "host"]
    assert of(found, names[0]).used <= 9 * MIB
    assert of(found, names[1]).used <= 7 * MIB
    with lc.Model.load(exact_path, found.model_params) as model, model.context(found.context_params):
        assert [device.name for device in model.devices] == names


def test_what_was_said_about_layers_is_kept(exact_path: Path, device: backend.Device) -> None:
    """A number of layers is not changed: it fits or it fails. None on the device is nothing to fit."""
    for layers, status in ((2, "failed"), (0, "unchanged"), ("none", "unchanged")):
        on = lc.ModelParams(devices=[device.name], n_gpu_layers=layers)
        found = fit(exact_path, on, params=leaving(device, 1 * MIB, n_ctx_min=256))
        assert (found.status, found.model_params) == (status, on)
    assert "already set by user" in fit(
        exact_path, dataclasses.replace(on, n_gpu_layers=2), params=leaving(device, 1 * MIB, n_ctx_min=256)
    ).reason  # fmt: skip


def test_no_layers_on_two_devices(exact_path: Path, pair: list[backend.Device]) -> None:
    """Upstream would divide by their number."""
    on = lc.ModelParams(devices=[device.name for device in pair], n_gpu_layers=0)
    assert fit(exact_path, on, params=FitParams(margins=pair[0].memory_free)).n_gpu_layers == 0


def test_a_draft_model_takes_its_part(exact_path: Path, demo_path: Path, device: backend.Device) -> None:
    """A second model is counted on the same device; of the same file only its context."""
    on = lc.ModelParams(devices=[device.name])
    alone = of(fit(exact_path, on), device.name)
    second = of(fit(exact_path, on, extra=FitExtra(path=demo_path, model_params=on)), device.name)
    assert second.model > alone.model
    assert second.context > alone.context
    mtp = FitExtra(
        path=exact_path,
        model_params=dataclasses.replace(on, load_mtp=True),
        context_params=lc.ContextParams(ctx_type="mtp"),
    )
    same = of(fit(exact_path, dataclasses.replace(on, load_mtp=True), extra=mtp), device.name)
    assert same.context > alone.context
    assert same.model < second.model + alone.model


def test_experts_stay_in_host_memory(tiny_path: Callable[..., Path], device: backend.Device) -> None:
    """Patterns for tensors that stay behind are names that loading takes."""
    path = tiny_path("llama", n_embd=256, n_ff=1024, n_layer=6)
    found = fit(path, lc.ModelParams(devices=[device.name]), params=leaving(device, 9 * MIB, n_ctx_min=64))
    assert found.fits, found.reason
    with lc.Model.load(path, found.model_params) as model:
        assert model.params.n_gpu_layers == found.n_gpu_layers


def test_split_by_tensors_cannot_be_fitted(tiny_path: Callable[..., Path], pair: list[backend.Device]) -> None:
    """Upstream has no rule for it, and says so."""
    path = tiny_path("llama", n_embd=256, n_ff=512, n_head=8)
    found = fit(path, lc.ModelParams(devices=[device.name for device in pair], split_mode="tensor"))
    assert not found.fits
    assert "SPLIT_MODE_TENSOR" in found.reason


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"margins": -1}, "margins"),
        ({"margins": 1.5}, "margins"),
        ({"margins": "1G"}, "margins"),
        ({"margins": []}, "margins"),
        ({"margins": [1, None]}, "margins"),
        ({"n_ctx_min": 0}, "n_ctx_min"),
        ({"n_ctx_max": 0}, "n_ctx_max"),
        ({"n_ctx_min": 512, "n_ctx_max": 256}, "n_ctx_min=512"),
        ({"n_ctx_min": 2**31}, "n_ctx_min"),
    ],
)
def test_an_aim_that_is_none(options: dict[str, Any], says: str) -> None:
    """Refused when it is made."""
    with pytest.raises(InvalidArgumentError, match=says):
        FitParams(**options)


def test_files_that_are_no_models(tmp_path: Path, exact_path: Path) -> None:
    """No file, garbage, and a file that is cut short."""
    with pytest.raises(ModelNotFoundError):
        fit(tmp_path / "none.gguf")
    garbage = tmp_path / "garbage.gguf"
    for data in (b"", b"GGUF", bytes(4096), exact_path.read_bytes()[:20000]):
        garbage.write_bytes(data)
        with pytest.raises(InvalidModelError):
            fit(garbage)
        with pytest.raises(InvalidModelError):
            fit(exact_path, extra=FitExtra(path=garbage))


def test_parameters_are_checked_as_always(exact_path: Path) -> None:
    """What a model or a context would refuse, a fit refuses too."""
    for model_params, context_params, error in (
        ({"devices": ["Z"]}, {}, InvalidArgumentError),
        ({"vocab_only": True}, {}, lc.UnsupportedError),
        ({}, {"type_k": "q3_K"}, InvalidArgumentError),
        ({}, {"n_seq_max": 2**30}, InvalidArgumentError),
        ({}, {"n_ctx": 2**31 - 1}, OutOfMemoryError),
    ):
        with pytest.raises(error):
            fit(exact_path, lc.ModelParams(**model_params), lc.ContextParams(**context_params))


def test_many_threads_and_a_log_that_stays_whole(exact_path: Path, device: backend.Device) -> None:
    """Eight threads fit while others load: same results, and lines of all threads still come to the ring."""
    on = lc.ModelParams(devices=[device.name])
    wanted = fit(exact_path, on)
    found: list[Any] = []

    def plan() -> None:
        found.extend(fit(exact_path, on) for _ in range(3))

    def load() -> None:
        for _ in range(6):
            with lc.Model.load(exact_path) as model:
                found.append(model.n_layer)

    threads = [threading.Thread(target=plan) for _ in range(8)] + [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fits = [item for item in found if isinstance(item, Fit)]
    assert (len(fits), len(found)) == (24, 36)
    assert all(item.n_ctx == wanted.n_ctx and item.status == wanted.status for item in fits)
    mark = log.mark()
    with lc.Model.load(exact_path):
        lines = log.lines(mark)
    assert any("llama_model_loader" in line for _, _, _, line in lines)


def test_a_fit_does_not_fill_the_log(exact_path: Path, device: backend.Device) -> None:
    """It loads a model many times; the ring of lines keeps what others wrote."""
    params = leaving(device, 9 * MIB, n_ctx_min=256)
    before = log.mark()
    fit(exact_path, lc.ModelParams(devices=[device.name]), params=params)
    once = log.mark() - before
    before = log.mark()
    with lc.Model.load(exact_path):
        pass
    assert once < 4 * (log.mark() - before)


# Llama


def test_llama_fits_by_itself_where_there_is_a_device(exact_path: Path, device: backend.Device) -> None:
    """Nothing said: layers go where they fit, the context is as it always is. Something said: nothing is changed."""
    on = lc.ModelParams(devices=[device.name])
    with lc.Llama(exact_path, model_params=on, n_threads=1) as llama:
        assert llama.fit is not None
        assert (llama.fit.status, llama.context.n_ctx) == ("unchanged", 2048)
    for options in ({"fit": False}, {"n_gpu_layers": 2}):
        with lc.Llama(exact_path, model_params=on, n_threads=1, **options) as llama:
            assert llama.fit is None
    if not backend.default_devices():
        with lc.Llama(exact_path, n_threads=1) as llama:
            assert llama.fit is None


def test_llama_with_an_aim(exact_path: Path, device: backend.Device) -> None:
    """The plan is what is made; the text is the CPU's."""
    with lc.Llama(exact_path, n_threads=1, n_ctx=512) as llama:
        wanted = llama.generate("Once upon a time", max_tokens=16, temperature=0).tokens
    aim = leaving(device, 13 * MIB, n_ctx_min=256)
    with lc.Llama(exact_path, devices=[device.name], n_threads=1, n_parallel=1, fit=aim) as llama:
        assert llama.fit is not None
        assert llama.fit.status == "fitted"
        assert llama.context.n_ctx == llama.fit.n_ctx < 2048
        assert llama.generate("Once upon a time", max_tokens=16, temperature=0).tokens == wanted


def test_llama_refuses_what_cannot_be_fitted(exact_path: Path, demo_model: lc.Model) -> None:
    """A model that is loaded already, and an aim that is none."""
    with pytest.raises(InvalidArgumentError, match="loaded already"):
        lc.Llama(demo_model, fit=True)
    with pytest.raises(InvalidArgumentError, match="FitParams"):
        lc.Llama(exact_path, fit="yes")  # type: ignore[arg-type]


def test_a_fit_that_fails_is_said_and_tried(
    exact_path: Path, device: backend.Device, caplog: pytest.LogCaptureFixture
) -> None:
    """The estimate may be wrong: loading decides."""
    with caplog.at_level(logging.WARNING, "llamacore.llama"):
        aim = FitParams(margins=2**50, n_ctx_min=64)
        with lc.Llama(exact_path, devices=[device.name], n_gpu_layers=2, n_threads=1, fit=aim, n_ctx=128) as llama:
            assert llama.fit is not None
            assert not llama.fit.fits
    assert any("already set by user" in record.message for record in caplog.records)


def test_memory_that_runs_out_makes_the_context_smaller(exact_path: Path, run_child: Callable[..., str]) -> None:
    """With a limit on the process: halved until it fits, and said; without an aim it is an error."""
    code = f"""
        import logging, resource
        from pathlib import Path
        import llamacore as lc
        from llamacore.core.fit import FitParams
        lines = []
        class Keep(logging.Handler):
            def emit(self, record): lines.append(record.getMessage())
        logging.getLogger("llamacore.llama").addHandler(Keep())
        with lc.Llama({str(exact_path)!r}, n_threads=1, n_ctx=64) as llama:
            llama.generate("Hello", max_tokens=2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, -1))
        asked = dict(n_threads=1, n_parallel=1, n_ctx=2**20, type_k="f32", type_v="f32")
        try:
            lc.Llama({str(exact_path)!r}, **asked)
        except lc.OutOfMemoryError as error:
            print("n_ctx=1048576" in str(error))
        with lc.Llama({str(exact_path)!r}, fit=FitParams(n_ctx_min=1024), **asked) as llama:
            print(1024 <= llama.context.n_ctx < 2**20, len(lines) > 0, "trying a context of" in lines[-1])
            print(llama.generate("Hello", max_tokens=3, ignore_eos=True).usage.completion_tokens)
        try:
            lc.Llama({str(exact_path)!r}, fit=FitParams(n_ctx_min=2**20, n_ctx_max=2**20), **asked)
        except lc.OutOfMemoryError:
            print("none smaller")
        """
    assert run_child(code).split("\n")[:4] == ["True", "True True True", "3", "none smaller"]
