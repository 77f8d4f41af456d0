"""CUDA compiled without a GPU: by NVRTC where its wheel is, else by nvcc; and what ptxas reports.

The options are those of `Variant.options` and the one that CuPy adds by itself when it compiles a
`RawModule` (``-ftz=true``). The result is machine code for one architecture, so that the assembler
has run, and has said how many registers, and how much memory, each kernel takes:

    ptxas info    : Compiling entry function 'step' for 'sm_90'
        0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
    ptxas info    : Used 40 registers, used 1 barriers, 400 bytes smem
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# What a block may have of each architecture's multiprocessor (CUDA C++ Programming Guide, the table
# of technical specifications per compute capability).
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
REGISTERS = 65536
FTZ = "-ftz=true"


@dataclass(frozen=True)
class Report:
    """What one kernel takes."""

    registers: int  # of a thread
    spilled: int  # bytes stored for want of registers
    static_memory: int  # bytes of shared memory, as declared in the source
    threads: int  # the largest block: __launch_bounds__


class CompilationError(Exception):
    """The compiler's own words."""


@cache
def compiler() -> str:
    """ "nvrtc" or the path of nvcc; an error where there is neither, never a skipped test."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise CompilationError(
                f"neither NVRTC ({error}) nor nvcc is here; install NVRTC: make test-cupy does"
            ) from error
        return nvcc
    return "nvrtc"


def reports(source: str, options: Sequence[str], arch: int, with_: str = "") -> dict[str, Report]:
    """Compile for ``sm_<arch>``; a report for every kernel in `source`, by its name."""
    made_by = with_ or compiler()
    build = _with_nvrtc if made_by == "nvrtc" else _with_nvcc
    log, ptx = build(source, options, arch, made_by)
    return parse(log, ptx)


def _with_nvrtc(source: str, options: Sequence[str], arch: int, _: str) -> tuple[str, str]:
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    flags = (f"-arch=sm_{arch}", *options, FTZ, "--ptxas-options=-v")
    try:
        nvrtc.compileProgram(program, flags)
        assert nvrtc.getCUBIN(program)
        return nvrtc.getProgramLog(program), nvrtc.getPTX(program).decode()
    except nvrtc.NVRTCError as error:
        raise CompilationError(f"{error}\n{nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)


def _with_nvcc(source: str, options: Sequence[str], arch: int, nvcc: str) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "kernel.cu").write_text(source)
        command = [nvcc, "-cubin", f"-arch=sm_{arch}", *options, FTZ, "--ptxas-options=-v", "-keep",
                   f"-keep-dir={place}", "kernel.cu"]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, cwd=place, check=False)
        if run.returncode:
            raise CompilationError(run.stdout + run.stderr)
        return run.stdout + run.stderr, (place / "kernel.ptx").read_text()


def parse(log: str, ptx: str) -> dict[str, Report]:
    """The reports in ptxas's log; blocks' sizes, which it does not tell, are in the PTX."""
    bounds = {
        name: int(size)
        for name, size in re.findall(r"\.entry (\w+)\((?:[^{]*?)\)\s*\.maxntid (\d+)", ptx)
    }
    found = {}
    for part in log.split("Compiling entry function ")[1:]:
        name = re.match(r"'(\w+)'", part)[1]
        found[name] = Report(
            registers=_number(r"Used (\d+) registers", part),
            spilled=sum(map(int, re.findall(r"(\d+) bytes spill", part))),
            static_memory=_number(r"(\d+) bytes smem", part, 0),
            threads=bounds.get(name, 1024),  # without a promise, the largest block there is
        )
    return found


def _number(pattern: str, text: str, otherwise: int | None = None) -> int:
    match = re.search(pattern, text)
    if match is None and otherwise is not None:
        return otherwise
    assert match, f"the compiler's report has changed: no {pattern!r} in\n{text}"
    return int(match[1])


def complaints(
    found: dict[str, Report], kernels: Sequence[str], threads: int, dynamic: int, arch: int
) -> list[str]:
    """What does not fit a GPU, or the manifest: the kernels, and what a block of them may take."""
    said = []
    if set(found) != set(kernels):
        said.append(f"the source has the kernels {sorted(found)}, the manifest {sorted(kernels)}")
    most = SHARED_MEMORY[arch]
    for name, report in found.items():
        if report.spilled:
            said.append(f"{name} spills {report.spilled} bytes")
        if report.threads != threads:
            said.append(f"{name} is compiled for {report.threads} threads, launched with {threads}")
        taken = -(-report.registers // 8) * 8 * threads  # handed out to a warp in eights a thread
        if taken > REGISTERS:
            said.append(f"{name} needs {taken} registers, a multiprocessor has {REGISTERS}")
        if report.static_memory + min(dynamic, most) > most:
            said.append(f"{name} needs {report.static_memory} + {dynamic} bytes of {most} shared")
    return said
