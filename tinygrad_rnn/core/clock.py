"""One counter: of operations that were carried out, and of writes to arrays.

Every node of a graph takes a number when it is made. An operation is always younger than its
inputs, so walking from high numbers to low ones meets every node after all of its users: that is
the order of the backward sweep.

A write takes a number from the same counter, and so the two can be compared:

    7   multiply saves w for its rule
    9   the optimizer writes into w
        backward through 7: the rule would work with a w that is younger than it, 9 > 7

Going forward this costs nothing: a node keeps no version of what it saved. Going backward it is one
comparison for the whole graph, as long as nothing was written since its oldest node was made.

The stamp belongs to the memory, not to the array: a view of w, ``w.T`` say, has changed with it.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import Any

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array

next_number = itertools.count(1).__next__  # one C call: safe between threads


class _Writes:
    """The last write to each memory that was ever written to, and the last of all."""

    def __init__(self) -> None:
        self.last = 0
        self.lock = threading.Lock()
        # id of the owner -> [weak reference, number]. The reference removes the entry when the
        # owner dies, so that another object at the same address does not inherit its history.
        self.entries: dict[int, list[Any]] = {}


writes = _Writes()


def stamp(array: Array) -> None:
    """Note that the memory of `array` is about to be written to."""
    owner = backends.of(array).owner(array)
    key = id(owner)
    with writes.lock:  # so that `last` never goes back to an older number
        number = next_number()
        entry = writes.entries.get(key)
        if entry is None:
            forget = weakref.ref(owner, lambda _: writes.entries.pop(key, None))
            writes.entries[key] = [forget, number]
        else:
            entry[1] = number
        writes.last = number


def written(array: Array) -> int:
    """The number of the last write to the memory of `array`; 0 if there was none."""
    entry = writes.entries.get(id(backends.of(array).owner(array)))
    return 0 if entry is None else int(entry[1])
