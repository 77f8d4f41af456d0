"""A character-level language model, with the whole training loop in the open.

    python examples/char_lm.py                      # about half a minute
    python examples/char_lm.py --text FILE          # on a text of yours
    python examples/char_lm.py --steps 50           # only to see it run

The network reads a text one character at a time and learns to say which comes next. The text is
far too long to differentiate through at once, so it is read in windows:

    window 1            window 2            window 3
    |---- T steps ----| |---- T steps ----| |---- T steps ----|
    state ------------> state ------------> state ------------>     carried on: a long memory
    <------ gradient    <------ gradient    <------ gradient        cut by detach: short graphs

This is *truncated back-propagation through time*. `tinygrad_rnn.TBPTT` is the same loop with more
cases; `tinygrad-rnn train` adds checkpoints, validation during training and pictures.
"""

import argparse
import time

import _door as door
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.data import Streams, Vocabulary, load_text, ngram_losses, split
from tinygrad_rnn.nn.functional import cross_entropy

T, B = 50, 32  # characters in a window, and windows side by side: 32 places of the text at once
HIDDEN, EMBEDDING = 128, 32


class CharModel(tg.nn.Module):
    """Characters to vectors, vectors to a state, state to a score for each next character."""

    def __init__(self, symbols, rng):
        self.embedding = tg.nn.Embedding(symbols, EMBEDDING, rng=rng)
        self.lstm = tg.nn.LSTM(EMBEDDING, HIDDEN, rng=rng)
        self.output = tg.nn.Linear(HIDDEN, symbols, rng=rng)

    def forward(self, ids, state=None):
        vectors = self.embedding(ids)  # (T, B) -> (T, B, EMBEDDING)
        outputs, state = self.lstm(vectors, state)  # (T, B, HIDDEN)
        return self.output(outputs), state  # (T, B, symbols)


def windows(streams):
    """The windows of the text, again and again; at each beginning there is nothing to remember."""
    while True:
        state_is_new = True
        for x, y in streams:  # (T, B) each; y is x one character ahead
            yield x, y, state_is_new
            state_is_new = False


def write(model, vocabulary, prompt, length, rng, temperature=0.7):
    """Let the model write: draw a character from its prediction, read that one, and go on."""
    text, state = prompt, None
    ids = vocabulary.encode(prompt)
    with tg.no_grad():
        for _ in range(length):
            scores, state = model(ids[:, np.newaxis], state)  # the prompt first, then one by one
            last = scores[-1, 0].numpy().astype(np.float64) / temperature
            p = np.exp(last - last.max())
            ids = rng.choice(len(vocabulary), size=1, p=p / p.sum())
            text += vocabulary.decode(ids)
    return text


def measure(model, streams):
    """The mean loss on a text that was not trained on, in nats per character."""
    total, state = 0.0, None
    with tg.no_grad():
        for x, y in streams:
            scores, state = model(x, state)
            total += float(cross_entropy(scores, y))
    return total / len(streams)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", help="a text file; without it, Python's language reference")
    parser.add_argument("--steps", type=door.at_least(0), default=780)
    parser.add_argument("--seed", type=door.at_least(0), default=0)
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    text = load_text(options.text)
    vocabulary = Vocabulary.of(text.text)
    parts = split(vocabulary.encode(text.text))
    train, validation = (Streams(part, batch=B, window=T) for part in parts)
    model = CharModel(len(vocabulary), rng)
    optimizer = tg.optim.Adam(model.parameters(), lr=0.005)
    prompt = text.text[:4]  # "The " of the default; of any text, characters that it has
    print(f"{len(text.text):,} characters, {len(vocabulary)} different ones\n")

    state, began = None, time.perf_counter()
    steps = range(1, options.steps + 1)
    for step, (x, y, state_is_new) in zip(steps, windows(train), strict=False):
        if state_is_new:
            state = None
        scores, state = model(x, state)
        loss = cross_entropy(scores, y)  # -log p(right character), the mean over T x B of them
        optimizer.zero_grad()
        loss.backward()  # through this window only, because ...
        state = tuple(s.detach() for s in state)  # ... the state forgets how it was computed
        # One bad window can have a gradient a thousand times as long as the others: keep its
        # direction, limit its length.
        norm = tg.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 195 == 0 or step == options.steps:
            speed = step * T * B / (time.perf_counter() - began)
            print(f"step {step}: loss {float(loss):.3f} nats per character, gradient "
                  f"{float(norm):.2f}, {speed:,.0f} characters per second")  # fmt: skip
            print(write(model, vocabulary, prompt, 150, rng), "\n")

    print(f"validation loss {measure(model, validation):.3f} nats per character")
    grams = ngram_losses(*parts, len(vocabulary), orders=range(1, 6))
    counted = ", ".join(f"{n}-gram {loss:.3f}" for n, loss in grams.items())
    print(f"what counting alone reaches there: {counted}")


if __name__ == "__main__":
    door.run(main)
