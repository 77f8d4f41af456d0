"""Dates in words and in the form of ISO 8601: one sequence to be turned into another.

    "the third of March 2025"  ->  "2025-03-03"
    "Monday, 3 March 2025"     ->  "2025-03-03"
    "Mar 3, 2025"              ->  "2025-03-03"

The two have different lengths and a different order (the year, last on the left, comes first on
the right), so the answer cannot be written step by step while reading: a network has to read to
the end, keep day, month and year in its state, and then write. Everything comes from the `datetime`
module. The names are written out here, because those of `calendar` follow the user's locale.

What is held out are *dates*: one that was held out is in none of its forms part of the training, so
that a network which gets it right has understood how dates are made.
"""

from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np

from tinygrad_rnn.errors import DataError

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth",
    "eighteenth", "nineteenth", "twentieth", "twenty-first", "twenty-second", "twenty-third",
    "twenty-fourth", "twenty-fifth", "twenty-sixth", "twenty-seventh", "twenty-eighth",
    "twenty-ninth", "thirtieth", "thirty-first",
)  # fmt: skip

# The ways to write a date: {d} 3, {nth} 3rd, {word} third, {month} March, {mon} Mar, {weekday}
# Monday, {day} Mon, {year} 2025.
FORMS = (
    "{d} {month} {year}",
    "{d} {mon} {year}",
    "{month} {d}, {year}",
    "{mon} {d}, {year}",
    "{month} {nth}, {year}",
    "the {nth} of {month} {year}",
    "the {word} of {month} {year}",
    "{weekday}, {d} {month} {year}",
    "{day} {d} {mon} {year}",
    "{weekday}, {month} {d}, {year}",
)


def write_date(day: date, form: str = FORMS[0]) -> str:
    """A date in English words, in one of `FORMS` or a form made of the same pieces.

    Raises:
        DataError: a piece that does not exist.
    """
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10 if day.day not in (11, 12, 13) else 0)
    weekday, month = WEEKDAYS[day.weekday()], MONTHS[day.month - 1]
    pieces = {
        "d": day.day, "nth": f"{day.day}{ending or 'th'}", "word": ORDINALS[day.day - 1],
        "month": month, "mon": month[:3], "weekday": weekday, "day": weekday[:3],
        "year": f"{day.year:04}",
    }  # fmt: skip
    try:
        return form.format_map(pieces)
    except KeyError as error:
        raise DataError(
            f"write_date: there is no piece {{{error.args[0]}}} in a date; a form is made of "
            + " ".join(f"{{{name}}}" for name in pieces)
        ) from error


def split_dates(
    first: date = date(1900, 1, 1),
    last: date = date(2099, 12, 31),
    *,
    test: float = 0.1,
    rng: np.random.Generator | int = 0,
) -> tuple[list[date], list[date]]:
    """All dates from `first` to `last` in random order, split into two lists: train, test.

    Args:
        first, last: both are included.
        test: the share that is held out, between 0 and 1.
        rng: generator or seed; the default is fixed, so that everybody holds out the same dates.

    Raises:
        DataError: no date on one of the two sides.
    """
    days = (last - first).days + 1
    cut = round(test * days) if 0 < test < 1 and days > 0 else 0
    if not 0 < cut < days:
        raise DataError(
            f"split_dates: holding out {test!r} of the {max(days, 0)} dates from {first} to "
            f"{last} leaves none on one side; take more dates, or a share between 0 and 1"
        )
    order = np.random.default_rng(rng).permutation(days)
    dates = [first + timedelta(days=int(n)) for n in order]
    return dates[cut:], dates[:cut]


def date_pairs(
    n: int,
    dates: Sequence[date],
    *,
    forms: Sequence[str] = FORMS,
    rng: np.random.Generator | int | None = None,
) -> list[tuple[str, str]]:
    """`n` random pairs: a date in words, and the same date in the ISO form "2025-03-03".

    Args:
        dates: what the dates are drawn from, with replacement: one part of `split_dates`.
        forms: what the forms are drawn from, all equally often.
        rng: generator or seed.

    Raises:
        DataError: no dates or no forms, or a form that `write_date` does not know.
    """
    if not (len(dates) and len(forms)):
        raise DataError(
            f"date_pairs draws from {len(dates)} dates and {len(forms)} forms; it needs one of each"
        )
    rng = np.random.default_rng(rng)
    which, how = rng.integers(len(dates), size=n), rng.integers(len(forms), size=n)
    return [
        (write_date(dates[i], forms[k]), dates[i].isoformat())
        for i, k in zip(which, how, strict=True)
    ]
