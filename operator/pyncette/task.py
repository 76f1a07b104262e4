"""Tasks, as the decorators of an app return them."""

from pyncette.app.tasks import PartitionedTask, Task

__all__ = ["PartitionedTask", "Task"]
