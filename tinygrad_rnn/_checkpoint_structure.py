"""A nest of Python values as two things a file can hold: JSON values, and arrays by name.

JSON has neither tuples nor NaN nor keys that are integers, and not every parser reads integers
beyond 2**53. Whatever it lacks is an object with exactly one entry, which says what it is:

    {"a": 1}  {"dict": [["a", 1]]}      (1, 2)   {"tuple": [1, 2]}     nan   {"float": "nan"}
    array     {"array": "its.name"}     2**100   {"int": "0x1000..."}

The name of an array is the keys that lead to it, joined by dots.
"""

import math
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn._checkpoint_file import DTYPES, Array, Damage
from tinygrad_rnn.errors import CheckpointError, DTypeError

_MAX_DEPTH = 64  # levels of the nest; a state that contains itself has no end
_DTYPE_NAMES = {dtype.name for dtype in DTYPES.values()}


def flatten(state: Any) -> tuple[Any, dict[str, Array]]:
    """The structure of `state` as JSON values, and its arrays on the host, by name.

    Raises `CheckpointError` for what a file cannot hold, and says where in `state` it is.
    """
    arrays: dict[str, Array] = {}
    return _encode(state, (), arrays), arrays


def unflatten(structure: Any, arrays: dict[str, Array]) -> Any:
    """The inverse of `flatten`; raises `Damage` unless each array has exactly one place."""
    remaining = dict(arrays)
    state = _decode(structure, remaining)
    if remaining:
        raise Damage(f"array {next(iter(remaining))!r} has no place in its structure")
    return state


def _encode(value: Any, keys: tuple[str, ...], arrays: dict[str, Array]) -> Any:
    """`value` as JSON values; arrays on the way go into `arrays`."""
    if len(keys) > _MAX_DEPTH:
        raise CheckpointError(
            f"{_where(keys[:4])}... is nested deeper than {_MAX_DEPTH} levels, or contains itself; "
            "save a flatter state"
        )
    if isinstance(value, np.bool_ | np.integer | np.floating):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return _encode_scalar(value)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise CheckpointError(f"{_where(keys)} has key {key!r}; keys are str or int")
        return {
            "dict": [
                [_encode_scalar(key), _encode(item, (*keys, str(key)), arrays)]
                for key, item in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        items = [_encode(item, (*keys, str(i)), arrays) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    return {"array": _store(value, keys, arrays)}


def _encode_scalar(value: float | str | None) -> Any:
    """Plain JSON where every JSON parser agrees on the value, and a tagged string elsewhere."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):  # other parsers read numbers as float64; hexadecimal has no limit
        return int(value) if abs(value) < 2**53 else {"int": hex(value)}
    return float(value) if math.isfinite(value) else {"float": str(float(value))}


def _store(value: Any, keys: tuple[str, ...], arrays: dict[str, Array]) -> str:
    """Put an array into `arrays` under its dotted name, which is returned."""
    name = ".".join(keys)
    if name in arrays or name == "__metadata__" or not _is_unicode(name):
        raise CheckpointError(
            f"the name {name!r} of an array is taken or cannot be stored (keys with dots in them, "
            "or both 1 and '1', can lead to one name); rename a key"
        )
    array = _to_host(value, keys)
    if array.dtype.name not in _DTYPE_NAMES:
        raise CheckpointError(
            f"{_where(keys)} is an array of {array.dtype}; a file holds {sorted(_DTYPE_NAMES)}: "
            "convert it first"
        )
    # safetensors 0.8.0 writes wrong values, without an error, for any layout but this one.
    arrays[name] = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    return name


def _to_host(value: Any, keys: tuple[str, ...]) -> Array:
    """The NumPy array of a Tensor, of an array of any backend, or of NumPy itself."""
    found = value
    if hasattr(found, "detach"):
        found = found.detach()
    if hasattr(found, "numpy"):
        found = found.numpy()
    if not isinstance(found, np.ndarray | np.generic):
        try:
            found = backends.of(found).to_host(found)
        except DTypeError as error:
            raise CheckpointError(
                f"{_where(keys)} is a {type(value).__name__}; a file holds dicts, lists, tuples, "
                "numbers, strings, None and arrays: convert it, or leave it out"
            ) from error
    return np.asarray(found)


def _where(keys: tuple[str, ...]) -> str:
    return f"state[{'.'.join(keys)!r}]" if keys else "the state"


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold `text`: it has no lone surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _decode(node: Any, arrays: dict[str, Array]) -> Any:
    """The inverse of `_encode`; each array is taken out of `arrays`, and so used once."""
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, list):
        return [_decode(item, arrays) for item in node]
    tag, content = next(iter(node.items())) if len(node) == 1 else (None, None)
    try:
        match tag, content:
            case "int", str():
                return int(content, 16)
            case "float", "nan" | "inf" | "-inf":
                return float(content)
            case "tuple", list():
                return tuple(_decode(item, arrays) for item in content)
            case "dict", list():
                return _decode_dict(content, arrays)
            case "array", str():
                return arrays.pop(content)
    except (ValueError, KeyError) as error:
        raise Damage(f"its structure is malformed at {tag} ({error})") from error
    raise Damage(f"its structure holds an unknown kind of entry, {tag!r}")


def _decode_dict(pairs: list[Any], arrays: dict[str, Array]) -> dict[str | int, Any]:
    found: dict[str | int, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Damage("its structure is malformed: a dict is made of pairs")
        key = _decode(pair[0], {})
        if not isinstance(key, str | int) or isinstance(key, bool) or key in found:
            raise Damage(f"its structure is malformed: {key!r} is no key, or occurs twice")
        found[key] = _decode(pair[1], arrays)
    return found
