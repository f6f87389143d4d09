"""How hypothesis plays here: a figure with a clock in it is no test, so a busy machine fails none."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("sparrowmq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sparrowmq")
