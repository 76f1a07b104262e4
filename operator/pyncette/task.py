"""The tasks that the decorators of an app return."""

from pyncette.app.partitioned_tasks import PartitionedTask
from pyncette.app.tasks import Task

__all__ = ["PartitionedTask", "Task"]
