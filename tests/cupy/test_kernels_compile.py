"""Every CUDA source in every variant compiles, without a GPU, and fits on the GPUs it is for."""

from __future__ import annotations

import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.cupy import compiling
from tests.cupy.compiling import CompilationError, Report, complaints, parse, reports
from tinygrad_rnn.backends import kernels
from tinygrad_rnn.backends.kernels import VARIANTS, Variant

pytestmark = pytest.mark.cupy

ARCHITECTURES = tuple(compiling.SHARED_MEMORY)  # A100; H100 and H200
JOBS = [(variant, arch) for variant in VARIANTS for arch in ARCHITECTURES]


def label(job: tuple[Variant, int]) -> str:
    variant, arch = job
    return f"{variant.file}-{'-'.join(str(v) for _, v in variant.macros)}-sm_{arch}"


@pytest.fixture(scope="module")
def compiled(request):
    """(variant, architecture) -> its reports to be: those that will be asked for, side by side."""
    compiling.compiler()
    wanted = [
        item.callspec.params["job"]
        for item in request.session.items
        if "job" in getattr(getattr(item, "callspec", None), "params", {})
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs: dict[tuple[Variant, int], Future[dict[str, Report]]] = {
            (v, arch): pool.submit(reports, v.source(), v.options, arch) for v, arch in wanted
        }
        yield jobs
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("job", JOBS, ids=label)
def test_a_variant_compiles_and_fits(compiled, job):
    variant, arch = job
    found = compiled[job].result()
    assert complaints(found, variant.kernels, variant.threads, variant.shared_memory, arch) == []


def test_the_manifest_has_every_source():
    assert {v.file for v in VARIANTS} == {path.stem for path in kernels.HERE.glob("*.cu")}
    assert len({(v.file, v.macros) for v in VARIANTS}) == len(VARIANTS) > 0
    for v in VARIANTS:
        assert kernels.find(v.file, **dict(v.macros)) is v
        assert list(v.macros) == sorted(v.macros)


def test_the_sources_include_nothing():
    """So that no header has to be installed to compile them."""
    for path in [*kernels.HERE.glob("*.cu"), *kernels.HERE.glob("*.cuh")]:
        assert re.findall(r"^\s*#\s*include.*", path.read_text(), re.MULTILINE) == []


# ---- the check can fail ----

GOOD = """
extern "C" __global__ void __launch_bounds__(256) doubled(float* x, int n) {
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i < n) x[i] += x[i];
}
"""
# 300 numbers that are all needed at the end, in a thread that may have 64 registers.
SPILLS = """
extern "C" __global__ void __launch_bounds__(1024) greedy(float* x) {
    float a[300];
#pragma unroll
    for (int i = 0; i < 300; i++) a[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 300; i++) x[i * 1024 + threadIdx.x] = a[299 - i] * a[(i * 7) % 300];
}
"""
STATIC = """
extern "C" __global__ void __launch_bounds__(256) hoarder(float* x) {
    __shared__ float kept[4096];
    kept[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = kept[255 - threadIdx.x];
}
"""
UNBOUND = GOOD.replace("__launch_bounds__(256)", "")
COMPILERS = ["nvrtc", "nvcc"]


@pytest.fixture(params=COMPILERS)
def made_by(request):
    """NVRTC, and nvcc where it is installed: the second only stands in for the first."""
    found = "nvrtc" if request.param == "nvrtc" else shutil.which("nvcc")
    if found is None:
        pytest.skip("nvcc is not installed")
    return found


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_good_kernel_is_reported(made_by, arch):
    found = reports(GOOD, ("-std=c++17",), arch, made_by)
    assert found.keys() == {"doubled"}
    report = found["doubled"]
    assert (report.spilled, report.static_memory, report.threads) == (0, 0, 256)
    assert 4 <= report.registers <= 32
    assert complaints(found, ("doubled",), 256, 48 * 1024, arch) == []


BAD = {
    "a spill": (SPILLS, ("greedy",), 1024, 0, "greedy spills"),
    "another name": (GOOD, ("halved",), 256, 0, r"kernels \['doubled'\], the manifest \['halved'"),
    "one name too many": (GOOD, ("doubled", "halved"), 256, 0, "the manifest"),
    "one name too few": (GOOD + STATIC, ("doubled",), 256, 0, "the manifest"),
    "more threads": (GOOD, ("doubled",), 512, 0, "compiled for 256 threads, launched with 512"),
    "no bounds": (UNBOUND, ("doubled",), 256, 0, "compiled for 1024 threads"),
    "shared memory": (STATIC, ("hoarder",), 256, 227 * 1024, r"needs 16384 \+ 232448 bytes"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_kernel_that_does_not_fit_is_rejected(made_by, fault):
    source, names, threads, dynamic, said = BAD[fault]
    found = reports(source, ("-std=c++17",), 90, made_by)
    (complaint,) = complaints(found, names, threads, dynamic, 90)
    assert re.search(said, complaint)


def test_too_many_registers_are_noticed():
    """The compiler spills before it gets there, as long as it knows the size of a block."""
    found = {"wide": Report(registers=129, spilled=0, static_memory=0, threads=512)}
    (complaint,) = complaints(found, ("wide",), 512, 0, 90)
    assert "needs 69632 registers" in complaint
    assert complaints({"wide": Report(128, 0, 0, 512)}, ("wide",), 512, 0, 90) == []


def test_what_is_no_cuda_is_quoted(made_by):
    with pytest.raises(CompilationError, match="no_such_type"):
        reports("no_such_type x;", (), 90, made_by)


def test_options_reach_the_compiler(made_by):
    source = GOOD.replace("doubled", "NAME")
    assert reports(source, ("-std=c++17", "-DNAME=called"), 80, made_by).keys() == {"called"}


def test_a_report_in_other_words_is_not_taken_for_a_good_one():
    with pytest.raises(AssertionError, match="has changed"):
        parse("ptxas info : Compiling entry function 'k' for 'sm_90'\n 3 regs", "")


def test_without_any_compiler_the_check_fails(monkeypatch):
    """A run in which nothing was compiled must not look like one in which all was well."""
    from cupy.cuda import nvrtc

    def missing():
        raise RuntimeError("Failure finding libnvrtc")

    compiling.compiler.cache_clear()
    monkeypatch.setattr(nvrtc, "getVersion", missing)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(CompilationError, match=r"neither NVRTC .* nor nvcc"):
        compiling.compiler()
    monkeypatch.setattr(shutil, "which", lambda _: "/opt/nvcc")
    assert compiling.compiler() == "/opt/nvcc"
    compiling.compiler.cache_clear()
