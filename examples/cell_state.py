"""The LSTM's cell as a conveyor belt: while it learns, forget gates open and a gradient arrives.

    python examples/cell_state.py                         # about 10 seconds
    python examples/cell_state.py --plot cell_state.png   # and the picture

    c_t = f_t c_(t-1) + i_t g_t           dL/dc_(t-1) = f_t dL/dc_t + what comes by way of h

From one cell to the one before, a gradient is multiplied by the forget gate f and by nothing else:
no weight, no tanh. Over T steps that is f_2 f_3 ... f_T, *the belt*. Having the belt is not yet
using it. Before training f is about sigmoid(1) = 0.73 everywhere, and 0.73 to the 49th is 2e-7:
what arrives from step 50 comes through the weights, as in a vanilla network, and in the first
hundreds of updates both networks lose it. Then the LSTM finds a unit or two whose gate it can hold
open from the first number to the end, and at that moment the loss falls. The vanilla network has
nothing of the kind to find: its gradient dies, and it answers with the mean, 1/6 off.

The task: add the two marked numbers out of 50. Printed is how much of the gradient at the last step
is left at the first, and the belt of the unit that keeps the most, averaged over sequences.
"""

import argparse

import _door as door
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.data.tasks import ADDING_BASELINE, adding
from tinygrad_rnn.nn.functional import mse_loss
from tinygrad_rnn.viz import new_figure

T, B, HIDDEN, TEST = 50, 50, 64, 200  # steps, sequences in an update, units, sequences to look at
MOMENTS = (0, 100, 300, 500, 600, 700, 1000)  # updates to look after
LAYERS = {"LSTM": tg.nn.LSTM, "RNN": tg.nn.RNN}


class Adder(tg.nn.Module):
    """Reads T values and marks, and says at the end what the two marked values add up to."""

    def __init__(self, layer, rng):
        self.layer = layer(2, HIDDEN, rng=rng)
        self.output = tg.nn.Linear(HIDDEN, 1, rng=rng)

    def forward(self, x):
        return self.output(self.layer(x)[0][-1])  # from (T, B, HIDDEN) the last step; (B, 1)


def look(model, name, x, y):
    """The loss, the gradient at every step, and for an LSTM its forget gates (T, TEST, HIDDEN)."""
    flow = tg.gradient_flow(model, lambda: mse_loss(model(x), y))
    if name == "RNN":
        return flow.loss, flow["layer.l0"], None
    with tg.no_grad():
        _, _, record = model.layer(x, record=True)
    return flow.loss, flow["layer.l0"], record.f.numpy()


def belts(gates):
    """f_2 f_3 ... f_T of every unit, the mean over sequences: (HIDDEN,)."""
    return gates[1:].prod(axis=0, dtype=float).mean(axis=0)


def train(name, updates, seed):
    """Print what becomes of the gradient, and return it by update."""
    rng = np.random.default_rng(seed)
    model = Adder(LAYERS[name], rng)
    optimizer = tg.optim.Adam(model.parameters(), lr=0.005)
    test, seen = adding(T, TEST, rng=np.random.default_rng([seed, 1])), {}
    for update in range(updates + 1):
        if update in MOMENTS or update == updates:
            loss, flow, gates = seen[update] = look(model, name, *test)
            line = f"{name:<6}{update:6}{loss:11.4f}{flow.h[0] / flow.h[-1]:15.1e}"
            if gates is not None:
                line += f"{flow.c[0] / flow.c[-1]:15.1e}{belts(gates).max():10.3f}"
            print(line)
        x, y = adding(T, B, rng=rng)  # always new ones
        loss = mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        tg.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return seen


def draw(path, runs):
    figure = new_figure(11, 7)
    panels = figure.subplot_mosaic("LR;GG", height_ratios=[3, 2])
    for axes, (name, seen) in zip((panels["L"], panels["R"]), runs.items(), strict=True):
        for k, (update, (_, flow, _)) in enumerate(seen.items()):
            values, color = (flow.h if flow.c is None else flow.c), (0.85 - 0.12 * k, 0.3, 0.12 * k)
            axes.semilogy(range(1, T + 1), values / values[-1], color=color, label=f"{update}")
        what = "dL/dh_t" if name == "RNN" else "dL/dc_t"
        axes.set(title=f"{name}: |{what}| as a share of the last", xlabel="step t", ylim=(1e-9, 30))
        axes.legend(title="updates", fontsize=8, ncols=2, loc="lower right")
    gates = list(runs["LSTM"].values())[-1][2]
    best = np.argsort(belts(gates))[::-1][:16]
    shape = {"aspect": "auto", "extent": (0.5, T + 0.5, 16.5, 0.5)}  # steps and units from 1 on
    image = panels["G"].imshow(gates[:, :, best].mean(1).T, vmin=0, vmax=1, **shape)
    panels["G"].set(title="LSTM, at the end: forget gates of the 16 units with the longest belts")
    panels["G"].set(xlabel="step t", ylabel="unit", yticks=(1, 4, 8, 12, 16))
    figure.colorbar(image, ax=panels["G"], label="f, mean over sequences")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=door.at_least(0), default=1000)
    parser.add_argument("--seed", type=door.at_least(0), default=0)
    parser.add_argument("--plot", type=door.picture, metavar="FILE")
    options = parser.parse_args()
    print(f"the loss without a memory: {ADDING_BASELINE:.4f}\n")
    print("after updates       loss  dL/dh_1 : h_50  dL/dc_1 : c_50  the belt")
    runs = {name: train(name, options.updates, options.seed) for name in LAYERS}
    if options.plot:
        draw(options.plot, runs)
        print(f"picture {options.plot}")


if __name__ == "__main__":
    door.run(main)
