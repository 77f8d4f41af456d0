"""The table of mutants is sound, and the program that tries them tells a kill from a survivor.

What `make mutants` measures takes minutes. That its table still fits the code takes none.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.mutation import report, run
from tests.mutation.mutant import Mutant
from tests.mutation.mutants import MUTANTS
from tests.mutation.sandbox import PACKAGE, Outcome, Sandbox
from tests.mutation.workers import NotGreenError, Result, Workers

ROOT = Path(__file__).resolve().parents[1]


def source(mutant: Mutant) -> str:
    return (ROOT / PACKAGE / mutant.file).read_text(encoding="utf-8")


def meaning(mutant: Mutant, text: str) -> object:
    """Of Python what it parses to; of CUDA the words. (Whether those compile, the sandbox sees.)"""
    if mutant.file.endswith(".py"):
        return ast.dump(ast.parse(text))
    return re.sub(r"//.*", "", text).split()


# ---- the table ----


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_fits_the_code_and_changes_what_it_does(mutant):
    before, after = source(mutant), mutant.applied(source(mutant))
    # The mistake is one of meaning: it parses, and it is more than a comment.
    assert meaning(mutant, after) != meaning(mutant, before)


def test_there_are_enough_mutants_of_every_area_and_their_names_differ():
    assert not [name for name, n in Counter(m.name for m in MUTANTS).items() if n > 1]
    areas = Counter(m.area for m in MUTANTS)
    assert sum(areas.values()) >= report.LEAST_MUTANTS
    for area in ("ops", "engine", "fused", "optim", "clip", "tbptt", "gpu"):
        assert areas[area] >= 5, area
    assert all(m.mistake for m in MUTANTS)


def test_the_tests_named_exist():
    """Every file of a selection is there, and every word of a ``-k`` is part of some test in it."""
    files = sorted({word for m in MUTANTS for word in m.selection if word.endswith(".py")})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=True)
    tests = [line for line in done.stdout.splitlines() if "::" in line]
    for selection in {m.selection for m in MUTANTS}:
        chosen, _, expression = " ".join(selection).partition(" -k ")
        inside = [t for t in tests if t.startswith(tuple(chosen.split()))]
        assert inside, f"{chosen} holds no test"
        for word in set(re.findall(r"\w+", expression)) - {"and", "or", "not"}:
            assert any(word in t for t in inside), f"no test of {chosen} is called {word}"


def test_a_text_that_moved_is_an_error():
    mutant = Mutant("ops", "gone", "x.py", "a - b", "a + b", "tests", "flipped sign")
    assert mutant.applied("return a - b") == "return a + b"
    for text in ("return b - a", "a - b or a - b"):
        with pytest.raises(ValueError, match=r"gone: in x\.py .* occurs [02] times, needed 1"):
            mutant.applied(text)
    second = Mutant("ops", "second", "x.py", "a - b", "a + b", "tests", "sign", of=2, nth=1)
    assert second.applied("(a - b) * (a - b)") == "(a - b) * (a + b)"


# ---- the program, on a project of one line ----


@pytest.fixture
def project(tmp_path):
    """A package of the same name: that it is found instead of ours is part of the test."""
    files = {
        f"{PACKAGE}/__init__.py": "def half(x):\n    return x / 2  # of x\n\n\nSPARE = 1\n",
        "tests/__init__.py": "",
        "tests/test_half.py": (
            f"from {PACKAGE} import half\n\n\n"
            "def test_half():\n    assert half(2) == 1\n\n\n"
            "def test_zero():\n    assert half(0) == 0\n"
        ),
        "tests/test_spare.py": (
            f"import {PACKAGE}\n\n\ndef test_spare():\n    assert {PACKAGE}.SPARE == 1\n"
        ),
    }
    for name, text in files.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "project"


def mutant(name: str, old: str, new: str, tests: str = "tests/test_half.py", **more) -> Mutant:
    return Mutant("toy", name, "__init__.py", old, new, tests, "on purpose", **more)


def test_each_kind_of_end_is_told_apart(project):
    mutants = [
        mutant("killed", "x / 2", "x * 2"),
        mutant("killed-again", "x / 2", "x * 3"),  # as long as before, in the same second: no cache
        mutant("comment", "# of x", "# of y"),
        mutant("elsewhere", "SPARE = 1", "SPARE = 2"),  # the whole suite knows
        mutant("syntax", "return", "return return"),
    ]
    with Workers(project, 2) as workers:
        results = {r.mutant.name: r for r in workers.judge(mutants)}
    assert {name: (r.state, r.whole) for name, r in results.items()} == {
        "killed": ("killed", False),
        "killed-again": ("killed", False),
        "comment": ("survived", True),
        "elsewhere": ("killed", True),
        "syntax": ("INVALID", False),
    }
    assert results["killed"].outcome.detail == "tests/test_half.py::test_half"
    assert "x / 2  # of x" in (project / PACKAGE / "__init__.py").read_text()  # never written to


def test_a_mutant_that_hangs_is_stopped_and_counts_as_killed(project):
    hangs = mutant("hangs", "return x", "while x == 2:\n        pass\n    return x")
    with Workers(project, 1, least=1, patience=1) as workers:
        (only,) = workers.judge([hangs])
    assert (only.state, only.outcome.killed) == ("timeout", True)


def test_tests_that_fail_anyway_or_select_nothing_kill_nothing(project):
    (project / "tests/test_spare.py").write_text("def test_spare():\n    assert False\n")
    broken = mutant("spare", "SPARE = 1", "SPARE = 2", "tests/test_spare.py")
    empty = mutant("nothing", "x / 2", "x * 2", "tests/test_half.py -k nothing")
    with Workers(project, 2) as workers, pytest.raises(NotGreenError) as error:
        list(workers.judge([broken, empty]))
    assert "tests/test_spare.py: failed, tests/test_spare.py::test_spare" in str(error.value)
    assert "-k nothing: invalid, pytest ended with 5" in str(error.value)


def test_a_kernel_that_does_not_compile_kills_nothing(project):
    text = (
        "class CompileError(AssertionError): pass\n\n\n"
        f"def test_it():\n    from {PACKAGE} import SPARE\n    if SPARE != 1:\n"
        "        raise CompileError('c++ -O2 ' + 99 * 'and so on ')\n"
    )
    (project / "tests/test_kernel.py").write_text(text, encoding="utf-8")
    wrong = mutant("wrong", "SPARE = 1", "SPARE = 2", "tests/test_kernel.py")
    with Workers(project, 1) as workers:
        (only,) = workers.judge([wrong])
    assert (only.state, only.outcome.detail) == ("INVALID", "tests/test_kernel.py::test_it")


def test_closing_ends_what_runs_and_leaves_nothing(project):
    with Workers(project, 1) as workers:
        home = Path(workers._home.name)
        sandbox = workers._sandboxes[0]
        assert isinstance(sandbox, Sandbox)
        assert home.exists()
        sandbox.close()
        with pytest.raises(InterruptedError):
            sandbox.pytest(["tests/test_half.py"], 60)
    assert not home.exists()


# ---- the verdict ----


def result(name: str, verdict: str, explanation: str = "") -> Result:
    made = mutant(name, "x", "y", explanation=explanation)
    return Result(made, Outcome(verdict, 1.0, "tests/test_half.py::test_half"), verdict == "passed")


def test_what_makes_a_run_fail():
    killed = [result(f"k{i}", "failed") for i in range(95)]
    explained = [result(f"s{i}", "passed", "cannot be seen") for i in range(5)]
    assert report.problems([*killed, *explained], part=False) == []
    worse = [*killed[1:], *explained, result("one more", "passed", "cannot be seen")]
    assert report.problems(worse, part=False) == ["fewer than 95% were killed"]
    assert report.problems(killed[:59], part=False) == ["59 mutants; needed 60"]
    assert report.problems(killed[:59], part=True) == []
    assert "does not explain" in report.problems([*killed, result("u", "passed")], part=False)[0]
    assert "is invalid" in report.problems([*killed, result("i", "invalid")], part=False)[0]
    hangs = [*killed, result("h", "timeout")]
    assert report.problems(hangs, part=False) == []


def test_the_report_names_survivors_and_what_killed_the_rest():
    text = report.markdown([result("a", "failed"), result("b", "passed", "no way")], 60.0, 2)
    assert "1 of 2 mutants killed (50.0%) in 1.0 minutes by 2 at a time." in text
    assert "| toy  | 2       | 1      | 0          | 0                       |" in text
    assert "- `b` (__init__.py; on purpose): no way" in text
    assert re.search(r"\| a +\| __init__.py \| on purpose \| killed .* `tests/test_half.py::", text)


def test_the_command_line_lists_and_refuses(capsys):
    assert run.main(["--list", "--only", "tbptt", "detach"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith("tbptt") and "detach" in line for line in lines)
    assert run.main(["--only", "no such mutant"]) == 1
    assert "--list" in capsys.readouterr().out
