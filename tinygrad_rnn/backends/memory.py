"""Keeping freed memory for the next training step.

A step makes arrays of some tens of megabytes and frees them at its end, dozens of times a second.
The C library gives such blocks back to the operating system at once, which hands them out again
page by page, each filled with zeros first: 12 of the 92 ms of an LSTM step (T=100, B=32, H=256, two
AMD cores, NumPy 2.4.6). Told to keep up to 512 MB, it need not.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h of the GNU C library
KEEP = 512 * 2**20  # bytes of free memory the process may hold on to


def keep_freed_memory() -> bool:
    """Ask the C library to reuse large blocks; False where it has no such setting.

    The setting holds for the whole process. Peak memory stays as it is: what is kept was in use.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no GNU C library: macOS, Windows, musl
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEEP) and mallopt(M_TRIM_THRESHOLD, KEEP))
