"""Register images: every value that a machine can show fits its register and can be decoded again."""

from __future__ import annotations

import struct

import pytest

from simulators.layout import ModbusPlace, Point, draw_layout
from simulators.modbus_server import TABLES, _put, identity, register_runs, stretches
from simulators.signals import Machine, Moves

FORMATS = {"float32": ">f", "uint32": ">I", "int32": ">i", "uint16": ">H", "int16": ">h"}


def decoded(image: list[int], offset: int, point: Point) -> float:
    size = struct.calcsize(FORMATS[point.type])
    data = b"".join(word.to_bytes(2, "big") for word in image[offset:offset + size // 2])
    if point.order:
        data = bytes(data["ABCD".index(letter)] for letter in point.order)
    return float(struct.unpack(FORMATS[point.type], data)[0]) * point.scale


@pytest.mark.parametrize("seed", range(1, 6))
def test_every_value_fits_and_comes_back(seed: int) -> None:
    for device in draw_layout(seed).devices:
        if device.protocol != "modbus_tcp":
            continue
        machine = Machine(device.signals, device.rhythm, device.machine)
        sizes = {(table, first): size for table, first, size in stretches(device)}
        for _ in range(120):
            machine.step(1.0)
            for table, first, members in register_runs(device):
                if table in ("coil", "discrete"):
                    continue
                image = [0] * sizes[table, first]
                for point, offset in members:
                    _put(image, offset, point, machine.values[point.signal])
                for point, offset in members:
                    shown = machine.values[point.signal]
                    assert isinstance(point.place, ModbusPlace)
                    if point.place.bit is not None:
                        assert image[offset] >> point.place.bit & 1 == shown
                    else:
                        assert decoded(image, offset, point) == pytest.approx(shown, rel=1e-6, abs=1e-9)


def test_stretches_hold_every_point_once_and_holes_only_where_wanted() -> None:
    holes = 0
    for seed in range(1, 9):
        for device in draw_layout(seed).devices:
            if device.protocol == "modbus_tcp":
                served = [point.id for _, _, members in register_runs(device) for point, _ in members]
                assert sorted(served) == sorted(point.id for point in device.points)
                tables = [table for table, _, _ in stretches(device)]
                assert set(tables) <= set(TABLES)
                holes += len(tables) > len(set(tables))
                assert device.holes or len(tables) == len(set(tables))
    assert holes, "no unit refuses an address between its values"


def test_scaled_integers_still_move_when_they_promise_to() -> None:
    """A scale that swallowed the noise would make the true counts false."""
    for device in draw_layout(1).devices:
        for point in device.points:
            if point.moves is Moves.ALWAYS:
                assert point.scale <= max(device.signals[point.signal].step, 1.0)


def test_identities_are_ascii_and_differ() -> None:
    plates = [identity(d) for d in draw_layout(1).devices if d.protocol == "modbus_tcp"]
    assert all(text.isascii() for plate in plates for text in plate.values())
    assert len({tuple(plate.items()) for plate in plates}) == len(plates) == 14
