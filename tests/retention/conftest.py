"""One hypothesis profile: a loaded machine is slow, which says nothing about the code."""

from hypothesis import HealthCheck, settings

settings.register_profile("loaded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")
