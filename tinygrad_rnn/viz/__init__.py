"""Pictures, drawn with matplotlib (``pip install "tinygrad_rnn[plot]"``) and without its pyplot.

pyplot keeps a list of open figures and chooses a window system for the whole program. A `Figure`
made by hand is an object like any other: nothing is opened, and no setting of yours is touched.
A graph is drawn as text, and that needs no library.
"""

from tinygrad_rnn.viz.curves import plot_training
from tinygrad_rnn.viz.figure import check_picture, new_figure
from tinygrad_rnn.viz.graph import graph_lines, graph_text

__all__ = ["check_picture", "graph_lines", "graph_text", "new_figure", "plot_training"]
