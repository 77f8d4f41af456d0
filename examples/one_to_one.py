"""One to one: an image of a digit goes in, its class comes out. No sequence, no memory.

    python examples/one_to_one.py                   # a few seconds
    python examples/one_to_one.py --plot read.png   # and the images it gets wrong

This is the network that recurrent ones are to be compared with. It sees all 64 numbers at once,
and its weights are used once per image:

    hidden = tanh(W_1 x + b_1)          x: the 8 x 8 image as one vector
    scores = W_2 hidden + b_2           softmax(scores) = the probability of each digit

The sizes of what goes in and what comes out are fixed once and for all. `one_to_many.py` writes the
digit's name, three to five letters; `read_digits.py` reads the image piece by piece.

On such easy images remembering all of them and looking for the nearest does even better (99 %
against 98 %): it keeps 91,968 numbers and compares with each, the network keeps 4,810.
"""

import argparse
import time

import _door as door
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.data import load_digits
from tinygrad_rnn.nn.functional import cross_entropy
from tinygrad_rnn.viz import new_figure

HIDDEN, B = 64, 64


class Classifier(tg.nn.Module):
    def __init__(self, rng):
        self.hidden = tg.nn.Linear(64, HIDDEN, rng=rng)
        self.output = tg.nn.Linear(HIDDEN, 10, rng=rng)

    def forward(self, x):
        return self.output(tg.tanh(self.hidden(x)))  # (B, 64) -> (B, 10)


def read(model, x):
    """The most probable digit for each image."""
    with tg.no_grad():
        return model(tg.tensor(x)).numpy().argmax(axis=-1)


def nearest(places, labels, x):
    """The label of the place nearest to each image: (P, 64), (P,), (N, 64) -> (N,)."""
    # |x - p|^2 = |x|^2 - 2 x p + |p|^2, and |x|^2 is the same for every place.
    return labels[((places**2).sum(axis=1) - 2 * x @ places.T).argmin(axis=1)]


def baselines(x, y, held_out):
    """Guesses for the held-out images without learning any weights, by name."""
    means = np.stack([x[y == digit].mean(axis=0) for digit in range(10)])  # (10, 64)
    return {
        "always the commonest digit": np.full(len(held_out), np.bincount(y).argmax()),
        "nearest of the ten mean images": nearest(means, np.arange(10), held_out),
        f"nearest of all {len(x):,} images": nearest(x, y, held_out),
    }


def as_text(image):
    """Eight lines of characters, darker where there is more ink."""
    return ["".join(" .:*#"[int(ink * 4.99)] * 2 for ink in row) for row in image]


def draw(file, images, said, true):
    """The images that were misread first, then others, and over each what was said."""
    figure = new_figure(9, 5.6)
    order = np.argsort(said == true, kind="stable")[:32]
    for axes, i in zip(figure.subplots(4, 8).flat, order, strict=True):
        axes.imshow(images[i], cmap="gray_r", vmin=0, vmax=1)
        right = said[i] == true[i]
        axes.set_title(
            f"{said[i]}" if right else f"{said[i]}, is {true[i]}",
            color="#1f5f99" if right else "#c8401f", fontsize=11,
        )  # fmt: skip
        axes.set_axis_off()
    figure.suptitle("What it says to held-out images, the wrong ones first (in red)")
    figure.savefig(file, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=door.at_least(0), default=1500)
    parser.add_argument("--seed", type=door.at_least(0), default=0)
    parser.add_argument("--plot", type=door.picture, metavar="FILE", help="draw images and answers")
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    digits = load_digits()
    images, labels = digits.images[digits.train], digits.labels[digits.train]
    x = images.reshape(-1, 64)
    held_out, true = digits.images[digits.test], digits.labels[digits.test]
    model = Classifier(rng)
    optimizer = tg.optim.Adam(model.parameters(), lr=0.003)

    began = time.perf_counter()
    for update in range(options.updates):
        batch = rng.choice(len(x), B, replace=False)  # B images at random
        loss = cross_entropy(model(tg.tensor(x[batch])), labels[batch])  # mean of -log p(right)
        optimizer.zero_grad()
        loss.backward()
        tg.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if update % 300 == 0:
            print(f"update {update:4}: loss {float(loss):.3f}")
    seconds = time.perf_counter() - began

    said = read(model, held_out.reshape(-1, 64))
    some = [np.flatnonzero(true == digit)[0] for digit in (3, 6, 0, 9)]
    print(f"{options.updates} updates took {seconds:.1f} seconds\n")
    for lines in zip(*(as_text(held_out[i]) for i in some), strict=True):
        print("    ".join(lines))
    print("the network says: " + ", ".join(str(said[i]) for i in some))
    print(f"\nright on {len(true)} images it has never seen:")
    guesses = baselines(x, labels, held_out.reshape(-1, 64))
    for name, guess in {**guesses, "the network": said}.items():
        print(f"  {name:32} {np.mean(guess == true):6.1%}")
    if options.plot:
        draw(options.plot, held_out, said, true)
        print(f"picture {options.plot}")


if __name__ == "__main__":
    door.run(main)
