"""The cases by subject; their order is that of the run."""

from . import forwarding, routing  # noqa: F401
