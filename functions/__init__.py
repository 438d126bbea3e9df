"""Stateless compute: DataFusion sessions, scans and pruning."""
