"""A training run under way: its updates, what is due between them, and its three ends.

A run ends when all updates are done (0), when it is interrupted (130, 143: saved, to be gone on
with) or when it diverges (3: the last good checkpoint stays). Whatever cannot be written ends it
as an OSError, which `cli.main` turns into 4.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Self

from tinygrad_rnn._cli_screen import (
    Log,
    Progress,
    entry,
    opening_words,
    say,
    say_error,
)
from tinygrad_rnn.config import Config
from tinygrad_rnn.errors import DataError, NonFiniteError
from tinygrad_rnn.training import Session, Update
from tinygrad_rnn.viz import plot_training

CHECKPOINT, LOG, PICTURE = "checkpoint.safetensors", "log.csv", "training.png"


class Interrupt:
    """Within it, the first SIGINT or SIGTERM is only noted; the second ends the program at once.

    An update is never torn in two, and neither is a file: saving replaces the old file at one
    instant, so even the second signal leaves an intact checkpoint behind.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Who starts a program with a signal ignored (nohup, a shell's &) wants it to stay so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        os.write(2, b"\nFinishing this update, then saving. Once more: stop at once.\n")


class Run:
    """A prepared session on its way to the end.

    Args:
        session: at its first step, or restored.
        baselines: losses of the n-gram models, n to nats per character.
        out: the directory of its files, which exists.
        sample_every, save_every: updates between two samples, and two checkpoints; 0: none.
    """

    def __init__(
        self,
        session: Session,
        baselines: dict[int, float],
        out: Path,
        sample_every: int,
        save_every: int,
    ) -> None:
        self.session, self.baselines, self.out = session, baselines, out
        self.sample_every, self.save_every = sample_every, save_every
        self.best_n = min(baselines, key=lambda n: baselines[n])
        self.bar = baselines[self.best_n]  # the loss to get below
        self.checkpoint = out / CHECKPOINT
        self.saved_at: int | None = session.step or None

    def go(self) -> int:
        """Train to the end, an interruption or a divergence; returns the exit code."""
        progress = Progress(self.session)
        try:
            with Interrupt() as interrupt, Log(self.out / LOG, self.session.step) as log:
                if self.sample_every and self.session.step == 0:
                    progress.sample()
                while not self.session.finished and interrupt.signal is None:
                    self._step(progress, log)
                if interrupt.signal is not None and not self.session.finished:
                    return self._stopped(progress, interrupt.signal)
                self._save()
        except NonFiniteError as error:
            progress.close()
            return self._diverged(error)
        finally:
            progress.close()
        self._finish(progress)
        return 0

    def _step(self, progress: Progress, log: Log) -> None:
        """One update, and what is due after it."""
        progress.restart_clock()
        update, session = self.session.update(), self.session
        progress.show(update)
        log.write(update, progress.rate)
        every = self.save_every
        if update.validation is not None:
            self._tell_validation(progress, update, update.validation)
        if update.validation is not None or (every and update.step % every == 0):
            self._save()
        every = self.sample_every
        # One at the very end in any case, and none shortly before it.
        due = every and update.step % every == 0 and session.total - update.step >= every / 2
        if every and (due or session.finished):
            progress.sample()

    def _tell_validation(self, progress: Progress, update: Update, loss: float) -> None:
        relation = "below" if loss < self.bar else "equal to" if loss == self.bar else "still above"
        progress.say(
            f"  Epoch {update.epoch} of {self.session.config.epochs}: validation loss {loss:.3f}, "
            f"{relation} the {self.best_n}-gram's {self.bar:.3f}"
        )

    def _save(self) -> None:
        if self.saved_at != self.session.step:
            self.session.save(self.checkpoint)
            self.saved_at = self.session.step

    # ---- the three ends ----

    def _stopped(self, progress: Progress, number: int) -> int:
        self._save()
        progress.close()
        name = signal.Signals(number).name
        say(f"Stopped by {name} after step {self.session.step:,} of {self.session.total:,}.")
        say(f"Saved to {self.checkpoint}. To go on:")
        say(f"\n  {program()} train --out {self.out} --resume\n")
        return 128 + number

    def _diverged(self, error: NonFiniteError) -> int:
        where = (
            "no checkpoint had been written yet"
            if self.saved_at is None
            else f"the checkpoint of step {self.saved_at:,} is kept in {self.checkpoint}"
        )
        reason = str(error).partition(";")[0]  # the details after it are for programmers
        lower = min(self.session.config.lr / 10, Config.lr)
        # --resume would keep the learning rate that has led here, so it is of no help.
        say_error(
            f"tinygrad-rnn: training diverged at {reason} ({where}; start anew with the same "
            f"options and --overwrite --lr {lower:g}, or with a lower --clip)"
        )
        return 3

    def _finish(self, progress: Progress) -> None:
        session = self.session
        if progress.characters:
            mean = progress.characters / progress.seconds
            say(f"Done in {progress.seconds:.0f} s: read {progress.characters:,} characters, "
                f"{mean:,.0f} per second all told.")  # fmt: skip
        else:
            say("This run is finished already; more --epochs would go on with it.")
        say()
        if session.validation is not None and session.best is not None:
            relation = "below" if session.validation < self.bar else "not below"
            entry(
                "validation",
                f"{session.validation:.3f} nats per character at the end, {session.best:.3f} at "
                f"best; {relation} every n-gram (the best, n = {self.best_n}: {self.bar:.3f})",
            )
        entry("gradient", clipping_told(self.out / LOG))
        entry("checkpoint", str(self.checkpoint))
        entry("log", str(self.out / LOG))
        entry("picture", self._picture())
        say()
        say("Let it write:")
        prompt = opening_words(session.corpus)
        say(f"\n  {program()} sample {self.out} --prompt {prompt!r}\n")

    def _picture(self) -> str:
        """Draw the picture; returns where it is, or how to get one."""
        path = self.out / PICTURE
        config, corpus = self.session.config, self.session.corpus
        title = f"{config.model.upper()} {config.hidden} on {corpus.text.name}"
        try:
            plot_training(self.out / LOG, path, self.baselines, clip=config.clip, title=title)
        except ImportError:
            again = f"{program()} train --out {self.out} --resume"
            return f"none, because matplotlib is missing: pip install matplotlib, then {again}"
        except DataError as error:
            return f"none: {error}"
        return str(path)


def clipping_told(path: Path) -> str:
    """How often a run was clipped, and where its gradient was longest, by its log.

    The log knows of all its updates, those before an interruption included.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        clipped = sum(row["clipped"] == "1" for row in rows)
        longest = max(rows, key=lambda row: float(row["norm"]))
    except (KeyError, TypeError, ValueError):  # no rows, or somebody's own
        return f"unknown, for {path} does not say"
    often = f"{clipped:,} of {len(rows):,} updates ({100 * clipped / len(rows):.3g} %)"
    mostly = f", mostly of {longest['dominant']}" if longest["dominant"] else ""
    return (
        f"clipped in {often}; the largest norm was {float(longest['norm']):.3g}, at step "
        f"{int(longest['step']):,}{mostly}"
    )


def program() -> str:
    """How this program was called, as a person would type it again."""
    name = Path(sys.argv[0])
    if name.name == "__main__.py":
        return "python -m tinygrad_rnn"
    if name.is_absolute() and name.is_relative_to(Path.cwd()):
        return str(name.relative_to(Path.cwd()))
    return str(name)
