"""The material of disposition, for what is moved."""

from tests.recorder.disposition_world import world

__all__ = ["world"]
