"""Checkpoints: exact round trips, and nothing but `CheckpointError` from a damaged file."""

import argparse
import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_rnn import backends, checkpoint
from tinygrad_rnn._checkpoint_file import MAX_HEADER, write_atomically
from tinygrad_rnn.checkpoint import Checkpoint, load, load_checkpoint, save, save_checkpoint
from tinygrad_rnn.data import Vocabulary
from tinygrad_rnn.errors import CheckpointError

PACKAGE = pathlib.Path(checkpoint.__file__).parent
DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "float32", "float64"]


def same(a, b):
    """Equal in type, structure and every bit, NaN and -0.0 included."""
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and a.tobytes() == b.tobytes()
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b) if isinstance(a, float) else a == b


def leftovers(directory):
    return list(directory.glob(".*.tmp"))


# ---- round trips ---------------------------------------------------------------------------------

ARRAYS = hnp.arrays(
    dtype=st.sampled_from(DTYPES), shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**52, 2**54)
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text(st.characters(), max_size=5)
)
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="."), max_size=4)
STATES = st.recursive(
    SCALARS | ARRAYS,
    lambda states: (
        st.lists(states, max_size=3)
        | st.lists(states, max_size=3).map(tuple)
        | st.dictionaries(KEYS.filter(lambda key: not key.lstrip("-").isdigit()), states)
        | st.dictionaries(st.integers(), states, max_size=3)
    ),
    max_leaves=8,
)


@given(STATES)
@settings(deadline=None)
def test_every_state_comes_back_equal(tmp_path_factory, state):
    file = tmp_path_factory.getbasetemp() / "round_trip"
    save(file, state)
    assert same(load(file), state)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "layout",
    [
        lambda a: a.T,
        np.asfortranarray,
        lambda a: a[::2, 1:],
        lambda a: a[::-1, ::-1],
        lambda a: np.broadcast_to(a[0], (5, 4)),
        lambda a: a.astype(a.dtype.newbyteorder(">")),
    ],
    ids=["transposed", "fortran", "strided", "reversed", "broadcast", "big-endian"],
)
def test_layouts(tmp_path, dtype, layout):
    array = layout(np.arange(12).reshape(3, 4).astype(dtype))
    save(tmp_path / "c", {"w": array})
    back = load(tmp_path / "c")["w"]
    np.testing.assert_array_equal(back, array)
    assert back.dtype == np.dtype(dtype)
    assert back.dtype.isnative
    assert back.flags.c_contiguous
    assert back.flags.writeable
    assert back.flags.owndata


def test_special_values(tmp_path):
    state = {
        "floats": [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, 1.0, 1e308],
        "ints": [0, 2**53 - 1, 2**53, -(2**53), 10**5000, True],
        "keys": {1: "int", "x": {-5: None, 10**30: ()}},
        "array": np.array([np.nan, -np.nan, np.inf, -0.0], np.float32),
        "none": None,
        "nested": [[], {}, (), ((),), [{"a": (1, [2])}]],
        "text": "lone \ud800, NUL \0, 'quotes\"",
    }
    save(tmp_path / "c", state)
    back = load(tmp_path / "c")
    assert same(back, state)
    assert math.copysign(1, back["floats"][3]) == -1


def test_numpy_scalars_become_python_numbers(tmp_path):
    save(tmp_path / "c", [np.float32(0.5), np.int64(3), np.bool_(True), np.float64(2)])
    assert same(load(tmp_path / "c"), [0.5, 3, True, 2.0])


@pytest.mark.parametrize(
    "name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]
)  # their states hold 128-bit integers and uint64 arrays
def test_generators_go_on_exactly(tmp_path, name):
    rng = np.random.Generator(getattr(np.random, name)(1))
    rng.integers(0, 10, dtype=np.uint32)  # leaves half a draw buffered
    save(tmp_path / "c", rng.bit_generator.state)
    again = np.random.Generator(getattr(np.random, name)(2))
    again.bit_generator.state = load(tmp_path / "c")
    assert rng.normal(size=100).tobytes() == again.normal(size=100).tobytes()


class Duck:
    """A Tensor as far as `save` can tell."""

    def __init__(self, data):
        self.data, self.detached = data, False

    def detach(self):
        other = Duck(self.data)
        other.detached = True
        return other

    def numpy(self):
        assert self.detached
        return self.data


def test_tensors_and_device_arrays(tmp_path, monkeypatch):
    class DeviceArray:
        pass

    class Device:
        def to_host(self, array):
            return np.arange(3.0)

    known = backends.of
    monkeypatch.setattr(
        backends, "of", lambda a: Device() if isinstance(a, DeviceArray) else known(a)
    )
    save(tmp_path / "c", {"a": Duck(np.eye(2).T), "b": DeviceArray(), "c": Duck(np.float32(1))})
    expected = {"a": np.eye(2), "b": np.arange(3.0), "c": np.array(1, np.float32)}
    assert same(load(tmp_path / "c"), expected)


def test_other_libraries_read_a_state_dict(tmp_path):
    from safetensors.numpy import load_file

    state = {"lstm.weight_ih_l0": np.arange(6.0).reshape(2, 3).T, "bias": np.float16([1, 2])}
    save(tmp_path / "c", state)
    theirs = load_file(tmp_path / "c")
    assert theirs.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(theirs[name], array)


def test_files_of_other_libraries_are_read(tmp_path):
    from safetensors.numpy import save_file

    arrays = {
        "a.b": np.arange(6, dtype=np.int16).reshape(2, 3),
        "c": np.zeros((0, 2)),
        "d": np.ones(()),
    }
    for metadata in (None, {"format": "pt"}):
        save_file(arrays, tmp_path / "c", metadata)
        back = load(tmp_path / "c")
        assert back.keys() == arrays.keys()
        assert all(same(back[name], arrays[name]) for name in arrays)


def test_equal_states_make_equal_files(tmp_path):
    for name in "ab":
        code = f"""if 1:
            import numpy as np
            from tinygrad_rnn.checkpoint import save
            state = {{"x": np.ones(3), "y": {{"z": np.eye(2), "t": (1, 2)}}}}
            save({str(tmp_path / name)!r}, state)"""
        run_python(code)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# ---- what cannot be saved ------------------------------------------------------------------------


def test_refused_states_leave_the_old_file(tmp_path):
    file = tmp_path / "c"
    save(file, 1)
    cycle = []
    cycle.append(cycle)
    for state, message in [
        ({"a": {"b": {1, 2}}}, r"state\['a.b'\] is a set"),
        ([object()], r"state\['0'\] is a object"),
        ({"f": len}, "builtin_function"),
        (np.array([object()]), "object"),
        ({"c": np.zeros(2, complex)}, "complex128"),
        ({"c": 1j}, "complex"),
        ({"s": np.array(["text"])}, "array of <U4"),
        ({"l": np.longdouble(1)}, "longdouble|float128|<f16"),
        ({"v": np.zeros(2, [("a", "f4")])}, "'a'"),
        ({"t": np.zeros(2, "m8[s]")}, "timedelta64"),
        (b"bytes", "bytes"),
        ({(1, 2): 3}, r"key \(1, 2\)"),
        ({True: 3}, "key True"),
        ({"a.b": np.ones(1), "a": {"b": np.ones(1)}}, "'a.b'.*rename"),
        ({1: np.ones(1), "1": np.ones(1)}, "'1'.*rename"),
        ({"__metadata__": np.ones(1)}, "rename"),
        ({"\ud800": np.ones(1)}, "rename"),
        (cycle, "contains itself"),
        (["x" * MAX_HEADER], "(?i)keep long lists"),
        ([()] * 150_000, "lists and objects.*Keep long lists"),
        (dict.fromkeys(map(str, range(70_000)), np.ones(0)), "70000 arrays"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            save(file, state)
        assert load(file) == 1
    assert leftovers(tmp_path) == []


# ---- damaged and hostile files -------------------------------------------------------------------


def small_state():
    rng = np.random.default_rng(0)
    return {
        "weight": rng.normal(size=(8, 12)),
        "bias": rng.normal(size=12).astype(np.float32),
        "mask": np.array([True, False, True]),
        "rng": rng.bit_generator.state,
        "position": (3, 141),
        "loss": [1.5, math.nan],
        "name": "small",
        "steps": {0: np.int32([7]), 1: None},
    }


def test_every_truncation_is_noticed(tmp_path):
    save(tmp_path / "c", small_state())
    content = (tmp_path / "c").read_bytes()
    assert 1500 < len(content) < 3000
    bad = tmp_path / "bad"
    for n in range(len(content)):
        bad.write_bytes(content[:n])
        with pytest.raises(CheckpointError, match="bad cannot be loaded"):
            load(bad)
    bad.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError):
        load(bad)


def test_every_flipped_byte_is_noticed(tmp_path):
    state = small_state()
    save(tmp_path / "c", state)
    content = bytearray((tmp_path / "c").read_bytes())
    bad = tmp_path / "bad"
    accepted = []
    for place, flip in itertools.product(range(len(content)), [1, 4, 32, 128, 255]):
        content[place] ^= flip
        bad.write_bytes(content)
        content[place] ^= flip
        try:
            assert same(load(bad), state)
            accepted.append(place)
        except CheckpointError:
            pass
    assert accepted == []


def safetensors(header, payload=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + payload


def entry(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def ours(note):
    return safetensors({"__metadata__": {"tinygrad_rnn": note}})


def signed(structure):
    """A hostile file whose checksum is right."""
    text = json.dumps([1, structure, []], separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return ours(json.dumps({"tinygrad_rnn": 1, "sha256": digest, "structure": structure}))


HOSTILE = {
    "empty": b"",
    "only a length": (8).to_bytes(8, "little"),
    "length 2**63": (2**63).to_bytes(8, "little") + b"{}",
    "header too long": safetensors(b"{" + b" " * MAX_HEADER + b"}"),
    "no object": safetensors(b"[]      "),
    "number": safetensors(b"1"),
    "not UTF-8": safetensors(b'{"\xff": 1}'),
    "deep lists": safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep, unclosed": safetensors(b'{"a":' * 100_000),
    "many brackets": safetensors(b"[" * (MAX_HEADER - 8)),
    "many lists": safetensors(b'{"a":[' + b"[]," * (MAX_HEADER // 3 - 8) + b"1]}"),
    "many objects": safetensors(b'{"a":[' + b'{"":1},' * 262_100 + b"1]}"),
    "endless string": safetensors(b'{"' + b"\\" * (MAX_HEADER - 8)),
    "duplicate keys": safetensors(
        b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(4)
    ),
    "NaN offset": safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[NaN,4]}}', bytes(4)
    ),
    "huge number": safetensors(b'{"a":' + b"9" * 5000 + b"}"),
    "infinite": safetensors(b'{"a":1e999}'),
    "a million tensors": safetensors({f"{i}": entry("U8", (0,), (0, 0)) for i in range(10**6)}),
    "70,000 tensors": safetensors(
        json.dumps(
            {f"{i}": entry("U8", (0,), (0, 0)) for i in range(70_000)}, separators=(",", ":")
        ).encode()
    ),
    "entry is a list": safetensors({"a": []}),
    "entry is null": safetensors({"a": None}),
    "missing key": safetensors({"a": {"dtype": "F32", "shape": []}}),
    "extra key": safetensors({"a": entry(path="/etc/passwd")}, bytes(4)),
    "dtype unknown": safetensors({"a": entry("BF16", (2,))}, bytes(4)),
    "dtype a list": safetensors({"a": entry([])}, bytes(4)),
    "dtype object": safetensors({"a": entry("O")}, bytes(4)),
    "negative size": safetensors({"a": entry(shape=(-1, -1))}, bytes(4)),
    "size a float": safetensors({"a": entry(shape=(1.0,))}, bytes(4)),
    "size true": safetensors({"a": entry(shape=(True,))}, bytes(4)),
    "shape a string": safetensors({"a": {**entry(), "shape": "1"}}, bytes(4)),
    "shape too long": safetensors({"a": entry(shape=(1,) * 100)}, bytes(4)),
    "product overflows": safetensors({"a": entry(shape=(2**32, 2**32), offsets=(0, 0))}),
    "overflow hidden by 0": safetensors({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}),
    "a size beyond 64 bits": safetensors({"a": entry(shape=(0, 2**70), offsets=(0, 0))}),
    "terabytes": safetensors({"a": entry(shape=(2**40,), offsets=(0, 2**42))}, bytes(4)),
    "three offsets": safetensors({"a": entry(offsets=(0, 4, 4))}, bytes(4)),
    "reversed offsets": safetensors({"a": entry(offsets=(4, 0))}, bytes(4)),
    "offset beyond": safetensors({"a": entry(offsets=(4, 8))}, bytes(4)),
    "overlap": safetensors({"a": entry(), "b": entry()}, bytes(4)),
    "partial overlap": safetensors({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6)),
    "hole": safetensors({"a": entry(), "b": entry(offsets=(5, 9))}, bytes(9)),
    "rest": safetensors({"a": entry()}, bytes(5)),
    "bool of 2": safetensors({"a": entry("BOOL", (1,), (0, 1))}, b"\2"),
    "metadata a list": safetensors({"__metadata__": []}),
    "metadata with int": safetensors({"__metadata__": {"a": 1}}),
    "our key, no JSON": ours("?"),
    "our key, a list": ours("[]"),
    "our key, empty": ours("{}"),
    "our key, surrogate": ours("\ud800"),
    "version true": ours('{"tinygrad_rnn": true, "sha256": "", "structure": 1}'),
    "version 0": ours('{"tinygrad_rnn": 0, "sha256": "", "structure": 1}'),
    "no checksum": ours('{"tinygrad_rnn": 1, "structure": 1}'),
    "wrong checksum": ours('{"tinygrad_rnn": 1, "sha256": "00", "structure": 1}'),
    "checksum a list": ours('{"tinygrad_rnn": 1, "sha256": [], "structure": 1}'),
    "structure 1e999": ours('{"tinygrad_rnn": 1, "sha256": "", "structure": 1e999}'),
    "no such tag": signed({"eval": "1"}),
    "two tags": signed({"int": "1", "float": "nan"}),
    "no tag": signed({}),
    "int of nonsense": signed({"int": "x"}),
    "int of int": signed({"int": 1}),
    "float of 1": signed({"float": "1"}),
    "tuple of string": signed({"tuple": "ab"}),
    "dict of no pairs": signed({"dict": [["a"]]}),
    "dict of strings": signed({"dict": ["ab"]}),
    "dict, bad key": signed({"dict": [[[], 1]]}),
    "dict, bool key": signed({"dict": [[True, 1]]}),
    "dict, key twice": signed({"dict": [["a", 1], ["a", 2]]}),
    "array as key": signed({"dict": [[{"array": "a"}, 1]]}),
    "no such array": signed({"array": "a"}),
    "array named by list": signed({"array": []}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path, name):
    file = tmp_path / "bad"
    file.write_bytes(HOSTILE[name])
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="bad cannot be loaded"):
        load(file)
    assert time.perf_counter() - start < 2
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            load(file)
        assert tracemalloc.get_traced_memory()[1] < 96e6
    finally:
        tracemalloc.stop()


def test_deep_json_with_a_raised_recursion_limit(tmp_path):
    (tmp_path / "bad").write_bytes(HOSTILE["many brackets"])
    run_python(f"""if 1:
        import sys
        from tinygrad_rnn.checkpoint import load
        from tinygrad_rnn.errors import CheckpointError
        sys.setrecursionlimit(10**9)
        try:
            load({str(tmp_path / "bad")!r})
        except CheckpointError:
            sys.exit(0)
        sys.exit(1)""")


@given(st.binary(max_size=200) | st.binary(max_size=200).map(safetensors))
@settings(deadline=None, max_examples=200)
def test_random_bytes(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "random"
    file.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        assert load(file) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda j: (
        st.lists(j, max_size=3)
        | st.dictionaries(st.sampled_from(["int", "float", "tuple", "dict", "array", "x"]), j)
    ),
    max_leaves=6,
)


@given(JSON)
@settings(deadline=None, max_examples=200)
def test_random_structures_with_a_right_checksum(tmp_path_factory, structure):
    file = tmp_path_factory.getbasetemp() / "random"
    file.write_bytes(signed(structure))
    with contextlib.suppress(CheckpointError):
        load(file)


def test_other_formats_are_refused_by_name(tmp_path):
    pickled = (
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93."
    )
    np.savez(tmp_path / "z.npz", a=np.ones(3))
    np.save(tmp_path / "a.npy", np.ones(3))
    (tmp_path / "p4").write_bytes(pickled)
    (tmp_path / "p2").write_bytes(b"\x80\x02cos\nsystem\nq\x00.")
    (tmp_path / "p0").write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    for name, message in [
        ("z.npz", "a zip archive"),
        ("a.npy", "a NumPy .npy"),
        ("p4", "a pickle, which can run code"),
        ("p2", "a pickle, which can run code"),
        ("p0", "header"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / name)


def test_a_header_that_starts_like_a_pickle_is_no_pickle(tmp_path):
    """A length of 0x280 has the first two bytes of a protocol 2 pickle."""
    header = json.dumps({"a": entry()}).encode().ljust(0x280)
    (tmp_path / "c").write_bytes(safetensors(header, np.float32(7).tobytes()))
    assert load(tmp_path / "c")["a"].tolist() == [7.0]


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "missing" / "c", 1)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CheckpointError, match="pipe"):
        load(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        save(tmp_path / "fifo", 1)


def test_newer_formats(tmp_path):
    (tmp_path / "c").write_bytes(ours('{"tinygrad_rnn": 2, "what": "ever"}'))
    with pytest.raises(CheckpointError, match="upgrade tinygrad_rnn"):
        load(tmp_path / "c")
    save(tmp_path / "c", {"version": 2, "sections": "others"})
    with pytest.raises(CheckpointError, match="upgrade tinygrad_rnn"):
        load_checkpoint(tmp_path / "c")


def test_no_pickle_and_no_eval_in_the_package():
    for file in PACKAGE.rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        for word in ("import pickle", "pickle.load", "eval(", "exec(", "allow_pickle", "marshal"):
            found = [
                line
                for line in source.splitlines()
                if word in line and ".eval(" not in line and "def eval(" not in line
            ]
            assert found == [], file


# ---- atomic replacement --------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace", "write", "open"])
@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "I/O"), PermissionError(13, "no"), KeyboardInterrupt()]
)
def test_failures_leave_the_old_file(tmp_path, monkeypatch, call, error):
    file = tmp_path / "c"
    save(file, {"w": np.arange(3)})
    before = file.read_bytes()

    def fail(*args, **kwargs):
        raise error

    if call == "write":
        real = os.fdopen

        @contextlib.contextmanager
        def fdopen(*args):
            with real(*args) as file:
                file.write(b"the first bytes")
                yield argparse.Namespace(write=fail)

        monkeypatch.setattr(os, "fdopen", fdopen)
    elif call == "replace":
        monkeypatch.setattr(pathlib.Path, "replace", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        save(file, {"w": np.zeros(1000)})
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_the_order_of_calls(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, pathlib.Path.replace

    def log_fsync(descriptor):
        calls.append("directory" if pathlib.Path(f"/dev/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def log_replace(self, target):
        assert (self.parent, target) == (tmp_path, tmp_path / "c")
        calls.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(pathlib.Path, "replace", log_replace)
    save(tmp_path / "c", 1)
    assert calls == ["file", "replace", "directory"]


def test_a_directory_that_cannot_be_synced(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(code):
        def call(descriptor):
            if pathlib.Path(f"/dev/fd/{descriptor}").is_dir():
                raise OSError(code, "directory")
            real(descriptor)

        return call

    monkeypatch.setattr(os, "fsync", fsync(errno.EINVAL))  # a network drive: nothing to be done
    save(tmp_path / "c", 1)
    monkeypatch.setattr(os, "fsync", fsync(errno.EIO))
    with pytest.raises(OSError, match="directory"):
        save(tmp_path / "c", 2)
    assert load(tmp_path / "c") == 2  # the new file is whole; only its durability is in doubt


def test_leftovers_of_killed_processes_go(tmp_path):
    old = tmp_path / ".c.0123abcd.tmp"
    others = [tmp_path / ".c.tmp", tmp_path / ".cc.0123abcd.tmp", tmp_path / "c.0123abcd.tmp"]
    for file in [old, *others]:
        file.write_bytes(b"half")
    save(tmp_path / "c", 1)
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "c", *others])


def test_links_and_permissions(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    umask = os.umask(0o027)
    try:
        save(tmp_path / "link", 1)
    finally:
        os.umask(umask)
    assert (tmp_path / "link").is_symlink()
    assert load(tmp_path / "real") == 1
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


def run_python(code, **options):
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        check=True,
        timeout=60,
        **options,
    )


def test_kill_in_the_middle_of_saving(tmp_path):
    """SIGKILL at random times: the file is always whole, and old or new."""
    file = tmp_path / "c"
    code = f"""if 1:
        import itertools
        import numpy as np
        from tinygrad_rnn.checkpoint import save
        for i in itertools.count():
            save({str(file)!r}, {{"i": i, "w": np.full(500_000, i, np.float32)}})
            if i == 0:
                print("started", flush=True)"""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    rng = random.Random(0)
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE
        )
        with child:
            assert child.stdout.readline() == b"started\n"
            time.sleep(rng.uniform(0, 0.1))
            child.send_signal(signal.SIGKILL)
        state = load(file)
        assert (state["w"] == state["i"]).all()
        assert len(leftovers(tmp_path)) <= 1  # and the next start removes it
    save(file, 1)
    assert leftovers(tmp_path) == []


def test_disk_full(tmp_path):
    """A limit on file size, as a full disk: an error, the old file bit for bit, no leftover."""
    file = tmp_path / "c"
    save(file, {"w": np.arange(3)})
    before = file.read_bytes()
    run_python(f"""if 1:
        import resource, sys
        import numpy as np
        from tinygrad_rnn.checkpoint import save
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        try:
            save({str(file)!r}, {{"w": np.ones(10**6)}})
        except OSError as error:
            sys.exit(0 if error.errno == 27 else 1)
        sys.exit(2)""")
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_two_writers(tmp_path):
    """Writers at the same time do not take each other's unfinished file for a leftover."""
    import threading

    def write(value):
        try:
            for _ in range(30):
                write_atomically(tmp_path / "c", value * 100_000)
        except OSError as error:
            failures.append(error)

    failures = []
    threads = [threading.Thread(target=write, args=(v,)) for v in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "c").read_bytes() in {v * 100_000 for v in (b"a", b"b", b"c")}
    assert leftovers(tmp_path) == []
    assert len(failures) <= 3  # at most between creating a file and locking it; never silently


# ---- training checkpoints ------------------------------------------------------------------------


class Part:
    """A model, optimizer or schedule; loads entry by entry, and stops at a misfit half-way."""

    def __init__(self, **state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state, strict=True):
        for name in self.state:
            if np.shape(state[name]) != np.shape(self.state[name]):
                raise ValueError(f"{name} does not fit")
            self.state[name] = state[name]


def run_parts(value):
    return {
        "model": Part(**{"rnn.w": np.full((2, 2), value), "b": np.full(2, value)}),
        "optimizer": Part(m=np.full(2, value), step=value),
        "schedule": Part(epoch=value),
        "rng": np.random.default_rng(value),
    }


def test_checkpoint_round_trip(tmp_path):
    parts = run_parts(1)
    save_checkpoint(
        tmp_path / "c",
        **parts,
        position=(3, 17),
        hidden=(np.ones((1, 2, 3), np.float32), Duck(np.zeros(2))),
        vocabulary=Vocabulary("ba"),
        config={"lr": 2e-3, "layers": [128, 128]},
        extra={"best": math.inf},
    )
    others = run_parts(2)
    found = load_checkpoint(tmp_path / "c", **others)
    for name in ("model", "optimizer", "schedule"):
        assert same(others[name].state, parts[name].state)
        assert same(getattr(found, name), parts[name].state)
    assert others["rng"].normal() == parts["rng"].normal()
    assert found.position == (3, 17)
    assert same(found.hidden, (np.ones((1, 2, 3), np.float32), np.zeros(2)))
    assert Vocabulary(found.vocabulary) == Vocabulary("ba")
    assert found.config == {"lr": 2e-3, "layers": [128, 128]}
    assert found.extra == {"best": math.inf}
    assert found.version == 1
    assert found.libraries["numpy"] == np.__version__
    assert "model.rnn.w" in (tmp_path / "c").read_bytes().decode("latin-1")


def test_checkpoint_of_a_model_alone(tmp_path):
    save_checkpoint(tmp_path / "c", model=run_parts(1)["model"], vocabulary="xyz")
    found = load_checkpoint(tmp_path / "c")
    assert isinstance(found, Checkpoint)
    assert found.vocabulary == "xyz"
    assert found.optimizer is found.schedule is found.rng is found.hidden is None
    for name in ("optimizer", "schedule", "rng"):
        parts = run_parts(2)
        with pytest.raises(CheckpointError, match=f"holds no {name}"):
            load_checkpoint(tmp_path / "c", model=parts["model"], **{name: parts[name]})
        assert same(parts["model"].state, run_parts(2)["model"].state)


@pytest.mark.parametrize("misfit", ["model", "optimizer", "schedule"])
def test_loading_is_all_or_nothing(tmp_path, misfit):
    save_checkpoint(tmp_path / "c", **run_parts(1))
    parts = run_parts(2)
    parts[misfit].state["zz"] = 0  # not in the file
    before = {name: dict(parts[name].state) for name in ("model", "optimizer", "schedule")}
    draws = parts["rng"].bit_generator.state
    with pytest.raises(KeyError, match="zz"):
        load_checkpoint(tmp_path / "c", **parts)
    for name, state in before.items():
        assert same(parts[name].state, state)
    assert parts["rng"].bit_generator.state == draws


def test_another_generator(tmp_path):
    parts = run_parts(1)
    save_checkpoint(tmp_path / "c", **parts)
    parts = run_parts(2)
    parts["rng"] = np.random.Generator(np.random.MT19937(1))
    with pytest.raises(CheckpointError, match="PCG64 generator, but rng is a MT19937"):
        load_checkpoint(tmp_path / "c", **parts)
    assert same(parts["model"].state, run_parts(2)["model"].state)


@pytest.mark.parametrize("rng", [{"bit_generator": "PCG64", "state": {}}, {"state": 1}, [1]])
def test_malformed_generator_states(tmp_path, rng):
    save_checkpoint(tmp_path / "c", model=run_parts(1)["model"])
    save(tmp_path / "c", {**load(tmp_path / "c"), "rng": rng})
    parts = run_parts(2)
    with pytest.raises(CheckpointError, match="state"):
        load_checkpoint(tmp_path / "c", model=parts["model"], rng=parts["rng"])
    assert same(parts["model"].state, run_parts(2)["model"].state)


def test_states_that_are_no_checkpoints(tmp_path):
    for state in ({"w": np.ones(2)}, [1], None, {"version": 1}, {"version": "1"}):
        save(tmp_path / "c", state)
        with pytest.raises(CheckpointError, match=r"read it with load\(\)"):
            load_checkpoint(tmp_path / "c")
    with pytest.raises(CheckpointError, match="vocabulary is a list"):
        save_checkpoint(tmp_path / "c", model=run_parts(1)["model"], vocabulary=["a"])
