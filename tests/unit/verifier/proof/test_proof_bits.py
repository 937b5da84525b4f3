"""Every bit of every member of a small bundle, one at a time: refused, and never by the container."""

from __future__ import annotations

import io
import multiprocessing
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache

import pytest

from protocols.evidence import entry, jcs, keys, note, proof, register, tiles
from protocols.evidence.bundle import README, open_bundle
from verifier.conformance.world import OTHER_USCC, World, device_row, private_part, small, two_devices, zipped
from verifier.proof.verify import Verdict, verify

PURE = ((keys, "signature_holds"), (keys, "check_public"), (jcs, "decode"), (entry, "decode"), (register, "decode"),
        (note, "parse"), (proof, "parse"), (tiles, "split_entries"))
"""Functions of their arguments alone. Remembering what they returned changes no verdict, and makes 50 000 quick."""


def members() -> tuple[World, dict[str, bytes]]:
    """The fixture: two devices, two windows, one of them opened."""
    world = World()
    gateway = world.gateway()
    world.round(time_s=1_790_000_030)
    gateway.begin()
    private = private_part("press", maker="Maker", model="M-1", serial="S-0", asset="A-7")
    devices, points = two_devices(gateway)
    gateway.roster([device_row(0, private=private), devices[1]], points)
    gateway.window()
    gateway.window(producing=[0])
    world.round(time_s=gateway.now_s + 10)
    return world, gateway.members() | {"openings/0.json": gateway.opening(0, private)}


class Container:
    """A zip of stored members in which single bytes are changed, with the checksums that belong to them."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
        central = archive.start_dir
        self.places: dict[str, tuple[int, int, int, int]] = {}
        for info in infos:
            start = info.header_offset + 30 + len(info.filename)
            self.places[info.filename] = (start, info.file_size, info.header_offset + 14, central + 16)
            central += 46 + len(info.filename)

    def changed(self, name: str, place: int, bit: int) -> bytes:
        """Return the container with one bit of one member flipped."""
        start, size, local, central = self.places[name]
        self.data[start + place] ^= 1 << bit
        checksum = zlib.crc32(self.data[start : start + size]).to_bytes(4, "little")
        before = bytes(self.data[local : local + 4])
        self.data[local : local + 4] = self.data[central : central + 4] = checksum
        result = bytes(self.data)
        self.data[start + place] ^= 1 << bit
        self.data[local : local + 4] = self.data[central : central + 4] = before
        return result


def why(verdict: Verdict) -> set[str]:
    return {f.code for f in verdict.findings if f.severity == "fault"}


def flip_share(share: int, shares: int) -> list[str]:
    """Flip every bit of every `shares`-th byte; return what was not refused as it must be.

    One bit of each byte goes through a rebuilt container, the others through a substituted read.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module, name in PURE:
            patch.setattr(module, name, lru_cache(maxsize=4096)(getattr(module, name)))
        world, whole = members()
        policy, container = world.policy(), Container(zipped(whole))
        contents = {"README.txt": README.encode(), **whole}
        opened = open_bundle(zipped(whole))
        patch.setattr(opened, "read", contents.__getitem__)
        wrong = []
        for name, data in whole.items():
            for place in range(share, len(data), shares):
                for bit in range(8):
                    if bit == place % 8:
                        verdict = verify(open_bundle(container.changed(name, place, bit)), policy)
                    else:
                        changed = bytearray(data)
                        changed[place] ^= 1 << bit
                        contents[name] = bytes(changed)
                        verdict = verify(opened, policy)
                        contents[name] = data
                    codes = why(verdict)
                    if verdict.valid or verdict.evidence or not codes or any(c.startswith("container.") for c in codes):
                        wrong.append(f"{name} byte {place} bit {bit}: {sorted(codes)}")
        return wrong


def test_every_bit_of_every_member_is_refused_with_its_cause() -> None:
    world, whole = members()
    assert verify(open_bundle(zipped(whole)), world.policy()).valid
    assert sum(map(len, whole.values())) <= 10_000
    with multiprocessing.get_context("fork").Pool(2) as pool:
        wrong = pool.starmap(flip_share, [(share, 2) for share in range(2)])
    assert [line for part in wrong for line in part] == []


def some_bits(data: bytes) -> Iterator[tuple[int, int]]:
    for place in range(0, len(data), 97):
        yield place, place % 8


def test_a_flipped_container_is_what_a_rebuilt_one_would_be() -> None:
    _, whole = members()
    container = Container(zipped(whole))
    for name, data in whole.items():
        for place, bit in some_bits(data):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            assert container.changed(name, place, bit) == zipped(whole | {name: bytes(changed)})


def test_bits_are_refused_without_any_memory_of_other_runs() -> None:
    world, whole = members()
    policy = world.policy()
    for name, data in whole.items():
        for place, bit in some_bits(data):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            assert not verify(open_bundle(zipped(whole | {name: bytes(changed)}, compress=True)), policy).valid


def test_bits_of_single_entries_outside_the_tiles() -> None:
    world, gateway = small()
    for _ in range(600):
        gateway.window()
    world.gateway("another", uscc=OTHER_USCC)
    world.round()
    whole = gateway.members(first_tile=1, end_tile=2)
    policy = world.policy()
    assert verify(open_bundle(zipped(whole)), policy).valid
    singles = [name for name in whole if name.startswith("entry/")]
    assert len(singles) == 4  # enrolment, start, roster and the last entry
    for name in singles:
        for place, bit in some_bits(whole[name]):
            changed = bytearray(whole[name])
            changed[place] ^= 1 << bit
            assert "entry.altered" in why(verify(open_bundle(zipped(whole | {name: bytes(changed)})), policy))
