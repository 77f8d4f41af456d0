"""Why a GPU cannot be used here, in one sentence: the cause, and what to do about it.

Between ``import cupy`` and a product of two matrices stand six things that people install, often
by different routes: the CuPy wheel, a driver, a GPU that the process may see, the compiler NVRTC,
the CUDA headers it reads, and cuBLAS. CuPy notices what is missing when it first needs it, so a
training run could fail after minutes with a message about a file. `diagnose` walks the way once,
from the first thing to the last, and stops at the first obstacle:

    import -> something that is not CuPy? -> driver -> device -> compile a kernel -> multiply

The last two are tried, not guessed (`_smoke`): one kernel and one product, once in a process. What
fails in a way that is not understood is quoted as CuPy said it, never swallowed.
"""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["diagnose"]

# Two statuses of the CUDA runtime (driver_types.h) that every driver, of any age, may answer with.
INSUFFICIENT_DRIVER, NO_DEVICE = 35, 100

# This Python's own pip: people have several, and the one that answers to "pip" is often another's.
PIP = f"{sys.executable} -m pip"
EXTRAS = (
    f"{PIP} install 'tinygrad_rnn[cuda13]' (or, where the driver ends at CUDA 12, "
    f"{PIP} install 'tinygrad_rnn[cuda12]'), or use device='cpu'"
)
SHOW = f'see what it finds with: {sys.executable} -c "import cupy; cupy.show_config()"'

# What a line of an error's text contains -> what is missing.
MISSING = {
    "CUDA headers": "the CUDA headers",
    "cannot open source file": "the CUDA headers",
    "libnvrtc": "NVRTC, CUDA's compiler,",
    "nvrtc64": "NVRTC, CUDA's compiler,",
    "libcublas": "cuBLAS, CUDA's matrix products,",
    "cublas64": "cuBLAS, CUDA's matrix products,",
}


def diagnose() -> str | None:
    """The first obstacle on the way to a GPU as "cause; fix", or None: CuPy can be used.

    Imports CuPy, which takes half a second, and computes a few numbers with it the first time.
    """
    try:
        import cupy
    except Exception as error:  # noqa: BLE001 - a broken CuPy fails in many ways; all are told
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return f"CuPy is not installed; {EXTRAS}"
        return f"CuPy is installed but cannot be imported ({_quoted(error)}); {SHOW}"
    if not hasattr(cupy, "cuda"):
        where = getattr(cupy, "__file__", None) or ", ".join(getattr(cupy, "__path__", ["?"]))
        return (
            f"what Python imports as cupy is not CuPy (found at {where}); rename it, or start "
            f"Python elsewhere"
        )
    return _no_device(cupy) or _smoke()


def _no_device(cupy: Any) -> str | None:
    """What is wrong with the driver, or why it shows no GPU."""
    runtime = cupy.cuda.runtime
    try:
        count, status = runtime.getDeviceCount(), 0
    except runtime.CUDARuntimeError as error:
        count, status, said = 0, error.status, _quoted(error)
    if count:
        return None
    driver, built_for = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        return (
            "no NVIDIA driver was found; install NVIDIA's driver for the GPU (a container has to "
            "be started with access to it), or use device='cpu'"
        )
    if status == INSUFFICIENT_DRIVER:
        return (
            f"the NVIDIA driver is too old: it knows CUDA {_version(driver)}, and the CuPy that is "
            f"installed is built for CUDA {_version(built_for)}; {_older(driver, built_for)}"
        )
    if status not in (0, NO_DEVICE):
        return f"the driver does not give access to a GPU ({said}); {SHOW}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return (
            f"no GPU is visible, because CUDA_VISIBLE_DEVICES={visible!r} hides them; unset it, or "
            f"name one that `nvidia-smi -L` lists"
        )
    return "the NVIDIA driver sees no GPU; `nvidia-smi -L` should list one, or use device='cpu'"


def _older(driver: int, built_for: int) -> str:
    """What helps where CuPy is newer than the driver."""
    if built_for // 1000 > driver // 1000 == 12:
        return (
            f"update the driver, or use the other extra: {PIP} uninstall cupy-cuda"
            f"{built_for // 1000}x, then {PIP} install 'tinygrad_rnn[cuda12]'"
        )
    return "update the driver"


class _Tried:
    worked = False


def _smoke() -> str | None:
    """What goes wrong when CuPy compiles a kernel and multiplies two matrices.

    Once it has worked, it is not tried again; what failed may have been a GPU that was full.
    """
    import cupy

    if _Tried.worked:
        return None
    try:
        x = cupy.asarray([[0.0, 1.0], [2.0, 3.0]], dtype=cupy.float32)
        doubled = x + x  # NVRTC compiles a kernel, with CUDA's headers; or finds it in CuPy's cache
        product = cupy.dot(doubled, doubled).get()  # cuBLAS, and the way back to the host
    except Exception as error:  # noqa: BLE001 - from six libraries; none of it is swallowed
        return _why(error, cupy.cuda.runtime.runtimeGetVersion() // 1000)
    if product.tolist() != [[8, 12], [24, 44]]:
        return f"the GPU computes wrongly (a 2x2 product gave {product.tolist()}); {SHOW}"
    _Tried.worked = True
    return None


def _why(error: BaseException, major: int) -> str:
    """The sentence for an error of the smoke test; `major` is the version of CUDA CuPy is for.

    Line by line: below the line that names what is missing, CuPy lists the files that are there.
    """
    for line in str(error).splitlines():
        for sign, what in MISSING.items():
            if sign in line:
                return (
                    f"{what} cannot be found ({type(error).__name__}: {line.strip()}); install "
                    f"the CUDA libraries: {PIP} install 'tinygrad_rnn[cuda{major}]', which is "
                    f"'cupy-cuda{major}x[ctk]'"
                )
    return f"CuPy sees a GPU but cannot compute on it ({_quoted(error)}); {SHOW}"


def _quoted(error: BaseException) -> str:
    """An error on one line: its type, and the first line of its text, where the cause stands."""
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _version(number: int) -> str:
    """CUDA's 13020 as people write it: 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"
