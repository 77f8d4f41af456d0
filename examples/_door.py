"""What the examples do at their door, and a reader may skip: refuse in one line what cannot work.

    parser.add_argument("--updates", type=door.at_least(0), default=600)
    parser.add_argument("--plot", type=door.picture, metavar="FILE")
    ...
    if __name__ == "__main__":
        door.run(main)

A wrong option should cost a second and a line, not a training run and a traceback. So options are
looked at when they are read. `run` says without a traceback what only turns up later: a text that
is too short, data whose library is not installed, a gradient that is infinite; status 2.
Every other error keeps its traceback: whoever changes an example needs it.
"""

import argparse
import math
import sys
from pathlib import Path

import tinygrad_rnn as tg
from tinygrad_rnn.viz import check_picture


def run(main):
    """Run a program. Ctrl-C ends it with status 130, as it ends any command."""
    try:
        main()
    except (tg.DataError, tg.NonFiniteError, ImportError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def at_least(low):
    """The type of an option that is a whole number, `low` or more."""

    def whole(text):
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low:
            raise argparse.ArgumentTypeError(f"a whole number, at least {low}; got {text!r}")
        return number

    return whole


def positive(text):
    """The type of an option that is a number above 0, and finite."""
    number = finite(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"a number above 0; got {text!r}")
    return number


def finite(text):
    """The type of an option that is any number, but neither NaN nor infinity."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"a finite number; got {text!r}")
    return number


def picture(text):
    """The type of an option that names a picture to be written."""
    try:
        check_picture(text)
    except (tg.DataError, ImportError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
