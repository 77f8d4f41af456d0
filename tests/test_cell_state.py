"""`examples/cell_state.py`: the belt opens when the LSTM learns, and the gradient arrives."""

import re

import pytest

from tests.programs import example


def table(text):
    """By network: rows of update, loss, what is left of dL/dh, of dL/dc, and the belt."""
    rows = re.findall(r"^(LSTM|RNN) +(\d.*)$", text, re.MULTILINE)
    found = {"LSTM": [], "RNN": []}
    for name, numbers in rows:
        found[name].append([float(x) for x in numbers.split()])
    return found


@pytest.mark.parametrize("seed", ["0", "2"])
def test_the_gradient_arrives_when_the_belt_opens(seed):
    found = table(example("cell_state.py", "--seed", seed))
    _, loss, _, cell, belt = found["LSTM"][1]  # after 100 updates
    assert loss > 0.1
    assert cell < 1e-3
    assert belt < 0.05
    _, loss, hidden, cell, belt = found["LSTM"][-1]
    assert loss < 0.01
    assert cell > hidden > 0.1
    assert belt > 0.5
    assert found["RNN"][-1][1] > 0.1  # the baseline is 1/6
    assert min(row[2] for row in found["RNN"]) < 1e-6


def test_a_picture_and_a_few_updates(tmp_path):
    text = example("cell_state.py", "--updates", "2", "--plot", str(tmp_path / "c.png"))
    assert [row[0] for row in table(text)["LSTM"]] == [0, 2]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
