"""Anomaly mode: where the first value that is not finite came from.

A loss that is NaN says only that something went wrong some steps ago, in some layer. Within

    with tg.detect_anomaly():
        loss = ...
        loss.backward()

every recorded operation is looked at as it runs, and every gradient as it is passed on. The first
one that is not finite stops the program with a `NonFiniteError` that tells the op, the layer, the
time step, the line of the program, and what the numbers were like just before.

A recurrent layer is one fused op over a whole window, so the op alone says little. Its
*specification* says more: it is replayed on the same inputs, one plain op after the other. From the
bad result we walk back, from op to op, to the first whose operands are all finite, and that op has
a time step and a gate. (Not simply to the first infinity: one that a sigmoid turns into a 1 has
done no harm.)

A second thing is checked on the way. Each array that a rule saves gets a fingerprint, a hash of its
bytes, and it is taken again when the rule is about to run. That finds every change between forward
and backward, also those that no stamp shows (`core/clock.py`): on a GPU, or through another library
that shares the memory.

All of it is slow, and outside of the block nothing of it is there. The looking is done in
`core/watch.py`, the replaying in `core/replay.py`, the words are in `core/trace.py`.
"""

from __future__ import annotations

import numpy as np

from tinygrad_rnn.core.grad_mode import GradMode, recording
from tinygrad_rnn.core.replay import Replay
from tinygrad_rnn.core.watch import Watch


class detect_anomaly(GradMode):  # noqa: N801 - PyTorch's name
    """Within it (or in a function it decorates) the first NaN or infinity raises; this thread only.

    Args:
        nan_only: let infinities pass, for programs that mask with them on purpose.

    Raises:
        NonFiniteError: in the op or the backward pass that made the value; its attribute
            ``anomaly`` holds the facts one by one (`Anomaly`).
        SavedArrayChangedError: an array that a rule saved has other bytes now.

    Only operations that are recorded are looked at, and what enters them. Run forward and backward
    inside of the same block.
    """

    def __init__(self, *, nan_only: bool = False) -> None:
        self.nan_only = nan_only

    def switch(self) -> None:
        """Let a new watcher look. NumPy's warnings are silenced: it says the same in more words."""
        recording.errors.append(np.seterr(all="ignore"))
        recording.watch = Watch(self.nan_only, Replay)
        recording.enabled = recording.enabled and recording.watch

    def __exit__(self, *exc: object) -> None:
        np.seterr(**recording.errors.pop())
        super().__exit__(*exc)
