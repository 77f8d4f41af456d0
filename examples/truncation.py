"""What truncated back-propagation through time leaves out of a gradient, and the memory it saves.

    python examples/truncation.py                             # half a minute: an RNN and an LSTM
    python examples/truncation.py --model rnn --updates 0     # one of them, with untrained weights
    python examples/truncation.py --plot truncation.png

TBPTT sends the loss of each k1 new characters back through the last k2 only, so its gradient is not
quite that of the loss. How far off is it? We hold the weights still, let an "optimizer" add up the
gradients of all windows of a stream of T characters, and compare the sum with the gradient g of
full back-propagation. What the windows cut off is all that can differ:

    bias |sum - g| / |g|, the cosine of the angle between them, length |sum| / |g|
    memory: the most in use at once, beside weights and text; work: steps computed, in units of T

Another place of the same text has another gradient: that is the *noise* of training, and larger.
But noise is new in every update and averages out; a bias stays.
"""

import argparse
import tracemalloc

import _door as door
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.char_lm import CharModel
from tinygrad_rnn.data import Streams, Vocabulary, load_text, split
from tinygrad_rnn.nn.functional import cross_entropy
from tinygrad_rnn.viz import new_figure


class Collect:
    """An "optimizer" that moves no weight: it adds the gradients up."""

    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.param_groups = [{"params": self.parameters}]
        self.total = [np.zeros(p.shape, p.dtype) for p in self.parameters]

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    def step(self):
        for total, p in zip(self.total, self.parameters, strict=True):
            total += p.grad


def share_of_mean(ys):
    """A loss that adds up, over the windows of a stream, to the mean loss of the whole stream."""
    return lambda scores, y: cross_entropy(scores, y, reduction="sum") / ys.size


def truncated(model, xs, ys, k1, k2):
    """What TBPTT's gradients add up to, one array per parameter, and the bytes at the peak."""
    collect = Collect(model.parameters())
    tbptt = tg.TBPTT(model, share_of_mean(ys), collect, k1=k1, k2=k2)
    collect.zero_grad()
    tracemalloc.start()  # NumPy tells it of every array
    for _ in tbptt.run(xs, ys):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return collect.total, peak


def exact(model, xs, ys):
    """The gradient of the mean loss, by back-propagation through the whole stream."""
    model.zero_grad()
    share_of_mean(ys)(model(xs)[0], ys).backward()
    return [p.grad for p in model.parameters()]


def compare(found, g):
    """Bias, cosine and length of a gradient beside the exact one."""
    a, b = (np.concatenate([part.ravel() for part in x]).astype(np.float64) for x in (found, g))
    d, aa, bb = a - b, a @ a, b @ b
    return np.sqrt(d @ d / bb), a @ b / np.sqrt(aa * bb), np.sqrt(aa / bb)


def measure(model, xs, ys):
    """Print and return a row for each pair (k1, k2): k1 = k2 first, then windows that overlap."""
    T, g = len(xs), exact(model, xs, ys)
    sizes = [T * part // 48 for part in (1, 2, 4, 8, 16, 24, 48)]
    print("  k1    k2      bias    cosine   length     memory    work")
    for k1, k2 in [(k, k) for k in sizes] + [(sizes[1], k) for k in sizes[2:]]:
        found, peak = truncated(model, xs, ys, k1, k2)
        bias, cosine, length = compare(found, g)
        work = sum(min(k2, end) for end in range(k1, T + k1, k1)) / T
        told, MB = "0 exactly" if bias == 0 else f"{bias:#9.2g}", peak / 1e6
        print(f"{k1:4}  {k2:4} {told} {cosine:9.5f} {length:8.5f} {MB:7.2f} MB {work:6.1f} T")
        yield k1, k2, bias, MB


def draw(path, results):
    figure, floor = new_figure(10, 4.5), 1e-6  # below it only rounding is left
    left, right = figure.subplots(1, 2)
    for (kind, (rows, _)), color in zip(results.items(), ("#1f5f99", "#c8401f"), strict=False):
        for style, chosen, name in (
            ("o--", [r for r in rows if r[0] == r[1]], "k1 = k2"),
            ("o-", [r for r in rows if r[0] == rows[1][0]], f"k1 = {rows[1][0]}, overlapping"),
        ):
            _, k2, bias, memory = zip(*chosen, strict=True)
            left.loglog(k2, np.maximum(bias, floor), style, color=color, label=f"{kind}, {name}")
            right.plot(k2, memory, style, color=color)
    noise = np.mean([noise for _, noise in results.values()])  # that of both is about the same
    left.axhline(noise, color="#777777", linestyle=":", label=f"noise, {' and '.join(results)}")
    cut = [k2 for rows, _ in results.values() for _, k2, bias, _ in rows if bias <= floor]
    left.plot(cut, [floor] * len(cut), "kv", ms=11, mfc="none", label=f"0, or below {floor:g}")
    left.set(xlabel="k2, steps back", ylabel="|sum - g| / |g|", title="bias of the gradient")
    right.set(xlabel="k2, steps back", ylabel="MB at the peak", title="memory", ylim=0)
    left.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=["rnn", "lstm"], help="without it, both")
    parser.add_argument("--length", type=int, default=240, help="T, a multiple of 48 up to 1920")
    parser.add_argument("--updates", type=door.at_least(0), default=300, help="made beforehand")
    parser.add_argument("--seed", type=door.at_least(0), default=0)
    parser.add_argument("--plot", type=door.picture, metavar="FILE", help="draw bias and memory")
    options = parser.parse_args()
    if options.length not in range(48, 1921, 48):
        parser.error("--length is a multiple of 48, up to 1920")
    text = load_text()
    vocabulary, results = Vocabulary.of(text.text), {}
    training, held_out = split(vocabulary.encode(text.text))
    windows = Streams(training, batch=32, window=50)
    places = Streams(held_out, batch=8, window=options.length)
    for kind in [options.model] if options.model else ["rnn", "lstm"]:
        model = CharModel(len(vocabulary), kind=kind, hidden=128, embedding=32, rng=options.seed)
        adam, state = tg.optim.Adam(model.parameters(), lr=0.005), None
        tbptt = tg.TBPTT(model, cross_entropy, adam, k1=50, clip_norm=1.0)
        for update in range(options.updates):
            again = update % len(windows)
            state = tbptt.update(*windows[again], state if again else None).state
        print(f"\n{kind.upper()} 128, after {options.updates} updates; T = {options.length}")
        rows = list(measure(model, *places[0]))
        noise = compare(exact(model, *places[1]), exact(model, *places[0]))
        print("another place {:#7.2g} {:9.5f} {:8.5f}".format(*noise))
        results[kind.upper()] = rows, noise[0]
    if options.plot:
        draw(options.plot, results)
        print(f"picture {options.plot}")


if __name__ == "__main__":
    door.run(main)
