"""Running a program of examples/ as a person would: a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def example(name, *options, status=0, before=None):
    """What it prints; or, where it is to fail with `status`, what it complains about.

    `before` is a folder whose modules are found before those that are installed.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name), *options],
        capture_output=True,
        text=True,
        timeout=120,
        # One thread: on a busy machine those of a small product wait for each other.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [before, ROOT] if before else [ROOT])),
            "PYTHONIOENCODING": "utf-8",
            "OPENBLAS_NUM_THREADS": "1",
        },
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert (done.stderr == "") == (status == 0), done.stderr
    return done.stdout if status == 0 else done.stderr
