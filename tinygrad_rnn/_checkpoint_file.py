"""Checkpoint files as bytes: written so that none is ever half there, read with distrust.

A safetensors file is a length, a JSON header and the arrays, in little-endian C order and without
a gap between them:

    8 bytes   n, the length of the header, unsigned little-endian
    n bytes   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...,
               "__metadata__": {"key": "text"}}
    the rest  the bytes of the arrays; offsets count from here

Reading is written out here, not left to a library, because a damaged file must end in one kind of
error and because every number in the header is checked *before* anything of that size is allocated:
a file may have been cut short on the way, or made by somebody who wishes us ill.
"""

import contextlib
import errno
import importlib
import importlib.util
import json
import math
import os
import re
import secrets
import sys
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_rnn.errors import CheckpointError

Array = NDArray[Any]

MAX_HEADER = 4 << 20  # bytes
MAX_TENSORS = 65_536
MAX_NDIM = 32
MAX_NESTING = 256  # brackets in brackets in JSON
MAX_BRACKETS = 1 << 18  # pairs of them; each becomes 60 to 240 bytes of memory

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
}

# Protocol 0 and 1 pickles start with no fixed byte; they fail as headers of absurd length.
_OTHER_FORMATS = {
    **{bytes([0x80, protocol]): "a pickle, which can run code when read" for protocol in range(6)},
    b"PK": "a zip archive (.npz and torch.save make those)",
    b"\x93NUMPY": "a NumPy .npy file",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip file",
}

# What only some systems have: Windows lacks file locks, and needs O_BINARY to leave newlines alone.
fcntl: Any = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None
_BINARY = getattr(os, "O_BINARY", 0)

# A string of JSON. The possessive `*+` keeps no places to go back to: linear time, no memory.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

_BRACKETS = np.zeros(256, dtype=np.int8)  # what a byte of JSON does to the depth
_BRACKETS[list(b"[{")], _BRACKETS[list(b"]}")] = 1, -1


class Damage(Exception):
    """What is wrong with a file; callers add its path and raise `CheckpointError`."""


# ---- writing -------------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` so that at any moment, power loss included, old or new is there.

    The order is what makes it so. The new file is written beside the old one and forced to the disk
    *before* it takes the name: a rename alone may reach the disk ahead of the data, and leave zeros
    under the good name. Forcing the directory out makes the rename itself last.

    Every `OSError` goes to the caller, and the file beside is removed.
    """
    target = Path(os.path.realpath(path))  # write through a symbolic link, not over it
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "not a regular file, and so not replaced", str(path))
    _remove_leftovers(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        with _locked(descriptor):
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
    except BaseException:  # Ctrl-C too must leave nothing behind
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    """Force a directory's entries to the disk; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # how network drives say "not for directories"
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Mark a file as being written; the mark goes when the process goes, however it goes."""
    if fcntl is None:
        yield
        return
    holder = os.dup(descriptor)  # the lock lasts until the last copy of the descriptor is closed
    try:
        with contextlib.suppress(OSError):  # file systems without locks: leftovers just stay
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(holder)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left beside `target`: half-written files nobody has locked."""
    if fcntl is None:
        return
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.tmp")
    for neighbour in target.parent.iterdir():
        if pattern.fullmatch(neighbour.name):
            with contextlib.suppress(OSError), neighbour.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while somebody writes
                neighbour.unlink()


# ---- reading -------------------------------------------------------------------------------------


def read(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    """The metadata and the arrays of a safetensors file; the arrays own their memory.

    Raises `CheckpointError` for anything but an intact file of a dtype in `DTYPES`, and `OSError`
    where the file cannot be opened or read at all.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # opening a FIFO would wait
            raise Damage("it is a pipe, socket or device, not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _read_header(file, size)
            metadata = _check_metadata(header.pop("__metadata__", {}))
            layout = _check_layout(header, size - file.tell())
            return metadata, {name: _read_array(file, *what) for name, what in layout.items()}
    except Damage as damage:
        raise CheckpointError(
            f"{path} cannot be loaded: {damage}. A whole safetensors file is needed: "
            "copy it again, or go back to an earlier one"
        ) from damage


def _read_header(file: BufferedIOBase, size: int) -> dict[str, Any]:
    start = file.read(16)
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER or start[8:9] != b"{":
        for magic, what in _OTHER_FORMATS.items():
            if start.startswith(magic):
                raise Damage(f"it is {what}, not a safetensors file")
    if size < 8:
        raise Damage(f"it has {size} bytes, and the length of its header alone takes 8")
    if length > MAX_HEADER:
        raise Damage(f"its header would be {length} bytes long, and {MAX_HEADER} are allowed")
    if length > size - 8:
        raise Damage(f"its header should have {length} bytes, but only {size - 8} are there")
    file.seek(8)
    header = strict_json(file.read(length))
    if not isinstance(header, dict):
        raise Damage("its header is no JSON object")
    if len(header) > MAX_TENSORS + 1:
        raise Damage(f"it lists {len(header)} arrays, and {MAX_TENSORS} are allowed")
    return header


def strict_json(text: bytes) -> Any:
    """Parse JSON, refusing what the standard parser lets through: repeated keys, NaN, deep nests.

    The depth is measured first, because a parser that recurses a million times does not raise an
    error if somebody has raised Python's recursion limit: the process dies.
    """
    steps = _BRACKETS[np.frombuffer(_STRING.sub(b"", text), dtype=np.uint8)]  # (N,) 1, -1 or 0
    if (steps > 0).sum() > MAX_BRACKETS:
        raise Damage(f"its JSON has more than {MAX_BRACKETS} lists and objects")
    if steps.cumsum(dtype=np.int32).max(initial=0) > MAX_NESTING:
        raise Damage(f"its JSON is nested deeper than {MAX_NESTING} levels")
    try:
        return json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except (ValueError, RecursionError, MemoryError) as error:  # ValueError: UTF-8 errors as well
        raise Damage(f"its JSON is malformed ({str(error) or type(error).__name__})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _finite(text: str) -> float:
    """A float of JSON; the standard parser makes an infinity of 1e999, and knows "NaN"."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _check_metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Damage("its metadata is no mapping from strings to strings")
    return metadata


def _check_layout(
    header: dict[str, Any], payload: int
) -> dict[str, tuple[np.dtype[Any], list[int]]]:
    """The dtype and shape of each array, in file order, once they tile `payload` bytes exactly."""
    layout, spans = {}, []
    for name, entry in header.items():
        dtype, shape, (begin, end) = _check_entry(name, entry)
        layout[name] = dtype, shape
        spans.append((begin, end, name))
    spans.sort()
    place = 0
    for begin, end, name in spans:
        if begin != place:
            kind = "a hole before" if begin > place else "an overlap at"
            raise Damage(f"there is {kind} array {name!r} (byte {begin}, expected {place})")
        place = end
    if place != payload:
        raise Damage(f"its arrays take {place} bytes, but {payload} bytes follow the header")
    return {name: layout[name] for _, _, name in spans}


def _check_entry(name: str, entry: Any) -> tuple[np.dtype[Any], list[int], list[int]]:
    """One line of the header: known dtype, sane shape, and offsets that agree with both."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Damage(f"the header entry of array {name!r} is malformed")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise Damage(f"array {name!r} has dtype {code!r}; known are {', '.join(DTYPES)}")
    if not _are_sizes(shape) or len(shape) > MAX_NDIM:
        raise Damage(f"array {name!r} has a malformed shape")
    # NumPy multiplies the sizes without the zeros, and in 64 bits; Python's integers are exact.
    if math.prod(d for d in shape if d) * dtype.itemsize > sys.maxsize:
        raise Damage(f"array {name!r} has a shape too large for any memory")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise Damage(f"array {name!r} has malformed offsets")
    nbytes = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise Damage(
            f"array {name!r} of shape {shape} and dtype {code} takes {nbytes} bytes, "
            f"but has {offsets[1] - offsets[0]}"
        )
    return dtype, shape, offsets


def _are_sizes(value: Any) -> bool:
    """A list of non-negative integers (True is none, though Python takes it for one)."""
    return isinstance(value, list) and all(type(d) is int and d >= 0 for d in value)


def _read_array(file: BufferedIOBase, dtype: np.dtype[Any], shape: list[int]) -> Array:
    """The next array of the file, C-contiguous, writable and in the machine's byte order."""
    array = np.empty(shape, dtype.newbyteorder("<"))
    raw = array.reshape(-1).view(np.uint8)
    if raw.size and file.readinto(raw.data) != raw.size:
        raise Damage("it became shorter while it was read")
    if dtype == np.bool_ and raw.size and raw.max() > 1:
        raise Damage("an array of booleans holds bytes other than 0 and 1")
    return array.astype(dtype, copy=False)
