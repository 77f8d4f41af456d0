"""How a step grows: the arithmetic of curves, the sentences made of them, and the page."""

import importlib.util
import math
from collections import Counter

import pytest

from benchmarks import cpu_turns, growth, growth_curves, growth_notes, growth_plot, where
from benchmarks.cpu_turns import Outcome
from benchmarks.cpu_worker import FLOOR, JAX, OURS, TORCH
from benchmarks.growth_curves import (
    COMPILED,
    MIDDLE,
    OURS_ALONE,
    QUICK,
    SWEEPS,
    Curve,
    bends,
    exponents,
    size_at,
)
from benchmarks.growth_notes import ALONE, Probes, caches, explained, first_lasting, thirds
from benchmarks.peers import Size

# ---- curves --------------------------------------------------------------------------------------


def test_sweeps_reach_as_far_as_asked_and_all_pass_the_middle():
    assert {letter: (xs[0], xs[-1]) for letter, xs in SWEEPS.items()} == {
        "T": (25, 2000), "B": (1, 256), "H": (32, 1024),
    }  # fmt: skip
    for letter, xs in SWEEPS.items():
        assert list(xs) == sorted(set(xs))
        assert {*QUICK[letter], *COMPILED[letter], getattr(MIDDLE, letter)} <= set(xs)


def test_a_sweep_changes_one_number():
    assert size_at("B", 7) == Size(T=100, B=7, V=96, H=128)
    assert growth_curves.characters("B", 7) == 700
    assert growth_curves.characters("H", 7) == 3200


def test_a_power_has_its_exponent_everywhere_and_no_bends():
    values = {x: 3.0 * x**1.5 for x in (1, 2, 5, 40)}
    assert exponents(values) == pytest.approx({2: 1.5, 5: 1.5, 40: 1.5})
    assert not bends(values)
    assert not exponents({3: 1.0})


def test_a_curve_bends_where_another_part_takes_over():
    values = {x: max(8.0, x) for x in (1, 2, 4, 8, 16, 32)}
    assert bends(values) == {8: (0.0, pytest.approx(1.0))}
    assert not bends(values, least=1.1)
    falls = {1: 4.0, 2: 2.0, 4: 2.0}
    assert bends(falls) == {2: (pytest.approx(-1.0), 0.0)}


# ---- rows ----------------------------------------------------------------------------------------


def test_a_row_has_a_time_for_a_character_and_the_exponent_from_the_row_before():
    curve = Curve("B", seconds={OURS: {1: 0.1, 2: 0.2}, TORCH: {1: 0.2, 2: 0.3}})
    outcome = Outcome(turns={OURS: [0.2, 0.2, 0.1], TORCH: [0.3, 0.4, 0.3], FLOOR: [0.1] * 3})
    growth.record(curve.seconds, 2, outcome)
    assert curve.seconds[FLOOR] == {2: 0.1}
    assert growth.row(curve, 2, outcome, memory=False, shown=growth.TIMED) == {
        "B": "2", OURS: "100", TORCH: "300", JAX: "-", FLOOR: "100", OURS_ALONE: "-",
        "us a character": "500", "exponent": "0.00", "PyTorch / ours": "2.00 (1.50 - 3.00)",
        "JAX / ours": "-", "x floor": "2.00 (1.00 - 2.00)",
    }  # fmt: skip


def test_a_row_of_memory_is_in_megabytes_and_the_first_has_no_exponent():
    curve, outcome = Curve("T"), Outcome(turns={OURS: [32e6], JAX: [48e6]})
    growth.record(curve.bytes, 1000, outcome)
    assert growth.row(curve, 1000, outcome, memory=True, shown=(OURS, TORCH, JAX)) == {
        "T": "1,000", OURS: "32.0", TORCH: "-", JAX: "48.0", "KB a character": "1.00",
        "exponent": "-", "PyTorch / ours": "-", "JAX / ours": "1.50 (1.50 - 1.50)",
    }  # fmt: skip


# ---- sentences -----------------------------------------------------------------------------------


def test_caches_are_those_that_hold_data(tmp_path):
    for k, (level, kind, size) in enumerate(
        [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2M"), (3, "Unified", "1G")]
    ):
        place = tmp_path / f"index{k}"
        place.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (place / name).write_text(f"{text}\n")
    assert caches(tmp_path) == {1: 48 * 2**10, 2: 2 * 2**20, 3: 2**30}
    assert caches(tmp_path / "nowhere") == {}


def test_threads_pay_from_where_they_do_for_good():
    assert first_lasting({1: 1.3, 2: 1.0, 4: 1.2, 8: 1.9}, 1.1) == 4
    assert first_lasting({1: 1.3, 2: 1.2}, 1.1) == 1
    assert first_lasting({1: 1.3, 2: 1.0}, 1.1) is None
    assert thirds([1, 2, 4, 8, 16]) == [1, 4, 16]
    assert thirds([3]) == [3]
    assert thirds([]) == []


def curves():
    """A machine on which a window costs 1 ms, a time step 1 ms, and 8 rows as much as one."""
    found = {
        "T": Curve("T", {OURS: {x: 1e-3 + x * 1e-3 for x in (25, 100, 400)}}),
        "B": Curve("B", {OURS: {x: 0.1 * max(1, x / 8) for x in (1, 8, 64)}}),
        "H": Curve("H", {OURS: {x: 0.1 * (x / 32) ** 2 for x in (32, 128, 512)}}),
    }
    for letter, curve in found.items():
        ours = curve.seconds[OURS]
        curve.seconds |= {FLOOR: {x: t / 4 for x, t in ours.items()},
                          OURS_ALONE: {x: t * 2 for x, t in ours.items()}}  # fmt: skip
        curve.bytes[OURS] = {x: 1e4 * growth_curves.characters(letter, x) for x in ours}
    return found


def parts():
    ones = {"B": {1: 1e-4, 8: 1e-4, 64: 2e-4}, "H": {32: 1e-4, 128: 2e-4, 512: 4e-4}}
    product = {
        letter: {FLOOR: dict.fromkeys(one, 1e-4), ALONE: one} for letter, one in ones.items()
    }
    pointwise = {2**20: 2**20 / 12 * 1e-10, 2**27: 2**27 / 12 * 4e-10}
    kinds = {"T": {x: dict(zip(where.KINDS, [x, 0, 2, 3, 4], strict=True)) for x in (25, 100, 400)}}
    window = {128: 0.013, 512: 2.56}
    return Probes(0.05, window, product, pointwise, {1: 48 * 2**10, 2: 2**20, 3: 2**25}, kinds)


@pytest.mark.parametrize(
    "sentence",
    [
        "Time against B, rows: at B=8 (exponent 0.00 before, 1.00 after).",
        "Time against H, hidden units: none.",
        "A step of one character (table, clip, Adam) takes 13.00 ms. A window costs that once: 50%",
        "of the time at T=25, and 3.2% at T=400.",
        "takes, and is of our time: 13.00 ms (1%) at H=128, 2560.00 ms (10%) at H=512.",
        "Between T=100 and T=400 a step's memory (32 and 128 MB) outgrows the last cache (32 MiB)",
        "0.10 ns in arrays of 1 MiB and 0.40 ns in 128 MiB.",
        "takes 50.00 ms: the calls. That is 50% of the time at B=1 and 6% at B=64",
        "the exponent is 0.00 at first and 1.00 in the end.",
        "More than one thread pays from B=64 on in the recurrent product; times faster than",
        "one: 1.00 at B=1, 1.00 at B=8, 2.00 at B=64. Of the whole step: 2.00 at B=1, ",
        "product alone, on one thread: 1 at B=1, 10 at B=8, 42 at B=64. For small",
        "this share of our time: 25% at H=32, 25% at H=128, 25% at H=512.",
        "**H, cache 2.** W_hh (16 H^2 bytes) no longer fits into 1 MiB from H=512 on.",
        "the recurrent product alone: 42 at H=128, 671 at H=512.",
        "From T=25 to T=400 a character costs, in us on a core: products 25.00 to 400.00, ",
        "At T=400 gradients and Adam's two moments are 1.9 of 128.0 MB; the rest is 19.2 arrays",
    ],
)
def test_an_explanation_has_the_numbers_it_rests_on(sentence):
    assert sentence in explained(curves(), parts())


def test_without_caches_memory_or_threads_the_rest_is_still_explained():
    found, known = curves(), parts()
    known.caches = {}
    for curve in found.values():
        curve.bytes.clear()
        del curve.seconds[OURS_ALONE]
    text = explained(found, known)
    assert "**T, large.**" not in text
    assert "cache 2" not in text
    assert "**Memory" not in text
    assert "**T, small.**" in text
    assert "**B, small.**" in text


# ---- the picture and the page --------------------------------------------------------------------


def test_the_middle_row_is_the_time_of_a_character_or_of_a_flop():
    time = {"T": 2e-3 * 3200, "H": 2e-3 * 3200}
    for letter, x in (("T", 100), ("H", 128)):
        curve = Curve(letter, {OURS: {x: time[letter]}}, {OURS: {x: 5e6}})
        (_, above), (name, middle), (_, below) = growth_plot.lines(curve)
        assert above[OURS][x] == pytest.approx(6400)  # ms
        assert below[OURS][x] == pytest.approx(5)
        if letter == "T":
            assert (name, middle[OURS][x]) == ("µs per character", pytest.approx(2000))
        else:
            flops = growth_plot.flops("H", 128)
            assert middle[OURS][x] == pytest.approx(6.4 / flops * 1e12)


def test_a_run_writes_tables_reasons_and_a_picture(monkeypatch, tmp_path, capsys):
    find, hidden = importlib.util.find_spec, ("torch", "jax")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in hidden else find(n))
    monkeypatch.setattr(cpu_turns, "TURN", 0.001)
    monkeypatch.setattr(growth, "QUICK", {"T": (2, 4), "B": (1, 2), "H": (4, 8)})
    monkeypatch.setattr(growth_curves, "MIDDLE", Size(T=3, B=2, V=7, H=5))
    monkeypatch.setattr(growth_notes, "BYTES", (1200, 2400))
    kinds = where.Sampled(Counter({("libm.so.6", "expf"): where.RATE}), 100, 0.5, 0.01, 0.01)
    monkeypatch.setattr(growth_notes, "sample", lambda *_, **__: kinds)
    monkeypatch.setattr(growth_notes, "CALLS", Size(T=3, B=1, V=7, H=2))
    monkeypatch.setattr(growth, "RESULTS", tmp_path / "growth.md")
    monkeypatch.setattr(growth, "PICTURE", tmp_path / "growth.png")
    assert growth.main(["--quick", "--write", "--minutes", "0"]) == 0
    page = (tmp_path / "growth.md").read_text(encoding="utf-8")
    order = ["# How a training step grows", "](growth.png)", "## Where ours bends", "## Why",
             "Command: `python -m benchmarks.growth --quick --write --minutes 0`",
             "## Time against T, time steps", "## Peak memory against T",
             "## Time against H, hidden units", "## The recurrent product alone against B",
             "## A pointwise op alone", "## Where the time goes against T",
             "## Not measured"]  # fmt: skip
    places = [page.find(text) for text in order]
    assert -1 not in places
    assert places == sorted(places)
    assert not math.isnan(float(page.split(" ms: the calls")[0].split("takes ")[-1]))
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert "minutes" in capsys.readouterr().out


def test_without_the_sampler_the_parts_are_measured_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr(where.shutil, "which", lambda _: None)
    monkeypatch.setattr(growth_notes, "BYTES", (1200,))
    monkeypatch.setattr(growth_notes, "CALLS", Size(T=3, B=1, V=7, H=2))
    monkeypatch.setattr(growth_curves, "MIDDLE", Size(T=3, B=2, V=7, H=5))
    page = growth.Page("command")
    found = growth_notes.probes({letter: Curve(letter, {OURS: {2: 1.0}}) for letter in "TBH"}, page)
    assert (len(found.kinds), len(found.pointwise), found.product["B"][FLOOR].keys()) == (0, 1, {2})
    (what,) = page.notes
    assert what.startswith("perf, Linux's sampler, was not found")
    assert page.notes[what] == ["where the time goes"]
