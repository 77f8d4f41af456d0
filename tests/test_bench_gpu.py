"""The GPU benchmark, as far as it needs no GPU, CuPy or PyTorch: its arithmetic and its watcher."""

import importlib.util
import math
import sys
import types

import numpy as np
import pytest

from benchmarks import gpu, gpu_clock, gpu_counts, gpu_layers
from benchmarks.gpu_clock import (
    MARK,
    DeviceLostError,
    Place,
    Samples,
    first_line,
    ratios,
    take_turns,
)
from benchmarks.gpu_table import (
    WINDOWS,
    Window,
    Work,
    floor_ms,
    layer_work,
    number,
    ratio,
    table,
    turns_for,
)
from benchmarks.gpu_watch import Left, Report, watch

# ---- work and floors -----------------------------------------------------------------------------


def test_an_lstm_does_24_tbh_times_i_plus_h_operations_forward_and_backward():
    w = Window(T=2, B=3, I=5, H=7)
    assert layer_work("lstm", w, backward=False).flops == 8 * 2 * 3 * 7 * (5 + 7)
    assert layer_work("lstm", w, backward=True).flops == 24 * 2 * 3 * 7 * (5 + 7)
    assert layer_work("gru", w, backward=True).flops == 18 * 2 * 3 * 7 * (5 + 7)
    assert layer_work("rnn", w, backward=True).flops == 6 * 2 * 3 * 7 * (5 + 7)


def test_each_array_counts_once_as_input_and_once_as_output():
    w = Window(T=2, B=3, I=5, H=7)
    x, out, weights = 2 * 3 * 5, 2 * 3 * 7, 28 * 5 + 28 * 7 + 28 + 28
    assert layer_work("lstm", w, backward=False).bytes == 4 * (x + weights + out)
    assert layer_work("lstm", w, backward=True).bytes == 4 * 2 * (x + weights + out)


def test_the_sizes_of_the_targets_do_the_work_that_is_written_down():
    gflop = {k: layer_work("lstm", w, backward=True).flops / 1e9 for k, w in WINDOWS.items()}
    assert {k: round(g, 1) for k, g in gflop.items()} == {"A": 103.1, "B": 1649.3, "C": 2.5}


def test_the_floor_is_the_larger_of_two_times():
    work = Work(flops=60e9, bytes=3e9)
    assert floor_ms(work, tflops=60, gbps=3000) == pytest.approx(1)
    assert floor_ms(work, tflops=30, gbps=3000) == pytest.approx(2)
    assert floor_ms(work, tflops=60, gbps=1000) == pytest.approx(3)


# ---- numbers and tables --------------------------------------------------------------------------


def test_a_ratio_is_taken_turn_by_turn_and_is_below_1_where_ours_is_faster():
    found = ratio([1, 30, 2], [2, 10, 2])
    assert (found.median, found.low, found.high) == (1, 0.5, 3)
    assert str(found) == "1.00 (0.50 - 3.00)"


def test_a_ratio_of_unequal_turns_is_refused():
    with pytest.raises(ValueError, match="argument"):
        ratio([1, 2], [1])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), (math.nan, "-"), (0, "0.0000"), (12345.6, "12,346"), (99.96, "100.0"),
        (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123"), (0.01234, "0.0123"), (1e-5, "1.0e-05"),
        (-12.34, "-12.3"),
    ],
)  # fmt: skip
def test_numbers_keep_three_digits_that_matter(value, shown):
    assert number(value) == shown


def test_the_columns_of_a_table_line_up():
    assert table(["a", "long"], [["wide cell", 1], ["b", 22]]) == [
        "| a         | long |",
        "|-----------|------|",
        "| wide cell | 1    |",
        "| b         | 22   |",
    ]
    with pytest.raises(ValueError, match="needs 2 cells"):
        table(["a", "b"], [["only one"]])


def test_turns_fit_into_the_time_but_there_are_some():
    assert turns_for(0.1, 10, wanted=15) == 15
    assert turns_for(1.0, 10, wanted=15) == 10
    assert turns_for(60, 10, wanted=15) == 3
    assert turns_for(0.0, 10, wanted=15) == 15


def test_an_error_fits_into_a_cell():
    assert first_line(ValueError("a | b\nmore")) == "ValueError: a / b"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) < 130


# ---- taking turns --------------------------------------------------------------------------------


@pytest.fixture
def place(monkeypatch):
    """A place on the CPU, which needs nothing of PyTorch but its name."""
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="none"))
    return Place(rehearse=True)


class Spy:
    """A run that writes down when it is called."""

    def __init__(self, log, name, breaks_at=None):
        self.log, self.name, self.breaks_at = log, name, breaks_at

    def prepare(self):
        self.log.append(f"prepare {self.name}")

    def __call__(self):
        self.log.append(self.name)
        if self.log.count(self.name) == self.breaks_at:
            raise ValueError("broken")


@pytest.mark.parametrize("short", [True, False])
def test_those_who_are_compared_take_turns_and_nobody_is_always_first(
    place, monkeypatch, capsys, short
):
    """Short calls are made twice in a turn; which one counts shows in their number only."""
    monkeypatch.setattr(gpu_clock, "SHORT", 60 * short)
    log, failed = [], {}
    runs = {name: Spy(log, name) for name in "abc"}
    samples = take_turns(place, runs, turns=3, seconds=60, failed=failed)
    calls = "".join(name for name in log if len(name) == 1)
    turns = "abc" + "bca" + "cab"  # after three calls each to warm up
    assert calls == "aaabbbccc" + "".join(name * (1 + short) for name in turns)
    assert log[:2] == ["prepare a", "a"]
    assert {who: len(s.ms) for who, s in samples.items()} == {"a": 3, "b": 3, "c": 3}
    assert failed == {}
    assert MARK in capsys.readouterr().out


@pytest.mark.parametrize("breaks_at", [1, 3, 5])
def test_who_fails_is_left_out_and_the_others_go_on(place, breaks_at, capsys):
    log, failed = [], {}
    runs = {"a": Spy(log, "a"), "b": Spy(log, "b", breaks_at), "c": Spy(log, "c")}
    samples = take_turns(place, runs, turns=4, seconds=60, failed=failed)
    assert list(samples) == ["a", "c"]
    assert all(len(s.ms) == 4 for s in samples.values())
    assert failed == {"b": "ValueError: broken"}
    assert ratios("a", samples, ("b", "c"))[0] == "-"
    assert "(" in ratios("a", samples, ("b", "c"))[1]


def test_an_error_that_took_the_device_along_is_told_as_that(place, monkeypatch, capsys):
    def wait():
        raise RuntimeError("an illegal memory access was encountered")

    runs = {"a": Spy([], "a", breaks_at=1)}
    monkeypatch.setattr(place, "once", lambda run: run())
    monkeypatch.setattr(place, "wait", wait)
    with pytest.raises(DeviceLostError, match="while a ran") as caught:
        take_turns(place, runs, turns=1, seconds=1, failed={})
    assert caught.value.who == "a"


def test_work_on_a_stream_that_the_events_do_not_see_is_noticed():
    assert Samples(ms=[1.0], host_ms=[1.0], wall_ms=[2.0]).misses_work
    assert not Samples(ms=[1.0], host_ms=[1.0], wall_ms=[1.1]).misses_work


# ---- right or wrong ------------------------------------------------------------------------------


class Numbers:
    """As much of a torch.Tensor as the comparison asks for."""

    def __init__(self, values):
        self.values = np.asarray(values, dtype=np.float64)
        self.shape = self.values.shape

    def double(self):
        return self

    def norm(self):
        return np.linalg.norm(self.values)

    def __sub__(self, other):
        return Numbers(self.values - other.values)


def test_the_worst_of_all_results_counts():
    exact = {"out": Numbers([3.0, 4.0]), "x": Numbers([1.0])}
    found = {"out": Numbers([3.0, 4.0]), "x": Numbers([1.1])}
    assert gpu_layers.worst_error(found, exact) == pytest.approx(0.1)


def test_a_nan_anywhere_is_wrong():
    exact = {"out": Numbers([1.0]), "x": Numbers([1.0]), "w": Numbers([1.0])}
    for name in exact:
        error = gpu_layers.worst_error(exact | {name: Numbers([math.nan])}, exact)
        assert math.isnan(error)
        assert gpu_layers.judgement(error, None, False, None)[1] == "WRONG"


def test_missing_misshapen_and_unasked_results_are_refused():
    exact = {"out": Numbers([1.0])}
    for found in ({}, {"out": None}, {"out": Numbers([1.0, 1.0])}, exact | {"more": exact["out"]}):
        with pytest.raises(ValueError, match=r"results|got"):
            gpu_layers.worst_error(found, exact)


def test_tf32_may_be_further_off_than_strict_float32():
    assert gpu_layers.judgement(1e-3, None, False, None) == ["1.0e-03", "WRONG"]
    assert gpu_layers.judgement(1e-3, None, True, None) == ["1.0e-03", "right"]
    assert gpu_layers.judgement(1e-2, None, True, None) == ["1.0e-02", "WRONG"]
    assert gpu_layers.judgement(None, None, True, None)[1] == "not checked"


# ---- launches ------------------------------------------------------------------------------------


def test_a_trace_is_sorted_into_kernels_copies_and_fills():
    events = [
        {"ph": "X", "cat": "kernel", "name": "step"},
        {"ph": "X", "cat": "kernel", "name": "step"},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD"},
        {"ph": "X", "cat": "gpu_memset", "name": "Memset"},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel"},
        {"ph": "s", "cat": "kernel", "name": "an arrow, no event"},
        {"ph": "M", "name": "process_name"},
    ]
    found = gpu_counts.by_kind(events)
    assert {kind: dict(names) for kind, names in found.items()} == {
        "kernels": {"step": 2}, "copies": {"Memcpy HtoD": 1}, "fills": {"Memset": 1}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("lstm_step", "lstm_step"),
        ("void at::native::elementwise_kernel<4, X>(int, X)", "elementwise_kernel"),
        ("ampere_sgemm_128x64_tn", "ampere_sgemm_128x64_tn"),
        ("<unnamed>", "<unnamed>"),
    ],
)  # fmt: skip
def test_names_of_kernels_are_shortened(name, short):
    assert gpu_counts.short(name) == short


# ---- the command line ----------------------------------------------------------------------------


def test_sections_and_sizes_can_be_chosen():
    options = gpu.parser().parse_args(["--only", "torch, machine", "--sizes", "C"])
    assert options.only == ["machine", "torch"]  # always in this order
    assert gpu.plan(["machine", "lstm", "gru", "model"], ["A", "B", "C"]) == [
        "machine", "lstm:A", "lstm:B", "lstm:C", "gru:A", "gru:C", "model:A", "model:C"
    ]  # fmt: skip


def test_an_unknown_section_is_named(capsys):
    with pytest.raises(SystemExit):
        gpu.parser().parse_args(["--only", "lstm,lstn"])
    assert "unknown: lstn; known: machine" in capsys.readouterr().err


def test_every_unit_of_every_section_has_a_program():
    sizes = list(WINDOWS)
    assert set(gpu.plan(gpu.SECTIONS, sizes)) <= set(gpu.programs(sizes))


def test_the_file_does_not_tell_where_it_lies():
    arguments = ["--only", "lstm", "--out", "/somewhere/gpu.md", "--quick", "--out=x"]
    assert gpu.shown(arguments) == "python -m benchmarks.gpu --only lstm --quick"


@pytest.mark.parametrize("gone", [("cupy",), ("torch",), ("cupy", "torch")])
def test_without_cupy_or_torch_one_line_says_so(gone, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else "here")
    assert gpu.main([]) == 2
    said = capsys.readouterr().out
    assert f"{sys.executable} lacks {' and '.join(gone)}, which benchmarks.gpu needs" in said
    assert said.count("\n") == 1


# ---- the watcher ---------------------------------------------------------------------------------

# A worker in a few lines: it gets what is left as its last argument, as the real one does.
WORKER = f"""
import json, os, sys, time
units, impls, seconds, ceilings = json.loads(sys.argv[-1])
def tell(**message):
    print({MARK!r} + json.dumps(message), flush=True)
for unit in units:
    for who in impls:
        tell(who=who)
        if (unit, who) == ("two", "bad"):
            ENDING
    tell(title="Table", headers=["unit", "impls"], rows=[[unit, " ".join(impls)]])
    tell(done=unit)
"""


def watched(ending, *, impls=("good", "bad"), stall=2.0, path=None):
    report = Report("command", path)
    left = Left(["one", "two", "three"], list(impls), seconds=60)
    command = [sys.executable, "-c", WORKER.replace("ENDING", ending)]
    return watch(command, left, report, stall=stall), report


def test_what_a_worker_tells_is_kept_and_written(tmp_path, capsys):
    code, report = watched("pass", path=tmp_path / "results" / "gpu.md")
    assert code == 0
    rows = [[unit, "good bad"] for unit in ("one", "two", "three")]
    assert report.tables == {"Table": (["unit", "impls"], rows)}
    assert capsys.readouterr().out.count("| unit") == 1  # the header stands once
    text = (tmp_path / "results" / "gpu.md").read_text(encoding="utf-8")
    assert "Command: `command`" in text
    assert "\n## Table\n\n| unit  | impls    |\n" in text
    assert "went wrong" not in text


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        ("os._exit(70)", "the device was lost"),
        ("os._exit(3)", "the process ended with code 3"),
        ("os.abort()", "the process ended with code -6"),
        ("time.sleep(60)", "no answer for 2 s"),
    ],
)
def test_the_rest_is_measured_without_the_implementation_that_was_to_blame(ending, why, capsys):
    code, report = watched(ending)
    assert code == 1
    assert report.troubles == [f"two: {why} in impl 'bad', which is left out from here on"]
    rows = report.tables["Table"][1]
    assert rows == [["one", "good bad"], ["two", "good"], ["three", "good"]]
    assert f"- two: {why}" in report.markdown()


def test_what_is_measured_again_takes_the_place_of_the_first_measurement(capsys):
    report, headers = Report("command"), ["size", "who", "ms"]
    report.add("Table", headers, [["A", "torch", "1"], ["A", "step", "2"]])
    report.add("Table", headers, [["A", "torch", "3"], ["B", "torch", "4"]])
    rows = [["A", "torch", "3"], ["A", "step", "2"], ["B", "torch", "4"]]
    assert report.tables["Table"] == (headers, rows)


def test_a_unit_that_fails_by_itself_is_left_out(capsys):
    code, report = watched('tell(who="somebody else"); os._exit(9)')
    assert code == 1
    assert report.troubles == [
        "two: the process ended with code 9 in somebody else; the rest of it is left out"
    ]
    assert [row[0] for row in report.tables["Table"][1]] == ["one", "three"]


def test_with_nothing_to_run_on_the_watcher_ends_too(capsys):
    report = Report("command")
    script = "import sys; print('no GPU here'); sys.exit(2)"
    assert watch([sys.executable, "-c", script], Left(["one"], [], 60), report, stall=5) == 2
    assert capsys.readouterr().out == "no GPU here\n"


def test_a_worker_that_cannot_start_is_started_once(capsys):
    report = Report("command")
    command = [sys.executable, "-c", "import sys; sys.exit(5)"]
    assert watch(command, Left(["one", "two"], [], 60), report, stall=5) == 1
    assert report.troubles == ["the worker did not start (exit code 5)"]


def test_when_the_time_is_up_it_is_said_what_is_missing(capsys):
    report = Report("command")
    assert watch(["never started"], Left(["one", "two"], [], 0), report, stall=5) == 1
    assert report.troubles == ["the time is up; not measured: one, two"]


def test_the_same_note_stands_once_with_all_its_places(capsys):
    report = Report("command")
    report.note("step: too large", "lstm B strict")
    report.note("step: too large", "lstm B TF32")
    assert "- step: too large (lstm B strict, lstm B TF32)" in report.markdown()
    assert capsys.readouterr().out.count("too large") == 1
