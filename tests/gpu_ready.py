"""Before `make test-gpu`: is there a GPU to test on, and what the tests need?

pytest is content with a run in which every test was skipped; a person who asked for the GPU is not.
So what is missing is said here, on standard error, and the exit code ends the task. Where all is
there, standard output gets the options for pytest. A Python with CUDA in it is often full of other
people's pytest plugins, which are left out (`PYTEST_DISABLE_PLUGIN_AUTOLOAD`): ours are named. With
pytest-xdist several processes share the GPU, since small tests wait for Python, not for the device.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version

NEEDED = ("numpy", "safetensors", "tqdm", "tyro", "pytest", "hypothesis")
PYTEST = 9  # pyproject.toml has settings that older ones do not read
XDIST = "xdist"  # a name, so that a test can take it away


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def lacking() -> list[str]:
    """What has to be installed."""
    names = [name for name in NEEDED if not installed(name)]
    if "pytest" not in names and int(version("pytest").partition(".")[0]) < PYTEST:
        names.append(f"pytest>={PYTEST} (it has {version('pytest')})")
    return names


def main() -> int:
    if names := lacking():
        print(
            f"{sys.executable} lacks {', '.join(names)}; install that, or name another Python: "
            "make test-gpu GPU_PYTHON=/path/to/python",
            file=sys.stderr,
        )
        return 1
    from tinygrad_rnn.backends.cuda_trouble import diagnose

    if trouble := diagnose():
        print(f"No GPU can be used from {sys.executable}: {trouble}", file=sys.stderr)
        return 1
    parallel = " -p xdist.plugin -n 8" if installed(XDIST) else ""
    print(f"-p _hypothesis_pytestplugin{parallel}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
