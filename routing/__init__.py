"""Which model, which replica, when."""
