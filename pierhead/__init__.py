"""Pierhead: a container engine that speaks Docker's Engine API."""

__version__ = "0.1.0"
