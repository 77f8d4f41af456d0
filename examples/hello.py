"""The smallest recurrent network that does something: it learns to spell "hello".

    python examples/hello.py

Four letters, h e l o, each written as a one-hot vector. The network reads "hell" letter by letter
and is to say at each step which letter comes next: "ello". After l it has to say l the first time
and o the second, so looking at the current letter alone is not enough: it must remember.

                 target      e        l        l        o
                             ^        ^        ^        ^
    probabilities          y_1      y_2      y_3      y_4        y_t = softmax(W_hy h_t + b_y)
                             |        |        |        |
    hidden state    h_0 --> h_1 --> h_2 --> h_3 --> h_4          h_t = tanh(W_xh x_t + W_hh h_(t-1)
                             ^        ^        ^        ^                    + b)
                 input       h        e        l        l
"""

import argparse

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.nn.functional import cross_entropy

LETTERS = "helo"
HIDDEN = 8


class Speller(tg.nn.Module):
    """One vanilla recurrent layer, and a linear layer that turns its state into four scores."""

    def __init__(self, rng):
        self.rnn = tg.nn.RNN(len(LETTERS), HIDDEN, rng=rng)
        self.output = tg.nn.Linear(HIDDEN, len(LETTERS), rng=rng)

    def forward(self, x, h=None):
        states, h = self.rnn(x, h)  # (T, B, H): the state after each letter; and the last one
        return self.output(states), h  # (T, B, 4) scores; a softmax makes probabilities of them


def one_hot(word):
    """A word as an array (T, 1, 4): T steps, a batch of one, a 1 in the place of each letter."""
    numbers = [LETTERS.index(letter) for letter in word]
    return tg.tensor(np.eye(len(LETTERS), dtype=np.float32)[numbers][:, np.newaxis])


def show(update, loss, probabilities, given, wanted):
    """What the network expects after each letter; a star where its first choice is right."""
    print(f"after {update} updates, loss {loss:.4f}")
    print("    reads  wants    " + "     ".join(LETTERS))
    for letter, target, row in zip(given, wanted, probabilities, strict=True):
        right = "*" if LETTERS[row.argmax()] == target else " "
        print(
            f"      {letter}      {target}    " + " ".join(f"{p:5.2f}" for p in row) + f"  {right}"
        )
    print()


def spell(model, first, length):
    """Give the network one letter; from then on it reads what it has just written itself."""
    word, state = first, None
    with tg.no_grad():  # nothing is learnt here, so nothing needs to be remembered for a gradient
        for _ in range(length):
            scores, state = model(one_hot(word[-1]), state)
            word += LETTERS[int(tg.argmax(scores[0, 0]))]
    return word


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)  # every random number comes from here
    model = Speller(rng)
    optimizer = tg.optim.Adam(model.parameters(), lr=0.03)

    given, wanted = "hell", "ello"
    x = one_hot(given)  # (4, 1, 4)
    targets = np.array([[LETTERS.index(letter)] for letter in wanted])  # (4, 1)

    for update in range(options.updates + 1):
        scores, _ = model(x)  # the state begins at zero
        loss = cross_entropy(scores, targets)  # mean of -log p(right letter), in nats
        if update in (0, 5, 20, options.updates):
            show(
                update,
                float(loss),
                tg.softmax(scores, axis=-1).detach().numpy()[:, 0],
                given,
                wanted,
            )
        if update == options.updates:  # only looked at once more
            break
        optimizer.zero_grad()
        loss.backward()  # back through all four steps, with the same weights at each
        optimizer.step()

    print('Given "h", and then only its own letters, it writes:', spell(model, "h", 4)[1:])


if __name__ == "__main__":
    main()
