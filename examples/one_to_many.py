"""One to many: an image of a digit goes in, its English name comes out, letter by letter.

    python examples/one_to_many.py                      # a few seconds
    python examples/one_to_many.py --plot names.png     # images and what it writes for them

    letters            s        i        x        .           "." ends a name, and begins it
                       ^        ^        ^        ^
    (h_0, c_0) ----> LSTM --> LSTM --> LSTM --> LSTM
        ^              ^        ^        ^        ^
      image            .        s        i        x

The image is seen once: a layer turns it into the first state, and all letters come from there. In
training each step is given the *right* letter, so that one window does the whole name (*teacher
forcing*); in use it reads what it has just written itself. Six and seven, two and three, four and
five begin alike: the letters do not say which it was, the state has to remember.
"""

import argparse
import time

import _door as door
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.data import Vocabulary, load_digits
from tinygrad_rnn.nn.functional import cross_entropy
from tinygrad_rnn.viz import new_figure

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
END = "."
LETTERS = Vocabulary(END + "".join(sorted(set("".join(NAMES)))))
T = max(len(name) for name in NAMES) + 1  # the longest name and its end
NOTHING = -100  # cross_entropy counts no loss where the target is this: `ignore_index`
HIDDEN, B = 32, 64


class Writer(tg.nn.Module):
    def __init__(self, rng):
        self.encoder = tg.nn.Linear(64, 2 * HIDDEN, rng=rng)
        self.embedding = tg.nn.Embedding(len(LETTERS), 16, rng=rng)
        self.lstm = tg.nn.LSTM(16, HIDDEN, rng=rng)
        self.output = tg.nn.Linear(HIDDEN, len(LETTERS), rng=rng)

    def look(self, images):
        """The first state (h, c), each (1, B, HIDDEN), from images (B, 8, 8)."""
        state = tg.tanh(self.encoder(tg.tensor(images.reshape(-1, 64))))  # (B, 2 HIDDEN)
        return state[np.newaxis, :, :HIDDEN], state[np.newaxis, :, HIDDEN:]

    def forward(self, letters, state):
        outputs, state = self.lstm(self.embedding(letters), state)  # (T, B) -> (T, B, HIDDEN)
        return self.output(outputs), state  # (T, B, letters)


def lessons():
    """What is read and what is to be written for each digit: two arrays (T, 10)."""
    reads = np.zeros((T, 10), dtype=np.int64)
    writes = np.full((T, 10), NOTHING, dtype=np.int64)
    for digit, name in enumerate(NAMES):
        reads[: len(name) + 1, digit] = LETTERS.encode(END + name)  # . s i x   then anything
        writes[: len(name) + 1, digit] = LETTERS.encode(name + END)  # s i x .   then no loss
    return reads, writes


def write(model, images):
    """Names for images (B, 8, 8): each step reads the letters that the step before has written."""
    letters = LETTERS.encode(END * len(images))
    with tg.no_grad():
        state, written = model.look(images), []
        for _ in range(T):
            scores, state = model(letters[np.newaxis], state)  # one step of the whole batch
            letters = scores.numpy()[0].argmax(axis=-1)  # (B,) the most probable letters
            written.append(letters)
    return np.array([LETTERS.decode(word).partition(END)[0] for word in np.stack(written, axis=1)])


def baselines(x, y, held_out):
    """Names for the held-out images without learning to write: of counting, and of a classifier."""
    means = np.stack([x[y == digit].mean(axis=0) for digit in range(10)])  # (10, 8, 8)
    nearest = ((held_out[:, np.newaxis] - means) ** 2).sum(axis=(2, 3)).argmin(axis=1)  # (N,)
    commonest = np.full(len(held_out), NAMES[np.bincount(y).argmax()])
    return {"commonest name": commonest, "name of nearest mean image": np.array(NAMES)[nearest]}


def as_text(image):
    """Eight lines of characters, darker where there is more ink."""
    return ["".join(" .:*#"[int(ink * 4.99)] * 2 for ink in row) for row in image]


def draw(file, images, written, names):
    """The images whose names are wrong first, then others, and the letters written over them."""
    figure = new_figure(9, 5.6)
    order = np.argsort(written == names, kind="stable")[:32]
    for axes, i in zip(figure.subplots(4, 8).flat, order, strict=True):
        axes.imshow(images[i], cmap="gray_r", vmin=0, vmax=1)
        label, color = f"{written[i]}, is {names[i]}", "#c8401f"
        if written[i] == names[i]:
            label, color = written[i], "#1f5f99"
        axes.set_title(label, color=color, fontsize=9)
        axes.set_axis_off()
    figure.suptitle("What it writes for held-out images, the wrong ones first (in red)")
    figure.savefig(file, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=door.at_least(0), default=600)
    parser.add_argument("--seed", type=door.at_least(0), default=0)
    parser.add_argument("--plot", type=door.picture, metavar="FILE", help="draw images and names")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    digits = load_digits()
    images, labels = digits.images[digits.train], digits.labels[digits.train]
    held_out, names = digits.images[digits.test], np.array(NAMES)[digits.labels[digits.test]]
    reads, writes = lessons()
    model = Writer(rng)
    optimizer = tg.optim.Adam(model.parameters(), lr=0.01)

    some = [np.flatnonzero(names == name)[0] for name in ("three", "six", "zero", "nine")]
    began = time.perf_counter()
    for update in range(options.updates):
        batch = rng.choice(len(images), B, replace=False)  # B images at random
        scores, _ = model(reads[:, labels[batch]], model.look(images[batch]))
        # The mean of -log p(right letter) over all the letters that are there.
        loss = cross_entropy(scores, writes[:, labels[batch]], ignore_index=NOTHING)
        optimizer.zero_grad()
        loss.backward()  # back through the letters, and at the first one into the image's layer
        tg.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if update in (0, 20, 50, 100, 300):
            tried = write(model, held_out[some])
            print(f"update {update:4}: loss {float(loss):.3f} nats per letter; writes", *tried)
    print(f"{options.updates} updates took {time.perf_counter() - began:.1f} seconds\n")

    written = write(model, held_out)
    for lines in zip(*(as_text(held_out[i]) for i in some), strict=True):
        print("    ".join(lines))
    print("it writes:", *written[some])
    print(f"\nname fully right for {len(names)} images it has never seen:")
    for what, guess in {**baselines(images, labels, held_out), "the network": written}.items():
        print(f"  {what:28} {np.mean(guess == names):6.1%}")
    print("written, but no digit's name:", *sorted(set(written) - set(NAMES)) or ["nothing"])
    if options.plot:
        draw(options.plot, held_out, written, names)
        print(f"picture {options.plot}")


if __name__ == "__main__":
    door.run(main)
