"""The engine: tensors, primitives, and the backward sweep over the graph they leave behind."""
