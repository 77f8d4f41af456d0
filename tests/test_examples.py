"""The examples run, say what they promise, and say it again with the same seed."""

import re

import pytest

from tests.programs import ROOT, example


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_hello_learns_to_spell(seed):
    printed = example("hello.py", "--seed", seed)
    last = printed.split("after 100 updates")[1]
    assert re.findall(r"^ +([helo])  +([helo]) .*\*$", last, re.MULTILINE) == [
        ("h", "e"), ("e", "l"), ("l", "l"), ("l", "o"),
    ]  # fmt: skip
    assert printed.rstrip().endswith("it writes: ello")
    assert printed.count("*") > 4  # and it was seen on its way there


def test_hello_spells_with_what_it_shows():
    printed = example("hello.py", "--updates", "0", "--seed", "2")
    assert "after 0 updates" in printed
    assert printed.rstrip().endswith("it writes: llhh")  # one update would make it "llll"


def test_char_lm_reads_any_text(tmp_path):
    text = tmp_path / "text"
    text.write_text("0123456789" * 2500)
    assert "0123" in example("char_lm.py", "--text", str(text), "--steps", "1")


def test_char_lm_learns_something():
    printed = example("char_lm.py", "--steps", "40")
    losses = [float(x) for x in re.findall(r"loss (\d\.\d+) nats", printed)]
    assert 1.5 < losses[-1] < 3.3
    assert "The " in printed


def test_char_lm_is_deterministic(tmp_path):
    text = tmp_path / "text"
    text.write_text("the quick brown fox jumps over the lazy dog. The end.\n" * 400)
    speed = re.compile(r", [\d,]+ characters per second")
    first, second, third = (
        speed.sub("", example("char_lm.py", "--text", str(text), "--steps", "12", "--seed", seed))
        for seed in ("3", "3", "4")
    )
    assert first == second != third


def test_own_op_is_checked_and_learns():
    printed = example("own_op.py", "--updates", "200")
    assert "agree" in printed
    assert "swish and two_layers have all" in printed
    errors = [float(e) for e in re.findall(r"error is (\d+\.\d+)", printed)]
    assert len(errors) == 3
    assert errors[-1] < 0.01 < errors[0]


@pytest.mark.parametrize("task", ["adding", "adding-1997", "copy", "copy-control"])
def test_long_memory_tells_of_each_task_beside_its_baseline(task, tmp_path):
    options = ("--updates", "3", "--length", "12", "--hidden", "8", "--task", task)
    printed = example("long_memory.py", *options, "--plot", str(tmp_path / "loss.png"))
    told = re.findall(r"after +(\d+) updates: loss (\S+), (\S+) x baseline (\S+);", printed)
    assert [int(updates) for updates, *_ in told] == [0, 3]
    for _, loss, share, baseline in told:
        assert float(loss) / float(baseline) == pytest.approx(float(share), rel=0.05)
    end = "nothing there to remember" if task == "copy-control" else "not solved after 3 updates"
    assert printed.splitlines()[-1].startswith(end)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    other = example("long_memory.py", *options, "--model", "rnn", "--seed", "1")
    assert other != example("long_memory.py", *options, "--model", "rnn", "--seed", "2")


def test_a_gru_remembers_fifty_steps():
    assert "\nsolved" in example("long_memory.py", "--model", "gru", "--updates", "500")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_stay_short(path):
    assert len(path.read_text().splitlines()) < 150
