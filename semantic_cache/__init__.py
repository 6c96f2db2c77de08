"""Earlier answers to the same question."""
