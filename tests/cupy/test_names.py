"""Every name of CuPy that this package uses is in CuPy, and takes what it is called with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tinygrad_rnn
from tests.cupy.names import Use, complaint, look_up, misfit, signature_in, uses
from tests.fake_device import FakeArray, xp

pytestmark = pytest.mark.cupy

ROOT = Path(tinygrad_rnn.__file__).parent
# Files that compute on the host, whatever the device: NumPy's own names are right there.
ON_THE_HOST = {"backends/numpy_backend.py", "testing/fake_device.py"}
FILES = {
    name: path
    for path in sorted(ROOT.rglob("*.py"))
    if (name := path.relative_to(ROOT).as_posix()) not in ON_THE_HOST
}


@pytest.mark.parametrize("file", FILES)
def test_cupy_has_every_name_that_is_used(file):
    assert [c for use in uses(FILES[file]) if (c := complaint(use))] == []


def test_the_walk_sees_the_names():
    """A walk that saw nothing would find nothing wrong."""
    of = {name: {use.name for use in uses(path)} for name, path in FILES.items()}
    assert {"cupy.cuda.runtime.getDeviceCount", "cupy.dot", "cupy.float32"} <= of[
        "backends/cuda_trouble.py"
    ]
    assert {"cupy", "cupy.ndarray", "cupy.array"} <= of["backends/cupy_backend.py"]
    assert {"cupy.RawModule"} <= of["backends/cupy_kernels.py"]
    assert {"cupy.exp", "cupy.where", "cupy.add.at", "cupy.zeros"} <= of["backends/base.py"]
    assert {"cupy.tanh", "cupy.multiply", "cupy.matmul"} <= of["ops/lstm.py"]
    assert {"cupy.exp", "cupy.sqrt"} <= of["ops/elementwise.py"]
    assert {"cupy.matmul", "cupy.empty"} <= of["ops/sequence.py"] | of["ops/lstm.py"]
    assert sum(map(len, of.values())) > 150


# Lines of source, and the complaint about each: what only a GPU would have told.
WRONG = {
    "cupy.no_such_function(x)": "cupy.no_such_function",
    "xp.vecdot(x, x)": "cupy.vecdot",
    "namespace(x).unstack(x)": "cupy.unstack",
    "backend.xp.errstate()": "cupy.errstate",
    "xp.tanh(x, where=x)": r"cupy.tanh takes no \['where'\]",
    "xp.take(x, x, axis=0, mode='clip')": "unexpected keyword argument 'mode'",
    "xp.sum(x, 0, None, None, False, 1)": "too many positional",
    "from cupy import no_such_name": "cupy.no_such_name",
    "import cupyx.no_such_module": "cupyx.no_such_module",
    "a, b = 1, cupy.cuda.runtime; b.no_such_call()": "runtime.no_such_call",
    "cupy.cuda.Device(0).no_such_method()": r"Device\(\).no_such_method",
    "cupy.cuda.Device(0, 1)": "too many positional",
    "cupy.RawModule(code='', option=())": "unexpected keyword argument 'option'",
    "cupy.cuda.runtime.memGetInfo(1)": "too many positional",
    "cupy.zeros()": "missing a required argument: 'shape'",
    "pool = cupy.get_default_memory_pool(); pool.no_such_number()": "no_such_number",
    "class A:\n    def f(self):\n        return lambda x: self.xp.nothing": "cupy.nothing",
}
RIGHT = [
    "xp.tanh(x, out=x)",
    "xp.add.at(x, x, x)",
    "x.whatever()",
    "cupy.cuda.Device(0).use()",
    "from cupy_backends.cuda.libs import cublas; cublas.gemmEx()",
    "from cupy.cuda import nvrtc; nvrtc.createProgram",
    "def f():\n    r = cupy.cuda.runtime\ndef g(r):\n    return r.anything",
    "cupy.cuda.get_current_stream().synchronize()",
    "xp.stack(*x, axis=0).get(order='C')",
]


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_name_is_noticed(tmp_path, line):
    (tmp_path / "file.py").write_text(line)
    complaints = [c for use in uses(tmp_path / "file.py") if (c := complaint(use))]
    assert complaints
    with pytest.raises(AssertionError, match=WRONG[line]):
        raise AssertionError(complaints)


@pytest.mark.parametrize("line", RIGHT)
def test_a_right_name_is_left_alone(tmp_path, line):
    (tmp_path / "file.py").write_text(line)
    assert [c for use in uses(tmp_path / "file.py") if (c := complaint(use))] == []


def test_cublas_has_what_is_called_directly():
    """The module cannot be imported without cuBLAS, but the signatures in its file can be read."""
    import cupy_backends

    libraries = Path(cupy_backends.__file__).parent / "cuda" / "libs"
    (extension,) = libraries.glob("cublas.*.so")
    texts = re.findall(rb"\0(\w+\([^)\0]*\))(?: -> \w+)?(?=[\0\n])", extension.read_bytes())
    known = {text.decode().partition("(")[0]: signature_in(text.decode()) for text in texts}
    assert list(known["sgemm"].parameters)[:3] == ["handle", "transa", "transb"]
    prefix = "cupy_backends.cuda.libs.cublas."
    for path in FILES.values():
        for use in uses(path):
            if use.name.startswith(prefix):
                name = use.name.removeprefix(prefix)
                assert name in known
                assert misfit(use, known[name]) is None


def test_the_fake_device_has_no_more_than_cupy():
    import cupy

    public = [n for n in [*vars(xp), *dir(type(xp))] if not n.startswith("_") and n.islower()]
    assert len(public) > 90
    assert [name for name in public if not hasattr(cupy, name)] == []
    methods = [n for n in dir(FakeArray) if not n.startswith("_")]
    assert len(methods) > 30
    assert [name for name in methods if not hasattr(cupy.ndarray, name)] == []


def test_the_look_up_knows_what_it_does_not_know():
    assert look_up("cupy.array().get") is None  # a function's result
    assert complaint(Use("cupy_backends.cuda.libs.cublas.gemmEx", 1, 3, ("what",))) is None


def test_signatures_are_read_from_documentation():
    text = "Module.load(self, str code=None, *, str path=None, tuple options=(1, 2)) -> None"
    signature = signature_in(text)
    assert list(signature.parameters) == ["code", "path", "options"]
    assert misfit(Use("load", 1, 1, ("path",)), signature) is None
    assert "too many" in misfit(Use("load", 1, 2), signature)
    assert signature_in("f(x, **kwargs)") is signature_in("Makes an array (of numbers).") is None
    assert "missing" in misfit(Use("f", 1, 1), signature_in("f(int a, b)"))
    assert list(signature_in("f()").parameters) == []
