"""Save and load, exactly: `save` and `load` for any state, `save_checkpoint` for a training run.

A state is a nest of dicts, lists, tuples, numbers, strings, None and arrays. It goes into *one*
safetensors file (two files can be torn apart by a crash between them), in two parts:

- every array, under the keys that lead to it joined by dots, so that the state dict of a model is
  an ordinary safetensors file, which PyTorch and others read under the same names;
- the nest without its arrays, as JSON in the file's metadata (see `_checkpoint_structure`).

The format has no checksum of its own, and one flipped bit in a weight would go unnoticed: a SHA-256
over names, dtypes, shapes, structure and data lies in the metadata and is verified by `load`.
There is no pickle here, no fallback to one, and no option for one.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinygrad_rnn._checkpoint_file import (
    MAX_HEADER,
    MAX_TENSORS,
    Array,
    Damage,
    read,
    strict_json,
    write_atomically,
)
from tinygrad_rnn._checkpoint_structure import flatten, unflatten
from tinygrad_rnn.errors import CheckpointError

__all__ = ["Checkpoint", "load", "load_checkpoint", "save", "save_checkpoint"]

VERSION = 1  # of the structure in the metadata, and of the sections of a training checkpoint
_KEY = "tinygrad_rnn"  # of our metadata, and of the version inside it


# ---- any state -----------------------------------------------------------------------------------


def save(path: str | os.PathLike[str], state: Any) -> None:
    """Write `state` to one safetensors file, replacing an earlier one only when all is on disk.

    Args:
        path: the file; its directory must exist.
        state: dicts with str or int keys, lists, tuples, None, bool, int, float, str, and arrays:
            NumPy's, those of any backend, and Tensors, of bool, integer, or float16/32/64 dtype.

    Raises:
        CheckpointError: something in `state` that a file cannot hold; says where, writes nothing.
        OSError: the disk is full, the directory is not writable, ...: the old file is as it was.
    """
    from safetensors.numpy import save as to_bytes  # not needed to import the package

    structure, arrays = flatten(state)
    note = {_KEY: VERSION, "sha256": _digest(structure, arrays), "structure": structure}
    text = _compact(note)
    content = to_bytes(arrays, metadata={_KEY: text})
    _check_limits(content, text.encode(), len(arrays))
    write_atomically(Path(path), content)


def _check_limits(content: bytes, note: bytes, arrays: int) -> None:
    """Refuse to write what `load` would refuse to read."""
    header = int.from_bytes(content[:8], "little")
    try:
        if header > MAX_HEADER or arrays > MAX_TENSORS:
            raise Damage(
                f"{arrays} arrays, and {header} bytes of names, numbers and strings; a file holds "
                f"up to {MAX_TENSORS} and {MAX_HEADER}"
            )
        strict_json(note)
    except Damage as damage:
        raise CheckpointError(
            f"this state is too large: {damage}. Keep long lists of numbers as one array"
        ) from damage


def load(path: str | os.PathLike[str]) -> Any:
    """Read what `save` wrote, or the arrays of any safetensors file as a flat dict.

    Structure, types and values come back equal, except that NumPy scalars come back as Python
    numbers, subclasses (OrderedDict, namedtuple) as what they derive from, and Tensors as NumPy
    arrays. Arrays own their memory and are C-contiguous and writable. A file made elsewhere has
    no checksum to verify.

    Raises:
        CheckpointError: the file is damaged, malformed, or of another format; says why.
        OSError: the file is not there or cannot be read.
    """
    file = Path(path)
    metadata, arrays = read(file)
    # One damaged byte can hide our name in the key or in the text below it, but not in both.
    if not any(_KEY in text for item in metadata.items() for text in item):
        return arrays
    try:
        note = strict_json(metadata.get(_KEY, "").encode("utf-8", "surrogatepass"))
        return unflatten(_check_note(note, arrays), arrays)
    except Damage as damage:
        raise CheckpointError(f"{file} cannot be loaded: {damage}") from damage


def _check_note(note: Any, arrays: dict[str, Array]) -> Any:
    """The structure inside our metadata, once version and checksum are found good."""
    version = note.get(_KEY) if isinstance(note, dict) else None
    if type(version) is not int or version < 1:
        raise Damage("its metadata is damaged; go back to an earlier checkpoint")
    if version > VERSION:
        raise Damage(
            f"it has format {version}, and this tinygrad_rnn reads up to {VERSION}; "
            "upgrade tinygrad_rnn"
        )
    if note.keys() != {_KEY, "sha256", "structure"}:
        raise Damage("its metadata is damaged; go back to an earlier checkpoint")
    if note["sha256"] != _digest(note["structure"], arrays):
        raise Damage("its content does not match its SHA-256; go back to an earlier checkpoint")
    return note["structure"]


def _digest(structure: Any, arrays: Mapping[str, Array]) -> str:
    """SHA-256 over everything that has a meaning, in an order that depends on names only."""
    names = sorted(arrays)
    layout = [[name, arrays[name].dtype.name, list(arrays[name].shape)] for name in names]
    digest = hashlib.sha256(_compact([VERSION, structure, layout]).encode())
    for name in names:
        array = arrays[name]
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).data)
    return digest.hexdigest()


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


# ---- a training run ------------------------------------------------------------------------------


class Stateful(Protocol):
    """What has a state that can be taken out and put back: models, optimizers, schedules."""

    def state_dict(self) -> Any:
        """The state, as a nest that `save` accepts."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Take over a state that came from `state_dict`; accepts NumPy arrays."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds; whatever was not given to `save_checkpoint` is None.

    Attributes:
        model, optimizer, schedule: their state dicts, with NumPy arrays.
        rng: the state of a NumPy bit generator.
        position: the place in the data, as the training loop counts: (epoch, window), say.
        hidden: the recurrent state carried into the next window, as NumPy arrays.
        vocabulary: the symbols in the order of their ids.
        config, extra: whatever the program put there.
        version: the format of the file.
        libraries: which versions of Python, NumPy and this package wrote it.
    """

    model: dict[str, Any]
    optimizer: Any
    schedule: Any
    rng: dict[str, Any] | None
    position: Any
    hidden: Any
    vocabulary: str | None
    config: Any
    extra: Any
    version: int
    libraries: dict[str, str]


def save_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: Stateful,
    optimizer: Stateful | None = None,
    schedule: Stateful | None = None,
    rng: np.random.Generator | None = None,
    position: Any = None,
    hidden: Any = None,
    vocabulary: Any = None,
    config: Any = None,
    extra: Any = None,
) -> None:
    """Save all that training needs to go on exactly where it is.

    `vocabulary` is a `Vocabulary` or the string of its symbols; the other parts are described at
    `Checkpoint`, the errors at `save`.
    """
    symbols = getattr(vocabulary, "symbols", vocabulary)
    if symbols is not None and not isinstance(symbols, str):
        raise CheckpointError(
            f"vocabulary is a {type(vocabulary).__name__}; give a Vocabulary, or its symbols as str"
        )
    sections = {
        "version": VERSION,
        "libraries": _libraries(),
        "model": model.state_dict(),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "schedule": None if schedule is None else schedule.state_dict(),
        "rng": None if rng is None else rng.bit_generator.state,
        "position": position,
        "hidden": hidden,
        "vocabulary": symbols,
        "config": config,
        "extra": extra,
    }
    save(path, sections)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: Stateful | None = None,
    optimizer: Stateful | None = None,
    schedule: Stateful | None = None,
    rng: np.random.Generator | None = None,
) -> Checkpoint:
    """Read a checkpoint, and put its parts back into the objects given: all of them, or none.

    Raises:
        CheckpointError: the file is damaged, is no checkpoint of this format, lacks a part that was
            asked for, or its random numbers come from another kind of generator.
        OSError: the file is not there or cannot be read.
        Exception: whatever `load_state_dict` raises when the state does not fit; every object then
            has its old state back.
    """
    found = _check_sections(load(path), path)
    targets = {"model": model, "optimizer": optimizer, "schedule": schedule}
    for name, target in {**targets, "rng": rng}.items():
        if target is not None and getattr(found, name) is None:
            raise CheckpointError(
                f"{path} holds no {name}; save it with save_checkpoint({name}=...), "
                f"or load without {name}="
            )
    if rng is not None:
        _rehearse_rng(rng, found.rng, path)
    _load_all([(t, getattr(found, name)) for name, t in targets.items() if t is not None])
    if rng is not None and found.rng is not None:
        rng.bit_generator.state = found.rng
    return found


def _check_sections(state: Any, path: str | os.PathLike[str]) -> Checkpoint:
    names = [field.name for field in fields(Checkpoint)]
    version = state.get("version") if isinstance(state, dict) else None
    if type(version) is int and version > VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {version}, and this tinygrad_rnn reads up to "
            f"{VERSION}; upgrade tinygrad_rnn"
        )
    if type(version) is not int or not state.keys() >= set(names) or state["model"] is None:
        raise CheckpointError(
            f"{path} is intact, but save_checkpoint did not write it; read it with load()"
        )
    return Checkpoint(**{name: state[name] for name in names})


def _rehearse_rng(rng: np.random.Generator, state: Any, path: str | os.PathLike[str]) -> None:
    """Give the state to a generator nobody uses, so that a bad one is found before any change."""
    own = type(rng.bit_generator)
    saved = state.get("bit_generator") if isinstance(state, dict) else None
    if saved != own.__name__:
        raise CheckpointError(
            f"{path} holds the state of a {saved} generator, but rng is a {own.__name__}; "
            f"make it with numpy.random.Generator(numpy.random.{saved}())"
        )
    try:
        own(0).state = state
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise CheckpointError(f"{path} holds a malformed {saved} state: {error}") from error


def _load_all(parts: list[tuple[Stateful, Any]]) -> None:
    """Load every part, or give all of them their old states back and raise."""
    before = [_own_copy(target.state_dict()) for target, _ in parts]
    for i, (target, state) in enumerate(parts):
        try:
            target.load_state_dict(state)
        except BaseException:
            for (changed, _), old in zip(parts[: i + 1], before, strict=False):
                changed.load_state_dict(old)
            raise


def _own_copy(state: Any) -> Any:
    """A copy on the host that shares no memory with `state`."""
    structure, arrays = flatten(state)
    return unflatten(structure, {name: array.copy() for name, array in arrays.items()})


def _libraries() -> dict[str, str]:
    """The versions that a person who finds an old checkpoint will ask for."""
    try:
        own = importlib.metadata.version("tinygrad_rnn")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree, never installed
        own = "unknown"
    return {"python": platform.python_version(), "numpy": np.__version__, "tinygrad_rnn": own}
