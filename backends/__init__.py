"""The fleet: which serving processes exist, how they are started, watched and ended.

Pure cores (`replica`, `fleet`, `load`, `engines`) decide; `supervisor` and `launchers` do. This part knows
nothing of tenants, requests or routing: the gateway reads its snapshots and translates.
"""
