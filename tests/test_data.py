"""Text, vocabulary, streams and the counting baseline."""

import collections
import math
import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_rnn.data import Streams, Vocabulary, load_text, ngram_losses, split
from tinygrad_rnn.errors import DataError

TEXTS = st.text(st.characters(), min_size=1, max_size=60)  # lone surrogates included


# ---- text ----------------------------------------------------------------------------------------


def test_embedded_text_is_the_same_every_time():
    first, second = load_text(), load_text()
    assert first == second
    assert first.name == "pydoc_data.topics"
    assert len(first.text) > 400_000
    assert len(first.sha256) == 64


def test_embedded_text_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="give a text file"):
        load_text()


@pytest.mark.parametrize("content", ["a\r\nb\rc\n", "\ufeffbom", "nul\0nul", "é€😀", "x" * 70_000])
def test_a_file_is_not_changed(tmp_path, content):
    file = tmp_path / "text"
    file.write_bytes(content.encode())
    text = load_text(file)
    assert text.text == content
    assert text.name == str(file)


def test_equal_texts_have_equal_hashes_in_every_encoding(tmp_path):
    (tmp_path / "a").write_bytes("Größe".encode())
    (tmp_path / "b").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "c").write_bytes("Größe".encode("utf-8-sig"))
    hashes = {
        load_text(tmp_path / "a").sha256,
        load_text(str(tmp_path / "b"), encoding="latin-1").sha256,
        load_text(tmp_path / "c", encoding="utf-8-sig").sha256,
    }
    assert len(hashes) == 1


def test_undecodable_bytes_are_named(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(b"fine \xff\xfe")
    with pytest.raises(DataError, match=r"byte offset 5 \(ff fe\).*encoding"):
        load_text(file)
    assert load_text(file, errors="replace").text == "fine \ufffd\ufffd"
    escaped = load_text(file, errors="surrogateescape").text
    assert Vocabulary.of(escaped).decode(Vocabulary.of(escaped).encode(escaped)) == escaped


@pytest.mark.parametrize(
    ("encoding", "errors"), [("nonsense", "strict"), ("hex", "strict"), ("utf-8", "nonsense")]
)
def test_unknown_codecs(tmp_path, encoding, errors):
    file = tmp_path / "text"
    file.write_bytes(b"\xff")
    with pytest.raises(DataError, match="utf-8"):
        load_text(file, encoding=encoding, errors=errors)


def test_files_that_are_no_text_files(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="is empty"):
        load_text(tmp_path / "empty")
    with pytest.raises(DataError, match="path of the text is empty"):
        load_text("")
    with pytest.raises(DataError, match=r"^'.*' is a directory; name one text file in it$"):
        load_text(tmp_path)
    with pytest.raises(DataError, match="there is no file"):
        load_text(tmp_path / "missing")
    with pytest.raises(DataError, match="cannot read"):
        load_text(tmp_path / "empty" / "below")
    with pytest.raises(DataError, match="null byte"):
        load_text("nul\0")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(DataError, match="pipe"):
            load_text(tmp_path / "fifo")  # and does not wait for a writer


def test_no_permission(tmp_path, monkeypatch):
    file = tmp_path / "text"
    file.write_text("secret")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)  # chmod does not stop root
    with pytest.raises(DataError, match=r"no permission.*chmod"):
        load_text(file)


# ---- vocabulary ----------------------------------------------------------------------------------


@given(TEXTS)
@settings(deadline=None)
def test_vocabulary_round_trip(text):
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    assert vocabulary.symbols == "".join(sorted(set(text)))
    assert ids.dtype == np.int64
    assert ids.tolist() == [vocabulary.symbols.index(c) for c in text]
    assert vocabulary.decode(ids) == text
    assert vocabulary == Vocabulary(vocabulary.symbols)
    assert hash(vocabulary) == hash(Vocabulary(vocabulary.symbols))


@given(TEXTS, st.characters())
@settings(deadline=None)
def test_unknown_characters_are_named(text, stranger):
    vocabulary = Vocabulary.of(text)
    if stranger in text:
        assert vocabulary.encode(stranger).tolist() == [vocabulary.symbols.index(stranger)]
        return
    with pytest.raises(DataError) as error:
        vocabulary.encode(text + stranger)
    assert f"{stranger!r} (U+{ord(stranger):04X}) at offset {len(text)}" in str(error.value)


def test_vocabulary_keeps_the_order_given():
    vocabulary = Vocabulary("ba")
    assert vocabulary.encode("ab").tolist() == [1, 0]
    assert vocabulary != Vocabulary("ab")
    assert vocabulary != "ba"
    assert len(vocabulary) == 2
    assert vocabulary.encode("").tolist() == []
    assert vocabulary.decode([]) == ""
    assert vocabulary.decode(1) == "a"
    assert repr(vocabulary) == "Vocabulary('ba')"


def test_vocabulary_refuses():
    with pytest.raises(DataError, match=r"'a' .* twice"):
        Vocabulary("aba")
    with pytest.raises(DataError, match="at least one symbol"):
        Vocabulary.of("")
    for ids in ([0, 2], [-1], [2**40]):
        with pytest.raises(DataError, match=r"outside 0 \.\. 1"):
            Vocabulary("ab").decode(ids)
    for ids in ([0.0], [[0]], [True], ["a"]):
        with pytest.raises(DataError, match="integers"):
            Vocabulary("ab").decode(ids)
    with pytest.raises(DataError, match="vocabulary of 1000 symbols"):
        Vocabulary("".join(map(chr, range(1000)))).encode("\uffff")


# ---- split and streams ---------------------------------------------------------------------------


def test_split_is_contiguous():
    train, validation = split(range(465_048))
    assert (len(train), len(validation)) == (418_543, 46_505)
    assert validation[0] == train[-1] + 1
    assert len(split(range(10), validation=0)[1]) == 0
    for bad in (-0.1, 1.0, math.nan):
        with pytest.raises(DataError, match="share"):
            split(range(10), validation=bad)
    for n in (0, 1):
        with pytest.raises(DataError, match="empty"):
            split(range(n))


@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 60))
@settings(deadline=None)
def test_streams_go_on_where_they_stopped(batch, window, n):
    text = np.arange(n)
    if n < batch * window + 1:
        with pytest.raises(DataError, match=rf"need {batch * window + 1} .* has {n};"):
            Streams(text, batch=batch, window=window)
        return
    streams = Streams(text, batch=batch, window=window)
    xs = np.concatenate([x for x, _ in streams])  # (windows * T, B)
    ys = np.concatenate([y for _, y in streams])
    np.testing.assert_array_equal(ys, xs + 1)  # y is one character ahead
    np.testing.assert_array_equal(np.diff(xs, axis=0), 1)  # a row never jumps
    np.testing.assert_array_equal(np.sort(xs, axis=None), np.arange(streams.tokens))
    assert streams.tokens == len(streams) * batch * window
    assert streams.tokens + 1 + streams.dropped == n
    assert 0 <= streams.dropped < batch * window


def test_streams_are_a_sequence():
    text = np.arange(100)
    streams = Streams(text, batch=4, window=6)
    assert len(streams) == 4
    assert repr(streams) == "Streams(4 windows of (6, 4))"
    x, y = streams[np.int64(-1)]
    np.testing.assert_array_equal(x, streams[3][0])
    assert x.shape == y.shape == (6, 4)
    assert x.dtype == y.dtype == np.int64
    assert x.flags.c_contiguous
    assert x.flags.owndata
    for index in (4, -5):
        with pytest.raises(IndexError, match="of 4 windows"):
            streams[index]
    for sizes in ({"batch": 0, "window": 1}, {"batch": 1, "window": -1}):
        with pytest.raises(DataError, match="at least 1"):
            Streams(text, **sizes)


# ---- n-grams -------------------------------------------------------------------------------------


def slow_ngram_loss(train, validation, size, n, add):
    """The definition, with dictionaries."""
    pairs = collections.Counter(tuple(train[i : i + n]) for i in range(len(train) - n + 1))
    contexts = collections.Counter()
    for gram, count in pairs.items():
        contexts[gram[:-1]] += count
    grams = [tuple(validation[i : i + n]) for i in range(len(validation) - n + 1)]
    return -sum(
        math.log((pairs[gram] + add) / (contexts[gram[:-1]] + add * size)) for gram in grams
    ) / len(grams)


@given(
    st.lists(st.integers(0, 3), min_size=6, max_size=40),
    st.lists(st.integers(0, 3), min_size=6, max_size=40),
    st.sampled_from([4, 10, 2**40]),
    st.sampled_from([0.01, 1.0]),
)
@settings(deadline=None)
def test_ngrams_equal_counting(train, validation, size, add):
    losses = ngram_losses(train, validation, size, add=add)
    assert list(losses) == [1, 2, 3, 4, 5, 6]
    for n, loss in losses.items():
        assert loss == pytest.approx(slow_ngram_loss(train, validation, size, n, add), rel=1e-12)


def test_ngram_orders():
    train, validation = [0, 1, 0, 1, 0, 1], [0, 1, 0]
    assert list(ngram_losses(train, validation, 2, orders=[3, 1])) == [3, 1]
    assert ngram_losses(train, validation, 2, orders=[]) == {}
    assert ngram_losses([0] * 9, [0] * 9, 1, orders=[1, 4]) == {1: 0.0, 4: 0.0}  # no NaN
    long = list(range(100)) * 2  # 103**20 is far beyond 64 bits
    assert ngram_losses(long, long, 103, orders=[20])[20] == pytest.approx(
        slow_ngram_loss(long, long, 103, 20, 0.01)
    )


def test_ngrams_refuse():
    for bad in ([0, 5], [0, -1]):
        with pytest.raises(DataError, match="vocabulary of 5"):
            ngram_losses(bad, [0, 1], 5, orders=[1])
    with pytest.raises(DataError, match="4-gram needs 4"):
        ngram_losses([0] * 9, [0] * 3, 5, orders=[4])
    with pytest.raises(DataError, match="start at 1"):
        ngram_losses([0], [0], 5, orders=[0])
    for add in (0, -1, math.nan, math.inf):
        with pytest.raises(DataError, match="above 0"):
            ngram_losses([0], [0], 5, orders=[1], add=add)


@pytest.mark.parametrize(
    ("separator", "expected"),
    [
        ("\n", [3.238, 2.320, 1.740, 1.479, 1.529, 1.722]),  # the text of load_text
        ("", [3.237, 2.320, 1.740, 1.480, 1.529, 1.723]),  # topics run together: 464,970 characters
    ],
)
def test_ngrams_on_the_text_of_python_3_11_7(separator, expected):
    text = load_text().text
    if len(text) != 465_048:
        pytest.skip("the embedded text of another Python")
    from pydoc_data.topics import topics

    vocabulary = Vocabulary.of(text)
    assert len(vocabulary) == 103
    ids = vocabulary.encode(separator.join(topics[name] for name in sorted(topics)))
    losses = ngram_losses(*split(ids), len(vocabulary))
    assert [round(loss, 3) for loss in losses.values()] == expected
