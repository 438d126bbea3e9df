"""Bytes at rest: blobs, the write-ahead log and table formats. Imports nothing above it."""
