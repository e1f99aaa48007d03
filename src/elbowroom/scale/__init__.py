"""The same work in more than one process."""

from .cluster import LOCAL, Cluster
from .workers import Crew, Left, Report, WorkersError

__all__ = ["LOCAL", "Cluster", "Crew", "Left", "Report", "WorkersError"]
