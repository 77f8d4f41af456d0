"""Many to one: a surname is read letter by letter; the last state says which language it is from.

    python examples/many_to_one.py                      # about half a minute

                                                 scores for ten languages
                                                    ^
    h_0 --> h_1 --> h_2 --> h_3 --> h_4 --> h_5 --> h_6
             ^       ^       ^       ^       ^       ^
             n       o       v       a       k       .          "." is the end of the name

Names have different lengths. They stand side by side in one batch, the shorter ones filled up, and
`lengths` tells the layer where each ends: its state stays that of its own last letter.

5,667 names are few for a network, and it would know them by heart. So letters are blanked out at
random, and after every letter it is asked two more things: which language so far, and which
letter next? The bar is counting: *naive Bayes* takes the language that makes the name's triples of
letters likeliest. On so few names that is hard to beat.
"""

import argparse
import time
from collections import Counter

import _door as door
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.data import Vocabulary, load_surnames
from tinygrad_rnn.nn.functional import cross_entropy, dropout

HIDDEN, EMBEDDING, B = 128, 32, 128
BLANKED = 0.2  # the share of letters that the network may not see, in training
VOCABULARY = Vocabulary("_abcdefghijklmnopqrstuvwxyz.")  # _: blanked, or nothing; . : the end
END = len(VOCABULARY) - 1


class Reader(tg.nn.Module):
    def __init__(self, languages, rng):
        self.rng = rng
        self.embedding = tg.nn.Embedding(len(VOCABULARY), EMBEDDING, rng=rng)
        self.gru = tg.nn.GRU(EMBEDDING, HIDDEN, rng=rng)
        self.language = tg.nn.Linear(HIDDEN, languages, rng=rng)
        self.next_letter = tg.nn.Linear(HIDDEN, len(VOCABULARY), rng=rng)

    def forward(self, ids, lengths):
        out, h = self.gru(ids, lengths=lengths, table=self.embedding.weight)
        out, h = (dropout(s, 0.5, training=self.training, rng=self.rng) for s in (out, h[0]))
        # out (T, B, H): the states after every letter; h (B, H): each name's own last one.
        return self.language(h), self.language(out), self.next_letter(out)


def batch_of(names):
    """Names as ids (T, B), filled up to the longest of them, and their lengths (B,)."""
    lengths = np.array([len(name) + 1 for name in names])
    text = "".join(f"{name}.".ljust(lengths.max(), "_") for name in names)
    return VOCABULARY.encode(text).reshape(len(names), -1).T, lengths


def naive_bayes(train, names, languages, n=3, add=0.1):
    """log p(language) + the log p(triple of letters | language) of all triples in the name."""

    def grams(name):
        padded = "." * (n - 1) + name + "."
        return [padded[i : i + n] for i in range(len(padded) - n + 1)]

    counts = [Counter() for _ in range(languages)]
    for name, label in train:
        counts[label].update(grams(name))
    prior = np.log(np.bincount([label for _, label in train], minlength=languages) / len(train))
    totals = np.array([c.total() + add * len(set().union(*counts)) for c in counts])
    tables = [[np.log([c[g] + add for c in counts] / totals) for g in grams(x)] for x in names]
    return [np.argmax(prior + sum(table)) for table in tables]


def guesses(model, names):
    """Probabilities (B, languages) after the whole name, and (T, B, languages) on the way."""
    model.eval()
    with tg.no_grad():
        last, so_far, _ = model(*batch_of(names))
        return tg.softmax(last, axis=-1).numpy(), tg.softmax(so_far, axis=-1).numpy()


def report(model, test, languages):
    """Single names with the three best guesses, one name letter by letter, and the confusions."""
    names, labels = [name for name, _ in test], np.array([label for _, label in test])
    p, _ = guesses(model, names)
    print("\nnames it has never seen, and what it takes them for:")
    for k in range(10):
        best = "   ".join(f"{languages[j]:8} {p[k, j]:4.0%}" for j in np.argsort(-p[k])[:3])
        mark = " " if p[k].argmax() == labels[k] else "x"
        print(f"{mark} {names[k]:15} {languages[labels[k]]:9}: {best}")
    longest = max(names, key=len)
    print(f"\n{longest} ({languages[labels[names.index(longest)]]}), letter by letter:")
    for t, now in enumerate(guesses(model, [longest])[1][:, 0], 1):
        print(f"  {(longest + '.')[:t]:18} {languages[now.argmax()]:9} {now.max():4.0%}")
    said = p.argmax(axis=1)
    print("\nright, by language, and what the others were taken for most often:")
    for k, language in enumerate(languages):
        wrong = Counter(said[(labels == k) & (said != k)].tolist()).most_common(2)
        others = ", ".join(f"{languages[j]} {count}" for j, count in wrong)
        print(f"  {language:9} {np.mean(said[labels == k] == k):4.0%} of {(labels == k).sum():3}"
              f"   {others}")  # fmt: skip
    return np.mean(said == labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=door.at_least(0), default=1000)
    parser.add_argument("--seed", type=door.at_least(0), default=0)
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    surnames = load_surnames()
    train, test, languages = surnames.train, surnames.test, surnames.languages
    print(f"{len(train):,} names to learn from, {len(test):,} held out, {len(languages)} languages")
    model = Reader(len(languages), rng)
    optimizer = tg.optim.Adam(model.parameters(), lr=0.005)
    schedule = tg.optim.CosineAnnealingLR(optimizer, T_max=max(options.updates, 1))

    began = time.perf_counter()
    for update in range(1, options.updates + 1):
        names, labels = zip(*(train[i] for i in rng.integers(len(train), size=B)), strict=True)
        ids, lengths = batch_of(names)  # (T, B), (B,)
        seen = np.where((rng.random(ids.shape) < BLANKED) & (ids < END), 0, ids)
        last, so_far, following = model(seen, lengths)
        # -100: nothing is asked there, after the end of a name.
        asked = np.where(np.arange(len(ids))[:, np.newaxis] < lengths, labels, -100)
        after = np.where(ids[1:] > 0, ids[1:], -100)
        loss = cross_entropy(last, labels, label_smoothing=0.1)
        loss = loss + (cross_entropy(so_far, asked) + cross_entropy(following[:-1], after)) / 2
        optimizer.zero_grad()
        loss.backward()
        tg.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if update % 250 == 0:
            print(f"update {update:4}: loss {float(loss):.3f}, {time.perf_counter() - began:.0f} s")

    right = report(model, test, languages)
    labels = np.array([label for _, label in test])
    top = np.bincount([label for _, label in train]).argmax()
    counting = naive_bayes(train, [name for name, _ in test], len(languages))
    print(f"\nright on held-out names:\n  always {languages[top]:22} {np.mean(labels == top):6.1%}")
    print(f"  naive Bayes on letter triples {np.mean(labels == counting):6.1%}")
    print(f"  the network                   {right:6.1%}")


if __name__ == "__main__":
    door.run(main)
