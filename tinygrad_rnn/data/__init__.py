"""What networks are trained on here: texts as character ids, tasks with known answers, small sets.

The way of a text through this package, each step one small object:

    text = load_text()                                  # or load_text("war_and_peace.txt")
    vocabulary = Vocabulary.of(text.text)               # character <-> id
    train, validation = split(vocabulary.encode(text.text))
    for x, y in Streams(train, batch=32, window=50):    # (T, B) each, y one character ahead
        ...

`ngram_losses` says how well plain counting does on the same split: the bar a network must clear.

`load_digits` has images of handwritten digits: the examples show the shapes of sequences with them.
`load_surnames`, `load_sunspots` and `date_pairs` have sequences to name, to continue, to translate.

`tasks` has puzzles made to order, in which it is known how far back a network must remember.
"""

from tinygrad_rnn.data import tasks
from tinygrad_rnn.data.dates import date_pairs, split_dates, write_date
from tinygrad_rnn.data.digits import Digits, load_digits
from tinygrad_rnn.data.ngram import ngram_losses
from tinygrad_rnn.data.streams import Streams, split
from tinygrad_rnn.data.sunspots import Sunspots, load_sunspots
from tinygrad_rnn.data.surnames import Surnames, load_surnames
from tinygrad_rnn.data.text import Text, Vocabulary, load_text

__all__ = [
    "Digits",
    "Streams",
    "Sunspots",
    "Surnames",
    "Text",
    "Vocabulary",
    "date_pairs",
    "load_digits",
    "load_sunspots",
    "load_surnames",
    "load_text",
    "ngram_losses",
    "split",
    "split_dates",
    "tasks",
    "write_date",
]
