"""Choices about the GPU that are the user's, in one place, and never made silently.

    from tinygrad_rnn.backends import cuda_settings
    cuda_settings.tf32 = True

TF32 is float32 with 10 bits of mantissa instead of 23: tensor cores multiply it several times
faster, and the relative error of a layer is near 5e-4. PyTorch's recurrent layers use it unless
told not to; here float32 means float32 unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

from tinygrad_rnn.errors import DTypeError


class CudaSettings:
    """The settings; there is one instance, `cuda_settings`."""

    __slots__ = ("_tf32", "deterministic", "on_change")  # a name misspelt is an error

    def __init__(self) -> None:
        self._tf32 = False
        # Equal runs give equal bits. False: repeated indices add up by atomics, in any order.
        self.deterministic = True
        self.on_change: list[Callable[[bool], None]] = []  # told of a new `tf32`

    @property
    def tf32(self) -> bool:
        """Whether products of float32 matrices may be rounded to TF32."""
        return self._tf32

    @tf32.setter
    def tf32(self, value: bool) -> None:
        if not isinstance(value, bool):  # "no" would be true
            raise DTypeError(f"cuda_settings.tf32 is True or False, got {value!r}")
        self._tf32 = value
        for told in self.on_change:
            told(self._tf32)


cuda_settings = CudaSettings()
