"""Who may ask, how much, and what it costs: keys, limits, pricing, journal, ledger."""
