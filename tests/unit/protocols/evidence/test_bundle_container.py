"""The container of a bundle: every fault has its code, limits come before reading, and nothing else escapes."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import VerificationError
from protocols.evidence import bundle
from protocols.evidence.bundle import README, Bundle, open_bundle, write_bundle
from protocols.evidence.tiles import Tile

MEMBERS = {"checkpoint": b"a note\n", "tile/0/000.p/3": bytes(96), "tile/entries/000.p/3": b"\0\1a\0\1b\0\1c",
           "entry/0": b"a", "entry/300": b"b", "roster/2.jsonl": b"{}\n", "register/17.proof": b"proof",
           "openings/1.json": b"{}"}

# Offsets in a record of the directory (APPNOTE 4.3.12): flags, packed size, size; the name follows byte 46.
FLAGS, METHOD, PACKED, SIZE, OFFSET, NAME = 8, 10, 20, 24, 42, 46


def zipped(members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in {"README.txt": README.encode(), **members}.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data, method)
    return buffer.getvalue()


def record(data: bytes, name: str) -> int:
    """Return where the directory's record of a member begins."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at = archive.start_dir
        for info in archive.infolist():
            if info.filename == name:
                return at
            at += NAME + len(info.filename) + len(info.extra) + len(info.comment)
    raise KeyError(name)


def told(data: bytes, name: str, place: int, form: str, value: int | bytes) -> bytes:
    """Return the zip with one field of a member's directory record replaced."""
    at = record(data, name) + place
    packed = struct.pack(form, value)
    return data[:at] + packed + data[at + len(packed):]


def codes(act: Callable[[], object]) -> set[tuple[str, str]]:
    with pytest.raises(VerificationError) as refusal:
        act()
    return {(problem.code, problem.where) for problem in refusal.value.problems}


def over(data: bytes) -> set[str]:
    """Return which limits a bundle breaks."""
    with pytest.raises(VerificationError) as refusal:
        open_bundle(data)
    assert {p.code for p in refusal.value.problems} == {"container.limit"}
    return {dict(p.args)["what"] for p in refusal.value.problems}


def read_all(opened: Bundle) -> dict[str, bytes]:
    names = ["README.txt", "checkpoint", *(t.path for t in opened.hash_tiles + opened.entry_tiles)]
    ends = {"entry": "", "roster": ".jsonl", "register": ".proof", "openings": ".json"}
    names += [f"{kind}/{n}{ends[kind]}" for kind, numbers in opened.numbered.items() for n in numbers]
    return {name: opened.read(name) for name in names}


# What is written is read.

def test_members_are_sorted_by_kind_and_read_back(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.tally", MEMBERS)
    opened = open_bundle(tmp_path / "a.tally")
    assert opened.hash_tiles == [Tile(0, 0, 3)] and opened.entry_tiles == [Tile(None, 0, 3)]
    assert opened.numbered == {"entry": [0, 300], "roster": [2], "register": [17], "openings": [1]}
    assert read_all(opened) == {"README.txt": README.encode(), **MEMBERS}


def test_the_same_members_are_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "a.tally", MEMBERS)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    write_bundle(tmp_path / "b.tally", iter(MEMBERS.items()))
    assert (tmp_path / "a.tally").read_bytes() == (tmp_path / "b.tally").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.tally") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == ["README.txt", *MEMBERS]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tally", "b.tally"]


def test_a_bundle_that_cannot_be_finished_replaces_none(tmp_path: Path) -> None:
    target = tmp_path / "a.tally"
    write_bundle(target, MEMBERS)
    whole = target.read_bytes()

    def cut() -> Iterator[tuple[str, bytes]]:
        yield "checkpoint", b"another"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        write_bundle(target, cut())
    assert target.read_bytes() == whole


def test_contents_are_read_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_proof = b"a proof that is damaged"
    data = zipped(MEMBERS | {"register/17.proof": whole_proof}, method=zipfile.ZIP_STORED)
    damaged = data.replace(whole_proof, whole_proof.upper())
    asked: list[str] = []
    whole = bundle._unpack

    def watched(source: bundle._Source, info: zipfile.ZipInfo) -> bytes:
        asked.append(info.filename)
        return whole(source, info)

    monkeypatch.setattr(bundle, "_unpack", watched)
    opened = open_bundle(damaged)
    assert asked == []
    assert opened.read("entry/0") == b"a"
    assert asked == ["entry/0"]
    assert codes(lambda: opened.read("register/17.proof")) == {("container.corrupt", "register/17.proof")}


# Each fault has its code.

@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all" * 100, b"PK\5\6" + bytes(17),
                                  zipped(MEMBERS)[:-1], zipped(MEMBERS)[40:]],
                         ids=["empty", "two bytes", "text", "cut end record", "cut by a byte", "cut in front"])
def test_what_is_no_zip_is_unreadable(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tally").write_bytes(data)
    for source in (data, tmp_path / "x.tally"):
        try:
            opened = open_bundle(source)
        except VerificationError as error:
            assert {p.code for p in error.problems} == {"container.unreadable"}
        else:  # bytes in front are missed only by the members that they belonged to
            assert ("container.corrupt", "README.txt") in codes(lambda: read_all(opened))  # noqa: B023 - called here
            opened.close()


def test_a_file_that_is_not_there_or_a_folder_is_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.tally", tmp_path):
        assert codes(lambda: open_bundle(path)) == {("container.unreadable", "bundle")}  # noqa: B023 - called here


@pytest.mark.parametrize("name", [
    "policy.json", "tile/1/000", "tile/0/0", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/257",
    "tile/0/x000/001", "entry/01", "entry/-1", "entry/1 ", "entry/12345678901234567", "roster/2.json",
    "roster/2.jsonl/", "openings/0.jsonx", "register/1", "Checkpoint", "./checkpoint", "../checkpoint", "/checkpoint",
    "tile/", "", "entry/\N{ARABIC-INDIC DIGIT ONE}"])
def test_a_name_off_the_list_is_unknown(name: str) -> None:
    assert codes(lambda: open_bundle(zipped(MEMBERS | {name: b"x"}))) == {("container.unknown_member", name)}


def test_a_name_that_others_read_on_is_unknown() -> None:
    """zipfile cuts a name at a NUL byte and would take this for the checkpoint."""
    data = zipped({n: d for n, d in MEMBERS.items() if n != "checkpoint"} | {"checkpoint.txt": b"a note\n"})
    assert codes(lambda: open_bundle(data.replace(b"checkpoint.", b"checkpoint\0"))) == {
        ("container.unknown_member", "checkpoint")}


def test_a_member_twice_is_doubled() -> None:
    buffer = io.BytesIO(zipped(MEMBERS))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr("checkpoint", b"another note\n")
    assert codes(lambda: open_bundle(buffer.getvalue())) == {("container.doubled", "checkpoint")}


@pytest.mark.parametrize("name", ["README.txt", "checkpoint"])
def test_a_needed_member_is_missed(name: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for other, data in {"README.txt": README.encode(), **MEMBERS}.items():
            if other != name:
                archive.writestr(other, data)
    assert codes(lambda: open_bundle(buffer.getvalue())) == {("container.missing_member", name)}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_are_refused(method: int) -> None:
    names = {"README.txt", *MEMBERS}
    assert codes(lambda: open_bundle(zipped(MEMBERS, method=method))) == {("container.method", n) for n in names}


def test_encrypted_members_are_refused_by_their_flag() -> None:
    data = told(zipped(MEMBERS), "entry/0", FLAGS, "<H", 1)
    assert codes(lambda: open_bundle(data)) == {("container.method", "entry/0")}


@pytest.mark.parametrize("flag", [0x20, 0x40], ids=["patched", "strong encryption"])
def test_flags_that_zipfile_knows_only_when_reading_are_corrupt(flag: int) -> None:
    opened = open_bundle(told(zipped(MEMBERS), "entry/0", FLAGS, "<H", flag))
    assert codes(lambda: opened.read("entry/0")) == {("container.corrupt", "entry/0")}


@pytest.mark.parametrize(("place", "form", "value"), [
    (16, "<I", 0), (OFFSET, "<I", 0), (OFFSET, "<I", 0xFFFF_FFF0), (PACKED, "<I", 1), (SIZE, "<I", 95),
    (SIZE, "<I", 97), (METHOD, "<H", 0), (NAME, "2s", b"Ti")],
    ids=["checksum", "another member", "beyond the file", "packed size", "too small", "too large", "method", "name"])
def test_a_directory_that_lies_about_a_member_is_found_when_it_is_read(place: int, form: str,
                                                                       value: int | bytes) -> None:
    name = "tile/0/000.p/3"
    data = told(zipped(MEMBERS), name, place, form, value)
    found = codes(lambda: open_bundle(data).read(name))
    assert found <= {("container.corrupt", name), ("container.unknown_member", "Tile/0/000.p/3")}


def test_a_member_that_is_not_there_is_corrupt() -> None:
    assert codes(lambda: open_bundle(zipped(MEMBERS)).read("entry/7")) == {("container.corrupt", "entry/7")}


def test_all_faults_of_a_container_are_told_at_once() -> None:
    data = told(zipped({"checkpoint": b"", "a": b"", "b": b""}), "checkpoint", FLAGS, "<H", 1)
    assert codes(lambda: open_bundle(data)) == {
        ("container.method", "checkpoint"), ("container.unknown_member", "a"), ("container.unknown_member", "b")}


# Limits before reading.

def bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(1024 * 1024)
    return b"".join(packer.compress(zeros) for _ in range(megabytes)) + packer.flush()


def with_packed(name: str, packed: bytes, size: int, checksum: int) -> bytes:
    """Return the bundle with a member whose deflated bytes are these, and whose headers say what they are told."""
    stored = zipped(MEMBERS | {name: packed}, method=zipfile.ZIP_STORED)
    data = told(stored, name, METHOD, "<H", zipfile.ZIP_DEFLATED)
    data = told(data, name, SIZE, "<I", size)
    return told(data, name, 16, "<I", checksum)


def test_a_bomb_that_says_its_size_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a member was read")

    data = with_packed("entry/1", bomb(257), 257 * 1024 * 1024, 0)
    twenty = with_packed("entry/1", bomb(20), 20 * 1024 * 1024, 0)
    assert len(data) < 400_000
    monkeypatch.setattr(bundle, "_unpack", never)
    assert "bytes in one member" in over(data)
    monkeypatch.setattr(bundle, "RATIO_MAX", 500)
    assert over(twenty) == {"bytes for each packed byte"}


def test_a_bomb_that_hides_its_size_unpacks_to_no_more_than_it_says() -> None:
    """zipfile.read would unpack all 100 MB first and cut what it does not need."""
    opened = open_bundle(with_packed("entry/1", bomb(100), 100, zlib.crc32(bytes(100)) ^ 1))
    tracemalloc.start()
    try:
        found = codes(lambda: opened.read("entry/1"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == {("container.corrupt", "entry/1")}
    assert peak < 8 * 1024 * 1024


def test_nothing_is_read_behind_the_end_of_what_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """zlib keeps all that comes behind it, and copies it with every part: 400 MB were a minute and 2 GB."""
    packed = zlib.compress(b"x", wbits=-15)
    data = with_packed("entry/1", packed + bytes(100_000), 500, 0)
    opened, asked = open_bundle(data), list[int]()
    whole = bundle._Source.read

    def watched(self: bundle._Source, size: int = -1) -> bytes:
        asked.append(size)
        return whole(self, size)

    monkeypatch.setattr(bundle, "_READ_BYTES", 1000)
    monkeypatch.setattr(bundle._Source, "read", watched)
    assert codes(lambda: opened.read("entry/1")) == {("container.corrupt", "entry/1")}
    assert asked.count(1000) == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("part", [1, 7, 1000])
def test_a_member_longer_than_its_directory_says_is_refused_wherever_it_is_cut(
        monkeypatch: pytest.MonkeyPatch, method: int, part: int) -> None:
    monkeypatch.setattr(bundle, "_READ_BYTES", part)
    body = bytes(range(40))
    whole = zipped(MEMBERS | {"entry/1": body}, method=method)
    assert open_bundle(whole).read("entry/1") == body
    for size in range(len(body)):
        data = told(told(whole, "entry/1", SIZE, "<I", size), "entry/1", 16, "<I", zlib.crc32(body[:size]))
        with pytest.raises(VerificationError, match="more bytes"):
            open_bundle(data).read("entry/1")


def test_members_that_lie_over_one_another_are_refused() -> None:
    """The directory names one kernel of bytes many times; every name has its own header in real bombs, here not."""
    kernel = bomb(5)
    data = zipped(MEMBERS | {f"entry/{n}": bytes(1) for n in range(1, 100)} | {"entry/100": kernel},
                  method=zipfile.ZIP_STORED)
    at = record(data, "entry/100")
    offset = int.from_bytes(data[at + OFFSET : at + OFFSET + 4], "little")
    for n in range(1, 100):
        name = f"entry/{n}"
        data = told(data, name, METHOD, "<H", zipfile.ZIP_DEFLATED)
        data = told(data, name, OFFSET, "<I", offset)
        data = told(data, name, PACKED, "<I", len(kernel))
        data = told(data, name, SIZE, "<I", 5 * 1024 * 1024)
    assert over(data) == {"packed bytes", "bytes for each packed byte"}


@pytest.mark.parametrize(("limit", "value", "what"), [
    ("MEMBERS_MAX", 8, "members"), ("MEMBER_BYTES_MAX", 1000, "bytes in one member"),
    ("TOTAL_BYTES_MAX", 1000, "bytes"), ("RATIO_MAX", 1, "bytes for each packed byte"),
    ("DIRECTORY_BYTES_MAX", 400, "bytes of directory")])
def test_each_limit_refuses(monkeypatch: pytest.MonkeyPatch, limit: str, value: int, what: str) -> None:
    data = zipped(MEMBERS)
    open_bundle(data)
    monkeypatch.setattr(bundle, limit, value)
    assert over(data) == {what}


def test_a_directory_longer_than_any_bundle_has_is_not_read(tmp_path: Path) -> None:
    """A million empty records are 46 MB of file and more than a gigabyte of objects."""
    one = zipped({"entry/1": b""})
    at, length = record(one, "entry/1"), NAME + len("entry/1")
    end = one.rindex(b"PK\5\6")
    records = one[at : at + length] * (bundle.DIRECTORY_BYTES_MAX // length + 1)
    tail = bytearray(one[end:])
    tail[12:20] = struct.pack("<II", len(records), at)
    (tmp_path / "x.tally").write_bytes(one[:at] + records + tail)
    tracemalloc.start()
    try:
        with pytest.raises(VerificationError, match="bytes of directory"):
            open_bundle(tmp_path / "x.tally")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1024 * 1024


# Whatever the bytes are.

WHOLE = zipped(MEMBERS)
DIRECTORY = record(WHOLE, "README.txt")


def only_refusals(data: bytes) -> None:
    """A bundle or a refusal; and of every member what zipfile reads, which is slower, or like it a refusal.

    What unpacks to more than the directory says zipfile cuts; here it is refused.
    """
    try:
        opened = open_bundle(data)
    except VerificationError as error:
        assert all(p.code.startswith("container.") for p in error.problems)
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in archive.namelist():
            try:
                expected = b""
                with archive.open(name) as member:
                    while part := member.read(1024 * 1024):
                        expected += part
                if len(expected) != archive.getinfo(name).file_size:
                    raise EOFError
            except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError,
                    OverflowError) as error:
                # What Python calls overlapping depends on its version; here the limits decide that.
                if "overlap" not in str(error).lower():
                    assert codes(lambda name=name: opened.read(name)) == {("container.corrupt", name)}
            else:
                try:
                    assert opened.read(name) == expected
                except VerificationError as error:
                    assert "more bytes" in str(error)


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda b: b + WHOLE[-22:])
       | st.binary(max_size=100).map(lambda b: WHOLE[:DIRECTORY] + b + WHOLE[-22:]))
def test_any_bytes_give_a_bundle_or_a_refusal(data: bytes) -> None:
    only_refusals(data)


@settings(max_examples=300)
@given(st.data())
def test_any_change_gives_a_bundle_or_a_refusal(draw: st.DataObject) -> None:
    """Changes fall on the headers as often as on the rest: they are what zipfile believes."""
    data = bytearray(WHOLE)
    place = st.integers(0, len(WHOLE) - 1) | st.integers(DIRECTORY, len(WHOLE) - 1)
    for at, value in draw.draw(st.lists(st.tuples(place, st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])
                                                  | st.integers(0, 255)), max_size=8)):
        data[at] = value
    first, last = draw.draw(st.tuples(st.integers(0, 60), st.integers(0, 60)) | st.just((0, 0)))
    only_refusals(bytes(data[first : len(data) - last]))


@given(extra=st.binary(max_size=40), fields=st.lists(st.sampled_from([0, 1, 100, 2**32, 2**63 - 1, 2**63, 2**64 - 1]),
                                                     min_size=3, max_size=3), what=st.sets(st.sampled_from(
                                                         [PACKED, SIZE, OFFSET])))
def test_sizes_of_64_bits_give_a_bundle_or_a_refusal(extra: bytes, fields: list[int], what: set[int]) -> None:
    """Sizes and places of 64 bits: beyond every file, and beyond what can be sought."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("README.txt", README)
        info = zipfile.ZipInfo("checkpoint")
        archive.writestr(info, b"a note\n")
        info.extra = struct.pack("<HHQQQ", 1, 24, *fields) + extra  # goes into the directory only
        at = archive.start_dir + NAME + len("README.txt")
    data = bytearray(buffer.getvalue())
    for place in what:
        data[at + place : at + place + 4] = b"\xff" * 4  # "see the 64 bits"
    only_refusals(bytes(data))
