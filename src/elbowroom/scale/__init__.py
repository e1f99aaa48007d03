"""The same work in more than one process."""

from .workers import Crew, Report, WorkersError, n_cores

__all__ = ["Crew", "Report", "WorkersError", "n_cores"]
