"""Mutation testing: are the tests able to notice a mistake?

A *mutant* is the package with one mistake in it, of the kind that people make: a sign, a dropped
factor, ``=`` for ``+=``, a missing detach, one step too early in time. Tests that stay green on a
mutant would stay green on that mistake. Every mutant here is made by hand and says what a person
got wrong; random ones are mostly what nobody would write.

    mutant.py      what a mutant is
    ops.py core.py sequence.py training.py layers.py watch.py gpu.py      the mutants, by area
    mutants.py     all of them in one table
    sandbox.py     a private copy of the project, in which one mutant at a time is tested
    profile.py     what the pytest in there is told about Hypothesis
    workers.py     several sandboxes at work
    report.py      what came out
    run.py         the program: ``make mutants``, or ``python -m tests.mutation.run --help``
"""
