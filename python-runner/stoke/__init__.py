"""stoke, the command line of a Stoker server: docs/stoke.md. It speaks the native API (/v1) and nothing else."""

__version__ = "0.1.0"
