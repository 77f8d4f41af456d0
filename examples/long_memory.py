"""How far back can a network remember? Three tasks in which it is known what to remember.

    python examples/long_memory.py                  # an LSTM adds two out of 50 numbers
    python examples/long_memory.py --model rnn      # the vanilla network does not

    value   .71 .10 .55 .23 .98 .04 .37 .62          what is the sum of the marked values?
    mark     0   1   0   0   0   0   1   0           .10 + .37 = .47

Who remembers nothing still gets somewhere: with the answer 1 to every sum, to a squared error of
1/6. That is the baseline. A network sits on it, often for hundreds of updates, until it finds the
first trace of a connection between the marks and the sum; then its error drops fast. The RNN does
not find it at this learning rate (with --lr 0.001 one of five seeds came down to 0.027, and none
was done after 3,000 updates): on the way back the gradient has vanished, or it explodes.

--task copy: ten symbols are to be said again T steps later; copy-control asks for fresh ones, which
no memory helps with. --task adding-1997: its first form; both marks come early, and a forget gate
that lets sigmoid(1) = 0.73 through leaves 0.0004 after 25 steps, so take --forget-bias 5.
"""

import argparse

import _door as door
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.data import tasks
from tinygrad_rnn.nn.functional import cross_entropy, mse_loss
from tinygrad_rnn.viz import new_figure

TASKS = ["adding", "adding-1997", "copy", "copy-control"]
LAYERS = {"rnn": tg.nn.RNN, "lstm": tg.nn.LSTM, "gru": tg.nn.GRU}
BATCH, TEST, EVERY = 50, 1000, 100  # sequences of an update and of a test; updates between tests


def draw(task, T, B, rng):
    """Fresh sequences every time: x (T, B, I), the targets, and after how many steps to answer.

    Targets are sums (B, 1), due at the end, or ids (T, B), due at every step: no lengths then.
    """
    if task == "adding":
        return *tasks.adding(T, B, rng=rng), np.full(B, T)
    if task == "adding-1997":
        return tasks.adding_1997(T, B, rng=rng)
    ids, targets = tasks.copy_memory(T, B, rng=rng, control=task == "copy-control")
    return np.eye(tasks.COPY_SYMBOLS, dtype=np.float32)[ids], targets, None  # one-hot


def bar(task, T):
    """Without a memory: the loss, the share of right answers; and the loss that is the goal."""
    if task == "adding":
        return tasks.ADDING_BASELINE, 1 - (1 - tasks.ADDING_1997_TOLERANCE) ** 2, 0.01
    if task == "adding-1997":
        return tasks.ADDING_1997_BASELINE, tasks.ADDING_1997_RIGHT, 0.0002
    loss = tasks.copy_baseline(T)
    return loss, 1 / 8, 0.0 if task == "copy-control" else loss / 2  # the control has none


class Reader(tg.nn.Module):
    """One recurrent layer, and a linear layer that makes an answer of its state."""

    def __init__(self, options, rng):
        I, O = (2, 1) if "adding" in options.task else (tasks.COPY_SYMBOLS, tasks.COPY_SYMBOLS)
        more = {} if options.forget_bias is None else {"forget_bias": options.forget_bias}
        self.layer = LAYERS[options.model](I, options.hidden, rng=rng, **more)
        self.output = tg.nn.Linear(options.hidden, O, rng=rng)

    def forward(self, x, lengths=None):
        states, _ = self.layer(x)  # (T, B, H)
        if lengths is not None:  # of each sequence the state after its own last step
            states = states[lengths - 1, np.arange(len(lengths))]  # (B, H)
        return self.output(states)


def measure(model, x, targets, lengths):
    """The loss, and the share of right answers: an error below 0.04 as in 1997, or recalled."""
    answers = model(x, lengths)
    if lengths is not None:
        right = abs(answers.data - targets) < tasks.ADDING_1997_TOLERANCE
        return mse_loss(answers, targets), right.mean()
    right = answers.data.argmax(-1) == targets
    return cross_entropy(answers, targets), right[-tasks.COPY_LENGTH :].mean()


def train(options, rng):
    """The training loop; yields (updates done, loss, share right), both on fresh sequences."""
    model = Reader(options, rng)
    optimizer = tg.optim.Adam(model.parameters(), lr=options.lr)
    test = draw(options.task, options.length, TEST, np.random.default_rng([options.seed, 1]))
    for update in range(options.updates + 1):
        if update:
            loss, _ = measure(model, *draw(options.task, options.length, BATCH, rng))
            optimizer.zero_grad()
            loss.backward()  # through all steps: nothing is truncated
            tg.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # one wild batch undoes much
            optimizer.step()
        if update % EVERY == 0 or update == options.updates:
            with tg.no_grad():
                loss, right = measure(model, *test)
            yield update, float(loss), right


def plot(file, points, baseline, goal, title):
    """The test loss on a logarithmic axis, between the two lines that give it a meaning."""
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), "o-", markersize=3, color="#1f5f99")
    for level, name in [(baseline, "without a memory"), (goal, "goal")][: 2 if goal else 1]:
        axes.axhline(level, color="#777777", linewidth=0.9, linestyle=(0, (5, 4)))
        axes.annotate(f" {name}\n {level:.4g}", (1, level), va="center", color="#777777",
                      xycoords=("axes fraction", "data"), annotation_clip=False)  # fmt: skip
    axes.set(title=title, xlabel="updates", ylabel="loss on fresh sequences", yscale="log")
    figure.savefig(file, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--model", default="lstm", choices=LAYERS)
    parser.add_argument("--length", type=door.at_least(1), default=50, help="T, how many steps")
    parser.add_argument("--seed", type=door.at_least(0), default=0)
    parser.add_argument("--updates", type=door.at_least(0), default=3000)
    parser.add_argument("--hidden", type=door.at_least(1), default=64)
    parser.add_argument("--forget-bias", type=door.finite, help="of the LSTM; default: 1, open")
    parser.add_argument("--lr", type=door.positive, default=0.005)
    parser.add_argument("--plot", type=door.picture, metavar="FILE", help="draw the loss")
    options = parser.parse_args()
    if options.forget_bias is not None and options.model != "lstm":
        parser.error(f"--forget-bias is the LSTM's; a model {options.model!r} has no forget gate")

    baseline, luck, goal = bar(options.task, options.length)
    title = f"{options.task}, T = {options.length}: {options.model}, {options.hidden} units"
    print(f"{title}; loss and share of right answers on fresh sequences\n")
    points = []
    for update, loss, right in train(options, np.random.default_rng(options.seed)):
        points.append((update, loss))
        print(f"after {update:5} updates: loss {loss:.5f}, {loss / baseline:5.3f} x baseline "
              f"{baseline:.4f}; {right:4.0%} right, baseline {luck:.1%}", flush=True)  # fmt: skip
        if loss < goal:
            break
    verdict = "goal reached" if loss < goal else "goal not reached"
    verdict = verdict if goal else "nothing there to remember"
    print(f"\n{verdict} after {update} updates: loss {loss:.5f}, goal {goal:.5f}")
    if options.plot:
        plot(options.plot, points, baseline, goal, title)
        print(f"picture {options.plot}")


if __name__ == "__main__":
    door.run(main)
