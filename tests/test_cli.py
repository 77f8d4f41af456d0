"""The command line: what it writes, what it says, and how it ends."""

import csv
import errno
import fcntl
import math
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import _cli_train
from tinygrad_rnn._cli_run import Interrupt
from tinygrad_rnn.cli import main, parse
from tinygrad_rnn.training import Config, Session

ROOT = Path(__file__).parent.parent
PROSE = "The quick brown fox jumps over the lazy dog, and the dog looks on.\n" * 30
TINY = ["--hidden", "8", "--embedding", "4", "--batch", "4", "--k1", "8", "--epochs", "2"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}


@pytest.fixture(autouse=True)
def _signals_are_heard():
    """Under nohup, and in some CI, SIGINT is ignored on entry; the tests below send it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a text, to work in."""
    monkeypatch.chdir(tmp_path)
    Path("text").write_text(PROSE)
    return tmp_path


def train(*options, text="text", out="run"):
    return main(["train", "--text", text, "--out", out, *TINY, *options])


def start(*argv, **options):
    """The real thing: a process of its own."""
    command = [sys.executable, "-m", "tinygrad_rnn", *argv]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ENVIRONMENT, **{**pipes, **options})


def log(out="run"):
    with (Path(out) / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_refused(capsys, *said, out="run", code=2):
    """One line on standard error, no traceback, nothing written."""
    printed = capsys.readouterr()
    assert printed.err.startswith("tinygrad-rnn: error: ")
    assert printed.err.count("\n") == 1
    for part in said:
        assert re.search(part, printed.err), (part, printed.err)
    assert not Path(out).exists()
    assert code == 2


def assert_same_end(a, b):
    """Two checkpoints agree in every bit that matters, and their logs in all but the speed."""
    first, second = (tg.load_checkpoint(Path(out) / "checkpoint.safetensors") for out in (a, b))
    for name, array in first.model.items():
        assert array.tobytes() == second.model[name].tobytes(), name
    assert repr(first.optimizer) == repr(second.optimizer)
    assert (first.rng, first.position, first.config) == (
        second.rng, second.position, second.config,
    )  # fmt: skip
    extra = [{**found.extra, "notes": None} for found in (first, second)]  # other --save-every
    assert repr(extra[0]) == repr(extra[1])
    columns = [name for name in log(a)[0] if name != "chars_per_second"]
    assert [[row[c] for c in columns] for row in log(a)] == [
        [row[c] for c in columns] for row in log(b)
    ]


# ---- a run from beginning to end -----------------------------------------------------------------


def test_train_then_sample(place, capsys):
    assert train() == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    said = printed.out
    for part in (
        r"text: 2,010 characters, 31 different ones,",
        r"SHA-256 [0-9a-f]{12}",
        r"first 1,809 characters to learn from, the last 201",
        r"LSTM 8, softmax over 31: \d+",
        r"n-gram +1 +2 +3 +4 +5 +6\n",
        r"To beat: \d\.\d+, the \d-gram",
        r"A sample, before it has learnt anything:",
        r"Epoch 2 of 2: validation loss \d\.\d+, (below|still above) the \d-gram",
        r"validation +\d\.\d+ nats per character at the end",
        r"gradient +clipped in \d+ of 112 updates",
        r"sample run --prompt 'The '",
    ):
        assert re.search(part, said), part
    assert {path.name for path in Path("run").iterdir()} == {
        "checkpoint.safetensors", "log.csv", "training.png",
    }  # fmt: skip
    rows = log()
    assert [int(row["step"]) for row in rows] == list(range(1, 113))
    assert [bool(row["validation"]) for row in rows].count(True) == 2
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])

    def sample(*options):
        assert main(["sample", "run", "--length", "40", *options]) == 0
        return capsys.readouterr().out

    assert sample("--seed", "1") == sample("--seed", "1") != sample("--seed", "2")
    assert len(sample()) == 41  # and a newline
    assert sample("--prompt", "The quick").startswith("The quick")
    assert sample("--prompt", PROSE).startswith(PROSE)  # longer than any window
    greedy = sample("--temperature", "0", "--seed", "1")
    assert greedy == sample("--temperature", "0") == sample("--temperature", "1e-300")
    assert len(set(sample("--temperature", "inf", "--length", "400"))) > 25


def test_a_process_of_its_own(place):
    options = ("train", "--text", "text", "--out", "run", *TINY, "--dropout", "0.1", "--k2", "12")
    process = start(*options)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "python -m tinygrad_rnn sample run" in out


@pytest.mark.parametrize("options", [["--model", "rnn", "--layers", "2"], ["--k2", "20"]])
def test_other_models(place, options):
    assert train(*options, "--sample-every", "0", "--save-every", "0") == 0
    assert main(["sample", "run/checkpoint.safetensors", "--length", "3"]) == 0


def test_the_embedded_text_is_the_default(place, capsys, monkeypatch):
    monkeypatch.setattr(Session, "update", interrupting(Session.update, 1, signal.SIGTERM))
    assert main(["train", "--out", "run", "--sample-every", "0"]) == 143
    said = capsys.readouterr().out
    assert "pydoc_data.topics" in said
    assert f"inside Python {sys.version_info.major}.{sys.version_info.minor}" in said


@pytest.mark.parametrize("columns", [80, 140])
def test_progress_on_a_terminal(place, columns):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = start("train", "--text", "text", "--out", "run", *TINY, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while block := _read(ours):
        seen += block
    os.close(ours)
    assert process.wait(timeout=60) == 0
    lines = re.split(r"[\r\n]+", seen.decode())
    progress = [line for line in lines if line.startswith("epoch")]
    shown = r"epoch [12]/2  loss \d.\d+ nats/char  [\d,]+ chars/s  .*\d+% .* \d\d:\d\d left ?"
    assert any(re.fullmatch(shown, line) for line in progress), progress
    assert max(map(len, lines)) <= columns  # nothing is broken into two lines
    assert "Done in" in seen.decode()


def _read(descriptor):
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # EIO: the other end is closed
        return b""


def test_progress_in_a_file(place, capsys, monkeypatch):
    monkeypatch.setattr("tinygrad_rnn._cli_screen.PLAIN_SECONDS", 0.0)
    assert train("--sample-every", "0") == 0
    said = capsys.readouterr().out
    assert re.search(r"epoch 1/2  step 1/112  loss \d.\d+ nats/char .* \d:\d\d left\n", said)
    assert "\r" not in said


def test_without_matplotlib(place, capsys, monkeypatch):
    for name in {"matplotlib", *[n for n in sys.modules if n.startswith("matplotlib.")]}:
        monkeypatch.setitem(sys.modules, name, None)
    assert train() == 0
    assert "pip install matplotlib, then" in capsys.readouterr().out
    monkeypatch.undo()
    os.chdir(place)
    assert main(["train", "--out", "run", "--resume"]) == 0  # as it had advised
    assert "finished already" in capsys.readouterr().out
    assert Path("run/training.png").exists()


def test_devices(capsys):
    assert main(["devices"]) == 0
    assert re.search(r"^cpu +usable", capsys.readouterr().out, re.MULTILINE)


def test_help(capsys):
    for argv in ([], ["--help"], ["train", "--help"], ["sample", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(argv)
        assert end.value.code == 0
        assert "usage: tinygrad-rnn" in capsys.readouterr().out


def test_a_reader_that_has_had_enough(place):
    assert train() == 0
    process = start("sample", "run", "--length", "100000", text=False)
    assert len(process.stdout.read(20)) == 20
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(
    "argv", [["devices"], ["--help"], ["check", "--only", "add"], ["--no-such-option"]]
)
def test_nobody_reads(place, argv):
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*argv, stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=60)
    if argv == ["--no-such-option"]:
        assert process.returncode == 2
    else:
        assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("argv", [["devices"], ["--help"], ["train", "--epochs", "1"]])
def test_standard_output_is_closed(place, argv):
    options = ["--text", "text", "--out", "run", *TINY[:-2]] if argv[0] == "train" else []
    process = start(*argv, *options, stdout=None, preexec_fn=lambda: os.close(1))
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_standard_output_is_full(place):
    with Path("/dev/full").open("w") as full:
        process = start("devices", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert re.fullmatch(r"tinygrad-rnn: error: cannot write: .*No space left on device\n", err)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tinygrad-rnn {tg.__version__}\n"


def test_a_sample_gives_a_terminal_no_commands(place):
    Path("text").write_text("\x1b[2J\n" * 300)
    assert train() == 0
    ours, theirs = pty.openpty()
    process = start("sample", "run", "--prompt", "\x1b", "--length", "40", stdout=theirs)
    os.close(theirs)
    seen = b""
    while block := _read(ours):
        seen += block
    os.close(ours)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert seen.startswith(b"\\x1b")
    assert b"\x1b" not in seen
    piped = start("sample", "run", "--prompt", "\x1b", "--length", "4")
    assert piped.communicate(timeout=60)[0].startswith("\x1b")


# ---- what --out holds ----------------------------------------------------------------------------


def interrupting(update, step, number):
    """`Session.update` that is hit by a signal in the middle of an update."""

    def interrupted(self):
        if self.step == step - 1:
            os.kill(os.getpid(), number)
        return update(self)

    return interrupted


def test_a_finished_run_is_made_anew_and_kept(place, capsys):
    assert train() == 0
    before = Path("run/checkpoint.safetensors").read_bytes()
    assert train() == 0
    assert "moved to run/previous" in capsys.readouterr().out
    assert Path("run/checkpoint.safetensors").read_bytes() == before  # the same run, bit for bit
    assert {path.name for path in Path("run/previous").iterdir()} == {
        "checkpoint.safetensors", "log.csv", "training.png",
    }  # fmt: skip
    assert Path("run/previous/checkpoint.safetensors").read_bytes() == before


def test_another_run_is_not_touched(place, capsys):
    assert train() == 0
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    capsys.readouterr()
    for changes in (["--hidden", "9"], ["--lr", "0.1"], ["--epochs", "3"]):
        assert train(*changes) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert re.search(rf"holds another run \({changes[0][2:]} .* not {changes[1]};", said)
        assert all(option in said for option in ("--resume", "--overwrite", "--out"))
    Path("other").write_text(PROSE[10:])
    assert train(text="other") == 2
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before
    assert train("--hidden", "9", "--overwrite") == 0
    kept = Path("run/previous/checkpoint.safetensors")
    assert kept.read_bytes() == before[Path("run/checkpoint.safetensors")]


def told(said):
    """The paragraph about clipping, on one line."""
    return " ".join(re.search(r"  gradient +(.*?)\n  checkpoint", said, re.DOTALL)[1].split())


def test_the_end_says_how_often_it_clipped_and_the_log_what_it_did(place, capsys):
    assert train("--clip", "0.4", "--sample-every", "0") == 0
    said, rows = told(capsys.readouterr().out), log()
    clipped = [row for row in rows if row["clipped"] == "1"]
    assert 10 < len(clipped) < 102
    for row in rows:
        norm, scale = float(row["norm"]), float(row["scale"])
        assert scale == (0.4 / (norm + 1e-6) if row in clipped else 1)
        assert (norm > 0.4) == (row in clipped)
    longest = max(rows, key=lambda row: float(row["norm"]))
    assert said == (
        f"clipped in {len(clipped)} of 112 updates ({100 * len(clipped) / 112:.3g} %); the largest "
        f"norm was {float(longest['norm']):.3g}, at step {longest['step']}, mostly of "
        f"{longest['dominant']}"
    )
    model = tg.load_checkpoint("run/checkpoint.safetensors").model
    assert {row["dominant"] for row in rows} <= model.keys()


def test_a_log_from_before_there_were_scales_is_gone_on_with(place, capsys):
    """Rows of a version that knew no `scale` and `dominant`: nothing is put in their place."""
    assert train("--epochs", "1", "--sample-every", "0") == 0
    rows = log()
    for row in rows:
        del row["scale"], row["dominant"]
    rows[4]["norm"] = "77.0"
    with Path("run/log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    capsys.readouterr()
    assert main(["train", "--out", "run", "--resume", "--epochs", "2"]) == 0
    assert told(capsys.readouterr().out).endswith("112 updates (0 %); the largest norm was 77, "
                                                  "at step 5")  # fmt: skip
    found = log()
    assert [int(row["step"]) for row in found] == list(range(1, 113))
    for before, after in zip(rows, found, strict=False):
        assert after == {**before, "scale": "", "dominant": ""}
    assert all(row["dominant"] and row["scale"] == "1.0" for row in found[56:])


def test_a_finished_run_without_its_log_says_so(place, capsys):
    assert train("--sample-every", "0") == 0
    Path("run/log.csv").unlink()
    capsys.readouterr()
    assert main(["train", "--out", "run", "--resume"]) == 0
    assert told(capsys.readouterr().out) == "unknown, for run/log.csv does not say"


def test_more_epochs(place, capsys):
    assert train() == 0
    assert main(["train", "--out", "run", "--resume", "--epochs", "3"]) == 0
    assert "from step 112 of 168" in capsys.readouterr().out
    assert [int(row["step"]) for row in log()] == list(range(1, 169))


def test_fewer_epochs_than_are_done(place, capsys):
    assert train() == 0
    before = Path("run/checkpoint.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["train", "--out", "run", "--resume", "--epochs", "1"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"--epochs 1 is 56 updates, .* has done 112; give --epochs 2 or more\n", said)
    assert Path("run/checkpoint.safetensors").read_bytes() == before


def test_resume_brings_back_all_options_from_anywhere(place, monkeypatch):
    assert train("--sample-every", "0", "--save-every", "9", "--force") == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    options = parse(["train", "--out", "../run", "--resume"])
    assert (options.sample_every, options.save_every, options.force) == (0, 9, True)
    assert options.text == str(place / "text")
    assert main(["train", "--out", "../run", "--resume", "--epochs", "3"]) == 0


def test_a_run_does_not_change_its_device_silently(place, capsys, monkeypatch):
    monkeypatch.setattr(Session, "update", interrupting(Session.update, 9, signal.SIGTERM))
    assert train() == 143
    state = tg.load("run/checkpoint.safetensors")
    state["extra"]["notes"]["device"] = "cuda:99"
    tg.save("run/checkpoint.safetensors", state)
    capsys.readouterr()
    assert main(["train", "--out", "run", "--resume"]) == 2
    assert "cuda" in capsys.readouterr().err
    assert train() == 2
    assert "device cuda:99 not cpu" in capsys.readouterr().err


def test_resume_needs_something_that_fits(place, capsys):
    assert main(["train", "--out", "run", "--resume"]) == 2
    assert_refused(capsys, "no run/checkpoint.safetensors to go on with")
    assert train("--resume", "--overwrite") == 2
    assert_refused(capsys, "give one")
    assert train() == 0
    capsys.readouterr()
    assert main(["train", "--out", "run", "--resume", "--hidden", "3"]) == 2
    assert "hidden (8 there, 3 here)" in capsys.readouterr().err
    content = Path("run/checkpoint.safetensors").read_bytes()
    Path("run/checkpoint.safetensors").write_bytes(content[:-7])
    assert train() == 2
    assert "--overwrite puts it aside" in capsys.readouterr().err
    assert main(["train", "--out", "run", "--resume"]) == 2
    tg.save("run/checkpoint.safetensors", {"a": 1})
    assert train() == 2
    assert "Traceback" not in capsys.readouterr().err


# ---- interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--k2", "20", "--dropout", "0.2", "--layers", "2"]])
@pytest.mark.parametrize("step", [1, 23, 56, 111])
def test_interrupted_anywhere_and_resumed(place, capsys, monkeypatch, step, options):
    handler = signal.getsignal(signal.SIGINT)
    assert train(*options, out="straight") == 0
    monkeypatch.setattr(Session, "update", interrupting(Session.update, step, signal.SIGINT))
    assert train(*options) == 130
    printed = capsys.readouterr()
    assert f"after step {step} of 112" in printed.out
    assert "train --out run --resume" in printed.out
    monkeypatch.undo()
    os.chdir(place)
    assert signal.getsignal(signal.SIGINT) is handler
    # Given the same options once more it goes on by itself; --resume needs none of them.
    again = train(*options) if step % 2 else main(["train", "--out", "run", "--resume"])
    assert again == 0
    assert f"from step {step} of 112" in capsys.readouterr().out
    assert_same_end("straight", "run")


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_real_signal_in_a_process_of_its_own(place):
    Path("text").write_text(PROSE * 8)
    assert train(out="straight") == 0
    options = ("train", "--text", "text", "--out", "run", *TINY)
    process = start(*options, "--save-every", "7")
    while not (Path("run/log.csv").exists() and len(log()) > 20):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Stopped by SIGTERM" in out
    assert err.split("\n")[1].startswith("Finishing this update")
    assert not list(Path("run").glob(".*"))
    resumed = start("train", "--out", "run", "--resume")
    resumed.communicate(timeout=60)
    assert resumed.returncode == 0
    assert_same_end("straight", "run")


def test_killed_without_warning(place, monkeypatch):
    """Rows after the last save are in the log, but not in the checkpoint: they are made again."""
    assert train(out="straight") == 0
    update = Session.update

    def killed(self):
        if self.step == 70:
            raise RuntimeError("as good as kill -9")
        return update(self)

    monkeypatch.setattr(Session, "update", killed)
    with pytest.raises(RuntimeError):
        train("--save-every", "25")
    assert len(log()) == 70
    monkeypatch.undo()
    os.chdir(place)
    assert main(["train", "--out", "run", "--resume"]) == 0
    assert_same_end("straight", "run")


def test_the_second_signal_ends_it_at_once(place):
    assert train("--epochs", "1") == 0
    before = Path("run/checkpoint.safetensors").read_bytes()
    program = """if True:
        import sys, time
        from tinygrad_rnn.cli import main
        from tinygrad_rnn.training import Session
        def slow(self):
            print("slow", flush=True)
            time.sleep(60)
        Session.update = slow
        sys.exit(main(["train", "--out", "run", "--resume", "--epochs", "2"]))"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.stdout.readline() != "slow\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "Once more" in process.stderr.readline() + process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert Path("run/checkpoint.safetensors").read_bytes() == before


# ---- bad input: exit code 2, one line, no traceback, no files ------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"a", "characters"),
        (b"ab" * 5, "characters"),
        (b"ab" * 15, r"need 33 characters .*has 27"),
        (b"fine until here \xff\xfe", r"byte offset 16 \(ff fe\)"),
    ],
    ids=["empty", "one", "ten", "short", "no UTF-8"],
)
def test_texts_that_cannot_be_used(place, capsys, content, said):
    Path("text").write_bytes(content)
    assert train() == 2
    assert_refused(capsys, said)


def test_paths_that_are_no_text(place, capsys, monkeypatch):
    assert train(text=".") == 2
    assert_refused(capsys, "error: '.' is a directory")
    assert train(text="") == 2
    assert_refused(capsys, "path of the text is empty")
    for options in ([], ["--resume"]):
        assert train(*options, out="") == 2
        assert_refused(capsys, "--out is empty")
    assert train(text="missing") == 2
    assert_refused(capsys, "no file 'missing'")
    os.mkfifo("fifo")
    assert train(text="fifo") == 2
    assert_refused(capsys, "pipe")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)  # chmod does not stop root
    assert train() == 2
    assert_refused(capsys, "no permission")


@pytest.mark.parametrize("mark", ["\0", "\ufeff", "\r\n", "\x1b[2J", "é", "😀"])
def test_odd_characters_are_characters(place, capsys, mark):
    Path("text").write_bytes((mark + "some text on one huge line ").encode() * 60)
    assert train() == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said  # a sample must not move the cursor
    assert "\0" not in said
    assert main(["sample", "run", "--prompt", mark, "--length", "2"]) == 0


def test_encodings(place, capsys):
    Path("text").write_bytes("größer und größer ".encode("latin-1") * 80)
    assert train() == 2
    assert_refused(capsys, "byte offset 2", "encoding")
    assert train("--encoding", "latin-1") == 0
    assert main(["train", "--out", "run", "--resume"]) == 0  # it remembers how to read the text
    assert train("--errors", "replace", out="other") == 0
    assert train("--errors", "surrogateescape", out="third") == 0
    capsys.readouterr()
    assert train("--encoding", "nonsense") == 2


def test_one_distinct_character(place, capsys):
    Path("text").write_text("a" * 500)
    assert train() == 0
    assert {row["loss"] for row in log()} == {"0.0"}
    said = capsys.readouterr().out
    assert "nan" not in said
    assert "-0.0" not in said
    assert "loss 0.000, equal to the 1-gram's 0.000" in said
    assert main(["sample", "run", "--length", "5"]) == 0
    assert capsys.readouterr().out == "aaaaa\n"


@pytest.mark.parametrize(
    "options",
    [
        ["--lr", "nan"], ["--lr", "0"], ["--lr", "-0.1"], ["--lr", "inf"], ["--clip", "0"],
        ["--clip", "nan"], ["--hidden", "0"], ["--layers", "0"], ["--embedding", "0"],
        ["--k1", "0"], ["--k2", "7"], ["--batch", "0"], ["--batch", "-3"], ["--epochs", "0"],
        ["--seed", "-1"], ["--dropout", "1"], ["--dropout", "nan"], ["--sample-every", "-1"],
        ["--save-every", "-1"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_bad_numbers(place, capsys, options):
    assert train(*options) == 2
    assert_refused(capsys, options[0][2:].replace("-", "_"))


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--hidden", "many"], ["train", "--hidden", "2.5"], ["train", "--model", "gru9"],
        ["train", "--no-such-option"], ["sample"], ["dance"], ["check", "--order", "3"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_does_not_parse(place, capsys, argv):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--prompt", "The € sign"], r"'€' \(U\+20AC\) at offset 4"),
        (["--temperature", "-1"], "temperature"),
        (["--temperature", "nan"], "temperature"),
        (["--length", "-1"], "length"),
        (["--seed", "-1"], "seed"),
        (["--device", "cuda:99"], "cuda"),
        (["--device", "toaster"], "toaster"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_requests_for_a_sample(place, capsys, options, said):
    assert train("--sample-every", "0") == 0
    capsys.readouterr()
    assert main(["sample", "run", *options]) == 2
    printed = capsys.readouterr()
    assert re.search(said, printed.err)
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_checkpoints_that_are_none(place, capsys):
    tg.save("other", {"a": np.zeros(3)})
    tg.save_checkpoint("foreign", model=tg.nn.Linear(2, 2))
    for path in ("missing", ".", "text", "other", "foreign"):
        assert main(["sample", path]) == 2
        assert_refused(capsys)


def test_devices_that_are_none(place, capsys):
    assert train("--device", "cuda:99") == 2
    assert_refused(capsys, "cuda")
    assert train("--device", "toaster") == 2
    assert_refused(capsys, "toaster")


def test_out_that_is_a_file(place, capsys):
    Path("file").touch()
    for out in ("file", "file/below"):
        assert train(out=out) == 2
        assert "a directory" in capsys.readouterr().err


# ---- too large -----------------------------------------------------------------------------------


def test_a_huge_vocabulary(place, capsys, monkeypatch):
    symbols = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    Path("text").write_text(symbols)
    monkeypatch.setattr(_cli_train, "_memory", lambda: 1e7)
    assert train() == 2
    assert_refused(
        capsys,
        r"20,000 different characters .* parameters \(\d.* MB\)",
        r"of it for writing checkpoints \(--hidden",
        "--force",
    )
    assert train("--batch", "20000") == 2  # not a matter of memory
    assert_refused(capsys, "need 160001 characters")
    monkeypatch.setattr(Session, "update", interrupting(Session.update, 1, signal.SIGINT))
    assert train("--force", "--sample-every", "0") == 130
    monkeypatch.undo()
    os.chdir(place)
    assert train("--hidden", "1000000", "--overwrite") == 2
    assert "GB" in capsys.readouterr().err


def test_out_of_memory_names_the_size(place, capsys, monkeypatch):
    assert train() == 0
    before = Path("run/checkpoint.safetensors").read_bytes()
    monkeypatch.setattr(Session, "update", lambda _: np.empty((1 << 60,), dtype=np.uint8))
    assert main(["train", "--out", "run", "--resume", "--epochs", "3"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"out of memory: .*1.00 EiB .*shape.*--batch", said)
    assert Path("run/checkpoint.safetensors").read_bytes() == before


def test_saving_is_counted():
    config = Config(hidden=2000)
    assert sum(config.memory(100).values()) >= 4 * 12 * config.parameter_count(100)


# ---- divergence, and what cannot be written ------------------------------------------------------


def test_divergence(place, capsys):
    assert train("--lr", "1e38") == 3
    said = capsys.readouterr().err
    assert re.search(r"diverged at step \d+: .*(norm|loss).*no checkpoint had been written", said)
    assert "--overwrite --lr 0.008" in said
    assert said.count("\n") == 1
    assert not Path("run/checkpoint.safetensors").exists()


def test_divergence_to_finite_numbers(place, capsys, monkeypatch):
    """No NaN, no warning of NumPy's, and losses of 1e29: no success either."""
    assert train("--lr", "1e30") == 3
    assert re.search(r"the \w+ .*loss is .* guessing is 3.43 \(no", capsys.readouterr().err)
    update = Session.update

    def explode(self):
        if self.step == 111:  # in the last update, so that only validation can see it
            self.optimizer.param_groups[0]["lr"] = 1e30
        return update(self)

    monkeypatch.setattr(Session, "update", explode)
    assert train("--save-every", "30", out="late") == 3
    assert re.search(r"112: the validation loss .*step 90 is kept", capsys.readouterr().err)
    assert tg.load_checkpoint("late/checkpoint.safetensors").position["step"] == 90


def test_divergence_keeps_the_last_good_checkpoint(place, capsys, monkeypatch):
    update = Session.update

    def poisoned(self):
        if self.step == 40:
            next(self.model.parameters()).writable()[:] = math.nan
        return update(self)

    monkeypatch.setattr(Session, "update", poisoned)
    assert train("--save-every", "30") == 3
    said = capsys.readouterr().err
    assert re.search(r"step 41: .*nan.*step 30 is kept in run/checkpoint.safetensors", said)
    found = tg.load_checkpoint("run/checkpoint.safetensors")
    assert found.position["step"] == 30
    assert all(np.isfinite(array).all() for array in found.model.values())
    assert len(log()) == 40


def test_a_full_disk_is_noticed_before_training(place):
    limit = 4000  # bytes per file; a checkpoint of TINY takes more

    def cramped():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start("train", "--text", "text", "--out", "run", *TINY, preexec_fn=cramped)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert re.fullmatch(r"tinygrad-rnn: error: cannot write: .*File too large.*\n", err)
    assert "epoch" not in out
    assert list(Path("run").iterdir()) == []


def test_a_disk_that_fills_up_later(place, capsys, monkeypatch):
    saves, fsync = [], os.fsync

    def full(descriptor):
        saves.append(descriptor)
        if len(saves) > 3:  # the test at the start, then the first save: file and directory
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert train("--save-every", "30") == 4
    printed = capsys.readouterr()
    assert re.fullmatch(r"tinygrad-rnn: error: cannot write: .*No space left.*\n", printed.err)
    assert tg.load_checkpoint("run/checkpoint.safetensors").position["step"] == 30
    assert {path.name for path in Path("run").iterdir()} == {"checkpoint.safetensors", "log.csv"}


def test_a_directory_that_cannot_be_written(place, capsys, monkeypatch):
    def refuse(**options):
        raise PermissionError(errno.EACCES, "Permission denied", "run")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # chmod does not stop root
    assert train() == 4
    said = capsys.readouterr().err
    assert "Permission denied" in said
    assert "checkpoint" not in said  # there is none that could be intact
    assert list(Path("run").iterdir()) == []
