"""Key-value buckets in JetStream: created if there is none, and recognized when used again."""

from __future__ import annotations

import contextlib

import nats.js.errors
from nats.js import JetStreamContext, api
from nats.js.kv import KeyValue

from everlytic_async.errors import LedgerError

__all__ = ["bucket", "check_exists", "create_if_missing", "created_at"]


def bucket(stream: JetStreamContext, name: str, *, direct: bool) -> KeyValue:
    """A bucket that exists, for reads from any replica, or from the leader."""
    return KeyValue(name=name, stream=f"KV_{name}", pre=f"$KV.{name}.", js=stream, direct=direct)


async def create_if_missing(
    stream: JetStreamContext, name: str, replicas: int, ttl_s: float | None
) -> bool:
    """Create a bucket if there is none: whether that was necessary."""
    try:
        await stream.key_value(name)
    except nats.js.errors.BucketNotFoundError:
        pass
    else:
        return False
    config = api.KeyValueConfig(
        bucket=name,
        description="What became of orders for Everlytic",
        history=1,
        replicas=replicas,
        storage=api.StorageType.FILE,
        ttl=ttl_s,
        direct=True,
    )
    try:
        await stream.create_key_value(config)
    except nats.js.errors.BadRequestError:
        # Another process has created it meanwhile, perhaps with other settings.
        with contextlib.suppress(nats.js.errors.BucketNotFoundError):
            await stream.key_value(name)
            return False
        raise
    return True


async def check_exists(
    stream: JetStreamContext, name: str, created: object, advice: str
) -> api.StreamInfo:
    """What the server says about the bucket that was created then; None for any.

    Raises:
        LedgerError: that one was deleted, even if there is a new one. The message ends with the
            advice.
    """
    try:
        info = await stream.stream_info(f"KV_{name}")
    except nats.js.errors.NotFoundError:
        if created is None:
            raise
        info = None
    if info is None or created not in (None, created_at(info)):
        raise LedgerError(f"the bucket {name!r} was deleted while it was in use, so {advice}")
    return info


def created_at(info: api.StreamInfo) -> object:
    """When a stream was created.

    Releases of nats-py before 2.14 don't say. With those we notice that a bucket is gone, but not
    that another one was created in its place.
    """
    return getattr(info, "created", None) or "unknown"
