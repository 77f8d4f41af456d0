"""Many to one: a digit read row by row, or pixel by pixel, like a text; at the end, its class.

    python examples/read_digits.py                                  # 8 rows of 8 numbers
    python examples/read_digits.py --by pixels --model rnn          # 64 numbers, one at a time
    python examples/read_digits.py --plot reading.png

                                             scores      y = W h_T + b: the last step only
                                               ^
    h_0 --> h_1 --> h_2 --> h_3 --> ... --> h_T
             ^       ^       ^               ^
           row 1   row 2   row 3           row 8

An image is no sequence, but it can be *read* as one: the weights that read row 1 read every row.
What was seen has to fit into the state, and the gradient of the only loss to come back through all
steps. Right on held-out images, in 1,500 updates, seeds 0, 1, 2 (and seconds on one core):

             RNN                      LSTM                     GRU
    rows     96.7  94.7  97.8 (2)     97.8  98.3  98.3 (4)     98.6  98.1  98.6 (4)
    pixels   93.9  88.9  92.2 (7)     93.1  95.3  95.8 (20)    91.1  95.3  95.8 (15)

The picture shows what it would say if it stopped at each step: the same read-out, applied to
earlier states, although only the last one was trained for it.
"""

import argparse
import time

import _door as door
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.data import load_digits
from tinygrad_rnn.nn.functional import cross_entropy
from tinygrad_rnn.viz import new_figure

HIDDEN, B = 32, 64
STEPS = {"rows": 8, "pixels": 64}
# Each with a learning rate. At 0.01 the RNN learns 64 pixels to 80 %, and then falls apart.
LAYERS = {"rnn": (tg.nn.RNN, 0.003), "lstm": (tg.nn.LSTM, 0.01), "gru": (tg.nn.GRU, 0.01)}


class Reader(tg.nn.Module):
    def __init__(self, layer, numbers, rng):
        self.layer = layer(numbers, HIDDEN, rng=rng)
        self.output = tg.nn.Linear(HIDDEN, 10, rng=rng)

    def forward(self, x):
        states, _ = self.layer(x)  # (T, B, numbers) -> (T, B, HIDDEN)
        return self.output(states[-1])  # (B, 10): h_T, and nothing of what was before

    def at_every_step(self, x):
        """The probabilities (T, N, 10) that the read-out gives after each step."""
        with tg.no_grad():
            return tg.softmax(self.output(self.layer(tg.tensor(x))[0]), axis=-1).numpy()


def as_sequences(images, steps):
    """Images (N, 8, 8) in the order in which they are read: (T, N, 64 / T)."""
    return np.ascontiguousarray(images.reshape(len(images), steps, -1).swapaxes(0, 1))


def baselines(x, y, held_out):
    """Guesses for the held-out images (N, 64): by counting, and by comparing whole images."""
    means = np.stack([x[y == digit].mean(axis=0) for digit in range(10)])  # (10, 64)
    nearest = ((held_out[:, np.newaxis] - means) ** 2).sum(axis=2).argmin(axis=1)
    commonest = np.full(len(held_out), np.bincount(y).argmax())
    return {"always the commonest digit": commonest, "nearest of ten mean images": nearest}


def show(image, p):
    """An image with what the network thinks after each row: (8, 8), (8, 10)."""
    for ink, row in zip(image, p, strict=True):
        print("".join(" .:*#"[int(x * 4.99)] * 2 for x in ink), end="")
        first, second = row.argsort()[:-3:-1]
        print(f"    {first} ({row[first]:4.0%}) or {second} ({row[second]:4.0%})")


def draw(file, images, p, true, title):
    """Beside each image the probability of the ten digits, row for row: (N, 8, 8), (T, N, 10)."""
    figure = new_figure(12, 5.2)
    axes = figure.subplots(2, 10, width_ratios=[8, 10] * 5).reshape(10, 2)
    for digit, (left, right) in enumerate(axes):
        i = np.flatnonzero(true == digit)[0]
        left.imshow(images[i], cmap="gray_r", vmin=0, vmax=1, extent=(0, 8, 8, 0), aspect="auto")
        left.set(xticks=[], yticks=[], ylabel="" if digit % 5 else "read from top to bottom")
        # The first step is at the top, so that each line stands beside what has just been read.
        shown = right.imshow(
            p[:, i], cmap="Blues", vmin=0, vmax=1, extent=(-0.5, 9.5, 8, 0), aspect="auto"
        )
        right.set_xticks(range(10), [str(n) for n in range(10)], fontsize=8)
        right.set_yticks([])
        right.set_xlabel("" if digit < 5 else "digit")
        said = p[-1, i].argmax()
        color = "#1f5f99" if said == digit else "#c8401f"
        right.set_title(f"at the end: {said}", fontsize=10, color=color)
    figure.colorbar(shown, ax=list(axes.flat), label="probability", shrink=0.6)
    figure.suptitle(title)
    figure.savefig(file, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--by", choices=STEPS, default="rows")
    parser.add_argument("--model", choices=LAYERS, default="lstm")
    parser.add_argument("--updates", type=door.at_least(0), default=1500)
    parser.add_argument("--seed", type=door.at_least(0), default=0)
    parser.add_argument("--plot", type=door.picture, metavar="FILE", help="draw probabilities")
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    digits = load_digits()
    x, y = as_sequences(digits.images, STEPS[options.by]), digits.labels  # (T, N, 64 / T), (N,)
    layer, lr = LAYERS[options.model]
    model = Reader(layer, x.shape[2], rng)
    optimizer = tg.optim.Adam(model.parameters(), lr=lr)

    began = time.perf_counter()
    for update in range(1, options.updates + 1):
        batch = rng.choice(digits.train, B, replace=False)  # B images at random
        loss = cross_entropy(model(tg.tensor(x[:, batch])), y[batch])  # -log p(right), the mean
        optimizer.zero_grad()
        loss.backward()  # from the last step back to the first
        tg.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if update % 300 == 0:
            print(f"update {update:4}: loss {float(loss):.3f}")
    print(f"{options.updates} updates took {time.perf_counter() - began:.1f} seconds\n")

    images, true = digits.images[digits.test], y[digits.test]
    p = model.at_every_step(x[:, digits.test])  # (T, N, 10)
    rows = p[len(x) // 8 - 1 :: len(x) // 8]  # (8, N, 10): where a row of the image ends
    show(images[3], rows[:, 3])
    shares = [f"{np.mean(row.argmax(axis=-1) == true):.0%}" for row in rows]
    print("\nright if it stopped after each row:", *shares)
    print(f"right on {len(true)} images it has never seen:")
    flat = digits.images.reshape(-1, 64)
    guesses = baselines(flat[digits.train], y[digits.train], flat[digits.test])
    name = f"{options.model.upper()}, {len(x)} {options.by}"
    for what, guess in {**guesses, name: p[-1].argmax(axis=-1)}.items():
        print(f"  {what:28} {np.mean(guess == true):6.1%}")
    if options.plot:
        draw(options.plot, images, p, true, f"{name}: what it would say if it stopped here")
        print(f"picture {options.plot}")


if __name__ == "__main__":
    door.run(main)
