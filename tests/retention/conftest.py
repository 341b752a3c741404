"""One hypothesis profile: a loaded machine is slow, which says nothing about the code."""

from hypothesis import HealthCheck, settings

from retention.periods import zone_of
from tests.retention.strategies import ZONES

settings.register_profile("loaded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")

# Zone data is read from disk once per process, which must not happen first inside an event loop.
for name in ZONES:
    zone_of(name)
