"""Surnames and the language they come from: whole sequences with one label each.

The names are the lists behind the *person providers* of the package Faker (MIT licence, Daniele
Faraglia and contributors), which collected them from public registers and from Wikipedia. Only
the lists are read; nothing of Faker's random generation is used, and nothing is downloaded.

Three things would make the task easier than it looks, and are taken away:

* Accents. A name with "ł" is Polish and one with "ß" is German, whatever its other letters are.
  So every name is written plainly, in lower case and a to z: Wałęsa is "walesa" here.
* Names that are in use in several of the languages ("martin" is in four of the lists). They have
  no right answer, and are left out; so no name can be in the training and the held-out part.
* Particles. Whatever has a space, a hyphen or an apostrophe in it (van der Berg, O'Neill) is left
  out, because "van" would give the language away.

The Polish list is three times as long as any other; of every language at most a thousand names are
drawn. Lists may grow with Faker: compare results only between equal versions of it.
"""

import importlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tinygrad_rnn.errors import DataError

# The language, and where its names are: locale and attribute of a provider of Faker.
SOURCES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Croatian": (("hr_HR", "last_names"),),
    "Dutch": (("nl_NL", "last_names"),),
    "English": (("en_GB", "last_names"),),
    "Estonian": (("et_EE", "last_names_est"),),
    "Finnish": (("fi_FI", "last_names"),),
    "French": (("fr_FR", "last_names"), ("fr_CA", "last_names")),
    "German": (("de_AT", "last_names"), ("de_DE", "last_names")),
    "Italian": (("it_IT", "last_names"),),
    "Polish": (("pl_PL", "unisex_last_names"), ("pl_PL", "male_last_names")),
    "Spanish": (("es_ES", "last_names"),),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MOST = 1000  # names of one language

# Letters that Unicode does not take apart into a plain one and an accent.
_WHOLE = str.maketrans({"ß": "ss", "ł": "l", "đ": "d", "ø": "o", "æ": "ae", "œ": "oe"})


@dataclass(frozen=True)
class Surnames:
    """Names with the number of their language, in two parts that share no name.

    Attributes:
        languages: the languages in alphabetical order; a label is a place in this tuple.
        train, test: pairs of a name, letters a to z only, and its label, in random order.
    """

    languages: tuple[str, ...]
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]


def load_surnames(*, test: float = 0.2, rng: np.random.Generator | int = 0) -> Surnames:
    """About 7,100 surnames of ten languages, split into a training and a held-out part.

    Source and licence: the person providers of Faker, MIT.

    Args:
        test: the share of every language that is held out, between 0 and 1.
        rng: generator or seed that draws the split, and the names of a list that is too long. The
            default is fixed, so that everybody holds out the same names.

    Raises:
        ImportError: Faker is not installed.
        DataError: `test` out of its range, or a version of Faker without one of the lists.
    """
    if not 0 < test < 1:  # false for NaN, too
        raise DataError(f"load_surnames: test is a share between 0 and 1, but got {test!r}")
    rng = np.random.default_rng(rng)
    lists = {language: _plain(_read(sources)) for language, sources in SOURCES.items()}
    uses = Counter(name for names in lists.values() for name in names)
    train: list[tuple[str, int]] = []
    held_out: list[tuple[str, int]] = []
    for label, names in enumerate(lists.values()):
        own = [name for name in names if uses[name] == 1]
        drawn = [(own[i], label) for i in rng.permutation(len(own))[:MOST]]
        cut = round(test * len(drawn))
        held_out += drawn[:cut]
        train += drawn[cut:]
    return Surnames(tuple(lists), _shuffled(train, rng), _shuffled(held_out, rng))


def plain(name: str) -> str:
    """A name in lower case without accents: "Müller" -> "muller", "Großmann" -> "grossmann"."""
    apart = unicodedata.normalize("NFKD", name.lower().translate(_WHOLE))
    return "".join(c for c in apart if not unicodedata.combining(c))


def _plain(names: Iterable[str]) -> list[str]:
    """The distinct names of one word, plainly written, in alphabetical order."""
    return sorted({p for name in names if (p := plain(name)) and set(p) <= set(LETTERS)})


def _read(sources: Iterable[tuple[str, str]]) -> list[str]:
    """The names of some lists of Faker, as they are written there."""
    names: list[str] = []
    for locale, attribute in sources:
        try:
            module = importlib.import_module(f"faker.providers.person.{locale}")
        except ImportError as error:
            raise ImportError(
                "load_surnames reads the name lists of Faker, which is not installed: "
                'pip install "tinygrad_rnn[data]", or in a checkout: make data'
            ) from error
        try:
            names += getattr(module.Provider, attribute)  # a sequence, or names with frequencies
        except AttributeError as error:
            raise DataError(
                f"this version of Faker has no list {attribute!r} for {locale}; "
                "install another one: pip install --upgrade faker"
            ) from error
    return names


def _shuffled(
    pairs: list[tuple[str, int]], rng: np.random.Generator
) -> tuple[tuple[str, int], ...]:
    return tuple(pairs[i] for i in rng.permutation(len(pairs)))
