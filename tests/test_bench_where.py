"""Where a step's time goes: which C function is of which kind, and what is made of samples."""

from collections import Counter

import pytest

from benchmarks import where
from benchmarks.peers import Size
from benchmarks.where import (
    COPIES,
    KINDS,
    POINTWISE,
    PRODUCTS,
    RATE,
    REST,
    WAITING,
    Sampled,
    innermost,
    kind,
)

NUMPY = "_multiarray_umath.cpython-311-x86_64-linux-gnu.so"
BLAS = "libscipy_openblas64_-32a4b2a6.so"


@pytest.mark.parametrize(
    ("library", "symbol", "expected"),
    [
        (BLAS, "sgemm_kernel_SKYLAKEX", PRODUCTS),
        (BLAS, "sgemm_oncopy_SKYLAKEX", PRODUCTS),  # to arrange a factor is part of the product
        (BLAS, "exec_blas", WAITING),
        ("libc.so.6", "__sched_yield", WAITING),
        (NUMPY, "FLOAT_matmul_matrixmatrix", PRODUCTS),
        (NUMPY, "DOUBLE_dot", PRODUCTS),
        (NUMPY, "FLOAT_multiply_X86_V3", POINTWISE),
        (NUMPY, "FLOAT_pairwise_sum", POINTWISE),
        (NUMPY, "FLOAT_copysign", POINTWISE),
        (NUMPY, "simd_exp_FLOAT", POINTWISE),
        (NUMPY, "PyArray_Where", POINTWISE),
        ("libm.so.6", "__expf_fma", POINTWISE),
        ("libm.so.6", "fetestexcept", REST),
        (NUMPY, "_aligned_strided_to_contig_size4", COPIES),
        (NUMPY, "_aligned_swap_pair_strided_to_strided_size8", COPIES),
        (NUMPY, "_contig_to_contig", COPIES),
        (NUMPY, "_aligned_contig_cast_float_to_double", COPIES),
        (NUMPY, "FLOAT_to_VOID", COPIES),
        (NUMPY, "FLOAT_copyswapn", COPIES),
        (NUMPY, "PyArray_TakeFrom", COPIES),
        (NUMPY, "mapiter_trivial_get", COPIES),
        (NUMPY, "radixsort_long", COPIES),
        ("libc.so.6", "__memmove_avx512_unaligned_erms", COPIES),
        ("libc.so.6", "_int_malloc", REST),
        (NUMPY, "FLOAT_setitem", REST),
        (NUMPY, "ufunc_generic_fastcall", REST),
        (NUMPY, "PyArray_NewFromDescr_int", REST),
        (NUMPY, "get_wrapped_legacy_cast_function", REST),
        (NUMPY, "can_cast_pyscalar_scalar_to", REST),
        ("libpython3.11.so.1.0", "_PyEval_EvalFrameDefault", REST),
        ("libpython3.11.so.1.0", "FLOAT_multiply", REST),  # the library comes first
        ("kernel", "clear_page_erms", REST),
    ],
)
def test_a_function_is_of_a_kind_by_its_library_and_name(library, symbol, expected):
    assert kind(library, symbol) == expected


SCRIPT = f"""
\t        bf3a71 sgemm_kernel_SKYLAKEX (/site packages/numpy.libs/{BLAS})

\tffffffff81a12345 clear_page_erms ([kernel.kallsyms])
\tffffffff81a99999 asm_exc_page_fault ([kernel.kallsyms])
\t        5160da FLOAT_multiply_X86_V3 (/numpy/_core/{NUMPY})
\t        2b5e75 generic_wrapped_legacy_loop (/numpy/_core/{NUMPY})


\tffffffff81a12345 schedule ([kernel.kallsyms])

\t          1a6d np::sort<long (*)(int)> (/numpy/_core/{NUMPY})
\t             0 [unknown] ([unknown])
"""


def test_a_sample_counts_for_the_innermost_function_outside_of_the_kernel():
    assert list(innermost(SCRIPT)) == [
        (BLAS, "sgemm_kernel_SKYLAKEX"),
        (NUMPY, "FLOAT_multiply_X86_V3"),
        ("kernel", "schedule"),
        (NUMPY, "np::sort<long (*)(int)>"),
    ]


def test_no_samples_are_no_samples():
    assert not list(innermost("\n"))


def test_samples_become_milliseconds_of_a_step():
    functions = Counter({(BLAS, "sgemm"): RATE, (BLAS, "sgemv"): RATE, (NUMPY, "FLOAT_add"): RATE,
                         ("libc.so.6", "malloc"): RATE})  # fmt: skip
    found = Sampled(functions, steps=100, seconds=5.0, once=0.039, alone=0.016)
    assert found.on_core == 0.8
    assert where.cells(Size(25, 1, 64, 100), found) == {
        "what": "LSTM T=25 B=1 H=100", "on the clock": "39.0", "on a core": "80%",
        "sampled": "40.0",
        PRODUCTS: "20.0 (50%)", WAITING: "0.0000 (0%)", POINTWISE: "10.0 (25%)",
        COPIES: "0.0000 (0%)", REST: "10.0 (25%)",
        "products alone": "16.0", "sampled / alone": "1.25",
    }  # fmt: skip
    assert sum(found.ms(which) for which in KINDS) == found.ms()


def test_without_the_sampler_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(where.shutil, "which", lambda _: None)
    assert where.main([]) == 2
    assert "install linux-perf" in capsys.readouterr().err


def test_a_page_has_a_row_for_each_size_that_was_asked_for(monkeypatch, tmp_path, capsys):
    asked = []

    def sample(peers, size, seconds):
        asked.append((size.cell, size.T, size.H, seconds))
        return Sampled(Counter({(BLAS, "sgemm"): RATE}), 100, 2.0, 0.01, 0.008)

    monkeypatch.setattr(where.shutil, "which", lambda name: name)
    monkeypatch.setattr(where, "sample", sample)
    monkeypatch.setattr(where, "RESULTS", tmp_path / "where.md")
    assert where.main(["--write", "--match", "t=50", "--seconds", "1", "--top", "1"]) == 0
    assert asked == [("rnn", 50, 128, 1.0), ("gru", 50, 128, 1.0), ("lstm", 50, 128, 1.0)]
    page = (tmp_path / "where.md").read_text(encoding="utf-8")
    assert page.startswith("# Where the time of a training step goes\n")
    assert page.count("| 50%       | 10.0    | 10.0 (100%) |") == 3
    assert "100.0%  products            sgemm" in capsys.readouterr().out
