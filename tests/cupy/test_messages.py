"""What people are told by the real CuPy where there is no driver."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.backends import cuda_trouble
from tinygrad_rnn.cli import main

pytestmark = pytest.mark.cupy


@pytest.fixture
def no_driver():
    import cupy

    if cupy.cuda.runtime.driverGetVersion() != 0:
        pytest.skip("this machine has an NVIDIA driver, and these are the messages without one")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_a_request_says_that_there_is_no_driver(no_driver, device):
    for ask in (
        lambda: tg.tensor(1.0, device=device),
        lambda: tg.zeros((2, 2), device=device),
        lambda: tg.tensor(1.0).to(device),
        lambda: tg.nn.Linear(2, 2).to(device),
    ):
        with pytest.raises(tg.BackendUnavailable, match=f"'{device}' cannot be used: no NVIDIA dr"):
            ask()
    assert "CuPy is not installed" not in cuda_trouble.diagnose()


def test_the_list_of_devices_says_it(no_driver):
    cuda = [d for d in tg.devices() if d.name.startswith("cuda")]
    assert [(d.name, d.usable) for d in cuda] == [("cuda", False)]
    assert cuda[0].detail == cuda_trouble.diagnose()
    assert "install NVIDIA's driver" in cuda[0].detail


def test_the_command_line_says_it(no_driver, capsys):
    assert main(["devices"]) == 0
    printed = capsys.readouterr()
    assert "cuda      no      no NVIDIA driver was found; " in printed.out
    assert printed.err == ""


def test_a_run_on_the_gpu_is_refused_before_anything_is_written(no_driver, tmp_path, capsys):
    assert main(["train", "--out", str(tmp_path / "run"), "--device", "cuda"]) == 2
    assert "no NVIDIA driver" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_does_not_import_cupy():
    """Here it could: CuPy is installed. `devices` may, and does."""
    code = (
        "import sys, tinygrad_rnn as tg; from tinygrad_rnn.ops import lstm; tg.ones(2).sum();"
        "assert not [m for m in sys.modules if m.startswith('cupy')];"
        "tg.devices(); assert 'cupy' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# ---- errors that CuPy and NVRTC can be made to raise here, for real ----


def test_what_cupy_says_without_cublas_is_understood():
    try:
        import cupy.cublas
    except ImportError as error:
        sentence = cuda_trouble._why(error, 13)
    else:
        pytest.skip(f"cuBLAS is installed here ({cupy.cublas.__name__})")
    assert sentence.startswith("cuBLAS, CUDA's matrix products, cannot be found (ImportError: ")
    assert "pip install 'tinygrad_rnn[cuda13]'" in sentence


def test_what_nvrtc_says_without_a_header_is_understood():
    from cupy.cuda import nvrtc
    from cupy.cuda.compiler import CompileException

    source = '#include "vector_types_that_nobody_has.h"\n'
    program = nvrtc.createProgram(source, "k.cu", (), ())
    with pytest.raises(nvrtc.NVRTCError):
        nvrtc.compileProgram(program, ("-arch=sm_90",))
    error = CompileException(nvrtc.getProgramLog(program), source, "k.cu", (), "nvrtc")
    nvrtc.destroyProgram(program)
    sentence = cuda_trouble._why(error, 12)
    assert sentence.startswith("the CUDA headers cannot be found (CompileException: ")
    assert "vector_types_that_nobody_has.h" in sentence
    assert "pip install 'tinygrad_rnn[cuda12]'" in sentence


def test_what_is_said_without_nvrtc_is_understood():
    """In a process that has NVRTC's directory out of its sight."""
    code = (
        "import importlib.metadata as m, pathlib, cuda.pathfinder as p;"
        "from cuda.pathfinder import load_nvidia_dynamic_lib as load;"
        "from tinygrad_rnn.backends.cuda_trouble import _why\n"
        "import sys, site; sys.path[:] = [x for x in sys.path if 'site-packages' not in x]\n"
        "site.getsitepackages = lambda *a: []\n"
        "site.getusersitepackages = lambda *a: ''\n"
        "try: load('nvrtc')\n"
        "except RuntimeError as e: print(_why(e, 13))\n"
        "else: print('found')"
    )
    hidden = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA_", "LD_", "CONDA"))}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=hidden
    )
    if run.stdout.strip() == "found":
        pytest.skip("the system has an NVRTC of its own")
    assert run.stdout.startswith("NVRTC, CUDA's compiler, cannot be found (DynamicLibNotFoundErro")


def test_the_statuses_are_cudas():
    """The two numbers in cuda_trouble.py, as CuPy's own table has them."""
    from cupy.cuda import runtime

    assert (
        runtime.CUDARuntimeError(cuda_trouble.INSUFFICIENT_DRIVER)
        .args[0]
        .startswith("cudaErrorInsufficientDriver")
    )
    assert runtime.CUDARuntimeError(cuda_trouble.NO_DEVICE).args[0].startswith("cudaErrorNoDevice")
