"""The floors of the house, read from the source: who imports whom, and what importing costs."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import tinygrad_rnn
from tinygrad_rnn import _LATER as LATE_NAMES
from tinygrad_rnn.ops import random

ROOT = Path(tinygrad_rnn.__file__).parent
NAME = "tinygrad_rnn"

# Lowest first. A file imports from lower floors, or from files before it on its own; what stands
# here as a package stands for all of its modules.
FLOORS = [
    ["errors"],
    ["backends"],
    ["core"],
    ["ops"],
    ["nn", "optim"],
    [
        "_gradcheck_report",
        "_gradcheck_inputs",
        "_gradcheck_numeric",
        "_gradcheck_complex",
        "_gradcheck_compare",
        "gradcheck",
        "testing",
        "_checkpoint_file",
        "_checkpoint_structure",
        "checkpoint",
        "data",
    ],
    ["tbptt", "_gradient_flow_layer", "gradient_flow", "viz", "char_lm", "config", "training"],
    [
        "_cli_screen",
        "_cli_run",
        "_cli_train",
        "_check_examples",
        "_check_layers",
        "_cli_check",
        "cli",
    ],
]
# Below, the files of a package whose order is the order in which they are to be read.
CORE = [
    "array", "clock", "tensor", "grad_mode", "broadcast", "operands", "node", "primitive", "fused",
    "carriers", "refusals", "engine", "trace", "watch", "replay", "anomaly",
]  # fmt: skip
# The one import that looks up: double backward of a fused op differentiates its specification.
UPWARDS = {("core.fused", "core.engine")}
# Imported in a function, when a GPU is first asked for (it imports CuPy), or to word a warning.
LATE = {("backends", "backends.cupy_backend"), ("nn.growth", "core.trace")}
# The doors of the house: they import everything.
DOORS = {"", "__main__"}


def module_name(file: Path) -> str:
    """``core.tensor`` for core/tensor.py, ``core`` for core/__init__.py, "" for the package."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(f): f for f in sorted(ROOT.rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of this package that `module` imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are written in full"
            # `from package import name`: the name may be a module, or something inside one.
            found |= {
                sub
                if (sub := f"{node.module}.{a.name}")[len(NAME) + 1 :] in MODULES
                else node.module
                for a in node.names
                if node.module
            }
    ours = {n[len(NAME) + 1 :] for n in found if n == NAME or n.startswith(f"{NAME}.")}
    return frozenset(ours - {module})


def floor(module: str) -> int:
    top = module.partition(".")[0]
    return next(i for i, names in enumerate(FLOORS) if top in names)


# ---- floors ----


def test_every_module_has_a_floor():
    known = {name for names in FLOORS for name in names}
    unknown = {m.partition(".")[0] for m in MODULES.keys() - DOORS} - known
    assert not unknown, f"say on which floor {sorted(unknown)} belong: FLOORS in {__file__}"
    assert {m.removeprefix("core.") for m in MODULES if m.startswith("core.")} == set(CORE)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - DOORS))
def test_imports_look_down(module):
    for other in imports(module):
        assert other != "", f"{module} imports from the package's front door"
        if (module, other) not in UPWARDS:
            assert floor(other) <= floor(module), f"{module} imports {other}, from a higher floor"


def test_the_walk_sees_imports():
    assert {"errors", "backends", "backends.base", "core.array"} <= imports("core.tensor")
    assert "core.engine" in imports("core.fused")
    assert floor("ops.rnn") > floor("core.engine") > floor("errors")


def test_imports_on_one_floor_go_one_way():
    """No circles: the files of a floor have an order, and in `core` it is the reading order."""
    graph = {m: {o for o in imports(m) if (m, o) not in UPWARDS} for m in MODULES.keys() - DOORS}
    # A package imports its files, and a file may import its package: that is one node.
    packages = {m for m in graph if MODULES[m].name == "__init__.py"}
    files = {m: {o for o in others if o not in packages} for m, others in graph.items()}
    tuple(graphlib.TopologicalSorter(files).static_order())  # raises CycleError
    for file in CORE:
        for other in graph[f"core.{file}"]:
            if other.startswith("core."):
                assert CORE.index(other.removeprefix("core.")) < CORE.index(file), (file, other)


def test_imports_inside_functions_are_the_listed_ones():
    """Hidden imports hide circles. Left are those of extras, one that looks up, and late ones."""
    for module in MODULES.keys() - DOORS:
        top = {id(n) for n in tree(module).body}
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ImportFrom | ast.Import) and id(node) not in top:
                target = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                if target.startswith(NAME):
                    other = target[len(NAME) + 1 :]
                    assert (module, other) in UPWARDS | LATE, f"{module}, in a function: {other}"


# ---- what importing costs ----


@cache
def loaded_by_importing() -> frozenset[str]:
    """The modules that `import tinygrad_rnn` adds to those of NumPy, in a process of its own."""
    code = (
        "import sys, numpy; before = set(sys.modules); import tinygrad_rnn;"
        "print(*set(sys.modules) - before)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(run.stdout.split())


def test_importing_loads_numpy_and_the_standard_library_only():
    loaded = {m.partition(".")[0] for m in loaded_by_importing()}
    assert NAME in loaded
    strangers = loaded - set(sys.stdlib_module_names) - {NAME, "numpy"}
    # An editable install may put a finder of its own among the modules.
    assert not {m for m in strangers if not m.startswith("__editable__")}


def test_importing_does_not_load_what_few_programs_use():
    """NumPy imports `numpy.random` late, too; the others of these are heavy, and were imported."""
    heavy = {"numpy.random", "hashlib", "pathlib", "json", "tempfile", "importlib.metadata"}
    ours = {*LATE_NAMES.values()}
    ours |= {f"{NAME}.{m}" for m in ("core.trace", "core.watch", "backends.kernels")}
    assert f"{NAME}.nn" in loaded_by_importing()  # else the next line proves nothing
    assert not loaded_by_importing() & (heavy | ours)


def test_late_names_come_when_asked_for():
    for name, module in LATE_NAMES.items():
        is_module = module == f"{NAME}.{name}"
        there = importlib.import_module(module)
        vars(tinygrad_rnn).pop(name, None)
        assert getattr(tinygrad_rnn, name) is (there if is_module else getattr(there, name))
        assert name in vars(tinygrad_rnn)  # the second time nobody is asked
        # Importing a module puts it where a function of its name was: no such name may be late.
        assert is_module or name not in MODULES, name
        assert not (is_module and hasattr(there, name)), name


def test_names_still_to_come_are_listed():
    code = "import tinygrad_rnn as tg; assert 'save' not in vars(tg); print(*dir(tg))"
    run = [sys.executable, "-c", code]
    shown = subprocess.run(run, cwd=ROOT.parent, capture_output=True, text=True, check=True).stdout
    assert set(tinygrad_rnn.__all__) <= set(shown.split())


def test_type_checkers_are_told_where_late_names_come_from():
    (block,) = (n for n in tree("").body if isinstance(n, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    told = {
        alias.name: f"{NAME}.{alias.name}" if node.module == NAME else node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == LATE_NAMES


def test_the_package_s_generator_is_made_once_and_late(monkeypatch):
    monkeypatch.setattr(random._Default, "generator", None)
    first = random.generator()
    assert random.generator() is first
    assert random.generator(first) is first
    assert random.generator(0) is not first
    assert random.manual_seed(0) is random.generator() is not first


def test_public_names_are_there():
    for name in tinygrad_rnn.__all__:
        assert getattr(tinygrad_rnn, name) is not None
    assert len(set(tinygrad_rnn.__all__)) == len(tinygrad_rnn.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        tinygrad_rnn.no_such_name  # noqa: B018 - the look-up is the test


# ---- what the library does not do ----

# Shared code runs on arrays of any library: of NumPy it may use types, settings, the arithmetic of
# shapes, and functions that make host arrays from people's data. All else is `namespace(x)`'s.
# `core.trace` brings arrays to the host before it looks at them.
HOST_NAMES = {
    "dtype", "float32", "float64", "int64", "bool_", "ndarray", "generic", "ma", "integer",
    "random",
    "asarray", "array", "array2string", "full", "zeros", "ones", "arange", "eye", "promote_types",
    "broadcast_shapes", "seterr",
}  # fmt: skip
SHARED = [m for m in MODULES if m.partition(".")[0] in ("core", "ops", "optim", "tbptt")]
SHARED.remove("core.trace")


def names_of_numpy(module: str) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "np"
    }


@pytest.mark.parametrize("module", SHARED)
def test_shared_code_computes_with_the_arrays_own_library(module):
    assert names_of_numpy(module) <= HOST_NAMES


def test_numpy_is_imported_under_one_name():
    """So that the walk above sees every use of it."""
    for module in SHARED:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Import):
                assert all(a.asname == "np" for a in node.names if a.name == "numpy"), module
            elif isinstance(node, ast.ImportFrom):
                assert node.module != "numpy", module
    assert {"asarray", "generic"} <= names_of_numpy("core.operands")


@pytest.mark.parametrize("module", sorted(m for m in MODULES if "cli" not in m and m != "__main__"))
def test_the_library_does_not_print(module):
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("print", "exec", "eval"), (module, node.lineno)
