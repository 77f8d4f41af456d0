"""One order of a gradient check: probe the function, compare, judge what disagrees.

A *probe* is a direction v with the numbers along it. They are compared twice: with central
differences, always, and with the complex step where there is one. What disagrees is a suspect. For
each suspect, the worst first, the function itself is asked whether it is smooth there; the first
one found wrong at a smooth point decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np

from tinygrad_rnn._gradcheck_complex import NotAnalytic, complex_step, obstacle
from tinygrad_rnn._gradcheck_inputs import Host, Problem, flat, gradients, host
from tinygrad_rnn._gradcheck_numeric import (
    Pair,
    Probe,
    Windows,
    describe,
    differences,
    is_kinked,
    is_wrong,
    look_around,
    pair_of,
    step,
    suspicious,
    sweep,
)
from tinygrad_rnn._gradcheck_report import GradcheckReport, Kink, at
from tinygrad_rnn.core.primitive import Primitive
from tinygrad_rnn.errors import ShapeError

ELEMENTS = 64  # up to this many inputs and outputs, every entry of the Jacobian is compared
DIRECTIONS = 5  # beyond, this many random ones are
EXACT = 1e-12  # what the complex step tolerates, relative to the terms that were added up
DIFFERENCES, COMPLEX = "central differences", "the complex step"


class Check:
    """One order of a check, from the probes to the report."""

    def __init__(
        self,
        problem: Problem,
        order: int,
        eps: float,
        atol: float,
        rtol: float,
        rng: np.random.Generator,
        analytic: Collection[Primitive],
    ) -> None:
        self.problem, self.order, self.rng = problem, order, rng
        self.eps, self.atol, self.rtol = eps, atol, rtol
        self.analytic = analytic
        self.obstacle = obstacle(problem, analytic)  # why there is no complex step
        outputs = problem.outputs()
        size = max(sum(x.size for x in problem.leaves), sum(y.size for y in outputs))
        self.small = size <= ELEMENTS
        self.middle = flat([host(y) for y in outputs])
        # By what a probe was compared with: the worst pair that passed, and all that did not.
        self.worst: dict[str, Pair] = {}
        self.counts = {DIFFERENCES: 0, COMPLEX: 0}
        self.suspects: dict[str, list[Pair]] = {DIFFERENCES: [], COMPLEX: []}
        self.views: dict[int, tuple[Probe, Windows]] = {}  # by id, so the probe is kept, too
        self.kinks: dict[tuple[int, int], Kink] = {}

    def run(self) -> GradcheckReport:
        probes = list(self._elements() if self.small else self._directions())
        for probe in probes:
            self._weigh(probe, DIFFERENCES)
            if not self.obstacle:
                self._weigh(probe, COMPLEX)
        return self._report(*self._judge())

    # ---- probes ----

    def _elements(self) -> Iterator[Probe]:
        """Every entry of the Jacobian: rows by backward passes, columns by differences."""
        problem = self.problem
        names: list[str] = []
        rows: list[list[Host]] = []
        for k, (name, y) in enumerate(problem.run()):
            for index in np.ndindex(y.shape):
                outputs = problem.outputs()  # a graph of its own: each pass frees it
                cotangents = [np.zeros(o.shape) for o in outputs]
                cotangents[k][index] = 1
                names.append(f"{name}{at(index)}")
                rows.append(gradients(outputs, problem.leaves, cotangents))
        entries = np.abs(flat([flat(r) for r in rows]))
        largest = float(entries[np.isfinite(entries)].max(initial=0))
        for i, (name, x) in enumerate(zip(problem.names, problem.leaves, strict=True)):
            for index in np.ndindex(x.shape):
                column = np.array([gradient[i][index] for gradient in rows])
                v = [np.zeros(other.shape) for other in problem.leaves]
                v[i][index] = 1
                yield Probe(v, name, index, names, column, largest)

    def _directions(self) -> Iterator[Probe]:
        """Random directions through all inputs together, and then through each input alone."""
        problem, rng = self.problem, self.rng
        alone = range(len(problem.leaves)) if len(problem.leaves) > 1 else ()
        for chosen in [None] * DIRECTIONS + [*alone]:
            outputs = problem.outputs()
            u = _units(rng, [y.shape for y in outputs])
            v = [
                np.asarray(rng.choice([-1.0, 1.0], size=x.shape))
                if chosen in (None, i)
                else np.zeros(x.shape)
                for i, x in enumerate(problem.leaves)
            ]
            gradient = flat(gradients(outputs, problem.leaves, u))
            through = "all inputs" if chosen is None else problem.names[chosen]
            yield self._direction(v, flat(u), gradient, f"a random direction through {through}")

    @staticmethod
    def _direction(
        v: list[Host], u: Host, gradient: Host, name: str, index: tuple[int, ...] | None = None
    ) -> Probe:
        terms = gradient * flat(v)
        size = float(np.abs(terms[np.isfinite(terms)]).sum())
        mixed = ["a random mix of the outputs"]
        return Probe(v, name, index, mixed, np.array([terms.sum()]), size, u, gradient)

    # ---- comparing ----

    def _measure(self, probe: Probe, against: str) -> tuple[Host, Host]:
        """The numbers of a probe without a backward pass, and the tolerance of each."""
        if against == COMPLEX:
            other = probe.rows(complex_step(self.problem, probe.v, self.analytic))
            values = np.abs(probe.rows(self.middle))
            size = np.maximum(np.abs(other), max(probe.size, 0.01 * _largest(values)))
            return other, EXACT * size + 1e-300
        h = step(self.problem, probe.v, self.eps)
        other = probe.rows(differences(self.problem, probe.v, h))
        with np.errstate(all="ignore"):
            size = np.fmax(np.abs(probe.analytic), np.abs(other))
        return other, self.atol + self.rtol * np.where(np.isfinite(size), size, 0)

    def _weigh(self, probe: Probe, against: str) -> None:
        try:
            other, tolerance = self._measure(probe, against)
        except NotAnalytic as error:
            self.obstacle = str(error)
            return
        with np.errstate(all="ignore"):
            ratios = np.abs(probe.analytic - other) / tolerance
        ratios = np.where(np.isfinite(ratios), ratios, np.inf)
        self.counts[against] += ratios.size
        calm = np.where(ratios > 1, -1, ratios)
        best = [calm.argmax()] if calm.max(initial=-1) >= 0 else []
        for row in (*np.flatnonzero(ratios > 1), *best):
            pair = pair_of(probe, int(row), other, tolerance)
            if pair.ratio > 1:
                self.suspects[against].append(pair)
            elif against not in self.worst or pair.ratio > self.worst[against].ratio:
                self.worst[against] = pair
        if against == DIFFERENCES and self.small:
            self._look_for_kinks(probe)

    def _look_for_kinks(self, probe: Probe) -> None:
        """Where a gradient is the mean of two slopes, differences agree, and there is a kink."""
        h = step(self.problem, probe.v, self.eps)
        low, high = (probe.rows(self.problem.at(probe.v, t)) for t in (-h, h))
        for row in suspicious(low, probe.rows(self.middle), high, h):
            if is_kinked(self._view(probe), row):
                self._list(probe, int(row), near=False)

    # ---- judging ----

    def _judge(self) -> tuple[str, Pair | None, str]:
        """The verdict, the pair that decided it, and what that was compared with."""
        by_ratio = {
            against: sorted(pairs, key=lambda p: p.ratio, reverse=True)
            for against, pairs in self.suspects.items()
        }
        excused = None
        for pair in by_ratio[DIFFERENCES]:
            found = self._located(pair, DIFFERENCES)
            tolerance, view = found.tolerance, self._view(found.probe)
            wrong = is_wrong(view, found.row, found.analytic, tolerance, found.error)
            if wrong:
                return "DISAGREE", found, DIFFERENCES
            self._list(found.probe, found.row, near=wrong is False)
            excused = excused or found
        seen = {(id(p.probe), p.row) for p in by_ratio[DIFFERENCES]}
        for pair in by_ratio[COMPLEX]:
            if (id(pair.probe), pair.row) in seen:
                continue  # differences disagree as well, and a kink excuses both
            if pair.error <= self.atol + self.rtol * max(abs(pair.analytic), abs(pair.other)):
                return "DISAGREE", self._located(pair, COMPLEX), COMPLEX
            if not is_kinked(self._view(pair.probe), pair.row):
                self.obstacle = "it contradicts the differences; is every op in `analytic` so?"
                break
            self._list(pair.probe, pair.row, near=False)
        if excused:
            return "KINK", excused, DIFFERENCES
        return "agree", self.worst.get(DIFFERENCES), DIFFERENCES

    def _located(self, pair: Pair, against: str) -> Pair:
        """Halve a direction again and again, to the element that disagrees most.

        Gives back the pair itself where every half agrees: the error is spread over too many.
        """
        probe = pair.probe
        if probe.gradient is None or probe.u is None:
            return pair
        v = flat(probe.v)
        active = np.flatnonzero(v)
        found = pair
        while len(active) > 1:
            middle = len(active) // 2
            pairs = []
            for half in (active[:middle], active[middle:]):
                part = np.zeros_like(v)
                part[half] = 1 if len(half) == 1 else v[half]
                name, index = self._name(half) if len(half) == 1 else (probe.input, None)
                smaller = self._direction(self._shaped(part), probe.u, probe.gradient, name, index)
                pairs.append((pair_of(smaller, 0, *self._measure(smaller, against)), half))
            found, active = max(pairs, key=lambda p: p[0].ratio)
            if found.ratio <= 1:
                return pair
        return found

    def _shaped(self, vector: Host) -> list[Host]:
        ends = list(itertools.accumulate(x.size for x in self.problem.leaves))
        parts = np.split(vector, ends[:-1])
        return [p.reshape(x.shape) for p, x in zip(parts, self.problem.leaves, strict=True)]

    def _name(self, place: Host) -> tuple[str, tuple[int, ...]]:
        """The input that an element of the flat vector belongs to, and its index there."""
        rest = int(place[0])
        for name, x in zip(self.problem.names, self.problem.leaves, strict=True):
            if rest < x.size:
                return name, tuple(int(i) for i in np.unravel_index(rest, x.shape))
            rest -= x.size
        raise ShapeError(f"gradcheck: no element {place}")  # never: `place` is one of them

    def _view(self, probe: Probe) -> Windows:
        if id(probe) not in self.views:
            h = step(self.problem, probe.v, self.eps)
            self.views[id(probe)] = probe, look_around(self.problem, probe, h)
        return self.views[id(probe)][1]

    def _list(self, probe: Probe, row: int, *, near: bool) -> None:
        self.kinks[id(probe), row] = describe(self._view(probe), row, probe, near=near)

    # ---- reporting ----

    def _no_numbers(self) -> str:
        return "every number is at a kink" if self.counts[COMPLEX] else "nothing to compare"

    def _report(self, verdict: str, pair: Pair | None, against: str) -> GradcheckReport:
        exact = self.worst.get(COMPLEX)
        if verdict == "DISAGREE":
            exact = max(self.suspects[COMPLEX], key=lambda p: p.ratio, default=exact)
        compared = self.counts[DIFFERENCES]
        report = GradcheckReport(
            True, self.order, compared, 0.0, self.atol, "there are no elements", 0.0, 0.0,
            method="every entry of the Jacobian" if self.small else "random directions",
            kinks=tuple(self.kinks.values()),
            no_complex_step=self.obstacle or ("" if exact else self._no_numbers()),
            complex_step=exact.comparison(self.counts[COMPLEX])
            if exact and not self.obstacle
            else None,
        )  # fmt: skip
        if pair is None:  # an empty input, or an empty output: true of all of its elements
            return report
        worst = pair.comparison(compared)
        return replace(
            report, passed=verdict == "agree", verdict=verdict, against=against,
            error=worst.error, tolerance=worst.tolerance, place=worst.place, input=worst.input,
            index=worst.index, output=worst.output, analytic=worst.analytic, numeric=worst.other,
            sweep=sweep(self.problem, pair.probe, pair.row),
        )  # fmt: skip


def _largest(values: Host) -> float:
    return float(values[np.isfinite(values)].max(initial=0))


def _units(rng: np.random.Generator, shapes: list[tuple[int, ...]]) -> list[Host]:
    """One random vector of length 1 per output."""
    drawn = [np.asarray(rng.normal(size=shape)) for shape in shapes]
    return [d / max(float(np.linalg.norm(d)), 1e-300) for d in drawn]
