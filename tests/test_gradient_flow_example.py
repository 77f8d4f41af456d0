"""The argument of `examples/gradient_flow.py`, in the numbers that it prints."""

import math
import re
from functools import cache

import pytest

from tests.programs import example

SEEDS = ("0", "1", "2")
NUMBER = r"(\d\S*)"


@cache
def printed(seed, *options):
    return example("gradient_flow.py", "--updates", "300", "--seed", seed, *options)


def flows(seed):
    """By network: ratio, factor per step, singular value, spectral radius, length, part lost, c."""
    table = printed(seed).split("\n\n")[0].splitlines()[1:]
    rows = [re.split(r"  +", line) for line in table]
    return {
        name: [float(x.rstrip("%")) if x != "-" else None for x in numbers]
        for name, *numbers in rows
    }


def losses(text):
    """By run: the loss after 1, 10, 30, ... updates, as far as it came."""
    table = text.split("Loss after")[1]
    rows = re.findall(r"^(a = \S+ .+?)  +(\d.*)$", table, re.MULTILINE)
    return {name: [float(x) for x in numbers.split()] for name, numbers in rows}


@pytest.mark.parametrize("seed", SEEDS)
def test_below_one_the_gradient_vanishes_and_above_one_it_grows(seed):
    ratio = {name: row[0] for name, row in flows(seed).items()}
    assert ratio["RNN, a = 0.5"] == pytest.approx(0.5**99, rel=0.3)
    assert ratio["RNN, a = 0.9"] < 1e-4
    assert 1e-3 < ratio["RNN, a = 1"] < 1
    assert 1 < ratio["RNN, a = 1.2"] < ratio["RNN, a = 1.5"]
    assert ratio["RNN, a = 1.5"] > 1e3


@pytest.mark.parametrize("seed", SEEDS)
def test_no_gradient_of_an_rnn_grows_faster_than_its_largest_singular_value(seed):
    """And that is at most the factor a, whatever the states are."""
    rows = {name: row for name, row in flows(seed).items() if name.startswith("RNN")}
    assert len(rows) == 5
    for name, (_, step, s, r, _, _, _) in rows.items():
        assert step <= s <= float(name.split("= ")[1])
        assert r <= s


@pytest.mark.parametrize("seed", SEEDS)
def test_an_open_forget_gate_keeps_what_an_rnn_loses(seed):
    rows = flows(seed)
    kept = rows["LSTM, forget bias 1"]
    assert kept[0] > 1e-3
    assert kept[6] > kept[0]  # the cell carries more than h
    assert kept[0] > 1e20 * rows["RNN, a = 0.5"][0]
    assert kept[0] > 100 * rows["RNN, a = 0.9"][0]
    closed = rows["LSTM, forget bias 0"]
    assert kept[0] > 1e9 * closed[0]
    assert rows["GRU"][3] == pytest.approx(0.75, abs=0.01)  # 0.5 + 0.25 Q
    assert closed[3] == pytest.approx(0.75, abs=0.01)
    assert kept[3] == pytest.approx(1 / (1 + math.exp(-1)) + 0.25, abs=0.02)


@pytest.mark.parametrize("seed", SEEDS)
def test_truncation_loses_what_has_not_vanished(seed):
    lost = {name: row[5] for name, row in flows(seed).items()}  # in per cent
    assert lost["RNN, a = 0.5"] == 0  # to one digit; 0.5^20 is 1e-6
    assert lost["LSTM, forget bias 0"] < 1
    assert lost["RNN, a = 0.5"] < lost["RNN, a = 0.9"] < lost["RNN, a = 1"] < lost["RNN, a = 1.2"]
    assert lost["RNN, a = 1.5"] > 95
    assert lost["LSTM, forget bias 1"] > 30


@pytest.mark.parametrize("seed", SEEDS)
def test_the_exploding_run_diverges_and_the_clipped_one_does_not(seed):
    text = printed(seed)
    stop = re.search(r"a = 1.2, not clipped stops at update (\d+): .* gradients is (nan|inf)", text)
    assert 10 < int(stop[1]) < 100
    assert text.count("stops") == 1
    runs = losses(text)
    exploded = runs.pop("a = 1.2, not clipped")
    assert len(exploded) == 3  # after 1, 10 and 30 updates
    assert exploded[-1] > 1e3
    assert len(runs) == 3
    for run in runs.values():
        assert len(run) == 5  # and after 100 and 300
        assert run[-1] < 0.19


def test_the_clipped_run_learns_and_the_vanishing_one_does_not():
    text = example("gradient_flow.py", "--updates", "1000")
    run = losses(text)
    assert run["a = 1.2, clipped to 1"][-1] < 0.8 / 6
    assert run["a = 1.2, states to 0.01"][-1] < 0.85 / 6
    assert 0.95 / 6 < run["a = 0.9, not clipped"][-1] < 1.05 / 6
    assert re.search(r"^baseline +0\.17$", text, re.MULTILINE)


def test_it_draws_the_picture_and_repeats_itself(tmp_path):
    path = tmp_path / "flow.png"
    assert printed("0", "--plot", str(path)) == f"{printed('0')}picture {path}\n"
    assert path.read_bytes().startswith(b"\x89PNG")
