"""Which of CuPy's names a file uses, read from its source, and whether CuPy has them.

A name that CuPy lacks, or a keyword that one of its functions does not take, would come out on a
GPU only. `uses` follows what can be followed without running anything: imports, ``cupy.a.b``, the
namespace under its usual names (``xp``, ``x.xp``, ``namespace(x)``), variables that hold one of
those, and what the classes of CuPy make.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOTS = ("cupy", "cupyx", "cupy_backends")
# What CuPy's ufuncs take; they have no signature that could be asked.
UFUNC_OPTIONS = {"out", "dtype", "casting"}
# Functions whose result is an object of a known class.
RESULTS = {
    "cupy.get_default_memory_pool": "cupy.cuda.MemoryPool",
    "cupy.cuda.get_current_stream": "cupy.cuda.Stream",
}
# Classes whose attributes are set when an object is made; and an object that is there without one.
OBJECTS = {"cupy.cuda.Stream": "cupy.cuda.Stream.null"}


@dataclass(frozen=True)
class Use:
    """A name of CuPy at a place in a source file; of a call also how it is called."""

    name: str  # "cupy.cuda.Device"; "cupy.cuda.Device().use" for what an object of a class has
    line: int
    positional: int | None = None  # None: not called, or with *args or **options
    keywords: tuple[str, ...] = ()


def uses(path: Path) -> list[Use]:
    """Every use of a name of CuPy in a file."""
    found = list[Use]()
    _walk(ast.parse(path.read_text(encoding="utf-8")), {"xp": "cupy", "cupy": "cupy"}, found)
    return found


def _walk(scope: ast.AST, known: dict[str, str], found: list[Use]) -> None:
    """Collect the uses in a module or function; what a function calls `x` is no one else's."""
    known = dict(known)
    inner = list[ast.AST]()
    for node in _of_scope(scope):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            inner.append(node)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in ROOTS:
                    found.append(Use(alias.name, node.lineno))
                    first = alias.name.partition(".")[0]
                    known[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ROOTS:
            for alias in node.names:
                found.append(Use(f"{node.module}.{alias.name}", node.lineno))
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Assign):
            for target, value in _pairs(node):
                name = dotted(value, known)
                if isinstance(target, ast.Name) and name:
                    known[target.id] = name
    for node in _of_scope(scope):
        if isinstance(node, ast.Call) and (name := dotted(node.func, known)):
            starred = any(isinstance(a, ast.Starred) for a in node.args)
            starred = starred or any(k.arg is None for k in node.keywords)
            keywords = tuple(k.arg for k in node.keywords if k.arg)
            found.append(Use(name, node.lineno, None if starred else len(node.args), keywords))
        elif isinstance(node, ast.Attribute) and (name := dotted(node, known)):
            found.append(Use(name, node.lineno))
    for node in inner:
        _walk(node, known, found)


def _of_scope(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module or function in order, without the insides of its functions."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            yield from _of_scope(node)


def _pairs(node: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    """``a, b = c, d`` assigns c to a and d to b."""
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=False)
        else:
            yield target, node.value


def dotted(node: ast.AST, known: dict[str, str]) -> str | None:
    """The name of CuPy that an expression is, or None."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        if node.attr == "xp":
            return "cupy"
        base = dotted(node.value, known)
        return f"{base}.{node.attr}" if base else None
    if isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Name | ast.Attribute):
            if (called.id if isinstance(called, ast.Name) else called.attr) == "namespace":
                return "cupy"
            name = dotted(called, known)
            return f"{RESULTS.get(name, name)}()" if name else None
    return None


# ---- looking them up ----


def look_up(name: str) -> Any:
    """The object of that name in the CuPy that is installed; AttributeError where there is none.

    None where nothing is known: of what a function returns, say, or of a library that is missing.
    """
    found: Any = None
    path = ""
    for part in name.split("."):
        plain, made = part.removesuffix("()"), part.endswith("()")
        path = f"{path}.{plain}" if path else plain
        try:
            found = getattr(found, plain) if path != plain else importlib.import_module(plain)
        except AttributeError:
            if not inspect.ismodule(found):
                raise
            found = _submodule(path)
        except ImportError as error:  # a part of CuPy that needs a library that is not here
            if "Failure finding" in str(error):
                return None
            raise
        if made and path in OBJECTS:
            found = look_up(OBJECTS[path])
        elif made and not inspect.isclass(found):
            return None
    return found


def _submodule(path: str) -> Any:
    """A submodule that its package does not import by itself."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise AttributeError(f"there is no {path}") from error


def signature_of(found: Any) -> inspect.Signature | None:
    """How something is called. Cython writes that into the first line of the documentation."""
    try:
        signature = inspect.signature(found)
        bound = [p for p in signature.parameters.values() if p.name != "self"]
        return signature.replace(parameters=bound)
    except (TypeError, ValueError):
        return signature_in((found.__doc__ or "").strip().partition("\n")[0])


def signature_in(text: str) -> inspect.Signature | None:
    """The signature in a line such as ``Device.use(self, int n=0, *, path=None) -> None``."""
    match = re.match(r"[\w.]+\((.*)\)( -> .*)?$", text)
    if match is None:
        return None
    kind, parameters = inspect.Parameter.POSITIONAL_OR_KEYWORD, list[inspect.Parameter]()
    for part in re.split(r",\s*(?![^(\[]*[)\]])", match[1]):
        declared, default, _ = part.partition("=")
        name = declared.split()[-1] if declared.split() else ""
        if name == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
        elif name.startswith("*"):
            return None  # takes anything
        elif name and name != "self":
            fallback = None if default else inspect.Parameter.empty
            parameters.append(inspect.Parameter(name, kind, default=fallback))
    return inspect.Signature(parameters)


def complaint(use: Use) -> str | None:
    """What is wrong with a use, or None."""
    try:
        found = look_up(use.name)
    except AttributeError as error:
        return f"line {use.line}: {use.name}: {error}"
    if found is None or use.positional is None:
        return None
    if type(found).__name__ == "ufunc":
        wrong = set(use.keywords) - UFUNC_OPTIONS
        return f"line {use.line}: {use.name} takes no {sorted(wrong)}" if wrong else None
    return misfit(use, signature_of(found))


def misfit(use: Use, signature: inspect.Signature | None) -> str | None:
    """What a call gives that is not taken, or does not give that is needed."""
    if signature is None or use.positional is None:
        return None
    try:
        signature.bind(*[None] * use.positional, **dict.fromkeys(use.keywords))
    except TypeError as error:
        return f"line {use.line}: {use.name}{signature}: {error}"
    return None
