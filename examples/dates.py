"""Many to many, reading first and writing then: a date in words becomes one in the ISO form.

    python examples/dates.py                        # about a quarter of a minute

        the encoder reads                      the decoder writes   2    0    2    5
                                                                    ^    ^    ^    ^
    0 --> h_1 --> h_2 --> h_3 --> ... --> h_N  ----------------->  s_1->s_2->s_3->s_4-> ...
           ^       ^       ^               ^    the whole date      ^    ^    ^    ^
           3      " "      M               5    in one state        >    2    0    2

Two LSTMs: where the first one ends, the second one begins, and nothing else passes from one to the
other (Sutskever et al. 2014; Cho et al. 2014). While learning, the decoder is given the right
character before each that it has to write (*teacher forcing*), so all ten steps are one call.
Later nobody knows what is right, and it reads its own output.

Every tenth of the dates from 1900 to 2099 is held out, in all its forms. The bars: any one date,
always (each is as common as any other), and at each of the ten places the commonest character.
"""

import argparse
import time

import _door as door
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.data import Vocabulary, date_pairs, split_dates, write_date
from tinygrad_rnn.data.dates import FORMS
from tinygrad_rnn.nn.functional import cross_entropy

HIDDEN, EMBEDDING, B = 128, 32, 64
ISO = Vocabulary("0123456789->")  # > : begin to write
START, LENGTH = ISO.encode(">"), len("2025-03-03")


class Translator(tg.nn.Module):
    def __init__(self, words, rng):
        self.words = words  # the vocabulary of what is read
        self.read_embedding = tg.nn.Embedding(len(words), EMBEDDING, rng=rng)
        self.encoder = tg.nn.LSTM(EMBEDDING, HIDDEN, rng=rng)
        self.write_embedding = tg.nn.Embedding(len(ISO), EMBEDDING, rng=rng)
        self.decoder = tg.nn.LSTM(EMBEDDING, HIDDEN, rng=rng)
        self.output = tg.nn.Linear(HIDDEN, len(ISO), rng=rng)

    def read(self, texts):
        """The state after the last character of each text; the shorter ones are filled up."""
        lengths = np.array([len(text) for text in texts])
        filled = "".join(text.ljust(lengths.max()) for text in texts)
        ids = self.words.encode(filled).reshape(len(texts), -1).T  # (N, B)
        _, state = self.encoder(ids, lengths=lengths, table=self.read_embedding.weight)
        return state

    def step(self, ids, state):
        """Scores for what follows each of the characters `ids` (T, B): (T, B, 12)."""
        out, state = self.decoder(ids, state, table=self.write_embedding.weight)
        return self.output(out), state

    def forward(self, texts, right):
        """Scores at every place, given the right characters (10, B) before it."""
        before = np.concatenate([np.broadcast_to(START, (1, len(texts))), right[:-1]])
        return self.step(before, self.read(texts))[0]

    def translate(self, texts):
        """The most probable character at each place, which is then read for the next."""
        ids, written = np.broadcast_to(START, (1, len(texts))), []
        with tg.no_grad():
            state = self.read(texts)
            for _ in range(LENGTH):
                scores, state = self.step(ids, state)
                ids = scores.numpy().argmax(axis=-1)  # (1, B)
                written.append(ids[0])
        return [ISO.decode(row) for row in np.stack(written, axis=1)]


def encode(isos):
    """ISO dates as ids (10, B)."""
    return ISO.encode("".join(isos)).reshape(len(isos), LENGTH).T


def share(guesses, right):
    """How many of the dates are right as a whole, and how many of their characters."""
    same = encode(guesses) == encode(right)  # (10, N)
    return same.all(axis=0).mean(), same.mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=door.at_least(0), default=450)
    parser.add_argument("--seed", type=door.at_least(0), default=0)
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    train, test = split_dates()
    held_out, right = zip(*date_pairs(2000, test, rng=1), strict=True)
    words = Vocabulary.of("".join(write_date(d, f) for d in train[:2000] for f in FORMS))
    model = Translator(words, rng)
    optimizer = tg.optim.Adam(model.parameters(), lr=0.008)
    schedule = tg.optim.CosineAnnealingLR(optimizer, T_max=max(options.updates, 1))
    print(f"{len(train):,} dates to learn from, {len(test):,} held out, {len(FORMS)} forms")

    began = time.perf_counter()
    for update in range(1, options.updates + 1):
        texts, isos = zip(*date_pairs(B, train, rng=rng), strict=True)
        targets = encode(isos)  # (10, B)
        loss = cross_entropy(model(texts, targets), targets)
        optimizer.zero_grad()
        loss.backward()  # back through the ten characters written, and all that were read
        tg.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if update % 100 == 0 or update == options.updates:
            whole, _ = share(model.translate(held_out[:500]), right[:500])
            print(f"update {update:3}: loss {float(loss):.4f} nats per character, held-out dates "
                  f"right {whole:6.1%}, {time.perf_counter() - began:.0f} s")  # fmt: skip

    print("\ndates it has never seen:")
    day = test[0]
    texts = [write_date(day, form) for form in FORMS]
    for text, iso in zip(texts, model.translate(texts), strict=True):
        print(f"  {text:40} {iso} {'' if iso == day.isoformat() else 'x'}")

    places = encode([d.isoformat() for d in train])  # (10, N)
    majority = ISO.decode([np.bincount(place).argmax() for place in places])
    print(f"\nright on {len(right):,} held-out dates          as a whole   characters")
    for name, guess in {
        f"one date, always ({train[0]})": [train[0].isoformat()] * len(right),
        "commonest character per place": [majority] * len(right),
        "the network": model.translate(held_out),
    }.items():
        whole, characters = share(guess, right)
        print(f"  {name:32} {whole:10.2%} {characters:12.2%}")


if __name__ == "__main__":
    door.run(main)
