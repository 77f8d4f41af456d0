"""The character model, its measure, its writing, and training that goes on exactly."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.char_lm import CharModel, draw, evaluate, generate, parameter_count
from tinygrad_rnn.config import Config, Corpus
from tinygrad_rnn.data import Text, Vocabulary
from tinygrad_rnn.errors import CheckpointError, DataError, NonFiniteError
from tinygrad_rnn.nn.functional import cross_entropy
from tinygrad_rnn.training import Session, Update

PROSE = "the quick brown fox jumps over the lazy dog, and the dog looks on.\n" * 12


def text(content=PROSE):
    return Text(content, "test", f"hash of {len(content)} {content[:10]}")


def small(**changes):
    options = {"hidden": 9, "embedding": 5, "batch": 3, "k1": 7, "epochs": 3, "lr": 0.02}
    return Config(**{**options, **changes})


# ---- the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_number_of_parameters_is_known_beforehand(kind, layers):
    sizes = {"kind": kind, "hidden": 6, "layers": layers, "embedding": 4}
    model = CharModel(11, **sizes, rng=0)
    assert sum(p.size for p in model.parameters()) == parameter_count(11, **sizes)
    logits, _ = model(np.zeros((5, 2), dtype=int))
    assert logits.shape == (5, 2, 11)
    assert logits.dtype == np.float32


def test_a_seed_decides_the_weights():
    first, second, third = (CharModel(5, hidden=4, embedding=3, rng=seed) for seed in (1, 1, 2))
    a, b, c = (m.state_dict() for m in (first, second, third))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["output.weight"], c["output.weight"])
    with pytest.raises(DataError, match="rnn, lstm"):
        CharModel(5, kind="gru2")


def test_dropout_only_in_training():
    model = CharModel(5, hidden=4, embedding=3, dropout=0.5, rng=0)
    ids = np.zeros((3, 2), dtype=int)
    first, second = (model(ids)[0].detach().numpy() for _ in range(2))
    assert not np.array_equal(first, second)
    model.eval()
    first, second = (model(ids)[0].detach().numpy() for _ in range(2))
    assert np.array_equal(first, second)


# ---- evaluate ------------------------------------------------------------------------------------


class Counting(tg.nn.Module):
    """Says which characters it was asked to predict from: every one costs its own id."""

    def __init__(self, symbols):
        self.symbols = symbols
        self.seen = []

    def forward(self, ids, state=None):
        self.seen += np.asarray(ids).T.ravel().tolist()
        return tg.zeros((*np.shape(ids), self.symbols)), (tg.zeros((1, np.shape(ids)[1], 1)),) * 2


@pytest.mark.parametrize("n", [2, 3, 7, 31, 64, 65, 100])
@pytest.mark.parametrize(("batch", "window"), [(1, 5), (4, 3), (7, 100), (200, 1)])
def test_evaluate_counts_every_character_once(n, batch, window):
    model = Counting(symbols=n)
    loss = evaluate(model, np.arange(n), batch=batch, window=window)
    assert loss == pytest.approx(math.log(n), rel=1e-6)
    assert sorted(model.seen) == list(range(n - 1))  # each is read once, to predict the next


def test_evaluate_in_one_stream_is_the_plain_mean():
    model = CharModel(6, hidden=8, embedding=4, dropout=0.5, rng=3)
    ids = np.random.default_rng(0).integers(6, size=50)
    model.eval()
    logits, _ = model(ids[:-1, None])
    plain = float(cross_entropy(logits, ids[1:, None]))
    model.train()
    for window in (1, 7, 49, 500):
        assert evaluate(model, ids, batch=1, window=window) == pytest.approx(plain, rel=1e-5)
    assert model.training
    with pytest.raises(DataError, match="at least 2"):
        evaluate(model, [1])


def test_evaluate_records_nothing_and_carries_the_state():
    model = CharModel(4, hidden=8, embedding=4, kind="rnn", rng=0)
    ids = np.arange(41) % 4
    short = evaluate(model, ids, batch=4, window=3)
    assert short == pytest.approx(evaluate(model, ids, batch=4, window=10), rel=1e-6)
    assert all(p.grad is None for p in model.parameters())


# ---- drawing and writing -------------------------------------------------------------------------


def test_draw_at_the_limits():
    rng = np.random.default_rng(0)
    logits = np.array([0.0, 3.0, 2.9, -700.0])
    for temperature in (0, 5e-324, 1e-310, 1e-300, 1e-30, 1e-3):
        assert {draw(logits, temperature, rng) for _ in range(50)} == {1}
    even = np.bincount([draw(logits, math.inf, rng) for _ in range(4000)], minlength=4)
    assert even.min() > 850
    for temperature in (-1, -1e-300, math.nan, -math.inf):
        with pytest.raises(DataError, match="temperature"):
            draw(logits, temperature, rng)
    for bad in (math.nan, math.inf):
        with pytest.raises(NonFiniteError):
            draw(np.array([0, bad]), 1, rng)
    assert draw(np.array([-1e308, 1e308]), 1e-300, rng) == 1


def test_draw_follows_the_distribution():
    rng = np.random.default_rng(1)
    logits, temperature = np.array([0.0, 1.0, -1.0, 2.0]), 0.8
    p = np.exp(logits / temperature)
    p /= p.sum()
    n = 20_000
    share = np.bincount([draw(logits, temperature, rng) for _ in range(n)], minlength=4) / n
    assert np.abs(share - p).max() < 4 * math.sqrt(0.25 / n)


def test_generate():
    vocabulary = Vocabulary("\nabc")
    model = CharModel(4, hidden=6, embedding=3, dropout=0.5, rng=0)

    def write(**options):
        return "".join(generate(model, vocabulary, **{"length": 30, "rng": 7, **options}))

    assert len(write()) == 30
    assert write() == write()
    assert write() != write(rng=8)
    assert write(length=0) == ""
    assert write(prompt="") == write(prompt="\n")
    assert set(write(temperature=math.inf, length=200)) == set("\nabc")
    assert write(temperature=0, rng=1) == write(temperature=0, rng=2) == write(temperature=1e-300)
    assert model.training
    with pytest.raises(DataError, match=r"'z'.*offset 1"):
        generate(model, vocabulary, prompt="az")  # at once, not at the first character
    with pytest.raises(DataError, match="length"):
        generate(model, vocabulary, length=-1)
    with pytest.raises(DataError, match="temperature"):
        generate(model, vocabulary, temperature=-1)


def test_generate_reads_the_whole_prompt_and_its_own_output():
    vocabulary = Vocabulary("ab")  # no newline: an empty prompt starts after a character drawn
    model = CharModel(2, hidden=6, embedding=3, rng=0)
    assert len("".join(generate(model, vocabulary, length=5, rng=0))) == 5
    prompt = "abba" * 700  # longer than what is read at a time
    written = "".join(generate(model, vocabulary, prompt=prompt, length=9, temperature=0))
    ids = vocabulary.encode(prompt + written)
    with tg.no_grad():
        logits, _ = model(ids[:, None])
    expected = logits.numpy()[len(prompt) - 1 : -1, 0].argmax(-1)
    assert vocabulary.decode(expected) == written


def test_generate_leaves_recording_to_the_caller():
    model = CharModel(2, hidden=3, embedding=2, rng=0)
    x = tg.tensor(1.0, requires_grad=True)
    for _ in generate(model, Vocabulary("ab"), length=2):
        assert (x * 2).requires_grad


# ---- a training session --------------------------------------------------------------------------


def run(session, updates):
    return [session.update() for _ in range(updates)]


def assert_same_run(a, b):
    for name, value in a.model.state_dict().items():
        assert value.tobytes() == b.model.state_dict()[name].tobytes(), name
    assert repr(a.optimizer.state_dict()) == repr(b.optimizer.state_dict())
    assert a.rng.bit_generator.state == b.rng.bit_generator.state
    assert (a.step, a.smoothed, a.validation, a.best) == (b.step, b.smoothed, b.validation, b.best)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "rnn", "layers": 2, "dropout": 0.3},
        {"layers": 2, "dropout": 0.3, "k2": 17},
        {"k2": 14, "clip": 0.05},
    ],
    ids=["plain", "rnn-dropout", "k1<k2-dropout", "k2=2k1-clipped"],
)
def test_interrupted_and_resumed_is_the_same_run(tmp_path, changes):
    config, corpus = small(**changes), Corpus.of(text())
    straight = Session(config, corpus)
    assert straight.windows > 10
    reports = run(straight, straight.total)
    cuts = [1, 2, straight.windows - 1, straight.windows, straight.windows + 3, straight.total - 1]
    for cut in cuts:
        first = Session(config, corpus)
        run(first, cut)
        first.save(tmp_path / "run")
        second = Session(config, corpus)
        run(second, 3)  # whatever it was before, it becomes the other
        second.restore(tmp_path / "run")
        assert_same_run(first, second)
        assert run(second, second.total - cut) == reports[cut:]
        assert second.finished
        assert_same_run(straight, second)


def test_updates_are_those_of_tbptt_run():
    session, other = (Session(small(k2=17, epochs=1), Corpus.of(text())) for _ in range(2))
    session.schedule.lr_lambda = lambda _: 1.0  # TBPTT.run knows of no schedule
    mine = [update.loss for update in run(session, session.total)]
    assert mine == [float(report.loss) for report in other.tbptt.run(other._xs, other._ys)]


def test_updates_report():
    session = Session(small(clip=0.05), Corpus.of(text()))
    updates = run(session, session.total)
    assert [u.step for u in updates] == list(range(1, session.total + 1))
    assert [u.epoch for u in updates] == sorted(u.epoch for u in updates)
    assert updates[-1].epoch == 3
    assert all(u.clipped == (u.norm > 0.05) for u in updates)
    assert [u.step for u in updates if u.validation is not None] == [
        session.windows * k for k in (1, 2, 3)
    ]
    assert updates[0].lr == 0.02
    assert updates[-1].lr == pytest.approx(0.001, rel=0.05)
    assert isinstance(updates[0], Update)
    assert session.best == min(u.validation for u in updates if u.validation)


def test_more_epochs_go_on_and_other_changes_do_not(tmp_path):
    corpus = Corpus.of(text())
    session = Session(small(epochs=1), corpus)
    run(session, session.total)
    session.save(tmp_path / "run")
    longer = Session(small(epochs=2), corpus)
    longer.restore(tmp_path / "run")
    assert not longer.finished
    run(longer, longer.total - longer.step)
    with pytest.raises(CheckpointError, match=r"hidden \(9 there, 10 here\)"):
        Session(small(hidden=10), corpus).restore(tmp_path / "run")
    other = Corpus.of(text(PROSE.replace("fox", "cat")))
    with pytest.raises(CheckpointError, match="another text"):
        Session(small(epochs=1), other).restore(tmp_path / "run")
    tg.save_checkpoint(tmp_path / "alien", model=session.model)
    with pytest.raises(CheckpointError, match="no configuration"):
        longer.restore(tmp_path / "alien")


def test_it_learns_a_periodic_text():
    corpus = Corpus.of(text("abcdefgh" * 120))
    session = Session(small(hidden=16, epochs=6), corpus)
    updates = run(session, session.total)
    assert updates[0].loss == pytest.approx(math.log(8), rel=0.2)
    assert session.validation < 0.05
    written = "".join(
        generate(session.model, corpus.vocabulary, prompt="ab", length=14, temperature=0)
    )
    assert written == "cdefghabcdefgh"


def test_one_distinct_character():
    session = Session(small(epochs=1), Corpus.of(text("a" * 400)))
    updates = run(session, session.total)
    assert all(u.loss == 0 == u.norm and not u.clipped for u in updates)
    assert session.validation == 0
    assert all(np.isfinite(p.data).all() for p in session.model.parameters())
    assert "".join(generate(session.model, session.corpus.vocabulary, length=3)) == "aaa"


def test_divergence_stops_the_run():
    session = Session(small(lr=1e38), Corpus.of(text()))
    with pytest.raises(NonFiniteError, match=r"step \d+: "):
        run(session, session.total)
    assert session.step < 10


def test_configurations_are_checked():
    Config().check()
    for bad in (
        {"hidden": 0}, {"layers": 0}, {"embedding": 0}, {"batch": 0}, {"k1": 0}, {"epochs": 0},
        {"seed": -1}, {"lr": 0}, {"lr": -1.0}, {"lr": math.nan}, {"lr": math.inf}, {"clip": 0},
        {"clip": math.nan}, {"dropout": 1.0}, {"dropout": -0.1}, {"dropout": math.nan},
        {"model": "elman"}, {"k1": 5, "k2": 4}, {"hidden": 2.0},
    ):  # fmt: skip
        with pytest.raises(DataError, match=list(bad)[-1]):
            Config(**bad).check()
        with pytest.raises(CheckpointError):
            Config.of({**vars(Config()), **bad})
    with pytest.raises(DataError, match=r"hidden.*; lr"):
        Config(hidden=0, lr=-1).check()
    assert Config.of(vars(Config(hidden=3))) == Config(hidden=3)


def test_texts_that_are_too_short():
    with pytest.raises(DataError, match=r"training part of test.*need 22 .* has 18"):
        Session(small(), Corpus.of(text("ab" * 10)))
    for content in ("a", "ab", "ab" * 5):
        with pytest.raises(DataError, match="characters"):
            Corpus.of(text(content))


def test_writing_leaves_every_module_in_the_mode_it_was_in():
    corpus = Corpus.of(text())
    model = Session(small(dropout=0.3, layers=2), corpus).model
    model.eval()
    model.recurrent.train()
    "".join(generate(model, corpus.vocabulary, length=3, rng=0))
    assert not model.training
    assert model.recurrent.training


def test_between_two_characters_the_model_is_the_callers():
    """A module that is put in there is found: it drops nothing while the next one is written."""
    corpus = Corpus.of(text())
    written = []
    for seed in (0, 1, 2):
        model = Session(small(), corpus).model
        characters = generate(model, corpus.vocabulary, length=12, temperature=0, rng=0)
        next(characters)
        model.dropout = nn.Dropout(0.9, rng=seed)
        written.append("".join(characters))
        assert model.dropout.training
    assert len(set(written)) == 1
