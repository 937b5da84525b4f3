"""A visit: what an assessor answers for each drawn device, signed one by one, saved after each, closed at the end.

No terminal and no clock here: `form` has both.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from errno import ENOENT
from os import strerror
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.errors import ConfigError, Problem, VerificationError
from protocols.evidence import jcs, keys, sample, signed
from protocols.evidence.signed import MATCH, PHOTOS_MAX, RESULTS

NOTE_MAX = 200
COLUMNS = ("gateway", "slot", "result", "at", "note", "photos")
OPTIONAL = ("note", "photos")
CSV_BYTES_MAX = 16 * 1024 * 1024
WORDS = {"相符": "match", "不符": "mismatch", "无法核实": "unverified", **{result: result for result in RESULTS}}
Device = tuple[str, int]


@dataclass(slots=True)
class Visit:
    """A draw as its assessor signed it, and the answers so far. finding: set when it is closed."""

    draw: Mapping[str, Any]
    key: Ed25519PrivateKey
    answers: dict[Device, dict[str, Any]] = field(default_factory=dict)
    finding: dict[str, Any] | None = None
    devices: dict[Device, int] = field(init=False)
    """The drawn devices, in the order of the draw, each with its place."""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        self.devices = {(d["gateway"], d["slot"]): place for place, d in enumerate(self.draw["devices"])}
        self.digest = sample.draw_sha256(self.draw)

    @property
    def open(self) -> list[Device]:
        """Drawn devices without an answer."""
        return [device for device in self.devices if device not in self.answers]

    @property
    def in_order(self) -> list[dict[str, Any]]:
        """The answers in the order of the draw."""
        return [self.answers[device] for device in self.devices if device in self.answers]

    @property
    def told(self) -> dict[str, int]:
        """How many answers there are of each result."""
        counts = Counter(answer["result"] for answer in self.answers.values())
        return {result: counts[result] for result in RESULTS}

    @property
    def failures(self) -> list[int]:
        """Devices of each stratum that are no match, or have no answer."""
        counts = Counter(d["stratum"] for d in self.draw["devices"]
                         if self.answers.get((d["gateway"], d["slot"]), {}).get("result") != MATCH)
        return [counts[i] for i in range(len(self.draw["strata"]))]

    def answer(self, device: Device, result: str, *, at_s: int, note: str = "", photos: tuple[str, ...] = ()) -> None:
        """Sign what was found at the place of a drawn device. photos: SHA-256 of files.

        Raises: VerificationError of the shape.
        """
        self.answers[device] = signed.sign("answer", {
            "draw_sha256": self.digest, "gateway": device[0], "slot": device[1], "result": result,
            "at_s": at_s, "note": note, "photos": list(photos)}, self.key)

    def encode(self) -> bytes:
        """Return the file: of an open visit the state, of a closed one the findings."""
        return jcs.encode({"type": sample.FINDINGS_TYPE, "draw": dict(self.draw), "answers": self.in_order,
                           "finding": self.finding})


def begin(draw: Mapping[str, Any], key: Ed25519PrivateKey) -> Visit:
    """Begin a visit: the assessor signs the draw."""
    return Visit(signed.sign("draw", draw, key), key)


def resume(path: Path, draw: Mapping[str, Any], key: Ed25519PrivateKey) -> Visit:
    """Go on where the state file stopped. Raises ConfigError if it is of another draw or key, or was changed."""
    visit = begin(draw, key)
    try:
        with path.open("rb") as file:
            data = file.read(sample.FILE_BYTES_MAX + 1)
        value = jcs.parse(data, where=path.name, bytes_max=sample.FILE_BYTES_MAX)
        sample.check_shape(sample.FINDINGS_FILE, value, where=path.name)
        if value["draw"] != visit.draw:
            raise VerificationError(Problem.of(path.name, "sampling.other_state"))
        signer = {keys.public_bytes(key).hex()}
        for answer in value["answers"]:
            signed.verify("answer", answer, signers=signer, where=path.name)
            device = answer["gateway"], answer["slot"]
            if device not in visit.devices or answer["draw_sha256"] != visit.digest:
                raise VerificationError(Problem.of(path.name, "sampling.other_state"))
            visit.answers[device] = answer
    except VerificationError as error:
        raise ConfigError(error.problems) from error
    return visit


def save(visit: Visit, path: Path) -> None:
    """Write the state so that a cut of power leaves the old or the new one."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(visit.encode())
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def close(visit: Visit, *, missing_allowed: bool, closed_s: int | None = None) -> None:
    """Sign that these are all answers; closed when the last was given unless told otherwise.

    Raises: ConfigError `sampling.unanswered` naming every device without an answer, unless that is allowed.
    """
    if visit.open and not missing_allowed:
        raise ConfigError(Problem.of(f"gateway {gateway}, slot {slot}", "sampling.unanswered")
                          for gateway, slot in visit.open)
    last_s = max((answer["at_s"] for answer in visit.answers.values()),
                 default=visit.draw["cosignature"]["time_s"])
    visit.finding = signed.sign("finding", {
        "draw_sha256": visit.digest, "answers_sha256": sample.answers_sha256(visit.in_order),
        "answers": len(visit.answers), "closed_s": last_s if closed_s is None else max(closed_s, last_s)}, visit.key)
    if len(visit.encode()) > sample.FILE_BYTES_MAX:
        raise ConfigError(Problem.of("spotcheck", "sampling.file_too_large", limit=sample.FILE_BYTES_MAX))


def photo_sha256(path: Path) -> str:
    """Return the digest that names a photo. Raises OSError."""
    if "\0" in str(path):
        raise FileNotFoundError(ENOENT, strerror(ENOENT))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def take_csv(visit: Visit, path: Path) -> None:
    """Take the answers of a prepared file. Photos are files beside it, several with a semicolon between.

    Raises: ConfigError with every problem of the file.
    """
    with path.open("rb") as file:
        data = file.read(CSV_BYTES_MAX + 1)
    if len(data) > CSV_BYTES_MAX:
        raise ConfigError(Problem.of(path.name, "json.too_large", size=f"> {CSV_BYTES_MAX}", limit=CSV_BYTES_MAX))
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(Problem.of(path.name, "sampling.csv_unreadable", reason=str(error)[:200])) from error
    header = [name.strip() for name in rows[0]] if rows else []
    wrong = [name for name in header if name not in COLUMNS] + [
        name for name in COLUMNS if name not in header and name not in OPTIONAL]
    if wrong or len(set(header)) < len(header):
        raise ConfigError(Problem.of(path.name, "sampling.csv_columns", columns=", ".join(wrong) or "-",
                                     known=", ".join(COLUMNS)))
    problems: list[Problem] = []
    for line, row in _numbered(rows):
        where = f"{path.name}:{line}"
        if len(row) != len(header):
            problems.append(Problem.of(where, "sampling.csv_cells", found=len(row), expected=len(header)))
            continue
        cells = dict.fromkeys(COLUMNS, "") | {name: cell.strip() for name, cell in zip(header, row, strict=True)}
        problems += _take_row(visit, cells, where, path.parent)
    if problems:
        raise ConfigError(problems)


def _numbered(rows: list[list[str]]) -> Iterator[tuple[int, list[str]]]:
    for line, row in enumerate(rows[1:], start=2):
        if any(cell.strip() for cell in row):
            yield line, row


def _take_row(visit: Visit, cells: Mapping[str, str], where: str, folder: Path) -> list[Problem]:
    """Take one row; return what is wrong with it."""
    strange = [name for name, cell in cells.items() if not cell.isprintable()]
    if strange:
        return [Problem.of(where, "sampling.bad_text", columns=", ".join(strange))]
    found = []
    gateways = {gateway for gateway, _ in visit.devices if gateway.startswith(cells["gateway"])}
    gateway = gateways.pop() if len(gateways) == 1 and len(cells["gateway"]) >= 8 else cells["gateway"]
    slot = int(cells["slot"]) if cells["slot"].isascii() and cells["slot"].isdigit() and len(cells["slot"]) < 7 else -1
    device = gateway, slot
    if device not in visit.devices:
        found.append(Problem.of(where, "sampling.not_drawn", gateway=cells["gateway"], slot=cells["slot"]))
    elif device in visit.answers:
        found.append(Problem.of(where, "sampling.answered_twice", gateway=cells["gateway"], slot=cells["slot"]))
    result = WORDS.get(cells["result"])
    if result is None:
        found.append(Problem.of(where, "sampling.bad_result", value=cells["result"][:40], known=", ".join(WORDS)))
    at_s = _time(cells["at"])
    if at_s is None:
        found.append(Problem.of(where, "sampling.bad_time", value=cells["at"][:40]))
    elif at_s < visit.draw["cosignature"]["time_s"]:
        found.append(Problem.of(where, "sampling.too_early", value=cells["at"][:40]))
    if len(cells["note"]) > NOTE_MAX:
        found.append(Problem.of(where, "sampling.long_note", limit=NOTE_MAX))
    names = [name.strip() for name in cells["photos"].split(";") if name.strip()]
    if len(names) > PHOTOS_MAX:
        found.append(Problem.of(where, "sampling.many_photos", limit=PHOTOS_MAX))
    photos = []
    for name in names:
        try:
            photos.append(photo_sha256(folder / name))
        except OSError as error:
            found.append(Problem.of(where, "sampling.no_photo", name=name,
                                    reason=error.strerror or type(error).__name__))
    if not found and result is not None and at_s is not None:
        visit.answer(device, result, at_s=at_s, note=cells["note"], photos=tuple(photos))
    return found


def _time(text: str) -> int | None:
    """Return POSIX seconds of an ISO 8601 time with its zone, None for anything else."""
    try:
        at = datetime.fromisoformat(text)
        at_s = int(at.timestamp()) if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
    return at_s if at_s is not None and at_s >= 0 else None
