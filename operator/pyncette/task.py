"""The tasks that the decorators of an app return."""

from pyncette.app.tasks import PartitionedTask, Task

__all__ = ["PartitionedTask", "Task"]
