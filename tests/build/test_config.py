"""Profiles and back ends become CMake options."""

from __future__ import annotations

import pytest

from build_support.config import BuildConfig
from build_support.errors import BuildError


@pytest.mark.parametrize(("profile", "native", "loadable"), [("native", "ON", "OFF"), ("portable", "OFF", "ON")])
def test_the_profile_sets_the_cpu(profile: str, native: str, loadable: str):
    options = BuildConfig(profile=profile).cmake_options()
    assert options["GGML_NATIVE"] == native
    assert options["GGML_BACKEND_DL"] == loadable
    assert options["GGML_CPU_ALL_VARIANTS"] == loadable


def test_the_base_has_the_same_back_ends_whatever_add_ons_are_asked_for():
    plain, more = BuildConfig(), BuildConfig(backends=("vulkan", "cuda", "vulkan"))
    assert plain.cmake_options() == more.cmake_options()
    on = {key for key, value in plain.cmake_options().items() if value == "ON"}
    assert on == {"GGML_NATIVE", "GGML_CPU", "GGML_RPC"}
    assert plain.addons == ()
    assert more.addons == ("cuda", "vulkan")


def test_back_ends_have_one_order_and_no_repeats():
    assert BuildConfig(backends=("blas", "cuda", "rpc", "cuda")) == BuildConfig(backends=("cuda", "cpu", "blas"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"profile": "fast"}, "unknown profile 'fast'"),
        ({"backends": ("cpu", "metal2")}, "unknown back end 'metal2'"),
        ({"jobs": 0}, "0 jobs"),
        ({"cuda_arch": "90"}, "without the CUDA back end"),
        ({"cuda_arch": "90; rm", "backends": ("cuda",)}, "no CUDA architecture list"),
    ],
)
def test_bad_values_are_named(bad: dict, message: str):
    with pytest.raises(BuildError, match=message):
        BuildConfig(**bad)


def test_pip_builds_what_the_environment_says():
    environ = {
        "LLAMACORE_BUILD_PROFILE": "portable",
        "LLAMACORE_BUILD_BACKENDS": "blas, cuda",
        "LLAMACORE_BUILD_JOBS": "3",
        "LLAMACORE_BUILD_CUDA_ARCH": "90",
        "LLAMACORE_BUILD_ALLOW_UNPINNED": "1",
        "LLAMACORE_BUILD_SOURCE": "/src",
    }
    config = BuildConfig.from_environment(environ)
    assert (
        config.profile,
        config.backends,
        config.jobs,
        config.cuda_arch,
        config.allow_unpinned,
        str(config.source),
    ) == (
        "portable",
        ("cpu", "rpc", "cuda", "blas"),
        3,
        "90",
        True,
        "/src",
    )


def test_pip_builds_the_default_otherwise():
    assert BuildConfig.from_environment({}) == BuildConfig()


def test_a_bad_number_of_jobs_is_named():
    with pytest.raises(BuildError, match="LLAMACORE_BUILD_JOBS='many'"):
        BuildConfig.from_environment({"LLAMACORE_BUILD_JOBS": "many"})


def test_config_settings_of_pip_are_the_same_options(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("setuptools")
    from build_support.backend import _apply

    for name in ("PROFILE", "BACKENDS"):
        monkeypatch.setenv(f"LLAMACORE_BUILD_{name}", "")
    assert _apply({"profile": "portable", "backend": ["cuda", "blas"], "editable_mode": "strict"}) == {
        "editable_mode": "strict"
    }
    assert BuildConfig.from_environment() == BuildConfig(profile="portable", backends=("cuda", "blas"))
