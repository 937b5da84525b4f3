"""A `.tally` file: a zip of a closed list of members. What is protected is the content, by proofs.

Limits are checked before anything is read that they limit: the size of the directory, then what the directory says
of the members; a member never unpacks to more than it says.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from protocols.errors import Problem, VerificationError
from protocols.evidence.tiles import Tile, parse_path

MEMBERS_MAX = 250_000
DIRECTORY_BYTES_MAX = 32 * 1024 * 1024
"""Enough for MEMBERS_MAX members: 46 bytes and a name for each."""
MEMBER_BYTES_MAX = 256 * 1024 * 1024
TOTAL_BYTES_MAX = 4 * 1024**3
RATIO_MAX = 1000
"""Uncompressed to compressed bytes of the whole; deflate ends at 1032."""

_DATE_TIME = (1980, 1, 1, 0, 0, 0)
_READ_BYTES = 1024 * 1024
_LOCAL = struct.Struct("<4s22xHH")
_FLAG_UTF8 = 0x800
_FLAGS_REFUSED = 0x1 | 0x20 | 0x40
"""Encrypted, patched, encrypted strongly."""
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, OverflowError, RuntimeError,
           KeyError)
"""What zipfile raises on hostile bytes. NotImplementedError is a RuntimeError, UnicodeDecodeError a ValueError."""

README = """\
Tallystick evidence bundle, format 1 / 符契证据包，格式 1

What this is: signed counts of the connected industrial devices and data points of one gateway. No process value,
no name, no serial number and no network address is in it, unless single devices were opened on purpose.
这是什么：一个网关所连接的工业设备与数据采集点的签名计数。除非专门开示个别设备，其中没有工艺数值、名称、序列号或网络地址。

  checkpoint            signed note (C2SP): log origin, number of entries, Merkle root / 签名检查点
  tile/0/...            SHA-256 leaf hashes, 256 a tile (C2SP tlog-tiles) / 叶哈希
  tile/entries/...      the entries: uint16 length, then JSON (RFC 8785) / 条目
  entry/<n>             single entries that tell the gateway's life / 网关生命周期条目
  roster/<n>.jsonl      public rows of devices, then points / 设备与采集点名册（公开部分）
  register/<n>.proof    tlog-proof files of the platform's register / 平台登记簿证明
  openings/<n>.json     devices opened on purpose / 专门开示的设备

Check without us: leaf = SHA-256(0x00 || entry), node = SHA-256(0x01 || left || right) (RFC 6962); the root is the
third line of `checkpoint`, whose Ed25519 signature covers its first three lines. docs/evidence-format.md works one
example with sha256sum and openssl. Trust comes from your own policy file, never from this bundle.
不依赖我们即可核验：按 RFC 6962 由条目算出根，与检查点第三行比较，再验 Ed25519 签名。
信任来自您自己的策略文件，而不是本证据包。
"""

_SEQ = "(0|[1-9][0-9]{0,15})"
_NUMBERED = {
    "entry": re.compile(f"entry/{_SEQ}"), "roster": re.compile(rf"roster/{_SEQ}\.jsonl"),
    "register": re.compile(rf"register/{_SEQ}\.proof"), "openings": re.compile(rf"openings/{_SEQ}\.json"),
}


class _Source:
    """A file of which no more than DIRECTORY_BYTES_MAX is read at once, whatever its own headers ask for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > DIRECTORY_BYTES_MAX:
            raise VerificationError(Problem.of("bundle", "container.limit", what="bytes of directory", value=size,
                                               limit=DIRECTORY_BYTES_MAX))
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:  # zipfile leaves open what it did not open
        self._file.close()


class Bundle:
    """The members of an opened bundle, by kind. Contents are read one at a time and are not verified."""

    def __init__(self, source: _Source) -> None:
        """Sort the members of the zip in `source`. Raises VerificationError: a `container.*` problem for each fault."""
        self._source = source
        self._archive = archive = zipfile.ZipFile(source)
        infos = archive.infolist()
        _check_limits(infos, source.size)
        faults = []
        names = set()
        for info in infos:
            name = info.filename
            if name in names:
                faults.append(Problem.of(name[:80], "container.doubled"))
            names.add(name)
            info.date_time = _DATE_TIME  # that of nobody's concern; one for all takes less room
            if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                faults.append(Problem.of(name[:80], "container.method"))
            if info.orig_filename != name:  # cut at its first NUL: another program would see another name
                faults.append(Problem.of(name[:80], "container.unknown_member"))
        faults += [Problem.of(name[:80], "container.unknown_member")
                   for name in self._sort(info.filename for info in infos if info.orig_filename == info.filename)]
        faults += [Problem.of(name, "container.missing_member")
                   for name in ("README.txt", "checkpoint") if name not in names]
        if faults:
            raise VerificationError(faults)

    def _sort(self, names: Iterable[str]) -> list[str]:
        """Sort names in, by kind. Return those that no bundle has."""
        self.hash_tiles: list[Tile] = []
        self.entry_tiles: list[Tile] = []
        self.numbered: dict[str, list[int]] = {kind: [] for kind in _NUMBERED}
        """kind (`entry`, `roster`, `register`, `openings`) -> its numbers, ascending."""
        unknown = [name for name in names if not self._sort_in(name)]
        self.hash_tiles.sort(key=lambda t: (t.number, t.width))
        self.entry_tiles.sort(key=lambda t: (t.number, t.width))
        for numbers in self.numbered.values():
            numbers.sort()
        return unknown

    def close(self) -> None:
        """Close the file; otherwise that happens when nobody has the bundle any more."""
        self._source.close()

    def _sort_in(self, name: str) -> bool:
        if name in ("README.txt", "checkpoint"):
            return True
        tile = parse_path(name)
        if tile is not None and tile.level in (None, 0):
            (self.entry_tiles if tile.level is None else self.hash_tiles).append(tile)
            return True
        for kind, pattern in _NUMBERED.items():
            match = pattern.fullmatch(name)
            if match:
                self.numbered[kind].append(int(match[1]))
                return True
        return False

    def read(self, name: str) -> bytes:
        """Return the bytes of a member. Raises VerificationError `container.corrupt`."""
        try:
            return _unpack(self._source, self._archive.getinfo(name))
        except _BROKEN as error:
            raise VerificationError(Problem.of(name, "container.corrupt", reason=str(error)[:120])) from None


def _unpack(source: _Source, info: zipfile.ZipInfo) -> bytes:
    """Return the bytes of one member, as many as the directory says. Raises one of _BROKEN.

    zipfile does the same, but cuts what is too long; a year has fifty thousand small members, and of a large one it
    copies every byte thrice.

        50 4B 03 04 | version 2 | flags 2 | method 2 | time 4 | CRC 4 | packed 4 | size 4 | m 2 | n 2 | name m | extra n
    """
    source.seek(info.header_offset)
    magic, name_bytes, extra_bytes = _LOCAL.unpack(source.read(_LOCAL.size))
    if magic != b"PK\x03\x04" or info.flag_bits & _FLAGS_REFUSED:
        raise zipfile.BadZipFile("its own header is of another kind")
    if source.read(name_bytes).decode("utf-8" if info.flag_bits & _FLAG_UTF8 else "cp437") != info.orig_filename:
        raise zipfile.BadZipFile("its own header names another member")
    if extra_bytes:
        source.seek(extra_bytes, io.SEEK_CUR)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS) if info.compress_type == zipfile.ZIP_DEFLATED else None
    parts: list[bytes] = []
    missing, packed = info.file_size, info.compress_size
    while missing >= 0 and packed > 0:
        part = source.read(min(packed, _READ_BYTES))
        packed -= len(part) or packed  # at the end of the file nothing more comes
        if unpacker is not None:
            part = unpacker.decompress(part, missing + 1)  # one more: so what is wrong behind the last one is seen
            if unpacker.eof:  # zlib would keep what lies behind, and copy all of it for every part more
                packed = 0
        parts.append(part)
        missing -= len(part)
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if missing:
        raise zipfile.BadZipFile(f"{'more' if missing < 0 else 'fewer'} bytes than the directory says")
    if zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile("its checksum is another")
    return data


def _check_limits(infos: list[zipfile.ZipInfo], size: int) -> None:
    largest = max((i.file_size for i in infos), default=0)
    total, packed = sum(i.file_size for i in infos), sum(i.compress_size for i in infos)
    # Members that lie over one another unpack the same bytes again and again: the file says how many there are.
    ratio = -(-total // max(min(packed, size), 1))
    faults = [Problem.of("bundle", "container.limit", what=what, value=value, limit=limit)
              for what, value, limit in (
                  ("members", len(infos), MEMBERS_MAX), ("bytes in one member", largest, MEMBER_BYTES_MAX),
                  ("bytes", total, TOTAL_BYTES_MAX), ("packed bytes", packed, size),
                  ("bytes for each packed byte", ratio, RATIO_MAX)) if value > limit]
    if faults:
        raise VerificationError(faults)


def open_bundle(source: Path | bytes) -> Bundle:
    """Open a bundle for reading. Raises VerificationError `container.*` when it is no zip or breaks a limit."""
    def refuse(error: Exception) -> VerificationError:
        return VerificationError(Problem.of("bundle", "container.unreadable", reason=str(error)[:120]))

    try:
        file = _Source(io.BytesIO(source) if isinstance(source, bytes) else source.open("rb"))
    except OSError as error:
        raise refuse(error) from None
    try:
        return Bundle(file)
    except VerificationError:
        file.close()
        raise
    except _BROKEN as error:
        file.close()
        raise refuse(error) from None


def write_bundle(target: Path, members: Mapping[str, bytes] | Iterator[tuple[str, bytes]]) -> None:
    """Write a bundle: same members, same bytes. README.txt is added; the file appears only when it is whole."""
    items = members.items() if isinstance(members, Mapping) else members
    partial = target.with_name(target.name + ".part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (("README.txt", README.encode()), *items):
            info = zipfile.ZipInfo(name, date_time=_DATE_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            info.create_system = 3
            archive.writestr(info, data)
    partial.replace(target)
