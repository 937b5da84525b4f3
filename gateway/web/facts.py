"""What the page is told by the gateway: the objects that `status` and the log are made of, and nothing counted anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.gateway import GatewayConfig
from gateway.commissioning.roster import Roster
from gateway.counting.figures import LocalFigures

NS_PER_S = 1_000_000_000
SILENT_S_MIN = 5
"""A device silent for a window is silent; with windows of a second a page would only flicker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One moment of a gateway, taken on the loop thread and read in another.

    status: what status.json says; figures: what its counts were taken from. Both None before the first window of a
    gateway that never sealed one. now_ns: window time. begun_s: start of this process. opens_s: start of the oldest
    window that is not closed. heard_ns, is_online: as in `Live`, copied.
    servers: connection -> SPKI digest of the server. offsets: connection -> seconds that the server's clock is ahead,
    where it was measured. keys: (seq, public key) of the log. enrolment: as in enrolment.json. seen: newest co-signed
    register checkpoint.
    """

    config: GatewayConfig
    roster: Roster
    status: Mapping[str, Any] | None
    figures: LocalFigures | None
    events: Sequence[Mapping[str, Any]]
    now_ns: int
    begun_s: int
    opens_s: int
    heard_ns: NDArray[np.int64]
    is_online: NDArray[np.bool_]
    servers: Mapping[str, str]
    offsets: Mapping[str, float]
    gateway: str
    keys: Sequence[tuple[int, str]]
    enrolment: Mapping[str, Any]
    seen: Mapping[str, Any] | None
    version: str
    software_sha256: str
    clock_source: str

    @property
    def contradictions(self) -> Sequence[Mapping[str, Any]]:
        """What devices show of themselves against the ledger: code, args and the devices that each is about."""
        return [] if self.status is None else self.status["identity"]["findings"]

    @property
    def now_s(self) -> int:
        """Window time in seconds."""
        return self.now_ns // NS_PER_S

    @property
    def silent_after_s(self) -> int:
        """After so long without an answer a device is silent."""
        return max(self.config.len_s, SILENT_S_MIN)

    def answering(self) -> NDArray[np.bool_]:
        """Return which devices answer now, by slot."""
        answering = self.heard_ns >= self.now_ns - self.silent_after_s * NS_PER_S
        answering &= self.heard_ns > 0
        return answering | self.is_online
