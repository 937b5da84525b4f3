"""`status`: what the running gateway last wrote of itself, read without asking it anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gateway.commissioning.state import State
from gateway.sealing.journal import STOPPED
from protocols.errors import EvidenceError, Problem
from protocols.terms.basis import NOT_COUNTED_REASONS

STATUS_BYTES_MAX = 256 * 1024 * 1024
STALE_WINDOWS = 2
STALE_SLACK_S = 15
"""A file older than STALE_WINDOWS windows and this much is of a gateway that does not run any more."""


@dataclass(frozen=True, slots=True)
class Status:
    """What status.json says. running: it is fresh, and no clean stop came after it."""

    body: dict[str, Any]
    running: bool
    age_s: int

    @property
    def configured(self) -> int:
        """Devices of the roster that are alive."""
        return int(self.body["devices"]["configured"])

    @property
    def counted(self) -> int:
        """Devices that count under the default basis."""
        return int(self.body["devices"]["counted"])

    @property
    def not_counted(self) -> list[dict[str, Any]]:
        """Devices with the reason why they do not count; those that count are left out."""
        return [row for row in self.body["devices"]["not_counted"] if row["reason"] is not None]


def read_status(state: State, *, now_s: int) -> Status | None:
    """Return what the gateway last wrote, None if it never did. Raises EvidenceError `commissioning.state_broken`."""
    path = state.status_file
    try:
        if path.stat().st_size > STATUS_BYTES_MAX:
            raise ValueError(f"larger than {STATUS_BYTES_MAX} bytes")
        body = json.loads(path.read_text(encoding="utf-8"))
        age_s = now_s - int(body["written_s"])
        fresh = -STALE_SLACK_S <= age_s <= STALE_WINDOWS * int(body["len_s"]) + STALE_SLACK_S
        status = Status(body, fresh and not (state.journal_dir / STOPPED).exists(), age_s)
        for row in status.not_counted:
            if row["reason"] not in NOT_COUNTED_REASONS:
                raise ValueError(f"unknown reason {row['reason']!r}")
            str(row["id"]), str(row["name"])
        if status.counted + len(status.not_counted) != status.configured:
            raise ValueError("counted and not counted are not all devices")
        int(body["log"]["size"]), int(body["window"]["start_s"]), dict(body["window"]["discarded"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvidenceError(Problem.of(str(path), "commissioning.state_broken", reason=error)) from error
    return status
