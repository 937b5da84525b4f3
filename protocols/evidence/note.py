"""Signed notes: a text, an empty line, signature lines. C2SP signed-note v1, tlog-cosignature v1.

A verifier key is `name+8 hex+base64(type byte || key)`. Signatures match by name and key id; unknown ones are
passed over, a known key whose signature fails rejects the whole note.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.errors import Problem, VerificationError
from protocols.evidence import keys
from protocols.evidence.encoding import from_base64, to_base64

ED25519 = 0x01
COSIGNATURE_V1 = 0x04
NOTE_BYTES_MAX = 64 * 1024
SIGNATURES_MAX = 100
DASH = "\u2014"
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f]")
"""Every control character below the space but the newline."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key as notes name it. `kind` is ED25519 (logs) or COSIGNATURE_V1 (witnesses); `public` is raw."""

    name: str
    kind: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """First four bytes of SHA-256(name || newline || type || key): a hint, never a security decision."""
        return _key_id(self.name, self.kind, self.public)

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{to_base64(bytes([self.kind]) + self.public)}"


@lru_cache(maxsize=64)
def _key_id(name: str, kind: int, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: `blob` is what follows the key id (64 bytes; a cosignature has 8 bytes of time before)."""

    name: str
    key_id: bytes
    blob: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note. `text` ends in a newline. Nothing in it is verified yet."""

    text: str
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A witness's statement that at `time_s` this was the largest consistent tree it had seen of this origin."""

    name: str
    public: bytes
    time_s: int
    signature: bytes


def parse_verifier_key(vkey: str, *, where: str) -> VerifierKey:
    """Parse a vkey line. Raises VerificationError `vkey.malformed` or those of `keys.check_public`."""
    name, _, rest = vkey.partition("+")
    claimed, _, body = rest.partition("+")
    if not _is_name(name) or len(claimed) != 8:
        raise VerificationError(Problem.of(where, "vkey.malformed", vkey=vkey[:80]))
    data = from_base64(body, where=where)
    if len(data) != 33 or data[0] not in (ED25519, COSIGNATURE_V1):
        raise VerificationError(Problem.of(where, "vkey.malformed", vkey=vkey[:80]))
    key = VerifierKey(name, data[0], keys.check_public(data[1:], where=where))
    if key.key_id.hex() != claimed:
        raise VerificationError(Problem.of(where, "vkey.malformed", vkey=vkey[:80]))
    return key


def parse(data: bytes, *, where: str) -> Note:
    """Split a note at its last empty line. Raises VerificationError `note.malformed`."""
    def refuse(reason: str) -> VerificationError:
        return VerificationError(Problem.of(where, "note.malformed", reason=reason))

    if len(data) > NOTE_BYTES_MAX:
        raise refuse("longer than 64 KiB")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError:
        raise refuse("not UTF-8") from None
    if _CONTROL.search(whole):
        raise refuse("a control character")
    head, found, tail = whole.rpartition("\n\n")
    if not found or not tail.endswith("\n"):
        raise refuse("no signature block")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise refuse(f"more than {SIGNATURES_MAX} signatures")
    signatures = []
    for line in lines:
        signature = _signature(line, where)
        if signature is None:
            raise refuse("a signature line is malformed")
        signatures.append(signature)
    return Note(head + "\n", tuple(signatures))


def _signature(line: str, where: str) -> Signature | None:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != DASH or not _is_name(parts[1]):
        return None
    data = from_base64(parts[2], where=where)
    return Signature(parts[1], data[:4], data[4:]) if len(data) >= 5 else None


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and name.split(maxsplit=1) == [name]  # whatever Unicode calls a space


def format_note(text: str, signatures: Iterable[Signature]) -> bytes:
    """Return the bytes of a note; `text` must end in a newline."""
    lines = "".join(f"{DASH} {s.name} {to_base64(s.key_id + s.blob)}\n" for s in signatures)
    return f"{text}\n{lines}".encode()


def sign(text: str, key: Ed25519PrivateKey, *, name: str) -> Signature:
    """Sign a note text as the log `name`."""
    public = VerifierKey(name, ED25519, keys.public_bytes(key))
    return Signature(name, public.key_id, key.sign(text.encode()))


def cosign(text: str, key: Ed25519PrivateKey, *, name: str, time_s: int) -> Signature:
    """Co-sign a checkpoint text as the witness `name` at POSIX time `time_s`."""
    public = VerifierKey(name, COSIGNATURE_V1, keys.public_bytes(key))
    return Signature(name, public.key_id, time_s.to_bytes(8, "big") + key.sign(cosigned_message(text, time_s)))


def digest(public: bytes, signature: bytes, text: str, time_s: int) -> bytes:
    """Return what stands for one co-signature by one key of one checkpoint text at one time."""
    return hashlib.sha256(public + signature + cosigned_message(text, time_s)).digest()


def cosigned_message(text: str, time_s: int) -> bytes:
    """Return what a witness signs: the text below two lines. The witness's name is not in it: one key, one witness."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def require_signed(note: Note, key: VerifierKey, *, where: str) -> None:
    """Raise VerificationError `note.unsigned` or `note.bad_signature` unless the log `key` signed the note."""
    matching = [s for s in note.signatures if s.name == key.name and s.key_id == key.key_id]
    if not matching:
        raise VerificationError(Problem.of(where, "note.unsigned", name=key.name))
    for signature in matching:
        if not keys.signature_holds(key.public, signature.blob, note.text.encode()):
            raise VerificationError(Problem.of(where, "note.bad_signature", name=key.name))


def cosignatures(note: Note, witnesses: Iterable[VerifierKey], *, where: str) -> list[Cosignature]:
    """Return the cosignatures of known witnesses, in the order of the note's lines.

    Raises: VerificationError `note.bad_signature` if the line of a known witness fails.
    """
    known = {(w.name, w.key_id): w for w in witnesses if w.kind == COSIGNATURE_V1}
    result = []
    for line in note.signatures:
        witness = known.get((line.name, line.key_id))
        if witness is None:
            continue
        time_s = int.from_bytes(line.blob[:8], "big")
        if len(line.blob) != 72 or not keys.signature_holds(
                witness.public, line.blob[8:], cosigned_message(note.text, time_s)):
            raise VerificationError(Problem.of(where, "note.bad_signature", name=witness.name))
        result.append(Cosignature(witness.name, witness.public, time_s, line.blob[8:]))
    return result
