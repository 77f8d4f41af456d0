"""Why gradients vanish and explode on their way back through time, and what clipping does about it.

    python examples/gradient_flow.py --plot gradient_flow.png     # about 20 seconds

1. The flow. Only the last of T steps has a loss, so what step t hears of it has come all the way:

    dL/dh_t = dL/dh_T  J_T J_(T-1) ... J_(t+1)     J_k = dh_k/dh_(k-1), in an RNN diag(1 - h_k^2) W

W is orthogonal times a, so no J has a singular value above a: below 1 the gradient must vanish, as
fast as a^(T-t) at least; above 1 it may explode. Compare "a step", the factor per step that came of
it, with s, the largest singular value of J, and r, its spectral radius. In an LSTM the cell adds:
f + i o W_g stands about where W was, at first 0.5 + 0.25 Q, Q orthogonal (in a GRU likewise); with
forget bias 1 it is 0.73 + 0.25 Q, and keeps what the RNN with a = 0.9 has lost.

2. Clipping. An RNN learns by plain SGD to add two numbers out of 30, each time with the same seed,
data and learning rate. With a = 0.9 it does not hear enough: it stays near 1/6, the baseline of
knowing nothing. With a = 1.2 a step along a long gradient throws the weights far off, all units
saturate, the output layer overshoots (2 * 0.05 * 64 > 2), and soon nothing is finite. Clipped to
length 1 it learns; or with `clip_state_grad`, which limits what h_t sends back to h_(t-1).
"""

import argparse

import _door as door
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.data.tasks import ADDING_BASELINE, adding
from tinygrad_rnn.nn.functional import mse_loss
from tinygrad_rnn.viz import new_figure

T, B, HIDDEN, K2 = 100, 32, 64, 20  # TBPTT would see the last k2 steps, and 0 before
SHORT, RATE, CLIP = 30, 0.05, 1.0  # steps to learn over, learning rate, the longest gradient
NETWORKS = {  # the layer, the factor a of its recurrent weights, its options, a colour
    "RNN, a = 0.5": (tg.nn.RNN, 0.5, {}, "#9fd0f0"),
    "RNN, a = 0.9": (tg.nn.RNN, 0.9, {}, "#4da3dd"),
    "RNN, a = 1": (tg.nn.RNN, 1.0, {}, "#1c4f8c"),
    "RNN, a = 1.2": (tg.nn.RNN, 1.2, {}, "#7b3fa0"),
    "RNN, a = 1.5": (tg.nn.RNN, 1.5, {}, "#d81b60"),
    "GRU": (tg.nn.GRU, 1.0, {}, "#2a7f3b"),
    "LSTM, forget bias 0": (tg.nn.LSTM, 1.0, {"forget_bias": 0.0}, "#f2b25a"),
    "LSTM, forget bias 1": (tg.nn.LSTM, 1.0, {"forget_bias": 1.0}, "#d9580d"),
}
RUNS = {  # a, the longest gradient allowed: of all weights, of a state; a colour
    "a = 0.9, not clipped": (0.9, np.inf, None, "#4da3dd"),
    "a = 1.2, not clipped": (1.2, np.inf, None, "#7b3fa0"),
    f"a = 1.2, clipped to {CLIP:g}": (1.2, CLIP, None, "#d9580d"),
    "a = 1.2, states to 0.01": (1.2, np.inf, 0.01, "#2a7f3b"),
}
MARKS = (1, 10, 30, 100, 300, 1000, 3000)  # updates to print the loss after


class Adder(tg.nn.Module):
    """Reads T values and marks, and says at the end what the two marked values add up to."""

    def __init__(self, layer, a, options, rng):
        self.layer = layer(2, HIDDEN, rng=rng, **options)
        self.layer.weight_hh_l0.writable()[...] *= a  # orthogonal until now
        self.output = tg.nn.Linear(HIDDEN, 1, rng=rng)

    def forward(self, x):
        return self.output(self.layer(x)[0][-1])  # from (T, B, HIDDEN) the last step; (B, 1)


def look(name, seed):
    """Print what becomes of the gradient in an untrained network, and return it, step by step."""
    rng = np.random.default_rng(seed)
    x, y = adding(T, B, rng=rng)
    model = Adder(*NETWORKS[name][:3], rng)
    flow = tg.gradient_flow(model, lambda: mse_loss(model(x), y), ledger=True)["layer.l0"]
    s, r = flow.singular_values()[:, 0].mean(), flow.spectral_radius().mean()
    length = np.sqrt(sum(np.square(g, dtype=float).sum() for g in flow.totals.values()))
    by_step, total = flow.parts["weight_hh_l0"], flow.totals["weight_hh_l0"]
    lost = np.linalg.norm(by_step[:-K2].sum(axis=0)) / np.linalg.norm(total)
    ratio, cell = flow.h[0] / flow.h[-1], "-" if flow.c is None else f"{flow.c[0] / flow.c[-1]:.1e}"
    print(f"{name:<19}{ratio:12.1e}{ratio ** (1 / (T - 1)):9.3f}{s:7.3f}{r:7.3f}", end="")
    print(f"{length:11.1e}{lost:10.1%}{cell:>11}")
    return flow


def train(name, seed, updates):
    """Print how learning goes; return the loss, and the length of the gradient, by update."""
    rng, (a, clip, state_clip, _) = np.random.default_rng(seed), RUNS[name]
    model = Adder(tg.nn.RNN, a, {"clip_state_grad": state_clip}, rng)
    optimizer, losses, norms = tg.optim.SGD(model.parameters(), lr=RATE), [], []
    for update in range(1, updates + 1):
        x, y = adding(SHORT, B, rng=rng)  # always new ones
        with np.errstate(over="ignore", invalid="ignore"):  # to see it overflow is what we want
            loss = mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
        losses.append(float(loss))
        try:
            norms.append(float(tg.nn.utils.clip_grad_norm_(model.parameters(), clip)))
        except tg.NonFiniteError as error:
            print(f"{name} stops at update {update}: {str(error).partition(';')[0]}")
            break
        optimizer.step()
    seen = [f"{smooth(losses)[n - 1]:9.2g}" for n in MARKS if n <= len(losses)]
    print(f"{name:<24}" + "".join(seen))
    return losses, norms


def smooth(values):
    """The median of the last fifth of the updates until then, for each update."""
    return [np.median(values[4 * n // 5 : n]) for n in range(1, len(values) + 1)]


def draw(path, flows, runs):
    figure = new_figure(11, 8.5)
    above, left, right = figure.subplot_mosaic("FF;LN").values()
    for name, flow in flows.items():
        above.semilogy(range(1, T + 1), flow.h, color=NETWORKS[name][3], label=name)
        if flow.c is not None:
            above.plot(range(1, T + 1), flow.c, ":", color=NETWORKS[name][3], label="  its dL/dc")
    above.axvspan(T - K2 + 0.5, T, color="#eeeeee", label=f"TBPTT, k2 = {K2}:\n0 before")
    above.set(xlabel="step t", ylim=(1e-33, 1e6), xlim=(1, T), title="|dL/dh_t|, before training")
    for name, curves in runs.items():
        for axes, values in zip((left, right), map(smooth, curves), strict=True):
            axes.loglog(range(1, len(values) + 1), values, color=RUNS[name][3], label=name)
    left.axhline(ADDING_BASELINE, color="black", ls="--", lw=0.9, label="baseline 1/6")
    left.set(xlabel="update", ylim=(0.02, 1e4), title="loss, median of the last fifth until then")
    right.set(xlabel="update", ylim=(0.02, 1e8), title="|gradient| before clipping, likewise")
    for axes in (above, right):
        axes.axhline(CLIP, color="black", ls="--", lw=0.9, label=f"clip level {CLIP:g}")
    left.legend(fontsize=8)
    above.legend(loc="center left", fontsize=8, bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=door.at_least(0), default=3000)
    parser.add_argument("--seed", type=door.at_least(0), default=0)
    parser.add_argument("--plot", type=door.picture, metavar="FILE", help="draw both parts")
    options = parser.parse_args()
    print(f"T = {T}, untrained  first/last   a step      s      r |gradient| beyond k2   of dL/dc")
    flows = {name: look(name, options.seed) for name in NETWORKS}
    print("\nMedian loss over the last fifth of the updates until then")
    print("Loss after" + " " * 14 + "".join(f"{n:9}" for n in MARKS if n <= options.updates))
    runs = {name: train(name, options.seed, options.updates) for name in RUNS}
    print(f"{'baseline':<24}{ADDING_BASELINE:9.2g}")
    if options.plot:
        draw(options.plot, flows, runs)
        print(f"picture {options.plot}")


if __name__ == "__main__":
    door.run(main)
