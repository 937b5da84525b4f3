"""The point slots of a roster as columns, and the lines of the file that remembers them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

from gateway.counting.rows import PointRows
from protocols.packed import Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class PointSlot:
    """One point slot: the public row, the local id, and the two address texts that its tags hide."""

    id: str
    row: dict[str, Any]
    address: str
    base: str


@dataclass(frozen=True, slots=True)
class PointSlots(Sequence[PointSlot]):
    """All of them in slot order. Nobody changes them: a newer roster has its own. Texts are by slot, like the rows."""

    rows: PointRows
    ids: Sequence[str]
    addresses: Sequence[str]
    bases: Sequence[str]

    @classmethod
    def of(cls, rows: PointRows, ids: Iterable[str], addresses: Iterable[str], bases: Iterable[str]) -> PointSlots:
        """Return them packed."""
        return cls(rows, Texts(ids), Texts(addresses), Texts(bases))

    @classmethod
    def read(cls, bodies: Iterable[dict[str, Any]]) -> PointSlots:
        """Return what `body` gave. Raises: KeyError, ValueError, TypeError, AttributeError for what it never gives."""
        rows, ids, addresses, bases = PointRows(), list[str](), list[str](), list[str]()
        for body in bodies:
            rows.append(body["row"])
            ids.append(body["id"])
            addresses.append(body["address"])
            bases.append(body["base"])
        return cls.of(rows, ids, addresses, bases)

    def body(self, slot: int) -> dict[str, Any]:
        """Return a slot as it stands in roster.json."""
        return {"id": self.ids[slot], "row": self.rows[slot], "address": self.addresses[slot],
                "base": self.bases[slot]}

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> PointSlot: ...
    @overload
    def __getitem__(self, index: slice) -> list[PointSlot]: ...
    def __getitem__(self, index: int | slice) -> PointSlot | list[PointSlot]:
        if isinstance(index, slice):
            return [self[slot] for slot in range(*index.indices(len(self)))]
        return PointSlot(id=self.ids[index], row=self.rows[index], address=self.addresses[index],
                         base=self.bases[index])


class Names(Sequence[tuple[str, str]]):
    """What people call each point: (id of its device, its own id), by slot. Made when asked for."""

    def __init__(self, devices: Sequence[str], points: PointSlots) -> None:
        """devices: ids by slot."""
        self._devices = devices
        self._rows = points.rows
        self._ids = points.ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, str]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, str] | list[tuple[str, str]]:
        if isinstance(index, slice):
            return [self[slot] for slot in range(*index.indices(len(self)))]
        return self._devices[self._rows.device(index)], self._ids[index]
