"""What can be shown about the GPU without one: `make test-cupy`, with the real CuPy and NVRTC."""
