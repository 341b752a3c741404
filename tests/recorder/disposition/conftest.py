"""Customers, recordings with real sealed audio, holds: the material of disposition."""

from tests.recorder.disposition_world import world

__all__ = ["world"]
