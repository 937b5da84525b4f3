"""Bundles of any size with devices of every kind, for tests of count, audit and report. Keys and times are fixed.

    plant = Plant(tmp_path)
    plant.device(); plant.device(role="heartbeat"); ...
    plant.seal()                      # windows, a co-signed head, X.tally and policy.json below tmp_path
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocols.evidence.bundle import write_bundle
from verifier.conformance.world import Gateway, World, device_row, point_row, private_part


@dataclass
class Plant:
    """One gateway of a world. `silent`: points that never produce. `opened`: slots whose private part is shipped."""

    folder: Path
    world: World = field(default_factory=World)
    name: str = "press shop"
    devices: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    private: dict[int, dict[str, Any]] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    opened: set[int] = field(default_factory=set)
    gateway: Gateway = field(init=False)

    def __post_init__(self) -> None:
        self.gateway = self.world.gateway(self.name)

    def device(self, *, points: int = 1, role: str = "parameter", silent: bool = False, model: str = "M-1",
               serial: str | None = None, protocol: str = "modbus_tcp", base: str | None = None,
               opened: bool = False, title: str | None = None, maker: str = "Maker", **fields: Any) -> int:
        """Add a device with its points; return its slot. A serial that another device has makes them one machine."""
        slot = len(self.devices)
        self.private[slot] = private_part(title or f"{self.name} {slot}", maker=maker, model=model,
                                          serial=f"{self.name} {slot}" if serial is None else serial)
        self.devices.append(device_row(slot, private=self.private[slot], **fields))
        for _ in range(points):
            self.point(slot, role=role, silent=silent, protocol=protocol, base=base)
        if opened:
            self.opened.add(slot)
        return slot

    def point(self, device: int, *, silent: bool = False, base: str | None = None, **fields: Any) -> int:
        """Add a point to a device; return its slot."""
        slot = len(self.points)
        self.points.append(point_row(slot, device, self.gateway.id, base=base, **fields))
        if silent:
            self.silent.add(slot)
        return slot

    def begin(self, **start: Any) -> None:
        """Co-sign the enrolment, start the gateway, put the roster in force."""
        self.world.round(time_s=self.gateway.now_s - 10)
        self.gateway.begin(**start)
        self.gateway.roster(self.devices, self.points)

    def windows(self, number: int = 1, *, producing: Iterable[int] | None = None) -> None:
        """Seal windows in which every point that is not silent, or those of `producing`, produces."""
        points = set(range(len(self.points))) - self.silent if producing is None else set(producing)
        for _ in range(number):
            self.gateway.window(sampled=points, producing=points)

    def cosign(self, delay_s: int = 10) -> None:
        """Have the register co-signed, `delay_s` after the end of the last window."""
        self.world.round(time_s=self.gateway.now_s + delay_s)

    def write(self, name: str = "X.tally", change: Mapping[str, bytes] | None = None) -> Path:
        """Write the bundle; return its path."""
        members = self.gateway.members()
        members |= {f"openings/{slot}.json": self.gateway.opening(slot, self.private[slot]) for slot in self.opened}
        path = self.folder / name
        write_bundle(path, members | dict(change or {}))
        return path

    def policy(self) -> Path:
        """Write the policy that knows everybody; return its path."""
        path = self.folder / "policy.json"
        path.write_bytes(self.world.policy_json())
        return path

    def seal(self, number: int = 2) -> Path:
        """Begin, seal windows, co-sign and write."""
        self.begin()
        self.windows(number)
        self.cosign()
        return self.write()


def claim_text(at_s: int, uscc: str, *, programme: str = "jiangsu_2019", type: str = "enterprise",
               branch: str | None = "discrete", **metrics: Any) -> str:
    """Return a claim. By default the class c metrics are just reached, and 30 devices are declared manageable."""
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(at_s, UTC).isoformat()
    values = {"device_manageable_count": 30, "industrial_model_count": 20, "industrial_app_count": 10,
              "model_monthly_call_avg": 200} | metrics
    lines = ["[claim]", f'programme = "{programme}"', f'type = "{type}"', f"at = {at}"]
    lines += [f'branch = "{branch}"'] if branch else []
    lines += ["[claim.enterprise]", 'name = "示范压铸有限公司"', f'uscc = "{uscc}"', "[metrics]"]
    lines += [f"{key} = {str(value).lower() if isinstance(value, bool) else value}"
              for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"
