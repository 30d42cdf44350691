"""After each test here no task is pending."""

from support.tasks import no_task_left

__all__ = ["no_task_left"]
