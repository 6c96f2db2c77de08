"""How the shipped weights were made. Never imported by the gateway."""
