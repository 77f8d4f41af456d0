"""The machine and its ceilings: what it is called, how fast it copies and multiplies, and how long
the host takes to launch anything at all.

Hardly anything here uses this package: these are the numbers that its own times are held against.
"""

from __future__ import annotations

import datetime as dt
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu_clock import (
    DeviceLostError,
    Place,
    Samples,
    first_line,
    tell,
    tell_table,
)
from benchmarks.gpu_table import WINDOWS, number

QUERY = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"

AXPY = r"""
extern "C" __global__ void axpy(const float* x, float* y, int n) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < n) y[k] += 2.0f * x[k];
}
"""


# ---- the machine ---------------------------------------------------------------------------------


def facts(place: Place) -> dict[str, str]:
    """What the numbers were measured with; only looked at, nothing is set."""
    found = {
        "date": str(dt.date.today()),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "PyTorch": place.torch.__version__,
    }
    if place.rehearse:
        return found | {"device": "a CPU: a rehearsal, these numbers mean nothing"}
    import cupy

    torch = place.torch
    properties = torch.cuda.get_device_properties(0)
    runtime = cupy.cuda.runtime.runtimeGetVersion()
    found |= {
        "device": properties.name,
        "multiprocessors": str(properties.multi_processor_count),
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "CuPy": cupy.__version__,
        "CUDA": f"{torch.version.cuda} (PyTorch), {runtime // 1000}.{runtime % 1000 // 10} (CuPy)",
        "cuDNN": str(torch.backends.cudnn.version()),
    }
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader", "--id=0"]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        values = [value.strip() for value in asked.stdout.strip().split(",")]
        if asked.returncode == 0 and len(values) == len(QUERY.split(",")):
            name_of = dict(zip(QUERY.split(","), values, strict=True))
            found["driver"] = name_of["driver_version"]
            found["clocks as found"] = (
                f"SM {name_of['clocks.sm']} (at most {name_of['clocks.max.sm']}), memory "
                f"{name_of['clocks.mem']}, power limit {name_of['power.limit']}, "
                f"{name_of['temperature.gpu']} C"
            )
    return found


def machine(place: Place) -> None:
    """Section "machine"."""
    tell_table("Machine", ["what", "found"], list(facts(place).items()))


# ---- ceilings ------------------------------------------------------------------------------------


def copy_rate(place: Place, *, quick: bool = False) -> float:
    """GB/s of a copy from device memory to device memory, bytes read and bytes written."""
    torch, count = place.torch, 1 << (20 if place.rehearse else 28)  # 1 GiB of float32
    source = torch.rand(count, device=place.device)
    target = torch.empty_like(source)
    ms = _median_ms(place, lambda: target.copy_(source), 3 if quick else 10)
    return 2 * 4 * count / ms / 1e6


def product_rate(place: Place, *, quick: bool = False) -> float:
    """TFLOP/s of a large product of random float32 matrices, in the precision that is set."""
    torch, n = place.torch, 256 if place.rehearse else 8192
    a, b = (torch.randn(n, n, device=place.device) for _ in range(2))
    out = torch.empty_like(a)
    ms = _median_ms(place, lambda: torch.mm(a, b, out=out), 2 if quick else 7)
    return 2 * n**3 / ms / 1e9


def _median_ms(place: Place, call: Callable[[], Any], repeats: int) -> float:
    samples = Samples()
    for _ in range(2):
        place.once(call)
    for _ in range(repeats):
        place.once(call, samples)
    return samples.median


def need_ceilings(place: Place, *, quick: bool = True) -> dict[str, float]:
    """The two rates in both precisions, measured where nobody has yet."""
    if not place.ceilings:
        place.ceilings["copy"] = copy_rate(place, quick=quick)
        for name, tf32 in (("strict", False), ("TF32", True)):
            place.precision(tf32)
            place.ceilings[name] = product_rate(place, quick=quick)
        place.precision(False)
        place.free()
        tell(ceilings=place.ceilings)
    return place.ceilings


def ceilings(place: Place) -> None:
    """Section "ceilings": the rates, and the products of a single step on their own."""
    place.ceilings.clear()
    found = need_ceilings(place, quick=False)
    n = 256 if place.rehearse else 8192
    rows = [["copy on the device, read + written", f"{number(found['copy'])} GB/s"]]
    rows += [
        [f"product of {n} x {n} x {n}, {name}", f"{number(found[name])} TFLOP/s"]
        for name in ("strict", "TF32")
    ]
    tell_table("Ceilings", ["what", "rate"], rows)
    rows = []
    for label, w in WINDOWS.items():
        for what, (m, k, n) in {
            "forward (B, H) (H, 4H)": (w.B, w.H, 4 * w.H),
            "backward (B, 4H) (4H, H)": (w.B, 4 * w.H, w.H),
        }.items():
            row = [label, what]
            for tf32 in (False, True):
                place.precision(tf32)
                us = step_product_us(place, m, k, n)
                row += [number(us), number(2 * m * k * n / us / 1e6)]
            rows.append(row)
    place.precision(False)
    headers = ["size", "product", "strict us", "TFLOP/s", "TF32 us", "TFLOP/s "]
    tell_table("The product of one time step by cuBLAS, replayed from a CUDA graph", headers, rows)


def step_product_us(place: Place, m: int, k: int, n: int, count: int = 40) -> float:
    """Microseconds of one product among many in a graph: what the device takes, not the host."""
    torch = place.torch
    a, b, out = (torch.randn(*shape, device=place.device) for shape in ((m, k), (k, n), (m, n)))
    if place.rehearse:
        return _median_ms(place, lambda: torch.mm(a, b, out=out), 3) * 1e3
    torch.mm(a, b, out=out)  # cuBLAS makes its workspace before the capture
    place.wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            torch.mm(a, b, out=out)
    return _median_ms(place, graph.replay, 10) / count * 1e3


# ---- what a call costs the host ------------------------------------------------------------------


def micro(place: Place) -> None:
    """Section "micro": microseconds of the host per call, and per call with the device's part."""
    rows = []
    groups: list[Callable[[Place], Calls]] = [_torch_calls, _our_calls]
    if not place.rehearse:
        groups.insert(0, _cupy_calls)
    for group in groups:
        try:
            calls = group(place)
        except Exception as error:  # noqa: BLE001 - one that cannot be had is a row
            rows.append([group.__name__.strip("_").replace("_", " "), first_line(error), ""])
            continue
        for name, (call, per_call) in calls.items():
            try:
                with place.watched(name):
                    host, both = _us_per_call(place, call)
                rows.append([name, number(host / per_call), number(both / per_call)])
            except DeviceLostError:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                rows.append([name, first_line(error), ""])
    headers = ["call (1,024 floats, or 64 x 64)", "host us", "until the device is done, us"]
    tell_table("One call among 200", headers, rows)


def _us_per_call(place: Place, call: Callable[[], Any], count: int = 200) -> tuple[float, float]:
    for _ in range(5):
        call()
    host, both = [], []
    for _ in range(7):
        place.wait()
        began = time.perf_counter()
        for _ in range(count):
            call()
        host.append(time.perf_counter() - began)
        place.wait()
        both.append(time.perf_counter() - began)
    return statistics.median(host) / count * 1e6, statistics.median(both) / count * 1e6


Calls = dict[str, tuple[Callable[[], Any], int]]  # what to call; how many launches that is


def _cupy_calls(place: Place) -> Calls:  # noqa: ARG001 - CuPy has one place only
    import cupy
    from cupy_backends.cuda.libs import cublas

    n, rng = 1024, np.random.default_rng(0)
    x, y, z = (cupy.asarray(rng.random(n, dtype=np.float32)) for _ in range(3))
    a, b, c = (cupy.asarray(rng.random((64, 64), dtype=np.float32)) for _ in range(3))
    kernel = cupy.RawKernel(AXPY, "axpy")
    count = np.int32(n)
    element = cupy.ElementwiseKernel("float32 x", "float32 y", "y = 2 * x", "twice")
    handle = cupy.cuda.get_cublas_handle()
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)

    def sgemm() -> None:
        cublas.sgemm(
            handle, 0, 0, 64, 64, 64, one.ctypes.data, a.data.ptr, 64, b.data.ptr, 64,
            zero.ctypes.data, c.data.ptr, 64,
        )  # fmt: skip

    kernel((4,), (256,), (x, y, count))  # compiled here
    function = kernel.kernel
    calls: Calls = {
        "cupy.add(x, y, out=z)": (lambda: cupy.add(x, y, out=z), 1),
        "cupy.empty(1024)": (lambda: cupy.empty(n, dtype=np.float32), 1),
        "ElementwiseKernel": (lambda: element(x, z), 1),
        "RawKernel": (lambda: kernel((4,), (256,), (x, y, count)), 1),
        "Function of a RawKernel": (lambda: function((4,), (256,), (x, y, count)), 1),
        "cupy.matmul(a, b, out=c)": (lambda: cupy.matmul(a, b, out=c), 1),
        "cupy.sum(x)": (lambda: cupy.sum(x), 1),
        "cublas.sgemm, low level": (sgemm, 1),
    }
    graph, stream = _graph_of(lambda: function((4,), (256,), (x, y, count)), 100)
    calls["a node of a CUDA graph of 100"] = (lambda: graph.launch(stream), 100)
    return calls


def _graph_of(launch: Callable[[], Any], count: int) -> tuple[Any, Any]:
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.runtime.deviceSynchronize()
    with stream:
        stream.begin_capture()
        for _ in range(count):
            launch()
        graph = stream.end_capture()
    return graph, stream


def _torch_calls(place: Place) -> Calls:
    torch = place.torch
    x, y, z = (torch.rand(1024, device=place.device) for _ in range(3))
    a, b, c = (torch.rand(64, 64, device=place.device) for _ in range(3))
    w = torch.rand(1024, device=place.device, requires_grad=True)
    return {
        "torch.add(x, y, out=z)": (lambda: torch.add(x, y, out=z), 1),
        "torch.mm(a, b, out=c)": (lambda: torch.mm(a, b, out=c), 1),
        "torch x * w, recorded": (lambda: x * w, 1),
    }


def _our_calls(place: Place) -> Calls:
    import tinygrad_rnn as tg

    rng = np.random.default_rng(0)
    x = tg.Tensor(rng.random(1024, dtype=np.float32), device=place.device)
    w = tg.Tensor(rng.random(1024, dtype=np.float32), device=place.device, requires_grad=True)
    return {
        "tinygrad_rnn x + x": (lambda: x + x, 1),
        "tinygrad_rnn x * w, recorded": (lambda: x * w, 1),
    }
