"""Numba kernels: one algorithm in each file, its source cited at its top; they import numpy and numba only.

Who needs one imports its module by name, late: numba costs a process half a second, and a query that reads a few keys
needs none of it (`functions.index` predicts and probes small batches in plain numpy).
"""
