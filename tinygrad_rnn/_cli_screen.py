"""What a training run shows and logs: the opening page, progress, samples, a CSV file.

On a terminal progress is one line that is written over; in a file or a pipe, where that would make
a mess, it is a plain line every few seconds. Nothing here changes a number of the run.
"""

from __future__ import annotations

import csv
import os
import platform
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
from tqdm import tqdm

from tinygrad_rnn.char_lm import generate
from tinygrad_rnn.config import Corpus
from tinygrad_rnn.data.text import EMBEDDED
from tinygrad_rnn.errors import CheckpointError
from tinygrad_rnn.training import FINAL_LR, Session, Update

PLAIN_SECONDS = 5.0  # between two lines of progress where there is no terminal


def say(text: str = "") -> None:
    """Print a line at once. If nobody listens any more (``| head``), go on in silence."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        silence()


def silence(stream: TextIO | None = None) -> None:
    """Send standard output, or `stream`, nowhere: no later write or flush at exit can fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


def say_error(line: str) -> None:
    """A line on standard error; the exit code counts more than whether somebody reads it."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        silence(sys.stderr)


def prepare_streams() -> None:
    """Make standard output and error fit to be written to, whatever the program was given."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell (>&-): Python then has none at all
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 # until exit
            setattr(sys, name, stream)
        if hasattr(stream, "reconfigure"):  # a terminal may not have every character of a text
            stream.reconfigure(errors="backslashreplace")


def width() -> int:
    """Columns to fill: those of the terminal, and not too many for reading."""
    return max(40, min(96, shutil.get_terminal_size((96, 24)).columns - 1))


def entry(name: str, text: str) -> None:
    """A paragraph with its name in the margin."""
    indent = " " * 14
    first = f"  {name:<12}"
    lines = textwrap.fill(text, width(), initial_indent=first, subsequent_indent=indent)
    say(lines if lines.strip() else first)


def opening(session: Session, files: str) -> None:
    """What is about to be learnt, by what, and how."""
    config, corpus = session.config, session.corpus
    symbols = len(corpus.vocabulary)
    say("A character-level language model learns to write.")
    say()
    entry(
        "text",
        f"{corpus.text.name}: {len(corpus.text.text):,} characters, {symbols} different ones, "
        f"SHA-256 {corpus.text.sha256[:12]}",
    )
    if corpus.text.name == EMBEDDED:
        version = ".".join(platform.python_version_tuple()[:2])
        entry(
            "",
            f"(the language reference inside Python {version}; every version has another text, so "
            "compare losses only where the SHA-256 is the same)",
        )
    entry(
        "split",
        f"the first {len(corpus.train):,} characters to learn from, the last "
        f"{len(corpus.validation):,} to validate with",
    )
    stack = f"{config.layers} x " if config.layers > 1 else ""
    entry(
        "model",
        f"embedding {config.embedding}, {stack}{config.model.upper()} {config.hidden}, softmax "
        f"over {symbols}: {config.parameter_count(symbols):,} parameters on {session.device}",
    )
    overlap = "" if session.tbptt.k2 == config.k1 else f", gradients through {session.tbptt.k2}"
    entry(
        "training",
        f"{config.epochs} epochs x {session.windows:,} updates, each on {config.batch} streams x "
        f"{config.k1} characters{overlap}; Adam {config.lr:g} falling to "
        f"{config.lr * FINAL_LR:g}, gradient norm clipped at {config.clip:g}, "
        + (f"dropout {config.dropout:g}, " if config.dropout else "")
        + f"seed {config.seed}",
    )
    entry("files", files)


def baseline_table(baselines: Mapping[int, float]) -> None:
    """The losses of the n-gram models: what a network has to beat."""
    best = min(baselines, key=lambda n: baselines[n])
    say()
    say("  What counting achieves on the same split, in nats per character:")
    say()
    say("  n-gram  " + "".join(f"{n:>8}" for n in baselines))
    say("  loss    " + "".join(f"{loss:>8.3f}" for loss in baselines.values()))
    say()
    say(f"  To beat: {baselines[best]:.3f}, the {best}-gram.")


class Log:
    """The CSV file: one row per update, each on disk (or with the system) before the next.

    A run that goes on keeps the rows up to its step; later ones came after the last save, and will
    be made again. What an older version did not log yet stays empty.
    """

    columns = (
        "step", "epoch", "loss", "smoothed", "norm", "clipped", "scale", "dominant", "lr",
        "chars_per_second", "validation",
    )  # fmt: skip

    def __init__(self, path: Path, step: int) -> None:
        kept = _rows(path, step) if step else []
        beside = path.with_suffix(".csv.tmp")
        try:
            with beside.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([self.columns, *kept])
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        self._file = path.open("a", newline="", encoding="utf-8", buffering=1)
        self._writer = csv.writer(self._file)

    def write(self, update: Update, rate: float) -> None:
        """Add a row; numbers are written so that reading them gives the same bits."""
        validation = "" if update.validation is None else update.validation
        self._writer.writerow([
            update.step, update.epoch, update.loss, update.smoothed, update.norm,
            int(update.clipped), update.scale, update.dominant, update.lr, round(rate), validation,
        ])  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def _rows(path: Path, step: int) -> list[list[str]]:
    """The rows of an earlier log up to `step`."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        return [[row.get(name, "") for name in Log.columns] for row in rows]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise CheckpointError(f"{path} is not the log of this run; move it away") from error


class Progress:
    """The line that says how it goes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.rate = 0.0  # characters per second, averaged over about the last 20 updates
        self.characters = 0  # since the program was started, as is the time
        self._began = self._before = self._said = time.perf_counter()
        self._bar: Any = None
        if sys.stderr.isatty() and sys.stdout.isatty():
            self._bar = tqdm(
                total=session.total,
                initial=session.step,
                desc=f"epoch 1/{session.config.epochs}",
                bar_format="{desc} {percentage:3.0f}% {bar} {remaining} left",
                dynamic_ncols=True,
                leave=False,
            )

    @property
    def seconds(self) -> float:
        """Since training began."""
        return time.perf_counter() - self._began

    def restart_clock(self) -> None:
        """What happened since the last update (sampling, saving) is not training time."""
        self._before = time.perf_counter()

    def show(self, update: Update) -> None:
        """Take note of an update, and bring the line up to date."""
        now = time.perf_counter()
        rate = update.tokens / max(now - self._before, 1e-9)
        self.rate += (rate - self.rate) * (0.05 if self.rate else 1.0)
        self.characters += update.tokens
        self._before = now
        clipped = " clipped" if update.clipped else ""
        numbers = (
            f"loss {update.smoothed:.3f} nats/char  {self.rate:,.0f} chars/s  "
            f"|grad| {update.norm:.2f}{clipped}"
        )
        epoch = f"epoch {update.epoch}/{self.session.config.epochs}"
        if self._bar is not None:
            self._bar.set_description_str(f"{epoch}  {numbers}", refresh=False)
            self._bar.update()
        elif now - self._said >= PLAIN_SECONDS:
            self._said = now
            left = (self.session.total - update.step) * update.tokens / self.rate
            self.say(f"{epoch}  step {update.step:,}/{self.session.total:,}  {numbers}  "
                     f"{_clock(left)} left")  # fmt: skip

    def say(self, text: str) -> None:
        """A line, or several, above the progress line."""
        if self._bar is None:
            say(text)
        else:
            with tqdm.external_write_mode(file=sys.stdout):
                say(text)

    def sample(self, characters: int = 240) -> None:
        """A text by the model as it is, from a generator of its own: training draws no other."""
        session, prompt = self.session, opening_words(self.session.corpus)
        written = generate(
            session.model,
            session.corpus.vocabulary,
            prompt=prompt,
            length=characters,
            temperature=0.7,
            rng=np.random.default_rng((session.config.seed, session.step)),
        )
        # A run about to diverge overflows here first; the next update will say so.
        with np.errstate(over="ignore", invalid="ignore"):
            text = prompt + "".join(written)
        known = "before it has learnt anything" if session.step == 0 else f"step {session.step:,}"
        lines = [
            f"    | {part}".rstrip()
            for line in printable(text).split("\n")
            for part in textwrap.wrap(line, width() - 8, drop_whitespace=False) or [""]
        ]
        self.say("\n".join([f"\n  A sample, {known}:\n", *lines, ""]))

    def close(self) -> None:
        """Take the line away."""
        if self._bar is not None:
            self._bar.close()


def opening_words(corpus: Corpus) -> str:
    """Something to begin with that the vocabulary has; else the start of a line."""
    return next((p for p in ("The ", "the ") if set(p) <= set(corpus.vocabulary.symbols)), "")


def printable(text: str) -> str:
    """The text with what would move the cursor, or show nothing at all, replaced."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{MIDDLE DOT}" for c in text)


def escaped(text: str) -> str:
    r"""The text with its control characters spelt out, as ``\x1b``: no terminal obeys those."""
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) == "Cc" and c not in "\n\t"
        else c
        for c in text
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def fail(message: str) -> None:
    """One line on standard error."""
    line = message.replace("\n", " ")
    say_error(f"tinygrad-rnn: error: {line}")
