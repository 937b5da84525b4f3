"""Public rows of points as columns: some 80 bytes a point instead of a kilobyte; a row is made when it is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from protocols.evidence.merkle import root_of
from protocols.terms.vocabulary import POINT_TYPES, PROTOCOLS, ROLES, STATES

Row = Mapping[str, Any]
TAG_BYTES = 32
ALIVE, GONE = STATES.index("alive"), STATES.index("gone")
_CODED: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ("state", STATES), ("protocol", PROTOCOLS), ("role", ROLES), ("type", (None, *POINT_TYPES)))
_CODES = {name: {value: code for code, value in enumerate(values)} for name, values in _CODED}
_WORDS = {name: [f'"{name}":null' if value is None else f'"{name}":"{value}"' for value in values]
          for name, values in _CODED}
_FIELDS = {"point", "device", "addr", "base", *_CODES}


class PointRows(Sequence[Row]):
    """Rows of points in slot order, gapless from 0. Equal to any sequence of equal rows."""

    __slots__ = ("_addr", "_base", "_codes", "_device")

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        """Take rows over. Raises: ValueError for one that is no row of the next slot."""
        self._device = array("I")
        self._codes = {name: bytearray() for name in _CODES}
        self._addr, self._base = bytearray(), bytearray()
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Add the row of the next slot. Raises: ValueError."""
        self.put(len(self), row)

    def put(self, slot: int, row: Row) -> None:
        """Set the row of a slot, or of the next one. Raises: ValueError for what is none of it; nothing is changed."""
        try:
            codes = {name: table[row[name]] for name, table in _CODES.items()}
            tags = {name: bytes.fromhex(row[name]) for name in ("addr", "base")}
            device = row["device"]
            is_row = row.keys() == _FIELDS and row["point"] == slot and 0 <= slot <= len(self) and \
                type(row["point"]) is type(device) is int and 0 <= device < 2**32 and \
                all(len(tag) == TAG_BYTES and tag.hex() == row[name] for name, tag in tags.items())
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no row of a point: {error}") from error
        if not is_row:
            raise ValueError(f"no row of point {slot}")
        for name, code in codes.items():
            self._codes[name][slot:slot + 1] = bytes((code,))
        self._addr[TAG_BYTES * slot:TAG_BYTES * (slot + 1)] = tags["addr"]
        self._base[TAG_BYTES * slot:TAG_BYTES * (slot + 1)] = tags["base"]
        self._device[slot:slot + 1] = array("I", (device,))

    def end(self, slot: int) -> None:
        """Make a tombstone of a slot."""
        self._codes["state"][range(len(self))[slot]] = GONE

    def copy(self) -> PointRows:
        """Return the same rows, to be changed by themselves."""
        other = PointRows()
        other._device = self._device[:]
        other._codes = {name: column[:] for name, column in self._codes.items()}
        other._addr, other._base = self._addr[:], self._base[:]
        return other

    def devices(self) -> NDArray[np.int64]:
        """Return the device slot of each point."""
        return np.array(self._device, dtype=np.int64)

    def device(self, slot: int) -> int:
        """Return the device slot of a point."""
        return self._device[slot]

    def alive(self) -> NDArray[np.bool_]:
        """Return which points are no tombstones."""
        return np.array(np.frombuffer(bytes(self._codes["state"]), dtype=np.uint8) == ALIVE)

    def roles(self) -> NDArray[np.int8]:
        """Return the index into ROLES of each point."""
        return np.frombuffer(bytes(self._codes["role"]), dtype=np.int8)

    def protocols(self) -> list[str]:
        """Return the protocol of each point."""
        return [PROTOCOLS[code] for code in self._codes["protocol"]]

    def facts(self, slot: int) -> tuple[str, str, str | None]:
        """Return protocol, role and type of a point."""
        protocol, role, type_ = (values[self._codes[name][slot]] for name, values in _CODED[1:])
        assert protocol is not None and role is not None, "only a type may be None"
        return protocol, role, type_

    def __len__(self) -> int:
        return len(self._device)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[Row]:
        if isinstance(index, slice):
            return [self[slot] for slot in range(*index.indices(len(self)))]
        slot = range(len(self))[index]
        tag = slice(TAG_BYTES * slot, TAG_BYTES * (slot + 1))
        return {"point": slot, "device": self._device[slot],
                **{name: values[self._codes[name][slot]] for name, values in _CODED},
                "addr": self._addr[tag].hex(), "base": self._base[tag].hex()}

    def differing(self, before: PointRows) -> list[int]:
        """Return the slots whose rows `before` lacks or has otherwise."""
        if self is before:
            return []
        both = min(len(self), len(before))
        found = self._unlike(before, both, ("state", "role", "type")) | self._moved(before, both)
        return [*np.flatnonzero(found).tolist(), *range(both, len(self))]

    def rewriting(self, before: PointRows) -> list[int]:
        """Return the slots that must not follow those of `before`: revived ones, and where another point stands now."""
        if self is before:
            return []
        both = min(len(self), len(before))
        revived = ~before.alive()[:both] & self.alive()[:both]
        return np.flatnonzero(revived | self._moved(before, both)).tolist()

    def _moved(self, before: PointRows, both: int) -> NDArray[np.bool_]:
        """Return which of the first slots are not of the same address of the same device."""
        tags = TAG_BYTES * both
        moved = self._unlike(before, both, ("protocol",))
        moved |= self.devices()[:both] != before.devices()[:both]
        for mine, theirs in ((self._addr, before._addr), (self._base, before._base)):
            # Copies of the bytes: a view of a bytearray keeps it from growing for as long as it lives.
            moved |= (np.frombuffer(bytes(mine[:tags]), np.uint8) != np.frombuffer(bytes(theirs[:tags]), np.uint8)) \
                .reshape(both, TAG_BYTES).any(axis=1)
        return moved

    def _unlike(self, before: PointRows, both: int, names: Iterable[str]) -> NDArray[np.bool_]:
        unlike = np.zeros(both, dtype=np.bool_)
        for name in names:
            unlike |= np.frombuffer(bytes(self._codes[name][:both]), np.uint8) != \
                np.frombuffer(bytes(before._codes[name][:both]), np.uint8)
        return unlike

    def encoded(self, slot: int) -> bytes:
        """Return the row of a slot as JCS: its texts are hex and plain ASCII words, so nothing is there to escape."""
        code = self._codes
        begin = TAG_BYTES * slot
        end = begin + TAG_BYTES
        return (f'{{"addr":"{self._addr[begin:end].hex()}","base":"{self._base[begin:end].hex()}",'
                f'"device":{self._device[slot]},"point":{slot},{_WORDS["protocol"][code["protocol"][slot]]},'
                f'{_WORDS["role"][code["role"][slot]]},{_WORDS["state"][code["state"][slot]]},'
                f'{_WORDS["type"][code["type"][slot]]}}}').encode()

    def root(self) -> str:
        """Return the RFC 6962 root over the rows, as `protocols.evidence.roster.rows_root` does."""
        return root_of(map(self.encoded, range(len(self)))).hex()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PointRows):
            return (self._device, self._codes, self._addr, self._base) == (
                other._device, other._codes, other._addr, other._base)
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # compared by what it holds
