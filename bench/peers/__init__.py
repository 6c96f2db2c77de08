"""Other semantic caches, each run by the Python of an environment of its own; see ``bench.caches``."""
