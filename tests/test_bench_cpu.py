"""The CPU benchmark, as far as it needs neither PyTorch nor JAX: its arithmetic and its turns."""

import argparse
import importlib.util
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import cpu, cpu_fresh, cpu_rows, cpu_turns, peers_floor, task_runs
from benchmarks.cpu_fresh import import_seconds, in_turn, peak_bytes
from benchmarks.cpu_rows import SECTIONS, Row, cells, headers, rows
from benchmarks.cpu_turns import Outcome, PeerError, Peers, compare, difference, order, pace
from benchmarks.cpu_worker import FLOOR, JAX, ONE_THREAD, OURS, ROWS_FIRST, TORCH, Worker, tasks
from benchmarks.gpu_table import Window, layer_work
from benchmarks.peers import Size
from benchmarks.peers_floor import Product, layouts, recurrent_products, step_products

TINY = {"T": 4, "B": 2, "V": 7, "H": 5}

# ---- the floor -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("backward", [False, True])
def test_the_products_of_a_layer_do_the_work_of_the_layer(cell, backward):
    size = Size(T=3, B=4, V=9, H=6, cell=cell)
    products = recurrent_products(size, rows=12, backward=backward)
    work = layer_work(cell, Window(T=3, B=4, I=6, H=6), backward=backward)
    assert sum(p.flops for p in products) == work.flops


def test_each_gradient_product_multiplies_arrays_that_are_there():
    forward = Product(m=2, k=3, n=5)
    assert forward.backward() == [Product(2, 5, 3), Product(3, 2, 5)]  # g wT, xT g


def test_a_step_projects_the_table_when_that_is_less_than_the_inputs():
    def first(size):
        return step_products(size)[0]

    assert first(Size(T=25, B=1, V=64, H=100)) == Product(25, 100, 400)
    assert first(Size(T=50, B=32, V=96, H=128)) == Product(96, 128, 512)


def test_a_second_layer_projects_every_step_of_the_first():
    one, two = (step_products(Size(T=3, B=4, V=9, H=6, layers=n)) for n in (1, 2))
    added = list(two)
    for product in one:
        added.remove(product)
    x, h = Product(12, 6, 24), Product(4, 6, 24, 3)
    expected = [x, *x.backward(), h, Product(4, 24, 6, 3), Product(24, 12, 6)]
    assert sorted(map(repr, added)) == sorted(map(repr, expected))


def test_a_character_costs_the_recurrent_and_the_output_product():
    found = peers_floor.sampling_products(Size(T=1, B=1, V=96, H=128), length=10)
    assert found == [Product(1, 128, 512, 10), Product(1, 128, 96, 10)]


def test_the_eight_layouts_are_one_product_and_all_different():
    calls = layouts(3, 4, 5)
    assert [call().shape for call in calls] == [(3, 5)] * 8
    for call in calls:
        np.testing.assert_allclose(call(), call.args[0] @ call.args[1], rtol=1e-6)
    arrays = [(*call.args, call.keywords["out"]) for call in calls]
    assert len({tuple(a.flags.c_contiguous for a in three) for three in arrays}) == 8


# ---- taking turns --------------------------------------------------------------------------------


def test_a_difference_is_relative_and_infinite_where_nothing_can_be_compared():
    assert difference([2.0, 4.0], [2.0, 4.4]) == pytest.approx(0.1)
    assert difference([2.0], []) == 0  # the floor
    assert difference([2.0], [2.0, 3.0]) == math.inf
    assert difference([2.0], [math.nan]) == math.inf


def test_nobody_always_follows_the_same_one():
    assert order("abc", 0) == ["a", "b", "c"]
    assert order("abc", 1) == ["c", "b", "a"]


def test_short_runs_are_many_in_a_turn_and_long_ones_take_fewer_turns():
    assert pace({"a": 1e-6, "b": 1e-5}, turns=9, seconds=60) == (cpu_turns.RUNS, True, 9)
    assert pace({"a": 0.02, "b": 0.01}, turns=9, seconds=60) == (5, True, 9)
    assert pace({"a": 2.0, "b": 0.97}, turns=9, seconds=15) == (1, False, 4)
    assert pace({"a": 2.0, "b": 1.0}, turns=9, seconds=0) == (1, False, 3)


class Fake:
    """A peer that answers from a list of run times, and may give out."""

    def __init__(self, check, times):
        self.check, self.times, self.asked = check, list(times), []

    def ask(self, **request):
        self.asked.append(request)
        if "make" in request:
            return {"check": self.check}
        if not self.times:
            raise PeerError("gone")
        time = self.times.pop(0)
        return {"times": [time] * request["runs"], "seconds": time}


def turns_of(peers):
    return compare(peers, list(peers), "step", {}, turns=3, seconds=100)


def test_the_wrong_and_the_failed_get_no_times(monkeypatch):
    monkeypatch.setattr(cpu_turns, "PAUSE", 0.0)
    peers = {
        OURS: Fake([2.0], [1, 2, 4, 8]),
        TORCH: Fake([2.00001], [3, 4, 8, 16]),
        JAX: Fake([2.1], [1] * 9),
        FLOOR: Fake([], [1, 1]),
    }
    outcome = turns_of(peers)
    assert outcome.turns == {OURS: [2, 4, 8], TORCH: [4, 8, 16]}
    assert outcome.wrong == {JAX: pytest.approx(0.05)}
    assert outcome.failed == {FLOOR: "gone"}
    assert len(peers[JAX].asked) == 1


def test_without_this_project_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(cpu_turns, "PAUSE", 0.0)
    peers = {OURS: Fake([2.0], []), TORCH: Fake([2.0], [1] * 9)}
    outcome = turns_of(peers)
    assert outcome.failed == {OURS: "gone"}
    assert not outcome.turns
    assert not peers[TORCH].asked


def test_a_first_round_that_writes_bytecode_is_not_kept():
    values = iter(range(6))
    outcome = in_turn([OURS, TORCH], lambda _: next(values), 2, warm=True)
    assert outcome.turns == {TORCH: [2, 5], OURS: [3, 4]}


def test_a_fresh_measurement_goes_on_without_the_one_that_failed():
    def measure(who):
        if who == JAX:
            raise PeerError("no such module")
        return 1.0

    outcome = in_turn([OURS, JAX], measure, 2)
    assert outcome == Outcome(turns={OURS: [1.0, 1.0]}, failed={JAX: "no such module"})


# ---- rows ----------------------------------------------------------------------------------------


def test_every_cell_is_measured_at_every_size_and_the_last_two_with_two_layers():
    steps = [Size(**row.args) for row in rows() if row.section == "step"]
    for cell in ("rnn", "gru", "lstm"):
        of_cell = [size for size in steps if size.cell == cell]
        found = [(s.T, s.B, s.H, s.layers) for s in of_cell]
        assert found == [
            (25, 1, 100, 1), (50, 32, 128, 1), (100, 32, 256, 1), (100, 64, 512, 1),
            (100, 32, 256, 2), (100, 64, 512, 2),
        ]  # fmt: skip


def test_every_section_has_rows_with_labels_of_their_own_and_quick_ones():
    assert {row.section for row in rows()} == set(SECTIONS)
    assert {row.section for row in rows() if row.quick} == set(SECTIONS) - {"long"}
    labels = [(row.section, row.label) for row in rows()]
    assert len(set(labels)) == len(labels)


def test_a_row_shows_medians_and_how_much_faster_this_project_is():
    row = Row("step", "x", "step", {})
    outcome = Outcome(
        turns={OURS: [2.0, 1.0, 4.0], TORCH: [4.0, 3.0, 4.0], FLOOR: [1.0, 0.5, 0.5],
               ROWS_FIRST: [4.0, 4.0, 4.0]},
        wrong={JAX: 0.5},
    )  # fmt: skip
    shown = dict(zip(headers(SECTIONS["step"]), cells(row, outcome), strict=True))
    assert shown == {
        "what": "x", OURS: "2,000", TORCH: "4,000", JAX: "WRONG by 5.0e-01", FLOOR: "500",
        "PyTorch / ours": "2.00 (1.00 - 3.00)", "JAX / ours": "-", "x floor": "2.00 (2.00 - 8.00)",
        "rows first: PyTorch / ours": "1.00 (0.75 - 1.00)",
    }  # fmt: skip


def test_writing_is_shown_in_characters_a_second():
    assert cpu_rows.SECTIONS["sampling"].show(0.01) == "10,000"  # 100 in a run


def test_a_row_gets_its_share_of_the_time_that_is_left():
    left = [Row("step", str(w), "step", {}, w) for w in (3.0, 1.0, 2.0)]
    assert cpu.share(left[0], left, 60) == 30
    assert cpu.share(left[0], left, -5) == 0


def test_options_choose_sections_and_rows():
    options = cpu.parser().parse_args(["--only", "ops,step", "--match", "TANH", "--quick"])
    assert [row.label for row in cpu.chosen(options)] == ["tanh, 32 elements"]
    with pytest.raises(argparse.ArgumentTypeError, match="unknown: all; known: step, layer"):
        cpu._sections("all")


# ---- the tasks themselves ------------------------------------------------------------------------


@pytest.mark.parametrize("who", [OURS, FLOOR])
@pytest.mark.parametrize(
    ("task", "args"),
    [
        ("step", TINY | {"layers": 2, "cell": "gru"}),
        ("layer", TINY | {"backward": False}),
        ("layer", TINY | {"backward": True, "cell": "rnn"}),
        ("sampling", {"T": 1, "B": 1, "V": 96, "H": 8}),
        *[("ops", {"op": op, "elements": 32}) for op in ("add", "mul", "tanh", "matmul")],
        ("optimizer", {"clip": True, "fused": False}),
    ],
)
def test_a_task_can_be_made_checked_and_run_again(who, task, args):
    worker = Worker(tasks(who))
    check = worker.answer({"make": task, "args": args})["check"]
    assert bool(check) == (who == OURS)
    assert np.isfinite(check).all()
    assert len(worker.answer({"runs": 2, "warm": True})["times"]) == 2


@pytest.mark.parametrize("free", [False, True])
def test_a_graph_is_built_or_freed(free):
    task = tasks(OURS)["graph"](free=free)
    assert task.check() == [10_000]
    task.prepare()
    assert (task.y is not None) == free
    task.run()
    assert (task.y is None) == free


def test_the_table_and_the_rows_first_model_compute_the_same_losses():
    losses = [tasks(who)["step"](**TINY).check() for who in (OURS, ROWS_FIRST)]
    assert difference(*losses) < 1e-5


def test_an_error_is_an_answer_and_the_worker_goes_on():
    said = []
    lines = [json.dumps({"make": "nothing", "args": {}}), json.dumps({"make": "one", "args": {}})]

    class One:
        def check(self):
            return [1.0]

    Worker({"one": One}).serve(lines, said.append)
    assert [json.loads(line) for line in said] == [{"error": "KeyError: 'nothing'"}, {"check": [1]}]


def test_a_worker_loads_no_framework_that_it_does_not_measure():
    code = (
        "import sys; from benchmarks import cpu_worker; cpu_worker.tasks('floor'); "
        "print([m for m in ('tinygrad_rnn', 'torch', 'jax') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cpu_turns.ROOT, check=True
    )
    assert done.stdout == "[]\n"


# ---- processes -----------------------------------------------------------------------------------


def test_a_peer_that_died_says_so_and_is_started_anew():
    with Peers() as peers:
        first = peers[FLOOR]
        first.process.kill()
        first.process.wait()
        with pytest.raises(PeerError, match="ended with code -9"):
            first.ask(runs=1)
        with pytest.raises(PeerError, match="KeyError"):
            peers[FLOOR].ask(make="graph", args={"free": True})
        assert peers[FLOOR] is not first


def test_memory_and_import_are_measured_in_fresh_processes():
    size = TINY | {"T": 50, "B": 50, "H": 100}
    assert peak_bytes(OURS, size) > 4 * 50 * 50 * 100 * 6  # four gates and two states
    assert 0 < import_seconds(OURS) < 60
    with pytest.raises(PeerError, match="its process ended with code 1"):
        peak_bytes("nobody", size)


def test_an_import_is_measured_with_bytecode_whatever_is_set(monkeypatch):
    seen = {}

    def answer(command, *, env, **rest):
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, stdout="0.25\n", stderr="")

    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONHASHSEED", "3")
    monkeypatch.setattr(cpu_fresh.subprocess, "run", answer)
    assert import_seconds(OURS) == 0.25
    assert "PYTHONDONTWRITEBYTECODE" not in seen
    assert seen["PYTHONHASHSEED"] == "3"  # the rest is passed on


def test_a_peer_of_one_thread_is_the_same_program_with_one_blas_thread(monkeypatch):
    started = []
    monkeypatch.setattr(
        cpu_turns.subprocess, "Popen", lambda command, env, **_: started.append((command, env))
    )
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    for who in (FLOOR, FLOOR + ONE_THREAD):
        cpu_turns.Peer(who)
    (command, env), (alone, its_env) = started
    assert alone == command
    assert its_env == env | {"OPENBLAS_NUM_THREADS": "1"}
    assert "OPENBLAS_NUM_THREADS" not in env


# ---- what the page says of the machine -----------------------------------------------------------


class Pools:
    """A threadpoolctl that knows these libraries."""

    def __init__(self, *found):
        self.threadpool_info = lambda: list(found)


OPENMP = {"user_api": "openmp", "internal_api": "openmp"}
OPENBLAS = {"user_api": "blas", "internal_api": "openblas", "architecture": "Zen"}


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        (Pools(OPENMP, OPENBLAS), "OpenBLAS Zen"),
        (Pools(OPENMP, {"user_api": "blas", "internal_api": "mkl"}), ""),  # does not tell
        (Pools(), ""),
        (None, ""),  # not installed
    ],
)
def test_the_kernels_of_blas_are_named_where_they_can_be(monkeypatch, pools, said):
    spec = None if pools is None else "found"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    monkeypatch.setitem(sys.modules, "threadpoolctl", pools)
    assert task_runs.blas_kernels() == said
    assert ("kernels: OpenBLAS Zen; Python" in task_runs.machine()) == bool(said)


@pytest.mark.parametrize("name", ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS"])
def test_a_setting_that_changes_the_products_is_on_the_page(monkeypatch, name):
    monkeypatch.setenv(name, "128")
    assert f"{name}=128" in cpu.facts([]).partition("; set for all: ")[2].split()


def test_the_page_names_what_is_missing_and_has_a_row_for_what_is_there(
    monkeypatch, tmp_path, capsys
):
    few = [
        Row("step", "tiny", "step", TINY | {"cell": "rnn"}, quick=True),
        Row("graph", "built", "graph", {"free": False}, quick=True),
    ]
    find = importlib.util.find_spec
    hidden = ("torch", "jax")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in hidden else find(n))
    monkeypatch.setattr(cpu, "rows", lambda: few)
    monkeypatch.setattr(cpu, "RESULTS", tmp_path / "cpu.md")
    monkeypatch.setattr(cpu_turns, "TURN", 0.001)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    assert cpu.main(["--write", "--turns", "3", "--minutes", "0"]) == 0
    page = (tmp_path / "cpu.md").read_text(encoding="utf-8")
    assert page.startswith("# On a CPU, measured\n")
    assert "Command: `python -m benchmarks.cpu --write --turns 3 --minutes 0`\n\n" in page
    assert "set for all: OPENBLAS_NUM_THREADS=1" in page
    assert "- PyTorch: torch is not installed (all rows)\n- JAX: jax is not installed" in page
    tiny = next(line for line in page.splitlines() if line.startswith("| tiny"))
    values = [cell.strip() for cell in tiny.strip("|").split("|")]
    assert [value == "-" for value in values] == [
        False, False, True, True, False, True, True, False, True,
    ]  # fmt: skip
    assert "What went wrong" not in page
    assert "tiny" in capsys.readouterr().out


def test_the_page_that_is_kept_has_every_row():
    """Rows that were added, or sizes that were changed, without measuring them."""
    text = cpu.RESULTS.read_text(encoding="utf-8")
    missing = [
        row.label
        for row in rows()
        if not re.search(rf"^\| {re.escape(row.label)} ", text, re.MULTILINE)
    ]
    assert not missing
