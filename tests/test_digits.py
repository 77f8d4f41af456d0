"""The digits, and the three examples that learn from them: one to one, one to many, many to one."""

import re
import subprocess
import sys

import numpy as np
import pytest

from tests.programs import ROOT, example
from tinygrad_rnn.data import load_digits
from tinygrad_rnn.errors import DataError

NAMES = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}

# ---- the images ----


def test_images_are_ink_on_paper():
    digits = load_digits()
    assert digits.images.shape == (1797, 8, 8)
    assert digits.images.dtype == np.float32
    assert digits.images.min() == 0
    assert digits.images.max() == 1
    assert (digits.images * 16 == np.round(digits.images * 16)).all()  # 0 .. 16, nothing rounded
    assert digits.labels.shape == (1797,)
    assert digits.labels.dtype == np.int64
    assert set(digits.labels) == set(range(10))


def test_images_stand_upright():
    """A seven has more ink in its bar than at its foot, and a zero is empty in the middle."""
    digits = load_digits()
    mean = [digits.images[digits.labels == d].mean(axis=0) for d in range(10)]
    assert mean[7][0].sum() > mean[7][7].sum() + 0.5
    assert mean[0][3:5, 3:5].mean() < 0.2 < mean[8][3:5, 3:5].mean()


def test_every_image_is_in_one_part():
    digits = load_digits()
    assert len(digits.test) == 360
    assert sorted([*digits.train, *digits.test]) == list(range(1797))
    assert digits.train.dtype == digits.test.dtype == np.int64
    assert set(digits.labels[digits.test]) == set(digits.labels[digits.train])


def test_the_split_is_the_same_every_time():
    first, second, third = load_digits(), load_digits(), load_digits(rng=1)
    assert (first.test == second.test).all()
    assert (first.images == second.images).all()
    assert set(first.test) != set(third.test)
    # These are the images that the numbers in the examples are about.
    assert first.test[:5].tolist() == [360, 1773, 1482, 600, 850]


def test_the_split_is_drawn_from_a_generator():
    rng = np.random.default_rng(0)
    first, second = load_digits(rng=rng), load_digits(rng=rng)
    assert (first.test == load_digits().test).all()
    assert set(first.test) != set(second.test)


@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.5, 899), (0.9999, 1797)])
def test_the_share_can_be_chosen(share, count):
    digits = load_digits(test=share)
    assert (len(digits.test), len(digits.train)) == (count, 1797 - count)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_a_share_is_a_share(share):
    with pytest.raises(DataError, match=r"0 <= test < 1"):
        load_digits(test=share)


def test_what_is_returned_belongs_to_the_caller():
    digits = load_digits()
    digits.images[:] = 0
    assert load_digits().images.max() == 1
    with pytest.raises(AttributeError):
        digits.images = digits.images


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        ImportError, match=r'scikit-learn.*pip install "tinygrad_rnn\[data\]".*make data'
    ):
        load_digits()


def test_importing_the_data_does_not_import_scikit_learn():
    code = "import sys, tinygrad_rnn.data; print('sklearn' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"


# ---- the examples ----


def shares(printed):
    """The last table: {what: share of held-out images that are right}."""
    return {
        what.strip(): float(percent) / 100
        for what, percent in re.findall(r"^  (\S.*?) +(\d+\.\d)%$", printed, re.MULTILINE)
    }


def without_seconds(printed):
    return re.sub(r"took \d+\.\d seconds", "", printed)


def assert_picture(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 20_000


def test_one_to_one_learns(tmp_path):
    printed = example("one_to_one.py", "--updates", "300", "--plot", str(tmp_path / "a.png"))
    right = shares(printed)
    assert right["always the commonest digit"] < 0.12
    assert 0.88 < right["nearest of the ten mean images"] < 0.94
    assert right["nearest of all 1,437 images"] > 0.98
    assert right["the network"] > 0.95
    assert_picture(tmp_path / "a.png")


def test_one_to_one_knows_nothing_before_it_learns():
    assert shares(example("one_to_one.py", "--updates", "0"))["the network"] < 0.4


def test_one_to_many_learns_to_write_names(tmp_path):
    printed = example("one_to_many.py", "--updates", "250", "--plot", str(tmp_path / "a.png"))
    right = shares(printed)
    assert right["commonest name"] < 0.12
    assert 0.88 < right["name of nearest mean image"] < 0.94
    assert right["the network"] > 0.9
    shown = re.search(r"^it writes: (.*)$", printed, re.MULTILINE)[1].split()
    assert sum(a == b for a, b in zip(shown, ["three", "six", "zero", "nine"], strict=True)) >= 3
    assert_picture(tmp_path / "a.png")


def test_one_to_many_writes_its_own_letters_before_it_learns():
    printed = example("one_to_many.py", "--updates", "1")
    assert shares(printed)["the network"] < 0.1
    written = printed.split("no digit's name: ")[1].split()
    assert written
    assert not NAMES & set(written)
    assert all(re.fullmatch("[efghinorstuvwxz]{0,6}", name) for name in written)


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
def test_read_digits_reads_row_by_row(model, tmp_path):
    printed = example(
        "read_digits.py", "--model", model, "--updates", "400", "--plot", str(tmp_path / "a.png")
    )
    right = shares(printed)
    assert right["always the commonest digit"] < 0.12
    assert 0.88 < right["nearest of ten mean images"] < 0.94
    assert right[f"{model.upper()}, 8 rows"] > 0.9
    after = re.search(r"after each row: (.*)$", printed, re.MULTILINE)[1]
    stopped = [float(percent.rstrip("%")) / 100 for percent in after.split()]
    assert len(stopped) == 8
    assert stopped[-1] == pytest.approx(right[f"{model.upper()}, 8 rows"], abs=0.006)
    assert max(stopped[:4]) < 0.5  # half an image is not enough
    assert_picture(tmp_path / "a.png")


def test_read_digits_reads_pixel_by_pixel():
    printed = example("read_digits.py", "--by", "pixels", "--model", "rnn", "--updates", "300")
    assert shares(printed)["RNN, 64 pixels"] > 0.4


@pytest.mark.parametrize("name", ["one_to_one.py", "one_to_many.py", "read_digits.py"])
def test_the_same_seed_prints_the_same(name):
    first, second, third = (
        without_seconds(example(name, "--updates", "60", "--seed", seed)) for seed in "334"
    )
    assert first == second != third


def test_a_wrong_argument_is_one_line():
    said = example("read_digits.py", "--by", "columns", status=2)
    assert "invalid choice: 'columns'" in said
    assert "Traceback" not in said
