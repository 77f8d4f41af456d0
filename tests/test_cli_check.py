"""`tinygrad-rnn check`: its examples reach everything, and what is planted wrong is named."""

import re

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests.checking import ops_behind
from tests.test_gradients import all_ops
from tinygrad_rnn import _check_examples, _check_layers, _cli_check
from tinygrad_rnn.cli import main
from tinygrad_rnn.core.fused import Fused, FusedNode
from tinygrad_rnn.core.primitive import Rule, nodes_behind
from tinygrad_rnn.nn import functional
from tinygrad_rnn.ops import (
    METHODS,
    arithmetic,
    convert,
    creation,
    elementwise,
    indexing,
    linalg,
    lstm,
    random,
    reduce,
    rnn,
    shape,
)

GOOD = {"ok", "exact"}


def check(capsys, *options, code=0):
    """The table of a run: name to verdict, and everything it said."""
    capsys.readouterr()
    assert main(["check", *options]) == code
    said = capsys.readouterr()
    assert said.err == ""
    rows = [
        line for line in said.out.split("\n") if re.search(r"  (ok|exact|WRONG|KINK|ERROR)$", line)
    ]
    return {line[2:34].rstrip(): line.split()[-1] for line in rows}, said.out


def not_ok(table):
    return {name for name, verdict in table.items() if verdict not in GOOD}


# ---- the examples are complete -------------------------------------------------------------------


def recorded(example):
    """The outputs of an example that have a graph, and the leaves it begins with."""
    leaves = [*example.fn.parameters()] if isinstance(example.fn, tg.nn.Module) else []

    def given(x):
        if isinstance(x, tuple):
            return tuple(map(given, x))
        if isinstance(x, tg.Tensor) or x.dtype.kind == "f":
            x = x if isinstance(x, tg.Tensor) else tg.tensor(x, requires_grad=True)
            leaves.append(x)
        return x

    return [y for y in flat(example.fn(*map(given, example.inputs))) if y.requires_grad], leaves


def flat(out):
    return [y for part in out for y in flat(part)] if isinstance(out, list | tuple) else [out]


def reached(example):
    """The ops that an example records, in its forward pass and in its recorded gradient."""
    outputs, leaves = recorded(example)
    u = [tg.tensor(np.ones(y.shape), requires_grad=True) for y in outputs]
    twice = example.order == 2
    gradients = tg.grad(outputs, leaves, u, create_graph=twice, allow_unused=True)
    return ops_behind([*outputs, *(g for g in gradients if g is not None)])


def fused_nodes(example):
    """The nodes of fused ops in the forward pass of an example."""
    return [n for n in nodes_behind(recorded(example)[0]) if isinstance(n, FusedNode)]


def test_every_op_that_has_a_rule_is_reached_by_the_row_of_its_name():
    by_row = {}
    for example in _check_examples.ops(0):
        by_row.setdefault(example.name.partition(" (")[0], set()).update(reached(example))
    for op in all_ops().values():
        if isinstance(op, Fused) or op.each is not None or any(op.rules):
            assert op in by_row.get(op.__name__, ()), (
                f"`tinygrad-rnn check` has no example of {op.__name__}: add one to "
                f"tinygrad_rnn/_check_examples.py"
            )


def test_fused_ops_are_called_with_each_of_their_options():
    seen = set()
    for example in [*_check_examples.ops(0), *_check_layers.layers(0)]:
        for node in fused_nodes(example):
            given = [name for name in ("ids", "ended") if node.options.get(name) is not None]
            seen.add((node.op.__name__, node.options.get("nonlinearity"), *given))
    others = {("softmax_cross_entropy", None), ("layer_norm", None)}
    recurrent = {("rnn", "tanh"), ("rnn", "relu"), ("lstm", None), ("gru", None)}
    options = [(), ("ids",), ("ended",)]
    assert seen == {(*kind, *given) for kind in recurrent for given in options} | others


def test_a_table_is_projected_and_not_its_rows():
    """Also by the layers: a larger table they would take apart, which is another op to check."""
    for example in _check_layers.layers(0):
        if "table=" in example.name:
            assert [node.options["ids"] is not None for node in fused_nodes(example)] == [True]


NO_GRADIENT = {
    "argmax", "argmin", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
    "logical_and", "logical_or", "logical_not", "one_hot",
    "backward", "to", "cpu", "cuda", "primitive", "zeros_like",
}  # fmt: skip


def test_every_public_function_that_has_a_gradient_has_a_row():
    modules = (arithmetic, convert, elementwise, indexing, linalg, reduce, shape)
    public = {
        name
        for name in tg.__all__
        for module in modules
        if vars(module).get(name) is getattr(tg, name) and not isinstance(getattr(tg, name), type)
    }
    methods = {name for name in METHODS if not name.startswith("__") and len(name) > 2}
    assert len(public) > 50  # the walk itself works
    rows = {example.name for example in _check_examples.ops(0)}
    assert public | methods <= rows | NO_GRADIENT
    assert not {*vars(creation), *vars(random)} & rows  # these make leaves


def test_every_layer_and_every_loss_has_a_row():
    rows = {example.name for example in _check_layers.layers(0)}
    kinds = [v for v in vars(tg.nn).values() if isinstance(v, type) and issubclass(v, tg.nn.Module)]
    assert len(kinds) > 5
    for kind in kinds:
        assert kind is tg.nn.Module or any(name.startswith(kind.__name__) for name in rows), kind
    losses = {name for name in functional.__all__ if name.endswith("_loss") or "entropy" in name}
    assert losses <= rows


def test_parameters_inputs_and_states_are_all_moved():
    """Each of them has a gradient, so the differences cannot pass it by."""
    examples = _check_layers.layers(0)
    for example in examples:
        outputs, leaves = recorded(example)
        if outputs:  # the mean over no targets at all has none
            found = tg.grad([y.sum() for y in outputs], leaves, allow_unused=True)
            assert all(g is not None for g in found), example.name
    count = {example.name: len(recorded(example)[1]) for example in examples}
    assert count["LSTM"] == count["LSTM (table=)"] == 3 + 4
    assert count["LSTM (2 x bidirectional)"] == 3 + 4 * 4
    assert count["RNN tanh (without a state)"] == 1 + 4


def test_points_are_never_0_never_tied_and_differ_between_grids():
    for seed in range(20):
        points = _check_examples.Points(seed)
        a, b, positive = points(4, 5), points.between(4, 5), points.positive(3, 4)
        together = np.concatenate([np.ravel(a), np.ravel(b), [0.0, 1.0, -1.0]])
        assert np.diff(np.sort(together)).min() >= 1 / 64
        assert np.abs(np.subtract.outer(positive, b)).min() >= 1 / 64
        assert positive.min() > 0.5


# ---- the command ---------------------------------------------------------------------------------


def test_the_whole_package_agrees_at_both_orders(capsys):
    table, said = check(capsys)
    assert set(table.values()) == GOOD
    assert len(table) > 110
    assert re.search(r"^\d\d ops, \d\d layers, 1 model: all agree, in [\d,]+ comparisons\.$", said,
                     re.MULTILINE)  # fmt: skip
    assert "recurrent.weight_hh_l0 (20, 5)" in table
    assert max(map(len, said.split("\n"))) <= 80
    assert said.isascii()
    shares = [float(n) for n in re.findall(r"(\d+\.\d+) %", said)]
    assert max(shares) < 20  # per cent of what is tolerated: nothing passes by a hair


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_other_seeds_agree_too(capsys, seed):
    options = ["--order", "1", "--seed", str(seed), "--model", "rnn", "--layers", "1"]
    table, said = check(capsys, *options, "--hidden", "3")
    assert set(table.values()) == GOOD
    assert "1 x RNN 3" in said


def test_a_seed_fixes_the_output(capsys):
    first, again = (check(capsys, "--only", "softmax")[1] for _ in range(2))
    assert first == again
    assert check(capsys, "--only", "softmax", "--seed", "1")[1] != first


def test_only(capsys):
    table, said = check(capsys, "--only", "LogSum")
    assert table == {"logsumexp": "exact"}
    assert said.endswith("\n1 op: all agree, in 324 comparisons.\n")
    assert not re.search(r"^(layers|model)", said, re.MULTILINE)
    table, said = check(capsys, "--only", "lstm", "--order", "1")
    assert {"lstm", "LSTM", "LSTM (table=)", "output.bias (7,)"} <= set(table)
    assert not any("RNN" in name for name in table)
    assert "order 1" in said
    assert "order 2  " not in said
    table, said = check(capsys, "--only", "model", "--order", "1", "--model", "rnn")
    assert "1 model: all agree" in said
    assert "ops" not in said
    assert set(check(capsys, "--only", "weight_hh", "--order", "1")[0]) == {
        "recurrent.weight_hh_l0 (20, 5)", "recurrent.weight_hh_l1 (20, 5)",
    }  # fmt: skip


def test_only_what_is_not_there_names_what_is(capsys):
    assert main(["check", "--only", "relo"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(
        r"tinygrad-rnn: error: --only 'relo' .*did you mean .*relu.*\? .*ops, layers, model.*\n",
        said.err,
    )
    assert len(said.err) < 300


@pytest.mark.parametrize("option", ["hidden", "layers", "steps", "seed"])
def test_sizes_that_are_none(capsys, option):
    assert main(["check", f"--{option}", "-1"]) == 2
    assert option in capsys.readouterr().err


def test_interrupted(capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli_check, "gradcheck", interrupt)
    assert main(["check"]) == 130


# ---- what is planted is found --------------------------------------------------------------------


@pytest.fixture
def wrong_tanh(monkeypatch):
    rule = Rule(lambda g, out: 1.001 * g * (1 - out * out), elementwise.tanh)
    monkeypatch.setattr(elementwise.tanh, "rules", [rule])


def test_a_wrong_rule_is_named_wherever_it_is_used(capsys, wrong_tanh):
    table, said = check(capsys, "--order", "1", code=1)
    assert not_ok(table) == {"tanh", "gelu"}  # the fused ops have a tanh of their own
    assert re.search(r"\ntanh:\n  gradcheck, order 1: .*DISAGREE", said)
    assert said.rstrip().endswith(f"1 model: 2 of {len(table)} rows wrong.")


def test_at_order_2_it_is_named_in_what_is_specified_by_it(capsys, wrong_tanh):
    for row in ("rnn (tanh)", "LSTM (table=)"):
        assert check(capsys, "--only", row, "--order", "1")[0] == {row: "exact"}
        assert check(capsys, "--only", row, code=1)[0] == {row: "WRONG"}
    assert check(capsys, "--only", "rnn (relu)")[0] == {"rnn (relu)": "ok"}


def plant(monkeypatch, op, place, change):
    """From now on the backward of `op` gives another gradient for the input number `place`."""
    right = op.hand_backward

    def wrong(*args, **options):
        found = list(right(*args, **options))
        if found[place] is not None:  # nobody needs it
            found[place] = change(found[place])
        return found

    monkeypatch.setattr(op, "hand_backward", wrong)


def test_a_wrong_backward_of_a_fused_op_is_named_where_it_matters(capsys, monkeypatch):
    plant(monkeypatch, lstm.lstm, 4, lambda dw_hh: dw_hh * 1.001)
    table, _ = check(capsys, "--order", "1", code=1)
    wanted = {name for name in table if name.startswith(("lstm", "LSTM"))}
    wanted |= {f"recurrent.weight_hh_l{i} (20, 5)" for i in (0, 1)} | {"everything at once"}
    assert not_ok(table) == wanted


def test_swapped_gates_are_found(capsys, monkeypatch):
    def swap(dw_ih):
        i, f, g, o = np.split(dw_ih, 4)
        return np.concatenate([f, i, g, o])

    plant(monkeypatch, lstm.lstm, 3, swap)
    table, _ = check(capsys, "--order", "1", "--only", "lstm", code=1)
    assert {"lstm", "LSTM", "LSTM (table=)", "recurrent.weight_ih_l1 (20, 5)"} <= not_ok(table)
    assert "recurrent.weight_hh_l1 (20, 5)" not in not_ok(table)


def test_the_explanation_knows_the_parameters_name(capsys, monkeypatch):
    plant(monkeypatch, rnn.rnn, 3, lambda dw_hh: -dw_hh)
    table, said = check(capsys, "--order", "1", "--only", "RNN tanh", code=1)
    assert set(table.values()) == {"WRONG"}
    assert re.search(r"weight_hh_l\d(_reverse)?\[\d, \d\]", said)


def test_a_gradient_for_ignored_targets_is_found(capsys, monkeypatch):
    from tinygrad_rnn.ops.loss import _softmax_cross_entropy as op

    plant(monkeypatch, op, 0, lambda dlogits: dlogits + 1e-4)
    table, _ = check(capsys, "--order", "1", "--only", "cross_entropy", code=1)
    assert not_ok(table) == {"softmax_cross_entropy", "cross_entropy"}


def test_a_rule_that_breaks_is_a_row_and_no_traceback(capsys, monkeypatch):
    def broken(g, out):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(elementwise.exp, "rules", [Rule(broken, elementwise.exp)])
    table, said = check(capsys, "--only", "exp", "--order", "1", code=1)
    assert not_ok(table) == {"exp"}
    assert table["exp"] == "ERROR"
    assert {"expm1", "expand_dims"} <= set(table)
    assert "ZeroDivisionError: planted" in said


@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_is_as_wrong_as_can_be(capsys, monkeypatch):
    rule = Rule(lambda g, x: g * x * np.nan, elementwise.square)
    monkeypatch.setattr(elementwise.square, "rules", [rule])
    table, said = check(capsys, "--only", "square", "--order", "1", code=1)
    assert table["square"] == "WRONG"
    assert re.search(r"^  square +nan +inf x", said, re.MULTILINE)


def test_too_little_memory_is_no_wrong_gradient(capsys, monkeypatch):
    def greedy(*_, **__):
        raise MemoryError("unable to allocate")

    monkeypatch.setattr(_cli_check, "gradcheck", greedy)
    assert main(["check"]) == 2
    assert "out of memory" in capsys.readouterr().err


def test_a_kink_is_told_from_a_wrong_rule(capsys, monkeypatch):
    at_zero = [_check_examples.Example("relu at 0", elementwise.relu, [np.zeros(2)])]
    monkeypatch.setattr(_cli_check, "ops", lambda _: at_zero)
    table, said = check(capsys, "--only", "relu at", code=1)
    assert table == {"relu at 0": "KINK"}
    assert re.search(r"^relu at 0:\n .*KINK", said, re.MULTILINE)


def test_many_wrong_rows_are_not_explained_at_length(capsys, monkeypatch):
    def wrong(*_, **__):
        raise tg.GradcheckError("planted")

    monkeypatch.setattr(_cli_check, "gradcheck", wrong)
    table, said = check(capsys, code=1)
    assert set(table.values()) == {"WRONG"}
    assert said.count("planted") == 5
    assert "each explained by --only NAME:\n  " in said
