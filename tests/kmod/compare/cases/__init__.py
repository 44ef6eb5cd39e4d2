"""The cases by subject; their order is that of the run."""

from . import forwarding, routing, ipsec, errors, local, sockets, devices, tracking  # noqa: F401
