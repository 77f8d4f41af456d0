"""All mutants, in one table."""

from tests.mutation import core, gpu, layers, ops, sequence, training, watch

MUTANTS = [
    *ops.MUTANTS,
    *core.MUTANTS,
    *sequence.MUTANTS,
    *training.MUTANTS,
    *layers.MUTANTS,
    *watch.MUTANTS,
    *gpu.MUTANTS,
]
