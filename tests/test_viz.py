"""The picture of a training run."""

import csv
import errno
import sys
import tempfile

import numpy as np
import pytest

from tinygrad_rnn.errors import DataError
from tinygrad_rnn.viz import check_picture, plot_training

matplotlib = pytest.importorskip("matplotlib")
BASELINES = {1: 3.24, 2: 2.32, 3: 1.74, 4: 1.479, 5: 1.529, 6: 1.72}


@pytest.fixture
def log(tmp_path):
    def write(rows=60, *, norm=None):
        path = tmp_path / "log.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "epoch", "loss", "smoothed", "norm", "validation"])
            for step in range(1, rows + 1):
                loss = 1.2 + 3 * np.exp(-step / 15)
                here = 0.3 + 0.2 * np.sin(step) if norm is None else norm
                writer.writerow([step, 1, loss, loss, here, loss if step % 20 == 0 else ""])
        return path

    return write


def test_a_picture_is_drawn(log, tmp_path):
    for name in ("a.png", "b.svg"):
        plot_training(log(), tmp_path / name, BASELINES, clip=1.0, title="a run")
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 20_000
    picture = (tmp_path / "b.svg").read_text()
    assert picture.startswith("<?xml")


def test_what_is_in_the_picture(log, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    plot_training(log(), tmp_path / "a.png", BASELINES, clip=0.45, title="a run")
    above, below = figures[0].axes
    assert above.get_title(loc="left") == "a run"
    assert "nats per character" in above.get_ylabel()
    texts = [t.get_text() for t in above.texts]
    assert sorted(texts) == sorted(f"{n}-gram {loss:.3f}" for n, loss in BASELINES.items())
    heights = sorted(t.get_position()[1] for t in above.texts)
    assert min(np.diff(heights)) > 0.1  # labels do not lie on each other
    legend = [t.get_text() for t in above.get_legend().get_texts()]
    assert any("validation" in t for t in legend)
    norms = [0.3 + 0.2 * np.sin(step) for step in range(1, 61)]
    share = sum(norm > 0.45 for norm in norms) / 60
    assert 0 < share < 1
    assert [t.get_text() for t in below.texts] == [f"{100 * share:.3g} % clipped\nto 0.45"]
    assert below.get_yscale() == "log"


@pytest.mark.parametrize("rows", [1, 2])
def test_short_runs(log, tmp_path, rows):
    plot_training(log(rows), tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_a_text_of_one_character(log, tmp_path):
    plot_training(log(norm=0.0), tmp_path / "a.png", {1: 0.0, 2: 0.0}, clip=5)
    assert (tmp_path / "a.png").exists()


def test_no_global_state_is_touched(log, tmp_path):
    import matplotlib as mpl

    before, loaded = dict(mpl.rcParams), "matplotlib.pyplot" in sys.modules
    plot_training(log(), tmp_path / "a.png", BASELINES)
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_what_is_no_log(log, tmp_path):
    with pytest.raises(DataError, match="no rows"):
        plot_training(log(0), tmp_path / "a.png")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not the log"):
        plot_training(tmp_path / "other.csv", tmp_path / "a.png")
    with pytest.raises(OSError, match="missing"):
        plot_training(tmp_path / "missing.csv", tmp_path / "a.png")


def test_without_matplotlib(log, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):
        plot_training(log(), tmp_path / "a.png")
    with pytest.raises(ImportError, match=r'pip install "tinygrad_rnn\[plot\]"'):
        check_picture(tmp_path / "a.png")


# ---- whether a picture can be written ----


@pytest.mark.parametrize("name", ["a.png", "A.PNG", "b.svg", "c.d.pdf"])
def test_a_picture_that_can_be_written_is_not_begun(tmp_path, name):
    check_picture(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_exists_stays_as_it_is(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"an older one")
    check_picture(str(path))
    assert path.read_bytes() == b"an older one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.", "png", ".png", ""])
def test_a_picture_needs_a_suffix_that_names_a_format(tmp_path, name):
    with pytest.raises(DataError, match=r"has none that matplotlib knows; take \.png"):
        check_picture(f"{tmp_path}/{name}" if name else "")


def test_a_picture_needs_a_place(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for path in ("missing/a.png", "folder.png", "file/a.png"):
        with pytest.raises(DataError, match=r"cannot write the picture .*name a file in a folder"):
            check_picture(tmp_path / path)


def test_a_picture_is_not_written_where_one_may_not_write(tmp_path, monkeypatch):
    def deny(**_):  # by hand, because an administrator, who may run this, is denied nothing
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", deny)
    with pytest.raises(DataError, match="Permission denied"):
        check_picture(tmp_path / "a.png")
