"""``tinygrad-rnn train``: everything is checked before anything is written, and nothing is lost.

What ``--out`` holds decides how a run begins:

    nothing                         a new run
    this run, unfinished            goes on where it stopped
    this run, finished              made anew; the old files go to DIR/previous
    another run                     refused, unless --resume (go on with that one) or
                                    --overwrite (start anew; the old files go to DIR/previous)

"This run" means the same configuration, text and device. A checkpoint is written at every epoch's
end, every `save_every` updates, at the end, and when the run is interrupted.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro

from tinygrad_rnn import backends
from tinygrad_rnn._cli_run import CHECKPOINT, LOG, PICTURE, Run
from tinygrad_rnn._cli_screen import baseline_table, entry, opening, say
from tinygrad_rnn.checkpoint import Checkpoint, load_checkpoint
from tinygrad_rnn.data import load_text, ngram_losses
from tinygrad_rnn.errors import CheckpointError, DataError
from tinygrad_rnn.training import Config, Corpus, Session, streams_of

PREVIOUS = "previous"
LARGE = 1 << 28  # bytes: from here on, say how much memory a run takes


@dataclass(frozen=True)
class Train:
    """Train a character model on a text, and watch it learn to write."""

    config: tyro.conf.OmitArgPrefixes[Config] = field(default_factory=Config)
    text: str | None = None
    """A text file; without one, the language reference inside Python."""
    encoding: str = "utf-8"
    """How the file is encoded."""
    errors: str = "strict"
    """What to do with bytes that do not decode: strict refuses them, replace marks them."""
    out: str = "runs/char-lm"
    """Directory for the checkpoint, the log and the picture."""
    resume: bool = False
    """Go on with the run in --out, with all its options; more --epochs may be given."""
    overwrite: bool = False
    """Start anew whatever --out holds; what is there is moved to its directory 'previous'."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, ..."""
    sample_every: int = 200
    """Updates between two samples of text; 0: none."""
    save_every: int = 500
    """Updates between two checkpoints; there is one at the end of every epoch, too."""
    force: bool = False
    """Train even if the model looks too large for this machine's memory."""

    def run(self) -> int:
        """Check everything, then train; returns the exit code."""
        session = self._prepared()
        out = Path(self.out)
        earlier = self._earlier()
        if earlier is not None:
            earlier = self._decide(earlier, session)
        if earlier is not None:
            self._restore(session)
        baselines = _baselines(session.corpus)
        check_writable(out, 3 * 4 * session.config.parameter_count(len(session.corpus.vocabulary)))
        moved = [] if earlier is not None else put_aside(out)
        opening(session, f"{self.out}/: {CHECKPOINT}, {LOG}, {PICTURE}")
        if earlier is not None:
            entry("going on", f"from step {session.step:,} of {session.total:,}")
        if moved:
            entry("earlier run", f"moved to {out / PREVIOUS}")
        baseline_table(baselines)
        session.notes = self._notes()
        return Run(session, baselines, out, self.sample_every, self.save_every).go()

    def _notes(self) -> dict[str, Any]:
        """What `resumed` needs, from whatever directory it is called."""
        text = None if self.text is None else str(Path(self.text).absolute())
        return {"text": text, **{name: getattr(self, name) for name in _KEPT}}

    # ---- before anything is written ----

    def _prepared(self) -> Session:
        """The session at step 0; raises for whatever is wrong with options, text or device."""
        self.config.check()
        for name in ("sample_every", "save_every"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} is a number of updates >= 0, got {getattr(self, name)}")
        _check_named(self.out)
        if self.resume and self.overwrite:
            raise DataError("--resume goes on with a run and --overwrite starts anew; give one")
        backends.get(self.device)
        text = None if self.text is None else _shown(self.text)
        corpus = Corpus.of(load_text(text, encoding=self.encoding, errors=self.errors))
        streams_of(self.config, corpus)  # a text that is too short is so with any memory
        self._check_memory(len(corpus.vocabulary))
        return Session(self.config, corpus, device=self.device)

    def _check_memory(self, symbols: int) -> None:
        """Refuse what cannot fit before it is allocated: a system out of memory kills at random."""
        parts, available = self.config.memory(symbols), _memory()
        needed, largest = sum(parts.values()), max(parts, key=lambda name: parts[name])
        parameters = self.config.parameter_count(symbols)
        seen = (
            f"{symbols:,} different characters and hidden size {self.config.hidden:,} make "
            f"{parameters:,} parameters ({_bytes(4 * parameters)}); training needs at least "
            f"{_bytes(needed)}, {_bytes(parts[largest])} of it for {largest}"
        )
        if needed > available / 2 and not self.force:
            raise DataError(
                f"{seen}; more than half of this machine's {_bytes(int(available))}. Is it a text? "
                "Make those smaller, or insist with --force"
            )
        if needed > LARGE:
            say(f"Note: {seen}.")

    def _earlier(self) -> Checkpoint | None:
        """The checkpoint in --out, if it has one."""
        path = Path(self.out) / CHECKPOINT
        if not path.exists():
            if self.resume:
                raise DataError(f"there is no {path} to go on with; leave --resume out to start")
            return None
        if self.overwrite:
            return None
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; --overwrite puts it aside and starts anew") from error
        except OSError as error:
            raise DataError(f"cannot read {path}: {error}; change its mode, or --out") from error

    def _decide(self, found: Checkpoint, session: Session) -> Checkpoint | None:
        """The checkpoint to go on from, or None to start anew; raises rather than lose a run."""
        if self.resume:
            return found
        mine: dict[str, Any] = {**asdict(session.config), "text": session.corpus.text.sha256[:12]}
        mine["device"] = self.device  # a run begun on a GPU must not creep on without a word
        try:
            text = found.extra["text"]["sha256"][:12]
            theirs = {**asdict(Config.of(found.config)), "text": text}
            theirs["device"] = found.extra["notes"].get("device", self.device)
            step, total = found.position["step"], found.position["total"]
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.out}/{CHECKPOINT} is of another program") from error
        if theirs == mine:
            return found if step < total else None
        listed = ", ".join(f"{n} {theirs[n]} not {mine[n]}" for n in mine if theirs[n] != mine[n])
        raise DataError(
            f"{self.out} holds another run ({listed}; step {step:,} of {total:,}): --resume goes "
            f"on with it, --overwrite starts anew and moves it to {self.out}/{PREVIOUS}, --out DIR "
            "goes elsewhere"
        )

    def _restore(self, session: Session) -> None:
        """Take over the checkpoint; refuses a total that it has passed already."""
        session.restore(Path(self.out) / CHECKPOINT)
        if session.step > session.total:
            raise DataError(
                f"--epochs {session.config.epochs} is {session.total:,} updates, and the run in "
                f"{self.out} has done {session.step:,}; give --epochs "
                f"{math.ceil(session.step / session.windows)} or more"
            )


# The options beside configuration and text that --resume brings back.
_KEPT = ("encoding", "errors", "device", "sample_every", "save_every", "force")


def resumed(options: Train) -> Train:
    """The options as the run in --out was given them: the defaults for going on with it."""
    _check_named(options.out)
    path = Path(options.out) / CHECKPOINT
    if not path.exists():
        raise DataError(f"there is no {path} to go on with; leave --resume out to start")
    found = load_checkpoint(path)
    config = Config.of(found.config)
    try:
        notes = found.extra["notes"]
        kept = {name: notes[name] for name in _KEPT if name in notes}  # older ones kept fewer
        return Train(config, notes["text"], out=options.out, **kept)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} was not written by `tinygrad-rnn train`") from error


def _check_named(out: str) -> None:
    if not out:  # Path("") would be the current directory
        raise DataError("--out is empty; name a directory for the files of the run")


def _shown(path: str) -> str:
    """A path relative to the current directory if it is below it: the notes hold it whole."""
    whole = Path(path).absolute()
    below = path and whole.is_relative_to(Path.cwd())
    return str(whole.relative_to(Path.cwd())) if below else path


def _baselines(corpus: Corpus) -> dict[int, float]:
    """N-gram losses for n = 1 .. 6, as far as the text goes."""
    longest = min(6, len(corpus.train), len(corpus.validation))
    losses = ngram_losses(
        corpus.train, corpus.validation, len(corpus.vocabulary), range(1, longest + 1)
    )
    return {n: loss + 0.0 for n, loss in losses.items()}  # no "-0.000" for a certain text


def check_writable(out: Path, size: int) -> None:
    """Write as much as a checkpoint takes, and remove it: better to fail now than in an hour."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"--out {out} is, or lies below, a file; name a directory") from error
    with tempfile.TemporaryFile(dir=out) as file:
        block = bytes(1 << 20)
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
        file.flush()
        os.fsync(file.fileno())


def put_aside(out: Path) -> list[Path]:
    """Move the files of an earlier run to out/previous; returns those that were there.

    What `previous` held before is replaced: one earlier run is kept, not all of them.
    """
    found = [out / name for name in (CHECKPOINT, LOG, PICTURE) if (out / name).exists()]
    if not (out / CHECKPOINT).exists():  # the rest of a run that never came to its first save
        return []
    shutil.rmtree(out / PREVIOUS, ignore_errors=True)
    (out / PREVIOUS).mkdir()
    for path in found:
        path.replace(out / PREVIOUS / path.name)
    return found


def _memory() -> float:
    """Bytes of memory this machine has; infinity where it does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return math.inf


def _bytes(n: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n = n / 1000  # type: ignore[assignment] # to be printed
    return f"{n:,.1f} GB"
