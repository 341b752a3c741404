"""The material of disposition, for what runs in the background."""

from tests.recorder.disposition_world import world

__all__ = ["world"]
