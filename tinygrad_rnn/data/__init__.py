"""Text in, arrays of character ids out: what a character language model trains on.

The way of a text through this package, each step one small object:

    text = load_text()                                  # or load_text("war_and_peace.txt")
    vocabulary = Vocabulary.of(text.text)               # character <-> id
    train, validation = split(vocabulary.encode(text.text))
    for x, y in Streams(train, batch=32, window=50):    # (T, B) each, y one character ahead
        ...

`ngram_losses` says how well plain counting does on the same split: the bar a network must clear.
"""

from tinygrad_rnn.data.ngram import ngram_losses
from tinygrad_rnn.data.streams import Streams, split
from tinygrad_rnn.data.text import Text, Vocabulary, load_text

__all__ = ["Streams", "Text", "Vocabulary", "load_text", "ngram_losses", "split"]
