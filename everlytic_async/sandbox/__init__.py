"""A stand-in for Everlytic's order endpoint: on loopback, with faults on request.

It imports nothing of the rest of the package, and so judges by the documentation alone: a mistake
of the encoder cannot be cancelled by the same mistake here. ``_checks`` holds what the
documentation asks of a request, ``_faults`` what may go wrong, ``_server`` the server.
"""

from everlytic_async.sandbox._faults import Faults
from everlytic_async.sandbox._server import Sandbox

__all__ = ["Faults", "Sandbox"]
