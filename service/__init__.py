"""Speaks to the outside: parses, plans and coordinates statements, and serves them over HTTP."""
