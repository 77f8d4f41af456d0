"""Nightly only: the tasks of `benchmarks/tasks.py`, trained until their numbers are reached.

Each test runs the commands of one claim and fails if the claim does not hold: `make nightly`, which
is ``pytest -m slow``. Of claims with several seeds one is run, where one is enough to fail.
"""

from dataclasses import replace

import pytest

from benchmarks import tasks

pytestmark = pytest.mark.slow


SEVERAL = "forget-bias"  # compares medians: one seed would be luck
MISSED = "forget-bias-fast"  # does not hold: benchmarks/results/tasks.md


def prove(name, seeds):
    claim = replace(tasks.CLAIMS[name], seeds=seeds)
    holds, results = tasks.prove(claim)
    assert holds, (claim.says, results)


@pytest.mark.parametrize("name", [n for n in tasks.CLAIMS if n not in (SEVERAL, MISSED)])
def test_the_claim_holds(name):
    prove(name, seeds=(0,))


def test_a_forget_gate_that_starts_open_learns_to_remember_100_steps_sooner():
    prove(SEVERAL, seeds=(0, 1, 2))


def test_an_lstm_reads_further_than_counting_and_than_a_vanilla_network():
    """On the embedded text, the only one that is always there; each Python has another."""
    grams = tasks.counting(None)
    lstm, rnn = (tasks.train_on_text(None, kind, epochs=10).losses for kind in ("lstm", "rnn"))
    assert lstm[0] < grams[2]
    assert lstm[2] < grams[3]
    assert lstm[9] < grams[4]
    assert lstm[9] < rnn[9]  # which is ahead at first: it has less to learn
