"""Many to many, aligned, on real numbers: how many sunspots will there be next year?

    python examples/sunspots.py                         # a few seconds
    python examples/sunspots.py --plot sunspots.png     # and the picture

A number goes in each year, and each year a forecast of the next one comes out:

    forecast for    1701      1702      1703      ...
                      ^         ^         ^
    state   h_0 --> h_1 ----> h_2 ----> h_3 ----> ...       forecast = x_t + W h_t + b: the network
                      ^         ^         ^                 learns by how much the number changes
    seen            1700      1701      1702      ...

It learns from the first 80 % of the years, then reads on through the last 20 % with the state it
has. Its numbers are square roots: counts scatter the more the larger they are, their roots evenly.
247 years are little to learn from, and a network would soon know them by heart: noise on what it
reads, new in every update, and a step that shrinks to nothing keep it from that. That it is a GRU
of 8 units was decided inside the first 80 % (learn up to 1789, 1824, 1859 or 1896, forecast the
rest), but only after three LSTMs had forecast the last 20 %, and badly: the years it is tested on
were not quite unseen.

The bar to clear is "same as last year". Harder ones are least squares fits to the last two years,
AR(2): x_(t+1) = a x_t + b x_(t-1) + c, on the same square roots (Yule 1927 invented it for these
numbers), and to the last nine, almost a whole cycle: that one the network does not beat.
"""

import argparse

import _door as door
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.data import load_sunspots
from tinygrad_rnn.nn.functional import mse_loss
from tinygrad_rnn.viz import new_figure

HIDDEN, NOISE = 8, 0.2


class Forecaster(tg.nn.Module):
    def __init__(self, rng):
        self.gru = tg.nn.GRU(1, HIDDEN, rng=rng)
        self.output = tg.nn.Linear(HIDDEN, 1, rng=rng)

    def forward(self, x, state=None):
        out, state = self.gru(x, state)  # (T, 1, 1) -> (T, 1, HIDDEN)
        return x + self.output(out), state


def autoregression(x, cut, order):
    """Forecasts of x[order:] by least squares from the `order` values before, fitted up to cut."""
    past = [x[order - 1 - k : len(x) - 1 - k] for k in range(order)]
    rows = np.stack([*past, np.ones(len(x) - order)], axis=1)  # (N - order, order + 1)
    weights, *_ = np.linalg.lstsq(rows[: cut - order], x[order:cut], rcond=None)
    return rows @ weights


def dream(model, x, cut):
    """Read up to `cut`; from then on take each forecast for what has happened."""
    values = []
    with tg.no_grad():
        forecast, state = model(tg.tensor(x[:cut]))
        value = forecast[-1:]  # (1, 1, 1)
        for _ in range(len(x) - cut):
            values.append(value.item())
            value, state = model(value, state)
    return np.array(values)


def rms(error):
    return float(np.sqrt(np.mean(error**2)))


def draw(file, years, numbers, cut, forecast, dreamt):
    figure = new_figure(11, 6.5)
    for axes, start in zip(figure.subplots(2, 1), (0, cut - 22), strict=True):
        shown, later = slice(max(start, 1), None), slice(cut, None)
        axes.plot(years[shown], numbers[shown], color="#999999", linewidth=3, label="counted")
        axes.plot(
            years[shown], forecast[shown], color="#1f5f99", linewidth=1.3,
            label="forecast, one year ahead",
        )  # fmt: skip
        axes.plot(
            years[later], dreamt, "--", color="#c8401f", linewidth=1.3,
            label=f"fed its own forecasts from {years[cut]} on",
        )  # fmt: skip
        axes.axvline(years[cut] - 0.5, color="#333333", linewidth=1)
        axes.set_ylim(0, 225)
        axes.text(years[cut] - 1.2, 220, "learnt from ", ha="right", va="top", fontsize=9)
        axes.text(years[cut], 220, " not learnt from", ha="left", va="top", fontsize=9)
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("sunspot number")
    figure.axes[1].set_xlabel("year")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(file, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=door.at_least(0), default=200)
    parser.add_argument("--seed", type=door.at_least(0), default=0)
    parser.add_argument("--plot", type=door.picture, metavar="FILE", help="draw the forecasts")
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    sunspots = load_sunspots()
    years, numbers = sunspots.years, sunspots.numbers
    cut = int(0.8 * len(numbers))  # the first year that is never learnt from
    roots = np.sqrt(numbers)
    mean, spread = roots[:cut].mean(), roots[:cut].std()
    x = ((roots - mean) / spread).astype(np.float32)[:, np.newaxis, np.newaxis]  # (T, 1, 1)

    def back(values):  # to sunspot numbers, which are never negative
        return np.maximum(values * spread + mean, 0) ** 2

    model = Forecaster(rng)
    optimizer = tg.optim.Adam(model.parameters(), lr=0.01)
    schedule = tg.optim.CosineAnnealingLR(optimizer, T_max=max(options.updates, 1))
    for update in range(options.updates):
        noisy = x[: cut - 1] + NOISE * rng.normal(size=(cut - 1, 1, 1)).astype(np.float32)
        loss = mse_loss(model(tg.tensor(noisy))[0], x[1:cut])  # each year against the year after
        optimizer.zero_grad()
        loss.backward()  # back to 1700
        tg.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if update % 40 == 0:
            print(f"update {update:3}: mean squared error {float(loss):.4f}")

    with tg.no_grad():
        forecast = np.append(np.nan, back(model(tg.tensor(x[:-1]))[0].numpy()[:, 0, 0]))
    guesses = {"same as last year": np.append(np.nan, numbers[:-1]), "the GRU": forecast}
    for p in (2, 9):
        fit = autoregression(x[:, 0, 0].astype(np.float64), cut, p)
        guesses[f"AR({p})"] = np.append([np.nan] * p, back(fit))
    dreamt = back(dream(model, x, cut))
    guesses["the GRU, fed its own forecasts"] = np.append(numbers[:cut], dreamt)
    guesses["always the mean of the years before"] = np.full(len(numbers), numbers[:cut].mean())
    print(f"\nroot mean square error, in sunspots, {years[cut]} to {years[-1]}:")
    for name, guess in guesses.items():
        print(f"  {name:36} {rms(guess[cut:] - numbers[cut:]):5.1f}")
    if options.plot:
        draw(options.plot, years, numbers, cut, forecast, dreamt)
        print(f"picture {options.plot}")


if __name__ == "__main__":
    door.run(main)
