"""What a gateway that is killed leaves on a server, remembered on disk, so that the next one takes it over.

Without this a crash loses what the server queued meanwhile, and leaves a subscription that burdens it for a minute. The
file is there only while it is exact: it is removed before monitored items are created and written again after, so that
no point is ever monitored twice, and it is removed whenever a session is closed. A session is taken over only from the
same run of the same server (its start time), as a server that restarted may have given the same token to somebody else.

The token and the nonce alone open nothing on a secured server, which asks for the signature of our certificate's key;
the file is the owner's alone (0600) all the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from protocols.opcua.target import OpcUaEndpoint, OpcUaPoint

FILE_BYTES_MAX = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A session on a server with its subscription.

    token: its AuthenticationToken, a binary NodeId. nonce: the server's last, which the next activation signs.
    started: the server's start time. refused: points without a monitored item, by position.
    """

    token: bytes
    nonce: bytes
    subscription: int
    interval_ms: float
    keep_alive_count: int
    started: str
    refused: tuple[int, ...]


def digest(endpoint: OpcUaEndpoint, points: Sequence[OpcUaPoint]) -> str:
    """Return what must be the same before and after: the server, how it is asked, and every point in its place."""
    held = hashlib.sha256()
    for text in (endpoint.url, endpoint.security_policy, endpoint.security_mode, endpoint.identity,
                 str(endpoint.publishing_interval_ms), str(endpoint.queue_size),
                 *(point.address.canonical for point in points)):
        held.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
    return held.hexdigest()


def read(file: Path, wanted: str, point_count: int) -> Left | None:
    """Return what was left, None when nothing was, or it is not for this configuration. Never raises for a bad file."""
    try:
        with file.open("rb") as source:
            content = json.loads(source.read(FILE_BYTES_MAX))
        if content["digest"] != wanted:
            return None
        left = Left(token=bytes.fromhex(content["token"]), nonce=bytes.fromhex(content["nonce"]),
                    subscription=int(content["subscription"]), interval_ms=float(content["interval_ms"]),
                    keep_alive_count=int(content["keep_alive_count"]), started=str(content["started"]),
                    refused=tuple(int(position) for position in content["refused"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    is_sound = bool(left.token) and 0 < left.subscription < 2**32 and 0 < left.interval_ms < 1e9 \
        and 0 < left.keep_alive_count < 2**32 and all(0 <= position < point_count for position in left.refused)
    return left if is_sound else None


def write(file: Path, wanted: str, left: Left) -> None:
    """Remember, or forget when the disk does not take it: what is not remembered is made anew."""
    partial = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    text = json.dumps({"digest": wanted, "token": left.token.hex(), "nonce": left.nonce.hex(),
                       "subscription": left.subscription, "interval_ms": left.interval_ms,
                       "keep_alive_count": left.keep_alive_count, "started": left.started,
                       "refused": list(left.refused)}, sort_keys=True)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as target:  # not synced: after a power cut nothing is left
            target.write(text)
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        forget(file)


def forget(file: Path) -> None:
    """Remove what is remembered, if anything is."""
    with suppress(OSError):
        file.unlink(missing_ok=True)
