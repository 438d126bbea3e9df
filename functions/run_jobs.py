"""Whole jobs as tasks: work on one table that a coordinator commits."""

from __future__ import annotations

from functions.run_task import Job
from functions.tasks import TaskKind

__all__ = ["JOBS"]

JOBS: dict[TaskKind, Job] = {}
