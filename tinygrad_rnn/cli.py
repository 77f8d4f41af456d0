"""The command ``tinygrad-rnn``: train, sample, check, devices.

Each subcommand is a frozen dataclass: its fields are the options, their comments the help, and its
``run`` does the work. One place, `main`, turns what goes wrong into one line and an exit code:

    0        done; also where the reader had enough (``| head``)
    1        `check` found a gradient that is wrong
    2        bad input: an option, a text, a checkpoint; nothing has been written. Or too little
             memory, which may show in the middle of a run; the last checkpoint is kept
    3        training diverged: a NaN, an infinity, or a loss far above that of guessing; the last
             checkpoint is kept
    4        could not write: disk full, read-only, ...; the old file is kept
    130, 143 interrupted by Ctrl-C (SIGINT) or SIGTERM; from its first update on, `train` has saved
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from tinygrad_rnn import backends
from tinygrad_rnn._cli_check import Check
from tinygrad_rnn._cli_run import CHECKPOINT
from tinygrad_rnn._cli_screen import escaped, fail, prepare_streams, silence
from tinygrad_rnn._cli_train import Train, resumed
from tinygrad_rnn.char_lm import CharModel, generate
from tinygrad_rnn.checkpoint import load_checkpoint
from tinygrad_rnn.data import Vocabulary
from tinygrad_rnn.errors import (
    BackendUnavailable,
    CheckpointError,
    DataError,
    DeviceError,
    NonFiniteError,
)
from tinygrad_rnn.training import Config, model_from

BAD_INPUT, DIVERGED, CANNOT_WRITE, INTERRUPTED = 2, 3, 4, 130


@dataclass(frozen=True)
class Sample:
    """Let a trained model write; the text goes to standard output as it is made."""

    checkpoint: tyro.conf.Positional[str]
    """A checkpoint, or the directory of a run."""
    prompt: str = ""
    """What to continue. Empty: the start of a line."""
    length: int = 500
    """Characters to write."""
    temperature: float = 0.7
    """1: as the model believes; less: more careful; 0: always the most probable character."""
    seed: int | None = None
    """Seed of the random numbers; without one, every text is another."""
    device: str = "cpu"
    """Where to compute."""

    def run(self) -> int:
        """Load, continue the prompt, and stream."""
        if self.seed is not None and self.seed < 0:
            raise DataError(f"seed is a whole number >= 0, got {self.seed}")
        backends.get(self.device)
        model, vocabulary = self._loaded()
        characters = generate(
            model,
            vocabulary,
            prompt=self.prompt,
            length=self.length,
            temperature=self.temperature,
            rng=np.random.default_rng(self.seed),
        )
        # A text may hold what a terminal takes for commands; a file gets every character as it is.
        shown = escaped if sys.stdout.isatty() else str
        print(shown(self.prompt), end="", flush=True)
        for character in characters:
            print(shown(character), end="", flush=True)
        print(flush=True)
        return 0

    def _loaded(self) -> tuple[CharModel, Vocabulary]:
        path = Path(self.checkpoint)
        path = path / CHECKPOINT if path.is_dir() else path
        try:
            found = load_checkpoint(path)
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror}; give a checkpoint, or the --out of a "
                "training run"
            ) from error
        if not found.vocabulary:
            raise CheckpointError(f"{path} holds no vocabulary; it is no character model")
        vocabulary = Vocabulary(found.vocabulary)
        model = model_from(Config.of(found.config), len(vocabulary), device=self.device)
        model.load_state_dict(found.model)
        return model, vocabulary


@dataclass(frozen=True)
class Devices:
    """List the devices that can be used, and why others cannot."""

    def run(self) -> int:
        """Print one line per device."""
        for device in backends.devices():
            print(f"{device.name:8}  {'usable' if device.usable else 'no':6}  {device.detail}")
        return 0


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Devices, tyro.conf.subcommand("devices")]
)


def parse(argv: Sequence[str]) -> Any:
    """The command that `argv` asks for. A run that is resumed brings its own defaults."""
    command: Any = tyro.cli(
        Command,
        args=argv or ["--help"],
        prog="tinygrad-rnn",
        description="Train a recurrent network on a text, and let it write.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if isinstance(command, Train) and command.resume and not command.overwrite:
        command = tyro.cli(
            Train,
            args=argv[1:],
            default=resumed(command),
            prog="tinygrad-rnn train",
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    prepare_streams()
    code = 0
    try:
        try:
            code = _outcome(sys.argv[1:] if argv is None else list(argv))
        finally:
            sys.stdout.flush()  # what cannot be written must be found here, not at exit
    except BrokenPipeError:  # the reader has had enough: `... | head`
        silence()
    except OSError as error:
        silence()
        fail(f"cannot write: {error}")
        return CANNOT_WRITE
    return code


def _outcome(argv: Sequence[str]) -> int:
    """The exit code of a command, with one line on standard error for what went wrong."""
    if argv[:1] == ["--version"]:
        # The package is asked when it is whole; importing it above would be a circle.
        print(f"tinygrad-rnn {sys.modules['tinygrad_rnn'].__version__}")
        return 0
    command: Any = None
    try:
        command = parse(argv)
        code: int = command.run()
    except (DataError, CheckpointError, BackendUnavailable, DeviceError) as error:
        fail(str(error))
        return BAD_INPUT
    except MemoryError as error:  # NumPy's names the size and the shape
        fail(f"out of memory: {str(error) or 'the system gave no more'}; use a smaller --hidden, "
             "--batch or --k1, or a device with more memory")  # fmt: skip
        return BAD_INPUT
    except NonFiniteError as error:
        fail(str(error))
        return DIVERGED
    except BrokenPipeError:
        raise
    except OSError as error:
        kept = Path(getattr(command, "out", "")) / CHECKPOINT
        intact = isinstance(command, Train) and kept.exists()
        fail(f"cannot write: {error}" + (f"; {kept} is intact" if intact else ""))
        return CANNOT_WRITE
    except KeyboardInterrupt:
        print()
        return INTERRUPTED
    return code
