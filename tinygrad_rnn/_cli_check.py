"""``tinygrad-rnn check``: every gradient of the package against differences, in one table.

The table is what `gradcheck` says about each example of `_check_examples.py` (ops) and
`_check_layers.py` (layers, losses, a whole model), a line as soon as it is known. Its columns:

    largest error    |analytic - numeric| of the pair of numbers nearest to what is tolerated, for
                     gradients (order 1) and for gradients of gradients (order 2)
    share            the same in terms of what is tolerated, ATOL + RTOL * size; beyond 100 % (then
                     shown as a multiple) it is WRONG
    pairs            how many were compared

A good row ends in ``exact`` where all of its calls allowed the complex step, whose error is that of
rounding, and in ``ok`` where differences are the only witness. Others end in ``WRONG``; in ``KINK``
where the function is not smooth, so that differences say nothing; in ``ERROR`` where a rule raised.

Below it stands, for what is wrong, where it is wrong and by how much. Nothing in the output depends
on the machine's speed or on the time: two runs can be compared by ``diff``, up to rounding.
"""

from __future__ import annotations

import difflib
import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tinygrad_rnn import _check_layers
from tinygrad_rnn._check_examples import Example, ops
from tinygrad_rnn._cli_screen import width
from tinygrad_rnn.errors import DataError, GradcheckError
from tinygrad_rnn.gradcheck import GradcheckReport, gradcheck

# What is right stays well below this; a derivative that is three millionths off does not.
ATOL, RTOL = 1e-8, 1e-6
EXPLAINED = 5  # rows that are wrong: one wrong rule can spoil fifty
WIDEST = 32  # characters of a name; with the other columns that makes a line of 80


@dataclass(frozen=True)
class Check:
    """Compare every gradient of the package with differences, in float64: ops, layers, a model."""

    only: str = ""
    """Only what has this in its name: an op, a layer, a parameter; or "ops", "layers", "model"."""
    order: Literal[1, 2] = 2
    """1: gradients; 2: the gradients of the gradients, too."""
    model: Literal["lstm", "gru", "rnn"] = "lstm"
    """The model: kind of recurrent network."""
    hidden: int = 5
    """The model: size of the hidden state."""
    layers: int = 2
    """The model: recurrent layers on top of each other."""
    steps: int = 7
    """The model: characters to go back through."""
    seed: int = 0
    """Seed of inputs, weights and directions."""

    def run(self) -> int:
        """Check all that was asked for; exit code 1 if one of it disagrees."""
        for name, lowest in (("hidden", 1), ("layers", 1), ("steps", 1), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise DataError(f"{name} is a number >= {lowest}, got {getattr(self, name)}")
        sections = _chosen(self._sections(), self.only)
        _heading(self.order)
        for section in sections:
            _say(f"\n{section.title}")
            for row in section.rows:
                _check(row, self.order, self.seed)
                _say(row.line(self.order))
        return _conclusion(sections)

    def _sections(self) -> list[Section]:
        built = _check_layers.model(
            self.model, hidden=self.hidden, layers=self.layers, steps=self.steps, seed=self.seed
        )
        title = _check_layers.describe(self.model, self.hidden, self.layers, self.steps)
        return [
            Section("ops", "ops", _rows(ops(self.seed))),
            Section("layers", "layers and losses", _rows(_check_layers.layers(self.seed))),
            Section(f"model, {self.model}", f"model: {title}", _rows(built)),
        ]


# ---- rows and sections ---------------------------------------------------------------------------


@dataclass
class Row:
    """The examples of one name, and what was found."""

    name: str
    examples: list[Example]
    exact: bool = True  # as far as is known
    verdict: str = ""  # if it is not one of the good ones,
    why: str = ""  # and what is said about it
    compared: int = 0
    # By order: how near to its tolerance the worst pair was (1: at it), and the error there.
    worst: dict[int, tuple[float, float]] = field(default_factory=dict)

    def note(self, report: GradcheckReport) -> None:
        """Add what one check found."""
        self.compared += report.compared
        self.exact &= report.complex_step is not None
        ratio = report.error / report.tolerance
        found = math.inf if math.isnan(ratio) else ratio, report.error
        self.worst[report.order] = max(found, self.worst.get(report.order, (0.0, 0.0)))

    def line(self, order: int) -> str:
        """This row of the table."""
        errors = [f"{self.worst[o][1]:9.1e}" if o in self.worst else f"{'-':>9}" for o in (1, 2)]
        share = max((ratio for ratio, _ in self.worst.values()), default=0.0)
        columns = [*errors[:order], f"{_share(share):>11}", f"{self.compared:>10,}"]
        verdict = self.verdict or ("exact" if self.exact else "ok")
        return f"  {self.name:{WIDEST}}{''.join(columns)}  {verdict}"


@dataclass
class Section:
    """A part of the table; `name` is what ``--only`` may ask for, `title` what is printed."""

    name: str
    title: str
    rows: list[Row]

    def count(self) -> str:
        """How much there is, for the summary: 57 ops."""
        noun = self.name.partition(",")[0].removesuffix("s")
        number = 1 if noun == "model" else len(self.rows)  # its rows are parts of one model
        return f"{number} {noun}{'s' * (number != 1)}"


def _rows(examples: Sequence[Example]) -> list[Row]:
    """Examples of one name make one row, in the order of first appearance."""
    rows: dict[str, Row] = {}
    for example in examples:
        rows.setdefault(example.name, Row(example.name, [])).examples.append(example)
    return list(rows.values())


def _chosen(sections: Sequence[Section], only: str) -> list[Section]:
    """The sections and rows with `only` in their name, in whatever case."""
    word = only.lower()
    found = [
        Section(s.name, s.title, [r for r in s.rows if word in s.name or word in r.name.lower()])
        for s in sections
    ]
    found = [section for section in found if section.rows]
    if not found:
        names = [section.name for section in sections]
        names += [row.name for section in sections for row in section.rows]
        near = difflib.get_close_matches(only, names, n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(near)}?" if near else "."
        raise DataError(
            f"--only {only!r} is in no name{hint} There are ops, layers, model and "
            f"{len(names) - len(sections)} names in them, all in the table of `tinygrad-rnn check`"
        )
    return found


# ---- checking ------------------------------------------------------------------------------------


def _check(row: Row, order: int, seed: int) -> None:
    """Fill in the row, up to the first example and order that is wrong."""
    for example in row.examples:
        for current in range(1, min(order, example.order) + 1):
            try:
                report = gradcheck(
                    example.fn, example.inputs, order=current, atol=ATOL, rtol=RTOL, rng=seed
                )
            except GradcheckError as error:
                found: GradcheckReport | None = getattr(error, "report", None)
                if found is not None:
                    row.note(found)
                kink = found is not None and found.verdict == "KINK"
                row.verdict, row.why = "KINK" if kink else "WRONG", str(error)
                return
            except MemoryError:  # says nothing about gradients; `main` knows what to do
                raise
            except Exception as error:  # noqa: BLE001 - a rule that breaks is a finding, too
                row.verdict, row.why = "ERROR", f"{type(error).__name__}: {error}"
                return
            row.note(report)


# ---- printing ------------------------------------------------------------------------------------


def _say(line: str = "") -> None:
    """A line, at once; where nobody reads any more, the error ends the command (see `cli.main`)."""
    sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()


def _heading(order: int) -> None:
    _say(f"""\
The backward pass against differences, in float64: gradients (order 1), and
gradients of gradients (order 2). Tolerated is {ATOL:g} + {RTOL:g} x size. What is
"exact" agrees with the complex step as well, to 1e-12 of its size.""")
    orders = "".join(f"{f'order {o}':>9}" for o in range(1, order + 1))
    _say(f"\n{'':{WIDEST + 2}}{'largest error':>{9 * order}}{'share of':>11}{'pairs':>10}")
    _say(f"{'':{WIDEST + 2}}{orders}{'tolerated':>11}{'compared':>10}")


def _share(ratio: float) -> str:
    """An error as a share of what is tolerated; beyond that, as a multiple."""
    if ratio > 1:
        return f"{ratio:.3g} x"
    return f"{100 * ratio:.2f} %" if ratio >= 1e-4 else "< 0.01 %"


def _conclusion(sections: Sequence[Section]) -> int:
    """Explain what is wrong, count what was checked; returns the exit code."""
    rows = [row for section in sections for row in section.rows]
    wrong = [row for row in rows if row.verdict]
    counts = ", ".join(section.count() for section in sections)
    if not wrong:
        compared = sum(row.compared for row in rows)
        _say(f"\n{counts}: all agree, in {compared:,} comparisons.")
        return 0
    for row in wrong[:EXPLAINED]:
        _say(f"\n{row.name}:")
        for line in row.why.split("\n"):  # a report is laid out already, if not for this width
            _say(_filled(line) if len(line) + 2 > width() else f"  {line}")
    if len(wrong) > EXPLAINED:
        names = ", ".join(row.name for row in wrong[EXPLAINED:])
        _say("\nMore, each explained by --only NAME:\n" + _filled(names))
    _say(f"\n{counts}: {len(wrong)} of {len(rows)} rows wrong.")
    return 1


def _filled(text: str) -> str:
    return textwrap.fill(text, width(), initial_indent="  ", subsequent_indent="  ")
