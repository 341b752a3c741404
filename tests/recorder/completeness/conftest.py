"""The material of disposition, for what should have come."""

from tests.recorder.disposition_world import world

__all__ = ["world"]
