"""Each obstacle on the way to a GPU is told apart from the others, with its fix.

Most of them cannot be had for real where tests run, so a stand-in called cupy takes CuPy's place:
it answers as CuPy 14 does when the thing in question is missing. `tests/cupy` has the real CuPy.
"""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests import gpu_ready
from tinygrad_rnn import backends
from tinygrad_rnn.backends import cuda_trouble
from tinygrad_rnn.backends.cuda_trouble import diagnose
from tinygrad_rnn.cli import main


class CUDARuntimeError(RuntimeError):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class CompileException(Exception):
    pass


class DynamicLibNotFoundError(RuntimeError):
    pass


INSUFFICIENT = CUDARuntimeError(
    35, "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
)
NO_DEVICE = CUDARuntimeError(100, "cudaErrorNoDevice: no CUDA-capable device is detected")


class HostArray:
    """An array of the stand-in; `add` and `dot` may be made to fail."""

    def __init__(self, cupy, host):
        self.cupy, self.host = cupy, host

    def __add__(self, other):
        return self.cupy.kernel(self, other)

    def get(self):
        return self.host


class Cupy(ModuleType):
    """CuPy for a GPU that works, built for CUDA 13.2; the options break it."""

    float32 = np.float32

    def __init__(self, devices=1, driver=13020, built_for=13020, kernel=None, product=None):
        super().__init__("cupy")
        self.computed = 0
        self.kernel_error, self.product = kernel, product

        def count():
            if isinstance(devices, Exception):
                raise devices
            return devices

        runtime = SimpleNamespace(
            getDeviceCount=count,
            driverGetVersion=lambda: driver,
            runtimeGetVersion=lambda: built_for,
            CUDARuntimeError=CUDARuntimeError,
        )
        self.cuda = SimpleNamespace(runtime=runtime)

    def asarray(self, values, dtype):
        return HostArray(self, np.asarray(values, dtype))

    def kernel(self, a, b):
        self.computed += 1
        if self.kernel_error is not None:
            raise self.kernel_error
        return HostArray(self, a.host + b.host)

    def dot(self, a, b):
        if isinstance(self.product, Exception):
            raise self.product
        return HostArray(self, a.host @ b.host if self.product is None else self.product)


@pytest.fixture(autouse=True)
def _nothing_was_tried():
    """Once the smoke test has passed it is not run again; here, it is in every test."""
    cuda_trouble._Tried.worked = False
    yield
    cuda_trouble._Tried.worked = False


@pytest.fixture
def use(monkeypatch):
    """Put something in the place of CuPy, and forget a CUDA backend that may be there."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(backends, "_by_name", {"cpu": backends.get("cpu")})

    def put(module):
        monkeypatch.setitem(sys.modules, "cupy", module)
        return module

    return put


def test_nothing_is_in_the_way(use):
    use(Cupy())
    assert diagnose() is None


def test_the_smoke_test_runs_until_it_has_passed(use):
    """A GPU that was full for a moment is not given up for the rest of the process."""
    broken = use(Cupy(kernel=ValueError("no")))
    assert diagnose() == diagnose() != None  # noqa: E711 - the same sentence twice, and one
    assert broken.computed == 2
    cupy = use(Cupy())
    assert [diagnose() for _ in range(3)] == [None] * 3
    assert cupy.computed == 1


# What stands in for CuPy; what the sentence must say before the semicolon, and what after it.
CAUSES = {
    "no CuPy": (
        lambda: None,
        ["CuPy is not installed"],
        ["pip install 'tinygrad_rnn[cuda12]'", "pip install 'tinygrad_rnn[cuda13]'"],
    ),
    "something else called cupy": (
        lambda: ModuleType("cupy"),
        ["is not CuPy"],
        ["rename"],
    ),
    "no driver": (
        lambda: Cupy(devices=INSUFFICIENT, driver=0),
        ["no NVIDIA driver"],
        ["install NVIDIA's driver", "device='cpu'"],
    ),
    "a driver for CUDA 12 and a CuPy for 13": (
        lambda: Cupy(devices=INSUFFICIENT, driver=12080),
        ["driver is too old", "12.8", "13.2"],
        ["update the driver", "other extra", "uninstall cupy-cuda13x", "tinygrad_rnn[cuda12]"],
    ),
    "a driver for CUDA 11": (
        lambda: Cupy(devices=INSUFFICIENT, driver=11080, built_for=12090),
        ["driver is too old", "11.8", "12.9"],
        ["update the driver"],
    ),
    "a driver and no GPU": (
        lambda: Cupy(devices=NO_DEVICE),
        ["sees no GPU"],
        ["nvidia-smi"],
    ),
    "a GPU that does not answer": (
        lambda: Cupy(devices=CUDARuntimeError(999, "cudaErrorUnknown: unknown error")),
        ["CUDARuntimeError: cudaErrorUnknown: unknown error"],
        ["show_config()"],
    ),
    "no headers": (
        lambda: Cupy(kernel=RuntimeError("Failed to find CUDA headers.\nLooked here and there.")),
        ["the CUDA headers cannot be found", "(RuntimeError: Failed to find CUDA headers.)"],
        ["pip install 'tinygrad_rnn[cuda13]'", "cupy-cuda13x[ctk]"],
    ),
    "headers that are not all there": (
        lambda: Cupy(
            built_for=12090,
            kernel=CompileException(
                "kernel.cu(3): warning: old\n"
                'cuda_fp16.h(90): catastrophic error: cannot open source file "vector_types.h"\n'
            ),
        ),
        ["the CUDA headers cannot be found", 'cannot open source file "vector_types.h")'],
        ["pip install 'tinygrad_rnn[cuda12]'", "cupy-cuda12x[ctk]"],
    ),
    "no NVRTC": (
        lambda: Cupy(
            kernel=DynamicLibNotFoundError(
                'Failure finding "libnvrtc.so.13": No such file\n  listdir("/lib"):\n    libm.so'
            )
        ),
        ["NVRTC", "cannot be found", '(DynamicLibNotFoundError: Failure finding "libnvrtc.so.13"'],
        ["pip install 'tinygrad_rnn[cuda13]'"],
    ),
    "no cuBLAS": (  # NVRTC is there, and CuPy lists it among the files it saw
        lambda: Cupy(
            product=ImportError(
                'Failure finding "libcublas.so.13": No such file\n  listdir("/lib"):\n'
                "    libnvrtc.so.13"
            )
        ),
        ["cuBLAS", "cannot be found", '(ImportError: Failure finding "libcublas.so.13"'],
        ["pip install 'tinygrad_rnn[cuda13]'"],
    ),
    "no cuBLAS on Windows": (
        lambda: Cupy(product=ImportError("DLL cublas64_13.dll was not found")),
        ["cuBLAS", "cublas64_13.dll"],
        ["pip install 'tinygrad_rnn[cuda13]'"],
    ),
    "a kernel that fails in a way nobody knows": (
        lambda: Cupy(kernel=MemoryError("out of memory: 17 bytes\nmore about it")),
        ["sees a GPU but cannot compute", "(MemoryError: out of memory: 17 bytes)"],
        ["show_config()"],
    ),
    "cuBLAS that is there and fails": (
        lambda: Cupy(product=RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED")),
        ["sees a GPU but cannot compute", "(RuntimeError: CUBLAS_STATUS_NOT_INITIALIZED)"],
        ["show_config()"],
    ),
    "an error without a text": (
        lambda: Cupy(kernel=KeyError()),
        ["sees a GPU but cannot compute", "(KeyError)"],
        ["show_config()"],
    ),
    "a GPU that computes wrongly": (
        lambda: Cupy(product=np.zeros((2, 2))),
        ["computes wrongly", "[[0.0, 0.0], [0.0, 0.0]]"],
        ["show_config()"],
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_is_told_with_its_fix(use, cause):
    stand_in, seen, advice = CAUSES[cause]
    use(stand_in())
    sentence = diagnose()
    assert "\n" not in sentence
    told, _, fix = sentence.partition("; ")
    assert [part for part in seen if part not in told] == []
    assert [part for part in advice if part not in fix] == []


def test_the_other_extra_is_advised_only_where_it_helps(use):
    """There is none for CUDA 11, and none older than CUDA 12."""
    for driver, built_for in ((11080, 13020), (11080, 12090), (12020, 12090)):
        use(Cupy(devices=INSUFFICIENT, driver=driver, built_for=built_for))
        assert diagnose().endswith("; update the driver")


def test_versions_are_written_as_people_write_them(use):
    use(Cupy(devices=INSUFFICIENT, driver=12100, built_for=13000))
    assert "CUDA 12.10, and the CuPy that is installed is built for CUDA 13.0;" in diagnose()


def test_every_cause_is_told_in_words_of_its_own(use):
    sentences = set()
    for stand_in, *_ in CAUSES.values():
        use(stand_in())
        cuda_trouble._Tried.worked = False
        sentences.add(diagnose())
    assert len(sentences) == len(CAUSES)


def test_a_gpu_that_a_variable_hides(use, monkeypatch):
    for value in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        for none in (0, NO_DEVICE):
            use(Cupy(devices=none))
            assert f"CUDA_VISIBLE_DEVICES={value!r} hides them; unset it" in diagnose()
    use(Cupy(devices=INSUFFICIENT, driver=0))  # the variable is not what is wrong here
    assert "CUDA_VISIBLE_DEVICES" not in diagnose()


class BrokenFinder:
    """Lets ``import cupy`` begin and fail, as an installation does that lacks a file."""

    def __init__(self, error):
        self.error = error

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "cupy" else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise self.error


@pytest.mark.parametrize(
    ("error", "quoted"),
    [
        (
            ImportError("libcuda_stub.so: wrong ELF class\nsee above"),
            "ImportError: libcuda_stub.so",
        ),
        (ModuleNotFoundError("No module named 'cupy._core'", name="cupy._core"), "'cupy._core'"),
        (ValueError("numpy.dtype size changed"), "ValueError: numpy.dtype size changed"),
    ],
    ids=["a library", "a module", "a version"],
)
def test_an_import_that_fails_is_quoted(use, monkeypatch, error, quoted):
    use(None)
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr(sys, "meta_path", [BrokenFinder(error), *sys.meta_path])
    told, _, fix = diagnose().partition("; ")
    assert "installed but cannot be imported" in told
    assert quoted in told
    assert 'python -c "import cupy; cupy.show_config()"' in fix
    assert "\n" not in told + fix


def test_a_directory_called_cupy_is_named(use, monkeypatch, tmp_path):
    use(None)
    monkeypatch.delitem(sys.modules, "cupy")
    (tmp_path / "cupy").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert f"found at {tmp_path / 'cupy'})" in diagnose()
    sys.modules.pop("cupy")
    (tmp_path / "cupy.py").write_text("")
    (tmp_path / "cupy").rmdir()
    assert f"found at {tmp_path / 'cupy.py'})" in diagnose()


def test_the_sentence_reaches_people(use, capsys):
    """As the error of a request, in `tg.devices()` and from the command line."""
    use(Cupy(product=ImportError("libcublas.so.13: cannot open shared object file")))
    sentence = diagnose()
    for device in ("cuda", "cuda:0", "cuda:7"):
        with pytest.raises(tg.BackendUnavailable) as caught:
            tg.zeros(2, device=device)
        assert str(caught.value) == f"device {device!r} cannot be used: {sentence}"
    with pytest.raises(tg.DeviceError, match=r"unknown device 'cuda:x'; known: cpu, cuda "):
        tg.zeros(2, device="cuda:x")
    found = {d.name: d for d in tg.devices()}
    assert (found["cuda"].usable, found["cuda"].detail) == (False, sentence)
    assert main(["devices"]) == 0
    assert f"cuda      no      {sentence}\n" in capsys.readouterr().out


class Cuda(backends.Backend):
    """What `CupyBackend` is to the table: a name, devices, and memory that is counted."""

    name, xp, array_type = "cuda", SimpleNamespace(__name__="cupy", __version__="14.2"), Cupy

    def device_names(self):
        return ["cuda:0", "cuda:1"]

    def memory(self, device=""):
        return {"in use": 3 * 2**20, "reserved": 5 * 2**30}


def test_a_gpu_that_can_be_used_is_found_without_being_asked_for(use, monkeypatch, capsys):
    """`devices` looks for one; each device is listed with the memory that CuPy's pool holds."""
    cupy = use(Cupy())
    module = ModuleType("tinygrad_rnn.backends.cupy_backend")
    module.CupyBackend = Cuda
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for table in ("ARRAY_TYPES", "OPERAND_TYPES"):
        monkeypatch.setattr(backends, table, set(getattr(backends, table)))
    monkeypatch.setattr(backends, "_by_type", dict(backends._by_type))
    assert main(["devices"]) == 0
    printed = capsys.readouterr().out
    for number in (0, 1):
        line = f"cuda:{number}    usable  Cuda, cupy 14.2, 3.0 MiB in use, 5,120.0 MiB reserved\n"
        assert line in printed
    assert [d.name for d in tg.devices()] == ["cpu", "cuda:0", "cuda:1"]
    assert (backends.get("cuda").name, cupy.computed) == ("cuda", 1)
    with pytest.raises(tg.BackendUnavailable, match="no device 'cuda:2' here; usable: cuda:0, cud"):
        backends.get("cuda:2")
    with pytest.raises(tg.DeviceError, match=r"known: cpu, cuda \("):
        backends.get("tpu")


# ---- the tests that need a GPU, and the check before them ----


def test_the_marker_gpu_is_on_what_needs_a_gpu_and_nothing_else(request):
    for item in request.session.items:
        on_cuda = getattr(item, "callspec", None) and item.callspec.params.get("backend") == "cuda"
        needed = bool(on_cuda) or "gpu" in item.path.relative_to(request.config.rootpath).parts
        assert (item.get_closest_marker("gpu") is not None) == needed, item.nodeid


def test_without_a_gpu_the_check_says_why_and_fails(use, capsys):
    use(Cupy(devices=INSUFFICIENT, driver=0))
    assert gpu_ready.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("No GPU can be used")
    assert "no NVIDIA driver" in printed.err
    use(None)
    assert gpu_ready.main() == 1
    assert "CuPy is not installed" in capsys.readouterr().err


def test_the_check_names_the_packages_that_are_missing(use, monkeypatch, capsys):
    use(Cupy())
    assert gpu_ready.lacking() == []
    monkeypatch.setattr(gpu_ready, "NEEDED", ("pytest", "no_such_package", "nor_this"))
    monkeypatch.setattr(gpu_ready, "PYTEST", 1000)
    assert gpu_ready.main() == 1
    assert "lacks no_such_package, nor_this, pytest>=1000 (it has" in capsys.readouterr().err


def test_the_check_passes_on_the_plugins_of_pytest(use, monkeypatch, capsys):
    use(Cupy())
    for name, options in (("xdist", " -p xdist.plugin -n 8\n"), ("no_such_package", "\n")):
        monkeypatch.setattr(gpu_ready, "XDIST", name)
        monkeypatch.setitem(sys.modules, "xdist", ModuleType("xdist"))
        sys.modules["xdist"].__spec__ = importlib.machinery.ModuleSpec("xdist", None)
        assert gpu_ready.main() == 0
        assert capsys.readouterr().out == "-p _hypothesis_pytestplugin" + options
