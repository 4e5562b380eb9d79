"""The shared model-hook backend: what every lens knows about a model, its inputs and its states."""
