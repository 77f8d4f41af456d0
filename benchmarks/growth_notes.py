"""Why the curves of `benchmarks/growth.py` bend: the parts of a step, each measured alone.

    the calls       a step with one row and 8 units computes next to nothing: its time is that of
                    Python and of NumPy's calls, T times over
    the window      a step of one character: the table, the clip, and Adam over all weights
    the product     (4H, H) (H, B), once a time step, on one thread and on all: where threads start
                    to pay, and what becomes of its rate when W_hh leaves a cache
    a pointwise op  on arrays of more and more bytes: what a number costs in each cache and beyond
    kinds           of a whole step, sampled at both ends of a sweep and between (`where.py`), where
                    there is `perf`: which kind of work it is that grows

Each sentence holds numbers of the same run, so it can be checked, and may come out wrong: then the
explanation is wrong, and not the curve.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.cpu import Page
from benchmarks.cpu_turns import Peers, compare
from benchmarks.cpu_worker import FLOOR, ONE_THREAD, OURS
from benchmarks.gpu_table import BLOCKS, FLOAT, number
from benchmarks.growth_curves import (
    BEND,
    MIDDLE,
    NAMES,
    OURS_ALONE,
    Curve,
    bends,
    characters,
    exponents,
    size_at,
)
from benchmarks.peers import Size, weights
from benchmarks.where import KINDS, NoSamplerError, sample

ALONE = FLOOR + ONE_THREAD
CACHE = Path("/sys/devices/system/cpu/cpu0/cache")
BYTES = tuple(2**k for k in range(17, 28))  # of a pointwise op's three arrays: 128 KiB to 128 MiB
CALLS = Size(T=MIDDLE.T, B=1, V=MIDDLE.V, H=8)
PAYS = 1.1  # threads pay where one alone takes this many times longer


@dataclass
class Probes:
    """Seconds of the parts alone."""

    calls: float = math.nan  # a step that is nothing else
    window: dict[int, float] = field(default_factory=dict)  # a step of one character, by H
    product: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)  # letter, who, x
    pointwise: dict[int, float] = field(default_factory=dict)  # by bytes
    caches: dict[int, int] = field(default_factory=dict)  # bytes by level
    kinds: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)  # letter, x, kind


def caches(folder: Path = CACHE) -> dict[int, int]:
    """Bytes of the caches that hold data, by level; empty where the system does not tell."""
    found = {}
    for place in sorted(folder.glob("index*")):
        level, kind, size = ((place / name).read_text() for name in ("level", "type", "size"))
        if kind.strip() != "Instruction":
            digits, unit = re.match(r"(\d+)([KMG]?)", size).groups()
            found[int(level)] = int(digits) * 1024 ** " KMG".index(unit or " ")
    return found


def product_of(size: Size) -> dict[str, int]:
    """The recurrent product of one time step."""
    return {"m": BLOCKS[size.cell] * size.H, "k": size.H, "n": size.B}


def best(peers: Peers, task: str, args: dict[str, int], who: str = OURS) -> float:
    """Seconds of a part alone, in its best turn."""
    turns = compare(peers, [who], task, args, turns=5, seconds=2).turns
    return min(turns.get(who, [math.nan]))


def probes(curves: dict[str, Curve], page: Page) -> Probes:
    """Measure the parts, and put those with a curve of their own onto the page."""
    found = Probes(caches=caches())
    with Peers() as peers:
        found.calls = best(peers, "step", asdict(CALLS))
        for x in sorted({MIDDLE.H, *thirds(list(curves["H"].seconds.get(OURS, {})))}):
            found.window[x] = best(peers, "step", asdict(Size(T=1, B=1, V=MIDDLE.V, H=x)))
        for letter in "BH":
            found.product[letter] = products(curves[letter], peers, page)
        for size in BYTES:
            elements = size // (3 * FLOAT)
            found.pointwise[size] = best(peers, "pointwise", {"elements": elements}, FLOOR)
            cells = [number(size / 2**20), number(found.pointwise[size] / elements * 1e9)]
            page.add("A pointwise op alone: ns per number", ["its arrays, MiB", "ns"], [cells])
        try:
            for letter, curve in curves.items():
                found.kinds[letter] = kinds(curve, peers, page)
        except NoSamplerError as error:
            page.note(str(error).replace("\n", " "), "where the time goes")
    return found


def rate(letter: str, x: int, seconds: float) -> float:
    """GFLOP/s of the recurrent product."""
    return 2e-9 * math.prod(product_of(size_at(letter, x)).values()) / seconds


def products(curve: Curve, peers: Peers, page: Page) -> dict[str, dict[int, float]]:
    """Seconds of the recurrent product along a sweep, on all threads and on one."""
    found: dict[str, dict[int, float]] = {FLOOR: {}, ALONE: {}}
    for x in curve.seconds.get(OURS, {}):
        args = product_of(size_at(curve.letter, x))
        cells = [f"{x:,}"]
        for who, times in found.items():
            times[x] = best(peers, "product", args, who)
            cells.append(number(rate(curve.letter, x, times[x])))
        w_hh = number(args["m"] * args["k"] * FLOAT / 2**20)
        title = f"The recurrent product alone against {curve.letter}: GFLOP/s"
        page.add(title, [curve.letter, "all threads", "one thread", "W_hh, MiB"], [[*cells, w_hh]])
    return found


def kinds(curve: Curve, peers: Peers, page: Page) -> dict[int, dict[str, float]]:
    """Microseconds a character by kind of work, at three points of a sweep."""
    found = {}
    for x in thirds(list(curve.seconds.get(OURS, {}))):
        sampled = sample(peers, size_at(curve.letter, x), seconds=1.5)
        scale = 1e3 / characters(curve.letter, x)
        found[x] = {which: sampled.ms(which) * scale for which in KINDS}
        title = f"Where the time goes against {curve.letter}: us a character, on a core"
        cells = [f"{x:,}", *(number(value) for value in found[x].values())]
        page.add(title, [curve.letter, *KINDS], [cells])
    return found


# ---- sentences -----------------------------------------------------------------------------------


def explained(curves: dict[str, Curve], parts: Probes) -> str:
    """The part of the page that says where curves bend, and why."""
    sentences = [*of_time(curves["T"].seconds[OURS], curves["T"].bytes.get(OURS, {}), parts),
                 *of_rows(curves["B"], parts), *of_units(curves["H"], parts),
                 *of_kinds(parts), *of_memory(curves)]  # fmt: skip
    lines = [f"- {where}" for curve in curves.values() for where in listed(curve)]
    why = [f"- {sentence}" for sentence in sentences]
    return "\n".join([f"## Where ours bends (by more than {BEND})", "", *lines, "", "## Why", "",
                      *why, ""])  # fmt: skip


def listed(curve: Curve) -> Iterable[str]:
    """The bends of our two curves."""
    for what, values in (("Time", curve.seconds), ("Memory", curve.bytes)):
        found = [
            f"at {curve.letter}={x} (exponent {a:.2f} before, {b:.2f} after)"
            for x, (a, b) in bends(values.get(OURS, {})).items()
        ]
        yield f"{what} against {curve.letter}, {NAMES[curve.letter]}: {', '.join(found) or 'none'}."


def of_time(seconds: dict[int, float], peak: dict[int, float], parts: Probes) -> Iterable[str]:
    """T: what a window costs once, and what it costs when its arrays have left the cache."""
    once, low, high = parts.window[MIDDLE.H], min(seconds), max(seconds)
    yield (
        f"**T, small.** A step of one character (table, clip, Adam) takes {once * 1e3:.2f} ms. A "
        f"window costs that once: {once / seconds[low]:.0%} of the time at T={low}, and "
        f"{once / seconds[high]:.1%} at T={high}."
    )
    at = parts.pointwise
    last = max(parts.caches, default=0)
    fit = [x for x in peak if peak[x] < parts.caches.get(last, 0)]
    if not (fit and len(fit) < len(peak)):
        return
    inside, beyond = max(fit), min(set(peak) - set(fit))
    per = {x: seconds[x] * 1e6 / characters("T", x) for x in seconds}
    by_number = {size: t / size * 3 * FLOAT * 1e9 for size, t in at.items()}
    yield (
        f"**T, large.** Between T={inside} and T={beyond} a step's memory "
        f"({peak[inside] / 1e6:.0f} and {peak[beyond] / 1e6:.0f} MB) outgrows the last cache "
        f"({parts.caches[last] / 2**20:.0f} MiB): what forward kept has to come from memory. A "
        f"character takes {per[inside]:.2f} us before and {per[beyond]:.2f} us after, and "
        f"{per[max(per)]:.2f} us at T={max(per)}; a number of a pointwise op alone "
        f"{by_number[min(at)]:.2f} ns in arrays of {min(at) / 2**20:.2g} MiB and "
        f"{by_number[max(at)]:.2f} ns in {max(at) / 2**20:.0f} MiB."
    )


def of_rows(curve: Curve, parts: Probes) -> Iterable[str]:
    """B: first the calls are paid for, then the arithmetic; threads start on the way."""
    ours = curve.seconds[OURS]
    low, high, slopes = min(ours), max(ours), list(exponents(ours).values())
    yield (
        f"**B, small.** A step of {CALLS.T} time steps with one row and {CALLS.H} units, which "
        f"computes next to nothing, takes {parts.calls * 1e3:.2f} ms: the calls. That is "
        f"{parts.calls / ours[low]:.0%} of the time at B={low} and {parts.calls / ours[high]:.0%} "
        f"at B={high}; they do not grow with B, so the exponent is {slopes[0]:.2f} at first and "
        f"{slopes[-1]:.2f} in the end."
    )
    one = parts.product["B"][ALONE]
    said = ", ".join(f"{rate('B', x, t):.0f} at B={x}" for x, t in one.items())
    yield (
        f"**B, product.** GFLOP/s of the recurrent product alone, on one thread: {said}. For small "
        "products, M N K up to 10^6 (here B=15), OpenBLAS's AVX-512 kernels take another way, "
        "which neither packs the factors nor uses threads; so the rate falls where that ends."
    )
    yield threads("B", curve, parts)


def of_units(curve: Curve, parts: Probes) -> Iterable[str]:
    """H: pointwise work grows with H, products with its square; W_hh leaves the caches."""
    ours, floor = curve.seconds[OURS], curve.seconds.get(FLOOR, {})
    shares = ", ".join(f"{floor[x] / ours[x]:.0%} at H={x}" for x in thirds(list(floor)))
    yield (
        "**H.** The calls do not grow with H, pointwise work grows with H, the products with its "
        f"square. The products alone (the floor) are this share of our time: {shares}."
    )
    windows = ", ".join(f"{t * 1e3:.2f} ms ({t / ours[x]:.0%}) at H={x}"
                        for x, t in parts.window.items() if x in ours)  # fmt: skip
    yield (
        "**H, weights.** A step of one character, which is little but clip and Adam over all "
        f"weights, takes, and is of our time: {windows}."
    )
    yield threads("H", curve, parts)
    product = parts.product["H"][FLOOR]
    for level, size in sorted(parts.caches.items()):
        inside = [x for x in product if 4 * FLOAT * x * x < size]
        outside = [x for x in product if 4 * FLOAT * x * x >= size]
        if level > 1 and inside and outside:
            rates = {x: rate("H", x, product[x]) for x in (inside[-1], outside[0], max(product))}
            said = ", ".join(f"{found:.0f} at H={x}" for x, found in rates.items())
            yield (
                f"**H, cache {level}.** W_hh (16 H^2 bytes) no longer fits into "
                f"{size / 2**20:g} MiB from H={outside[0]} on. GFLOP/s of the recurrent "
                f"product alone: {said}."
            )


def threads(letter: str, curve: Curve, parts: Probes) -> str:
    """Where threads start to pay, in the product alone and in the whole step."""
    all_of_them, one = (parts.product[letter][who] for who in (FLOOR, ALONE))
    gains = {x: one[x] / all_of_them[x] for x in all_of_them if x in one}
    pays = first_lasting(gains, PAYS)
    where = "never pays" if pays is None else f"pays from {letter}={pays} on"
    said = ", ".join(f"{gains[x]:.2f} at {letter}={x}" for x in thirds(list(gains)))
    ours, alone = curve.seconds[OURS], curve.seconds.get(OURS_ALONE, {})
    whole = {x: alone[x] / ours[x] for x in ours if x in alone}
    steps = ", ".join(f"{whole[x]:.2f} at {letter}={x}" for x in thirds(list(whole)))
    return (
        f"**{letter}, threads.** More than one thread {where} in the recurrent product; times "
        f"faster than with one: {said}. Of the whole step: {steps}."
    )


def of_kinds(parts: Probes) -> Iterable[str]:
    """Which kind of work it is that a character costs more, or less, of."""
    for letter, found in parts.kinds.items():
        first, *_, last = found
        changes = [f"{which} {found[first][which]:.2f} to {found[last][which]:.2f}"
                   for which in KINDS]  # fmt: skip
        yield (
            f"**{letter}, kinds.** From {letter}={first} to {letter}={last} a character costs, in "
            f"us on a core: {', '.join(changes)}."
        )


def of_memory(curves: dict[str, Curve]) -> Iterable[str]:
    """Memory: parameters, gradients and moments first, then what backward needs."""
    for letter, curve in curves.items():
        peak = curve.bytes.get(OURS, {})
        if not peak:
            continue
        x, size = max(peak), size_at(letter, max(peak))
        held = 3 * sum(w.nbytes for w in weights(size).values())
        arrays = (peak[x] - held) / (size.T * size.B * size.H * FLOAT)
        yield (
            f"**Memory against {letter}.** At {letter}={x} gradients and Adam's two moments are "
            f"{held / 1e6:.1f} of {peak[x] / 1e6:.1f} MB; the rest is {arrays:.1f} arrays of "
            f"(T, B, H), and it is what grows with T and B."
        )


def thirds(xs: list[int]) -> list[int]:
    """The first, the middle one and the last."""
    return sorted({xs[0], xs[len(xs) // 2], xs[-1]}) if xs else []


def first_lasting(values: dict[int, float], least: float) -> int | None:
    """The first x from which on all values are at least that."""
    found = None
    for x in sorted(values, reverse=True):
        if values[x] < least:
            break
        found = x
    return found
