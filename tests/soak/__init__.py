"""The long fault runs: ``make soak``."""
