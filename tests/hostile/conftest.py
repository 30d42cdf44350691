"""After each test here no task is pending; and a certificate authority."""

from support.tasks import no_task_left
from support.tls import authority

__all__ = ["authority", "no_task_left"]
