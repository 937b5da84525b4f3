"""Logs for readers of another hand, in folders as a platform serves them or as a bundle is unpacked.

A folder holds `checkpoint` and `tile/...`; `earlier` are signed checkpoints of the same log from before.
"""

from __future__ import annotations

import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from protocols.evidence import entry, keys, note, policy, tiles
from protocols.evidence.checkpoint import parse_text
from tests.support.platform_process import platform_file, set_up, start_platform, tallystick, token
from tests.support.processes import (
    USCC,
    GatewayFiles,
    device,
    export,
    modbus_connection,
    modbus_device,
    point,
    running_gateway,
    until,
    write_gateway,
)
from verifier.conformance import world

LARGE = 70_000
"""More than 65 536: three levels of tiles."""

EARLIER = (1, 255, 256, 300, 60_000, 65_536, 65_537)
WINDOWS = 6
ENTRIES_MIN = 8
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Log:
    """A log in files. vkey: of who signs it; witnesses: vkeys of those who must have co-signed."""

    title: str
    folder: Path
    vkey: str
    witnesses: tuple[str, ...] = ()
    earlier: tuple[Path, ...] = ()


def large(folder: Path, size: int = LARGE) -> Log:
    """Write the log of a gateway with one device and `size` entries, as a platform serves it: tiles of all levels."""
    plant = world.World().gateway("press shop")
    plant.begin()
    plant.roster([world.device_row(0)], [world.point_row(0, 0, plant.id)])
    seq = plant.window(seen=None)
    one, value = plant.entries[seq], entry.decode(plant.entries[seq], seq=seq)
    for later in range(seq + 1, size):  # the shape is checked once, for all of them
        start_s = value["start_s"] + (later - seq) * value["len_s"]
        plant.put(one.replace(b'"seq":%d,' % seq, b'"seq":%d,' % later)
                  .replace(b'"start_s":%d,' % value["start_s"], b'"start_s":%d,' % start_s))
    entry.decode(plant.entries[-1], seq=size - 1)
    files = {"checkpoint": plant.checkpoint()}
    for tile in _tiles(size):
        at = tile.number * tiles.WIDTH
        files[tile.path] = (tiles.join_entries(plant.entries[at:at + tile.width]) if tile.level is None
                            else tiles.hash_tile(plant.tree, tile))
    files |= {f"earlier/{old}": plant.checkpoint(size=old) for old in EARLIER if old < size}
    _write(folder, files)
    name = keys.gateway_origin(plant.id)
    return Log(f"A log of {size} entries, as a platform serves it", folder,
               str(note.VerifierKey(name, note.ED25519, world.public("press shop"))),
               earlier=tuple(folder / file for file in files if file.startswith("earlier/")))


def as_a_bundle(folder: Path, whole: Log, *, first: int) -> Log:
    """Copy what a bundle of the entries from tile `first` on holds: no hash tiles above level 0."""
    files = {}
    for file in sorted(whole.folder.rglob("*")):
        tile = tiles.parse_path(file.relative_to(whole.folder).as_posix())
        if tile is not None and (tile.level == 0 or (tile.level is None and tile.number >= first)):
            files[tile.path] = file.read_bytes()
    _write(folder, files | {"checkpoint": (whole.folder / "checkpoint").read_bytes()})
    return replace(whole, title="The same log as a bundle holds it", folder=folder)


def real(folder: Path) -> tuple[Log, Log, Log]:
    """Run a gateway, a platform and two witnesses for a few windows; return mirror, register, and a bundle.

    The gateway reads a Modbus device each second; platform and witnesses are the commands that a user starts.
    """
    services = set_up(folder, witnesses=2)
    try:
        platform = start_platform(folder)
        services.append(platform)
        with modbus_device() as machine:
            files = write_gateway(
                folder / "gateway", devices=[device("press", "mb")],
                points=[point("press", "rpm", "1/holding/1", "uint16")],
                connections=modbus_connection("mb", machine.port), more=f'[platform]\nurl = "{platform.url}"\n')
            return _collected(folder, files, platform.url)
    finally:
        for service in reversed(services):
            service.end()


def _collected(folder: Path, files: GatewayFiles, url: str) -> tuple[Log, Log, Log]:
    checker = policy.parse(tallystick("platform", "policy", platform_file(folder)).stdout.encode(), where="policy")
    assert checker.register is not None
    witnesses = tuple(map(str, checker.quorum.witnesses.values()))
    mirror, register, bundle = folder / "mirror", folder / "register", folder / "bundle"
    tallystick("enrol", files.config, "--token", token(folder, USCC))
    with running_gateway(files) as gateway:
        gateway.until(lambda status: (status["log"]["submitted"] or 0) >= 4, "the platform has the first windows")
        before = _get(f"{url}/g/{files.id}/checkpoint"), _get(f"{url}/register/checkpoint")
        gateway.windows(WINDOWS)
        # Heads that come while a slow machine makes the last one enter the register as one.
        until(lambda: _size(_get(f"{url}/register/checkpoint")) >= ENTRIES_MIN, "the register has as many entries")
        assert gateway.end() == 0
    cosigned: list[bytes] = []

    def all_signed() -> bool:
        cosigned[:] = [_get(f"{url}/register/checkpoint")]
        found = note.parse(cosigned[0], where=url)
        return len(note.cosignatures(found, checker.quorum.witnesses.values(), where=url)) == len(witnesses)
    until(all_signed, "both witnesses have signed the newest head")
    _mirror(f"{url}/g/{files.id}", mirror, _get(f"{url}/g/{files.id}/checkpoint"), before[0])
    _mirror(f"{url}/register", register, cosigned[0], before[1])
    with zipfile.ZipFile(export(files, folder / "x.tally")) as archive:
        _write(bundle, {name: archive.read(name) for name in archive.namelist()})
    earlier = (mirror / "earlier",)
    return (Log("The platform's mirror of a gateway", mirror, files.vkey, earlier=earlier),
            Log("The platform's register", register, str(checker.register), witnesses, (register / "earlier",)),
            Log("The gateway's bundle, unpacked", bundle, files.vkey, earlier=earlier))


def _mirror(url: str, folder: Path, checkpoint: bytes, earlier: bytes) -> None:
    """Fetch a log file by file, as `wget` would. The checkpoint comes first: what it covers is there already."""
    tiles_ = {tile.path: _get(f"{url}/{tile.path}") for tile in _tiles(_size(checkpoint))}
    _write(folder, {"checkpoint": checkpoint, "earlier": earlier} | tiles_)


def _size(checkpoint: bytes) -> int:
    return parse_text(note.parse(checkpoint, where="checkpoint").text, where="checkpoint").size


def _tiles(size: int) -> list[tiles.Tile]:
    """Return every tile of a log: entries, then hashes of all levels."""
    found = tiles.tiles_of(None, size)
    level = 0
    while more := tiles.tiles_of(level, size):
        found += more
        level += 1
    return found


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        return bytes(answer.read())


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
