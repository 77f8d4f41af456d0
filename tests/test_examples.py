"""The examples run, say what they promise, and say it again with the same seed."""

import os
import re
import signal
import subprocess
import sys

import pytest

from benchmarks import task_runs, tasks
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
    held_out = re.search(r"^validation loss (\d\.\d+) nats", printed, re.MULTILINE)
    counted = re.findall(r"(\d)-gram (\d\.\d+)", printed.splitlines()[-1])
    assert [n for n, _ in counted] == ["1", "2", "3", "4", "5"]
    # 40 updates come further than counting single characters, and not so far as counting triples.
    assert float(counted[2][1]) < float(held_out[1]) < float(counted[0][1])


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
    end = "nothing there to remember" if task == "copy-control" else "goal not reached"
    assert printed.splitlines()[-2].startswith(f"{end} after 3 updates")
    assert printed.splitlines()[-1] == f"picture {tmp_path / 'loss.png'}"
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    other = example("long_memory.py", *options, "--model", "rnn", "--seed", "1")
    assert other != example("long_memory.py", *options, "--model", "rnn", "--seed", "2")


def test_a_gru_remembers_fifty_steps_and_the_benchmark_reads_its_numbers():
    done = task_runs.run("--task adding --model gru --length 50 --updates 500", seed=0)
    assert done.solved
    assert done.reached == done.lowest < 0.01
    assert done.updates < 500
    assert done.baseline == pytest.approx(1 / 6, abs=1e-4)
    short = task_runs.run("--task adding --model gru --length 50 --updates 50", seed=0)
    assert not short.solved
    assert short.updates == 50


def test_the_benchmark_writes_its_file_only_when_told_to(tmp_path, monkeypatch, capsys):
    found = task_runs.Result("python x", 0, 700, 0.005, 0.004, 0.1667, True, 4.0, 3.0)
    monkeypatch.setattr(tasks, "run", lambda *_: found)
    monkeypatch.setattr(tasks, "RESULTS", tmp_path / "tasks.md")
    monkeypatch.setattr(sys, "argv", ["tasks", "--only", "lstm-50"])
    tasks.main()
    assert "| `python x` | 700 | 0.005 |" in capsys.readouterr().out
    assert not (tmp_path / "tasks.md").exists()
    monkeypatch.setattr(sys, "argv", ["tasks", "--only", "lstm-50", "--write"])
    tasks.main()
    assert (tmp_path / "tasks.md").read_text().split("\n\n## lstm-50")[0] == tasks.HEAD.strip()
    assert capsys.readouterr().out.split("## ")[1].strip() in (tmp_path / "tasks.md").read_text()


def test_the_committed_table_has_the_head_that_would_be_written():
    assert tasks.RESULTS.read_text().startswith(tasks.HEAD)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_stay_short(path):
    assert len(path.read_text().splitlines()) < 150


# ---- what cannot work is refused at the door, in one line ----

EXAMPLES = [
    "cell_state.py", "char_lm.py", "dates.py", "gradient_flow.py", "long_memory.py",
    "many_to_one.py", "one_to_many.py", "one_to_one.py", "read_digits.py",
    "sunspots.py", "truncation.py",
]  # fmt: skip


def refused(name, *options, **more):
    """The line that says why: argparse's usage may stand before it, and nothing behind."""
    said = example(name, *options, status=2, **more)
    assert "Traceback" not in said
    *usage, last = said.splitlines()
    assert last.startswith(f"{name}: error: ")
    assert usage == [] or usage[0].startswith("usage: ")
    return last


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_number_that_makes_no_sense_is_refused(name):
    steps = "--steps" if name == "char_lm.py" else "--updates"
    assert f"argument {steps}: a whole number, at least 0; got '-1'" in refused(name, steps, "-1")
    assert "argument --seed: a whole number, at least 0; got 'x'" in refused(name, "--seed", "x")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--hidden 0", "argument --hidden: a whole number, at least 1; got '0'"),
        ("--length 0", "argument --length: a whole number, at least 1; got '0'"),
        ("--length 1", "adding: T is a whole number, at least 2; got 1"),
        ("--task adding-1997 --length 10", "at least 11; got 10"),
        ("--lr -1", "argument --lr: a number above 0; got '-1'"),
        ("--lr nan", "argument --lr: a finite number; got 'nan'"),
        ("--forget-bias inf", "argument --forget-bias: a finite number; got 'inf'"),
        ("--model rnn --forget-bias 5", "--forget-bias is the LSTM's; a model 'rnn' has no"),
        ("--model gru --forget-bias 1", "--forget-bias is the LSTM's; a model 'gru' has no"),
    ],
)
def test_long_memory_refuses_what_it_cannot_do(options, why):
    assert why in refused("long_memory.py", *options.split())


def test_a_forget_bias_of_one_is_what_an_lstm_has_anyway():
    options = ("--updates", "1", "--length", "12", "--hidden", "8")
    without = example("long_memory.py", *options)
    assert without == example("long_memory.py", *options, "--forget-bias", "1")
    assert without != example("long_memory.py", *options, "--forget-bias", "2")


def test_truncation_refuses_a_length_that_it_cannot_halve():
    assert "a multiple of 48, up to 1920" in refused("truncation.py", "--length", "50")


def test_char_lm_refuses_a_text_before_it_trains_on_it(tmp_path):
    text = tmp_path / "text"
    assert "there is no file" in refused("char_lm.py", "--text", str(text))
    text.write_text("0123456789" * 1600)  # enough to train on: 14,400; 1,600 for validation
    why = refused("char_lm.py", "--text", str(text), "--steps", "1000000000")
    assert "need 1601 characters" in why
    assert "this part of the text has 1600;" in why


@pytest.mark.parametrize(
    "name", [n for n in EXAMPLES if "--plot" in (ROOT / "examples" / n).read_text()]
)
def test_a_picture_that_cannot_be_written_is_refused_before_training(name, tmp_path):
    forever = ("--updates", "1000000000", "--plot")
    assert "cannot write the picture" in refused(name, *forever, str(tmp_path / "no" / "a.png"))
    assert "take .png, .svg or .pdf" in refused(name, *forever, str(tmp_path / "a.xyz"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("library", "name", "options", "how"),
    [
        ("matplotlib", "sunspots.py", ("--plot", "a.png"), "[plot]"),
        ("sklearn", "one_to_one.py", (), "[data]"),
        ("faker", "many_to_one.py", (), "[data]"),
    ],
)
def test_what_is_not_installed_is_said_in_one_line(library, name, options, how, tmp_path):
    (tmp_path / f"{library}.py").write_text("raise ImportError")
    said = refused(name, *options, before=tmp_path)
    assert f'which is not installed: pip install "tinygrad_rnn{how}"' in said


def test_ctrl_c_ends_an_example_without_a_word():
    with subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "long_memory.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    ) as running:
        while "after     0 updates" not in running.stdout.readline():
            pass
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert said == ""
    assert running.returncode == 130


def test_an_error_of_another_kind_keeps_its_traceback(tmp_path):
    """Whoever changes an example needs to see where it went wrong."""
    program = tmp_path / "changed.py"
    program.write_text("import _door\nimport tinygrad_rnn as tg\n"
                       "_door.run(lambda: tg.tensor([1.0]).reshape(2))")  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}"},
        check=False,
    )
    assert "Traceback" in done.stderr
    assert "ShapeError" in done.stderr.splitlines()[-1]
