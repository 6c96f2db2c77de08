"""Settings of the property tests: a shared machine may be slow, so no example has a deadline."""

from hypothesis import settings

settings.register_profile("switchgear", deadline=None)
settings.load_profile("switchgear")
