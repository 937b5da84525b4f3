"""How large a day of evidence is, by count of bytes: 40 devices and 10 000 devices stay within their limits."""

from __future__ import annotations

import pytest

from benchmarks.plant import Case, Plant, column_bytes, day_bytes, hash_tiles_bytes, window_bytes
from protocols.evidence import column, tiles
from protocols.evidence.tiles import ENTRY_BYTES_MAX


@pytest.mark.parametrize("slots", [1, 7, 8, 9, 40, 1_000, 10_000, 100_000])
def test_the_size_of_a_column(slots: int) -> None:
    assert column_bytes(slots) == len(column.pack((1 << slots) - 1, slots))


@pytest.mark.parametrize(("devices", "points"), [(1, 1), (40, 1_000), (500, 2_000)])
def test_a_window_entry_is_no_larger_than_said_and_not_much_smaller(devices: int, points: int) -> None:
    plant = Plant(Case(name="", devices=devices, points=points, windows=1))
    plant.window(0)
    size = len(plant.gateway.entries[-1])
    assert window_bytes(devices, points) - 100 < size <= window_bytes(devices, points)


def test_the_hash_tiles_of_a_log() -> None:
    plant = Plant(Case(name="", devices=1, points=1, windows=600))
    for number in range(600):
        plant.window(number)
    tree, size = plant.gateway.tree, len(plant.gateway.entries)
    stored = sum(len(tiles.hash_tile(tree, tile)) for level in range(3) for tile in tiles.tiles_of(level, size))
    assert hash_tiles_bytes(size) == stored


def test_a_day_stays_within_its_limits() -> None:
    assert day_bytes(40, 1_000, 60) <= 3_000_000
    assert day_bytes(10_000, 100_000, 300) <= 20_000_000


def test_the_largest_gateway_fits_an_entry() -> None:
    """devices + 3 x points <= 360 000: whatever the mix."""
    for devices in (0, 9_000, 90_000, 180_000, 360_000):
        points = (column.BITS_MAX - devices) // 3
        assert window_bytes(devices, points) <= ENTRY_BYTES_MAX
