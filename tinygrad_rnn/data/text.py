r"""A text and its alphabet.

`load_text` changes nothing: what the file decodes to is what the model sees. Newlines stay as they
are (``\r\n`` is two characters), a byte order mark stays a character (U+FEFF; to drop it, say
``encoding="utf-8-sig"``), NUL is a character like any other. A text that was tidied silently cannot
be sampled back.

Without a file there is still something to learn: the reference text in Python's own `pydoc`. It
grows with every Python release, so losses on it compare only between equal `Text.sha256`.
"""

import hashlib
import importlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_rnn.errors import DataError

EMBEDDED = "pydoc_data.topics"

# UTF-32 makes a string an array of code points. "surrogatepass" because ``errors=
# "surrogateescape"`` puts lone surrogates into a text, and those must survive the round trip too.
_UTF32, _LENIENT = "utf-32-le", "surrogatepass"


@dataclass(frozen=True)
class Text:
    """A text with what is needed to recognise it again.

    Attributes:
        text: the characters, unchanged.
        name: where they came from: a path, or "pydoc_data.topics" for the embedded text.
        sha256: SHA-256 of the characters in UTF-8, in hexadecimal: equal texts, equal hashes,
            whatever the encoding of the file was.
    """

    text: str
    name: str
    sha256: str


def load_text(
    path: str | os.PathLike[str] | None = None, *, encoding: str = "utf-8", errors: str = "strict"
) -> Text:
    """Read a text file whole, or take the embedded text.

    Args:
        path: a regular file; None means the reference text of Python's `pydoc`.
        encoding: a text codec of Python, for example "utf-8", "latin-1", "utf-8-sig".
        errors: what to do with bytes that do not decode: "strict" refuses them, "replace" puts
            U+FFFD in their place, and so on, as in `bytes.decode`.

    Raises:
        DataError: there is no such file, it is not a regular file, may not be read, is empty, or
            does not decode (the message gives the byte offset).
    """
    if path is None:
        text, name = _embedded(), EMBEDDED
    else:
        name = os.fspath(path)
        text = _decode(_read(name), name, encoding, errors)
    if not text:
        raise DataError(f"{name} is empty; a model needs at least two characters to train on")
    return Text(text, name, hashlib.sha256(text.encode("utf-8", _LENIENT)).hexdigest())


def _embedded() -> str:
    """The pydoc topics in alphabetical order, a newline between two topics."""
    try:  # half a megabyte that most programs never want, and stripped-down Pythons do not have
        topics: dict[str, str] = importlib.import_module(EMBEDDED).topics
    except ImportError as error:
        raise DataError(
            f"this Python comes without {EMBEDDED}, the embedded text; give a text file instead"
        ) from error
    return "\n".join(topics[name] for name in sorted(topics))


def _read(path: str) -> bytes:
    """The bytes of a regular file; its kind is asked first because opening a FIFO would wait."""
    if not path:  # Path("") would be the current directory
        raise DataError("the path of the text is empty; name a text file")
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{path!r} is a directory; name one text file in it")
        if not stat.S_ISREG(mode):
            raise DataError(
                f"{path!r} is a pipe, socket or device, not a regular file; "
                "copy what it delivers to a file and name that"
            )
        return Path(path).read_bytes()
    except DataError:  # from just above; it is a ValueError, too
        raise
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path!r}; check the path and its spelling") from error
    except PermissionError as error:
        raise DataError(f"no permission to read {path!r}; change its mode (chmod u+r)") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL inside the path
        raise DataError(f"cannot read {path!r}: {error}; name a readable text file") from error


def _decode(raw: bytes, path: str, encoding: str, errors: str) -> str:
    """Decode without `open`'s newline translation, naming the byte that does not decode."""
    try:
        return raw.decode(encoding, errors)
    except UnicodeDecodeError as error:
        seen = " ".join(f"{byte:02x}" for byte in raw[error.start : error.start + 4])
        raise DataError(
            f"{path!r} is not {encoding}: byte offset {error.start} ({seen}): {error.reason}; "
            'give the right encoding, or errors="replace" to go on with U+FFFD there'
        ) from error
    except UnicodeError as error:  # codecs that report no offset, UTF-16 without a mark for one
        raise DataError(f"{path!r} is not {encoding}: {error}; give the right encoding") from error
    except LookupError as error:
        raise DataError(
            f"{error} (encoding={encoding!r}, errors={errors!r}); "
            'use a text codec such as "utf-8" and a handler such as "strict" or "replace"'
        ) from error


class Vocabulary:
    """The characters a model knows; the id of a character is its place in `symbols`.

    Encoding a megabyte takes milliseconds: the text becomes an array of code points, and one
    table, indexed by code point, turns them into ids.
    """

    __slots__ = ("_codes", "_ids", "symbols")

    def __init__(self, symbols: str) -> None:
        """Keep `symbols` in the order given, as a checkpoint must.

        Raises:
            DataError: no symbol at all, or one that occurs twice.
        """
        if not symbols:
            raise DataError("a vocabulary needs at least one symbol, but the text is empty")
        if len(set(symbols)) < len(symbols):
            twice = next(c for i, c in enumerate(symbols) if c in symbols[:i])
            raise DataError(
                f"{_show(twice)} occurs twice among the {len(symbols)} symbols; "
                "each may occur once (Vocabulary.of(text) collects the distinct ones)"
            )
        self.symbols = symbols
        self._codes = _code_points(symbols)  # (V,) id -> code point
        # (largest + 2,) code point -> id; -1 is unknown, and the last entry, which stands for
        # every code point beyond the table, always is.
        self._ids = np.full(int(self._codes.max()) + 2, -1, dtype=np.int64)
        self._ids[self._codes] = np.arange(len(symbols))

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        """The distinct characters of `text` in code point order."""
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> NDArray[np.int64]:
        """The ids of the characters of `text`, int64 (N,).

        Raises:
            DataError: a character that is not in the vocabulary; says which one, and where.
        """
        codes = _code_points(text)
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]  # (N,)
        unknown = np.flatnonzero(ids < 0)
        if unknown.size:
            offset = int(unknown[0])
            known = self.symbols if len(self) <= 100 else self.symbols[:100] + "..."
            raise DataError(
                f"{_show(text[offset])} at offset {offset} is not in the vocabulary of {len(self)} "
                f"symbols {known!r}; leave it out, or train on a text that has it"
            )
        return ids

    def decode(self, ids: ArrayLike) -> str:
        """The characters of `ids`, which are integers (N,), or one integer.

        Raises:
            DataError: ids that are not integers in 0 .. len(vocabulary) - 1.
        """
        array = _integers(ids, "decode")
        outside = (array < 0) | (array >= len(self))
        if outside.any():
            offset = int(np.flatnonzero(outside)[0])
            raise DataError(
                f"id {int(array[offset])} at offset {offset} is outside 0 .. {len(self) - 1}, "
                f"the ids of a vocabulary of {len(self)} symbols"
            )
        codes = self._codes[array.astype(np.int64)]
        return codes.astype("<u4").tobytes().decode(_UTF32, _LENIENT)

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return self.symbols == other.symbols if isinstance(other, Vocabulary) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.symbols)

    def __repr__(self) -> str:
        return f"Vocabulary({self.symbols!r})"


def _code_points(text: str) -> NDArray[np.uint32]:
    """The code points of `text`, (N,)."""
    return np.frombuffer(text.encode(_UTF32, _LENIENT), "<u4").astype(np.uint32)


def _integers(ids: ArrayLike, where: str) -> NDArray[np.integer[Any]]:
    """`ids` as an integer array (N,); an empty list, which NumPy takes for floats, is fine."""
    array = np.atleast_1d(np.asarray(ids))
    if array.ndim > 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise DataError(
            f"{where} got {array.dtype} of shape {array.shape}; ids are integers of shape (N,)"
        )
    return array if array.size else array.astype(np.int64)


def _show(character: str) -> str:
    """A character as an error message shows it: the invisible ones have code points too."""
    return f"character {character!r} (U+{ord(character):04X})"
