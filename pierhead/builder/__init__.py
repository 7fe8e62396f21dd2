"""Dockerfile builder (a later piece of work)."""
