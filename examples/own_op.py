"""An op of your own, from outside the package: a primitive, a fused op, their check, their use.

    python examples/own_op.py

A *primitive* is a forward on arrays and one rule per input. Here swish (Ramachandran et al. 2017):

    swish(x) = x s(x)                      with s(x) = 1 / (1 + e^-x)
    d swish / dx = s(x) + swish(x) (1 - s(x))

A *fused op* is a forward and a backward by hand, for speed, under a specification in plain ops, for
reading, for checking, and for second derivatives. Here two layers of a network in one step.
"""

import argparse

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.backends import namespace


@tg.primitive
def swish(x):
    return x / (1 + namespace(x).exp(-x))  # namespace(x): NumPy on a CPU, CuPy on a GPU


# The keyword: the input we differentiate by. After `g`, what is to be remembered: inputs, or `out`.
# A rule uses operators and ops of the package: on Tensors, it is differentiated once more.
def rule(g, x, out):
    s = tg.sigmoid(x)
    return g * (s + out * (1 - s))


swish.vjp(x=rule)


def specification(x, w, v):  # (N, I), (I, H), (H, 1) -> (N, 1)
    return tg.tanh(x @ w) @ v


@tg.fused(spec=specification)
def two_layers(x, w, v, *, keep):
    h = namespace(x).tanh(x @ w)  # (N, H)
    return h @ v, ((x, w, v, h) if keep else None)


@two_layers.backward
def _(g, cache, needs):
    x, w, v, h = cache
    through = (g @ v.T) * (1 - h * h) if needs[0] or needs[1] else None  # shared: computed once
    return (
        through @ w.T if needs[0] else None,
        x.T @ through if needs[1] else None,
        h.T @ g if needs[2] else None,
    )


def check():
    """Against differences at one point; then all that the package's own ops go through."""
    print(tg.gradcheck(swish, np.linspace(-3, 3, 6), order=2))
    try:
        tg.testing.check_op(swish, "real")  # in every shape, at order 1 and 2, on a GPU's rules too
    except ImportError as error:  # Hypothesis is missing: it says how to install it
        print(error)
        return
    shapes = [(4, 2), (2, 3), (3, 1)]
    inputs = [tg.testing.arrays("real", shape) for shape in shapes]
    tg.testing.check_op(two_layers, inputs=inputs, max_examples=20)
    print(f"swish and two_layers have all {len(tg.testing.PROPERTIES)} properties")


def train(updates, rng):
    """Fit y = sin(2x) with both: swish(x a) through the fused layers."""
    x = tg.tensor(np.linspace(-2, 2, 64)[:, np.newaxis])
    y = tg.sin(2 * x)
    sizes = {"a": (1, 8), "w": (8, 16), "v": (16, 1)}
    weights = {
        name: tg.tensor(rng.normal(size=shape), requires_grad=True) for name, shape in sizes.items()
    }
    optimizer = tg.optim.Adam(weights.values(), lr=0.02)
    for update in range(updates + 1):
        guess = two_layers(swish(x @ weights["a"]), weights["w"], weights["v"])
        loss = tg.mean(tg.square(guess - y))
        if update % 100 == 0:
            print(f"after {update:3} updates the mean squared error is {float(loss):.5f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    check()
    train(options.updates, np.random.default_rng(options.seed))
