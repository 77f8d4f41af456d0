"""Pictures, drawn with matplotlib (``pip install "tinygrad_rnn[plot]"``) and without its pyplot.

pyplot keeps a list of open figures and chooses a window system for the whole program. A `Figure`
made by hand is an object like any other: nothing is opened, and no setting of yours is touched.
"""

from tinygrad_rnn.viz.curves import plot_training

__all__ = ["plot_training"]
