"""Every claim about long memories, run to its number: ``python -m benchmarks.tasks``.

    python -m benchmarks.tasks                    # all that need no file; some 20 minutes
    python -m benchmarks.tasks --only rnn-50      # one of them
    python -m benchmarks.tasks --text FILE        # and the character models, on that text
    python -m benchmarks.tasks --write            # and put the results into the file

A claim is a handful of commands, those that a reader would type, and a condition on the numbers
they print. What came out is printed, one section a claim; with ``--write`` it also goes into
``benchmarks/results/tasks.md``, where a run of some claims leaves the sections of the others as
they are. A claim that does not hold is called missed. ``tests/test_nightly.py`` runs the same
functions.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.task_runs import ROOT, Result, TextResult, counting, machine, run, train_on_text

RESULTS = ROOT / "benchmarks" / "results" / "tasks.md"
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Claim:
    """A sentence, the options of the example that show it, and what has to come out.

    Attributes:
        says: the sentence.
        options: of ``examples/long_memory.py``; each set is run with every seed.
        holds: from the results, grouped as `options` is, to whether the sentence is true.
    """

    says: str
    options: tuple[str, ...]
    holds: Callable[[Sequence[Sequence[Result]]], bool]
    seeds: tuple[int, ...] = SEEDS[:3]


def all_solved(groups: Sequence[Sequence[Result]]) -> bool:
    return all(r.solved for group in groups for r in group)


def updates_needed(group: Iterable[Result]) -> float:
    """The median number of updates to the goal; a run that missed it needs more than any other."""
    return statistics.median(r.updates if r.solved else math.inf for r in group)


def first_is_sooner(groups: Sequence[Sequence[Result]]) -> bool:
    """Of two settings the first needs fewer updates; a tie is not sooner."""
    return updates_needed(groups[0]) < updates_needed(groups[1])


COPY_20 = "--model lstm --length 20 --hidden 128 --forget-bias 5 --lr 0.01 --updates 3000"
LSTM_1997 = "--task adding-1997 --model lstm --length 50 --updates 3000"
LSTM_100 = "--task adding --model lstm --length 100 --updates 5000"
CLAIMS = {
    "lstm-50": Claim(
        "An LSTM solves adding, T = 50, within 3,000 updates (loss below 0.01).",
        ("--task adding --model lstm --length 50 --updates 3000",),
        all_solved,
    ),
    "gru-50": Claim(
        "So does a GRU.",
        ("--task adding --model gru --length 50 --updates 3000",),
        all_solved,
    ),
    "rnn-50": Claim(
        "The vanilla RNN does not: the best it comes to in 3,000 updates is within 20 % of the "
        "baseline, 1/6.",
        ("--task adding --model rnn --length 50 --updates 3000",),
        lambda groups: all(0.8 < r.best < 1.2 for r in groups[0]),
    ),
    "rnn-50-slow": Claim(
        "With a smaller learning rate, 0.001, some vanilla RNNs get off the baseline (their "
        "weights start orthogonal), but none solves the task within 3,000 updates.",
        ("--task adding --model rnn --length 50 --lr 0.001 --updates 3000",),
        lambda groups: all(r.best < 1.2 and not r.solved for r in groups[0]),
        SEEDS,
    ),
    "lstm-100": Claim(
        "An LSTM solves adding, T = 100.",
        (f"{LSTM_100} --forget-bias 1",),
        all_solved,
        SEEDS,
    ),
    "forget-bias": Claim(
        "With a forget bias of 1 it does so sooner than with 0, at a learning rate of 0.002 "
        "(medians over 5 seeds of the updates to a loss below 0.01).",
        (f"{LSTM_100} --lr 0.002 --forget-bias 1", f"{LSTM_100} --lr 0.002 --forget-bias 0"),
        first_is_sooner,
        SEEDS,
    ),
    "forget-bias-fast": Claim(
        "The same at the default learning rate, 0.005.",
        (f"{LSTM_100} --forget-bias 1", f"{LSTM_100} --forget-bias 0"),
        first_is_sooner,
        SEEDS,
    ),
    "adding-1997": Claim(
        "Where both numbers are shown in the first half, in the adding problem of 1997, T = 50, it "
        "decides: with a forget bias of 5 an LSTM solves it (loss below 0.0002; then some 99 % of "
        "the answers are off by less than 0.04), with 1 it is still at the baseline after 3,000 "
        "updates.",
        (f"{LSTM_1997} --forget-bias 5", f"{LSTM_1997} --forget-bias 1"),
        lambda groups: all_solved(groups[:1]) and all(0.8 < r.best < 1.2 for r in groups[1]),
    ),
    "copy-20": Claim(
        "An LSTM (forget bias 5) copies ten symbols over T = 20 steps to below half the baseline; "
        "where fresh symbols are asked for, the control, it is never below 0.98 of the baseline.",
        (f"--task copy {COPY_20}", f"--task copy-control {COPY_20}"),
        lambda groups: all_solved(groups[:1]) and all(0.98 <= r.best < 1.2 for r in groups[1]),
    ),
}


# ---- running -------------------------------------------------------------------------------------


def prove(claim: Claim) -> tuple[bool, list[list[Result]]]:
    """Run all that a claim consists of: whether it holds, and the results."""
    groups = [[run(options, seed) for seed in claim.seeds] for options in claim.options]
    return claim.holds(groups), groups


# ---- the table -----------------------------------------------------------------------------------


def section(claim: Claim, holds: bool, groups: Sequence[Sequence[Result]]) -> str:
    lines = [
        f"{claim.says} **{'Holds' if holds else 'Missed'}.**\n",
        "| command | updates | reached | lowest | baseline | solved | seconds | of them CPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{r.command}` | {r.updates:,} | {r.reached:.4g} | {r.lowest:.4g} | {r.baseline:.4g} | "
        f"{'yes' if r.solved else 'no'} | {r.seconds:.0f} | {r.cpu:.0f} |"
        for group in groups
        for r in group
    ]
    if len(groups) == 2 and claim.seeds == SEEDS:
        needed = [f"{updates_needed(g):,.0f}" for g in groups]
        lines.append(f"\nMedian updates: {needed[0]} against {needed[1]}.")
    return "\n".join([*lines, "", machine()])


def text_section(lstm: TextResult, rnn: TextResult, grams: dict[int, float], name: str) -> str:
    first = lstm.losses[0] < grams[3]
    third = lstm.losses[-1] < grams[4]
    beats = lstm.losses[-1] < rnn.losses[-1]
    holds = "**Holds.**" if first and third and beats else "**Missed.**"
    rows = "\n".join(
        f"| {r.kind.upper()} 128 | {r.seed} | {r.updates:,} | "
        + " | ".join(f"{loss:.4f}" for loss in r.losses)
        + f" | {r.seconds:.0f} | {r.cpu:.0f} |"
        for r in (lstm, rnn)
    )
    counted = ", ".join(f"{n}-gram {loss:.4f}" for n, loss in grams.items())
    epochs = " | ".join(f"after epoch {n + 1}" for n in range(len(lstm.losses)))
    return (
        f"{name}: an LSTM with 128 units is below the 3-gram after one epoch, and after three it "
        f"is below the 4-gram and the RNN with 128 units. {holds}\n\n"
        f"Validation losses in nats per character; counting reaches {counted}. T = 50, B = 50, "
        f"Adam 2e-3, clipped to 5, embedding 64; first 90 % train, last 10 % validation. Command: "
        f"`python -m benchmarks.tasks --only text --text FILE`.\n\n"
        f"| model | seed | updates an epoch | {epochs} | seconds | of them CPU |\n"
        f"|---|---|---|{'---|' * len(lstm.losses)}---|---|\n{rows}\n\n{machine()}"
    )


HEAD = """# Long memories, measured

Written by `python -m benchmarks.tasks --write`; `make nightly` runs what is not marked as missed:
one seed of most claims, and the character models on the embedded text, not on a file. Losses are on
sequences or text that was not trained on; the baseline is what is reached without a memory; solved
means that the loss came below the goal of its claim. Seconds are those of the clock, upper bounds
where the load says that the machine was busy; CPU seconds are those of the processor."""


def write(sections: dict[str, str]) -> None:
    """Put these sections into the file, in the order of the claims, and keep the others."""
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    kept = dict(part.split("\n\n", 1) for part in old.split("\n## ")[1:])
    kept |= sections
    ordered = [name for name in (*CLAIMS, "text") if name in kept]
    parts = [HEAD, *(f"## {name}\n\n{kept[name].strip()}" for name in ordered)]
    RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=[*CLAIMS, "text"], help="run this one")
    parser.add_argument("--text", metavar="FILE", help="a text for the character models")
    parser.add_argument("--write", action="store_true", help=f"put it into {RESULTS.name}, too")
    args = parser.parse_args()
    if args.only == "text" and args.text is None:
        parser.error("--only text needs --text FILE")

    def tell(name: str, told: str) -> None:  # at once: what follows may be stopped
        print(f"## {name}\n\n{told}\n", flush=True)
        if args.write:
            write({name: told})

    for name, claim in CLAIMS.items():
        if args.only in (None, name):
            print(f"{name}: {claim.says}\n", flush=True)
            holds, groups = prove(claim)
            tell(name, section(claim, holds, groups))
    if args.text and args.only in (None, "text"):
        lstm, rnn = (train_on_text(args.text, kind, epochs=3) for kind in ("lstm", "rnn"))
        tell("text", text_section(lstm, rnn, counting(args.text), Path(args.text).stem))


if __name__ == "__main__":
    main()
