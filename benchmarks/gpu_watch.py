"""The process that watches: it has the measuring done by another one, and keeps what that tells.

A kernel that reads where it must not takes its process along, and one that waits for ever never
gives it back. So the measuring is done by a worker. When it dies, or is silent for too long, it is
ended, and another one is started for what is left, without the implementation that was to blame.

    worker  --  lines that begin with MARK: rows, notes, "now X runs", "unit done"  -->  watcher
            --  all other lines: straight to the screen
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_clock import MARK
from benchmarks.gpu_table import table, widths_of

NOTHING_TO_RUN_ON, LOST = 2, 70  # exit codes of a worker

INTRODUCTION = """\
# On a GPU, measured

Written by `make bench-gpu`. Times are medians of calls on an idle device, the host's part included.
Those who are compared take turns; of short calls each makes two in a turn, and the second counts.
Ratios: our time over PyTorch's, turn by turn, then the median (lowest - highest); **below 1 this
project is the faster**. It stands under the names of its implementations; `auto` chooses one by
itself. Like is compared with like: `strict` is float32 throughout in both, `TF32` lets both round
the factors of their matrix products to 10 bits.
The floor is the larger of FLOPs over the rate of a large product and bytes over the rate of a large
copy, both measured here. The error of a layer is the largest relative error (2-norm) among its
output and gradients, against PyTorch's layer in float64. Host: until Python had handed over all
work; where that is nearly all of the time, the device waits for Python.
"""


@dataclass
class Report:
    """All tables so far, by title, and what went wrong; written anew after each message."""

    command: str
    path: Path | None = None
    tables: dict[str, tuple[list[str], list[list[str]]]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)  # what could not be -> where
    troubles: list[str] = field(default_factory=list)
    last: tuple[str, list[int]] = ("", [])  # the table that stands last on the screen, its widths

    def add(self, title: str, headers: list[str], rows: list[list[str]]) -> None:
        """Rows for the table of that title; the screen shows them at once.

        Where a unit is measured once more, because a worker died in it, a row takes the place of
        the one that is about the same: equal up to the column "who".
        """
        known = self.tables.setdefault(title, (headers, []))[1]
        same = headers.index("who") + 1 if "who" in headers else len(headers)
        for row in rows:
            places = [k for k, old in enumerate(known) if old[:same] == row[:same]]
            if places:
                known[places[0]] = row
            else:
                known.append(row)
        widths = widths_of(headers, rows)
        if title == self.last[0]:  # its header stands above
            widths = [max(pair) for pair in zip(widths, self.last[1], strict=True)]
            print(*table(headers, rows, widths)[2:], sep="\n", flush=True)
        else:
            print(f"\n{title}", *table(headers, rows, widths), sep="\n", flush=True)
        self.last = (title, widths)
        self.save()

    def note(self, what: str, where: str) -> None:
        """Something that could not be measured, and why: no trouble, but worth a line."""
        if what not in self.notes:
            print(f"    ({where}: {what})", flush=True)
        self.notes.setdefault(what, []).append(where)
        self.save()

    def trouble(self, what: str) -> None:
        """Something that should not have been."""
        self.troubles.append(what)
        print(f"\n!! {what}", flush=True)
        self.last = ("", [])
        self.save()

    def markdown(self) -> str:
        """The file."""
        parts = [INTRODUCTION, f"Command: `{self.command}`", ""]
        for title, (headers, rows) in self.tables.items():
            parts += [f"## {title}", "", *table(headers, rows), ""]
        if self.notes:
            lines = [f"- {what} ({', '.join(where)})" for what, where in self.notes.items()]
            parts += ["## Not measured", "", *lines, ""]
        if self.troubles:
            parts += ["## What went wrong", "", *(f"- {what}" for what in self.troubles), ""]
        return "\n".join(parts)

    def save(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(self.markdown(), encoding="utf-8")


@dataclass
class Left:
    """What is still to be done, and what is known: all that a new worker needs."""

    units: list[str]
    impls: list[str]
    seconds: float
    ceilings: dict[str, float] = field(default_factory=dict)
    who: str = ""  # who ran last
    started: bool = False  # whether the worker has said anything

    def as_argument(self) -> str:
        return json.dumps([self.units, self.impls, self.seconds, self.ceilings])

    def without_the_culprit(self, why: str) -> str:
        """Take out what stopped the worker, and say so: an implementation, or else the unit."""
        unit = self.units[0]
        if self.who in self.impls:
            self.impls.remove(self.who)
            return f"{unit}: {why} in impl {self.who!r}, which is left out from here on"
        del self.units[0]
        return f"{unit}: {why} in {self.who or 'its preparation'}; the rest of it is left out"

    def heed(self, message: dict[str, Any], report: Report) -> None:
        """What the worker tells."""
        self.started = True
        if "title" in message:
            report.add(message["title"], message["headers"], message["rows"])
        elif "note" in message:
            report.note(message["note"], message["where"])
        elif "trouble" in message:
            report.trouble(message["trouble"])
        elif "ceilings" in message:
            self.ceilings = message["ceilings"]
        elif "done" in message:
            self.units.remove(message["done"])
            self.who = ""
        elif "who" in message:
            self.who = message["who"]


def watch(command: Sequence[str], left: Left, report: Report, *, stall: float) -> int:
    """Have everything done by workers, one after the other if need be; the exit code.

    Args:
        command: how to start a worker; what is left is added as its last argument.
        left: what to do, and within how many seconds.
        report: where to keep what is told.
        stall: seconds of silence after which a worker is given up; three times that at its start,
            when gigabytes of libraries may have to come from a cold disk.
    """
    began, seconds = time.monotonic(), left.seconds
    while left.units:
        left.seconds = seconds - (time.monotonic() - began)
        if left.seconds < 1:
            report.trouble(f"the time is up; not measured: {', '.join(left.units)}")
            break
        code = _one_worker(command, left, report, stall)
        if code == NOTHING_TO_RUN_ON:
            return code
        if code and not left.started:
            report.trouble(f"the worker did not start (exit code {code})")
            break
    print(f"\n{time.monotonic() - began:.0f} s", flush=True)
    return 1 if report.troubles else 0


def _one_worker(command: Sequence[str], left: Left, report: Report, stall: float) -> int:
    """Start a worker and listen until it ends or is silent for too long; its exit code."""
    left.who, left.started = "", False
    argv = [*command, left.as_argument()]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    try:
        while line := lines.get(timeout=stall if left.started else 3 * stall):
            if line.startswith(MARK):
                left.heed(json.loads(line[1:]), report)
            else:
                print(line, end="", flush=True)
        code = process.wait(timeout=60)
    except queue.Empty:
        code = LOST
        report.trouble(left.without_the_culprit(f"no answer for {stall:.0f} s"))
    else:
        if code not in (0, NOTHING_TO_RUN_ON) and left.started and left.units:
            why = "the device was lost" if code == LOST else f"the process ended with code {code}"
            report.trouble(left.without_the_culprit(why))
    finally:
        process.kill()
        process.wait(timeout=60)
    reader.join(timeout=10)
    return code


def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    if process.stdout is not None:
        with process.stdout:
            for line in process.stdout:
                lines.put(line)
    lines.put("")  # the end
