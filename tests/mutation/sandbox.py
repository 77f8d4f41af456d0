"""A private copy of the project, in which one mutant at a time is tested.

The working tree is never written to. Three things could make a result mean nothing, and each is
closed here:

* **The wrong package is tested.** The package is usually installed in place, so that ``import``
  leads back to the working tree. ``PYTHONPATH`` puts the copy first, and `Sandbox` asks a new
  interpreter where its import came from before any test runs.
* **Old bytecode is run.** Python takes a cached ``.pyc`` for current if size and second of the
  source agree, and ``+`` for ``-`` changes neither. Whenever a file is written, its cache goes.
* **A crash counts as a kill.** Only tests that ran and failed kill a mutant. What else can end
  pytest (a syntax error, nothing selected), or fail a test (a kernel that no longer compiles), is
  a mistake of the table: *invalid*.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutant import Mutant

PACKAGE = "tinygrad_rnn"
# Not copied: what git ignores, and the tests of the table itself. Those read the sources for the
# texts to be replaced, and would kill every mutant without running a line of it.
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".venv-cupy", "venv", "runs", "build", "dist", "*.egg-info",
    "__pycache__", ".hypothesis", ".*_cache", "htmlcov", "mutation", "test_mutation.py",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How one run of pytest ended.

    Attributes:
        verdict: "passed", "failed", "timeout" or "invalid".
        seconds: how long it took.
        detail: the first test that failed, or what pytest had to say instead.
    """

    verdict: str
    seconds: float
    detail: str = ""

    @property
    def killed(self) -> bool:
        return self.verdict in ("failed", "timeout")


class Sandbox:
    """A copy of the project below `home`, and the means to run its tests."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = home / "project"
        shutil.copytree(root, self.root, ignore=LEFT_OUT, symlinks=True)
        plugins = home / "plugins"
        plugins.mkdir()
        shutil.copy(Path(__file__).with_name("profile.py"), plugins / "mutants_profile.py")
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self.root), str(plugins)]),
            "COLUMNS": "300",  # of pytest's last words, which end with the kind of error
            "HYPOTHESIS_STORAGE_DIRECTORY": str(home / "hypothesis"),
            # One core each: the workers are the parallelism.
            **dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
        }
        self._running: subprocess.Popen[str] | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._check_import(home)

    def _check_import(self, elsewhere: Path) -> None:
        """Make sure that ``import`` finds this copy, from outside of it too."""
        code = f"import {PACKAGE}, tests; print({PACKAGE}.__file__); print(tests.__file__)"
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=elsewhere, env=self.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for file in run.stdout.split("\n")[:2]:
            if not Path(file).resolve().is_relative_to(self.root.resolve()):
                raise RuntimeError(f"the copy in {self.root} is not what is imported: {file} is")

    # ---- one mutant at a time ----

    @contextlib.contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """Within it, the copy has the mistake."""
        file = self.root / PACKAGE / mutant.file
        right = file.read_text(encoding="utf-8")
        self._write(file, mutant.applied(right))
        try:
            yield
        finally:
            if not self._closed:
                self._write(file, right)

    @staticmethod
    def _write(file: Path, text: str) -> None:
        file.write_text(text, encoding="utf-8")
        Path(importlib.util.cache_from_source(file)).unlink(missing_ok=True)

    # ---- running its tests ----

    def pytest(self, selection: Sequence[str], limit: float) -> Outcome:
        """Run the selected tests (none: all) until the first failure, for `limit` seconds at most.

        Shrinking is left out to be quick (`profile.py`). The whole suite runs just as elsewhere:
        it has the last word, and some tests are about what shrinking finds.

        Raises:
            InterruptedError: the sandbox was closed meanwhile.
        """
        profile = "mutants" if selection else "ci"
        start = time.perf_counter()
        with self._lock:
            if self._closed:
                raise InterruptedError("the sandbox is closed")
            process = self._running = subprocess.Popen(
                [
                    sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "--no-header",
                    "-p", "no:cacheprovider", "-p", "mutants_profile",
                    f"--hypothesis-profile={profile}", *selection,
                ],
                cwd=self.root, env=self.environment, text=True, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            self._kill()
            process.communicate()
            return Outcome("timeout", time.perf_counter() - start, f"no end in {limit:.0f} s")
        finally:
            self._running = None
        if self._closed:
            raise InterruptedError("the sandbox is closed")
        return _read(process.returncode, output, time.perf_counter() - start)

    def _kill(self) -> None:
        """End pytest and whatever it started."""
        with contextlib.suppress(ProcessLookupError, AttributeError):
            os.killpg(self._running.pid, signal.SIGKILL)

    def close(self) -> None:
        """Stop what is running, and start nothing any more."""
        with self._lock:
            self._closed = True
            if self._running is not None:
                self._kill()


def _read(code: int, output: str, seconds: float) -> Outcome:
    """What pytest's exit code and last words mean."""
    lines = output.strip().splitlines()
    if code == 0:
        return Outcome("passed", seconds)
    failed = [line.removeprefix("FAILED ") for line in lines if line.startswith("FAILED ")]
    if code == 1 and failed:  # "- AssertionError ..." follows the test's name
        test, _, error = failed[0].partition(" - ")
        return Outcome("invalid" if "CompileError" in error else "failed", seconds, test)
    return Outcome("invalid", seconds, f"pytest ended with {code}: {' | '.join(lines[-4:])}")
