"""The witness's rule, as a table of every status, and what a crash or a second writer may not do to its memory."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from protocols.errors import EvidenceError, VerificationError
from protocols.evidence import keys, merkle, note
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.encoding import to_base64
from tests.support.scripted_gateway import key_of
from verifier.witness.state import PROOF_LINES_MAX, Book, parse_request

ORIGIN = "register.example/log"
LOG = key_of("log")
WITNESS = key_of("witness")
LOGS = {ORIGIN: note.VerifierKey(ORIGIN, note.ED25519, keys.public_bytes(LOG))}
TREE = merkle.Tree(hashlib.sha256(bytes([i])).digest() for i in range(40))
OTHER = merkle.Tree(hashlib.sha256(bytes([i, 1])).digest() for i in range(40))


def body(old: int, size: int, *, tree: merkle.Tree = TREE, proof: list[bytes] | None = None, origin: str = ORIGIN,
         signer: str = "log", root: bytes | None = None) -> bytes:
    text = Checkpoint(origin, size, root or tree.root(size)).text
    if proof is None:
        proof = tree.consistency(old, size) if 0 < old < size else []
    lines = "".join(f"{to_base64(item)}\n" for item in proof)
    return f"old {old}\n{lines}\n".encode() + note.format_note(text, [note.sign(text, key_of(signer), name=origin)])


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path, name="w", key=WITNESS, logs=LOGS)


def status(book: Book, data: bytes) -> int:
    return book.add(parse_request(data), time_s=1_760_000_000).status


TABLE = {
    "next": (body(10, 20), 200),
    "same again": (body(10, 10), 200),
    "one more": (body(10, 11), 200),
    "unknown origin": (body(0, 5, origin="other.example/log"), 404),
    "signed by another key": (body(10, 20, signer="stranger"), 403),
    "another key and wrong sizes": (body(3, 2, signer="stranger"), 403),
    "old above new": (body(10, 9), 400),
    "old above both": (body(30, 20), 400),
    "old too small": (body(5, 20), 409),
    "old zero": (body(0, 20), 409),
    "old too large": (body(15, 20), 409),
    "another tree": (body(10, 20, tree=OTHER), 422),
    "same size, another root": (body(10, 10, tree=OTHER), 422),
    "proof missing": (body(10, 20, proof=[]), 422),
    "proof too long": (body(10, 20, proof=[*TREE.consistency(10, 20), b"\0" * 32]), 422),
    "proof for equal sizes": (body(10, 10, proof=[b"\0" * 32]), 422),
    "proof of another size": (body(10, 20, proof=TREE.consistency(10, 21)), 422),
}


@pytest.mark.parametrize(("data", "expected"), TABLE.values(), ids=TABLE.keys())
def test_status(book: Book, data: bytes, expected: int) -> None:
    assert status(book, body(0, 10)) == 200
    before = book.stored(hashlib.sha256(ORIGIN.encode()).hexdigest())
    answer = book.add(parse_request(data), time_s=1_760_000_000)
    assert answer.status == expected
    if expected == 409:
        assert (answer.body, answer.content_type) == (b"10\n", "text/x.tlog.size")
    if expected != 200:
        assert book.stored(hashlib.sha256(ORIGIN.encode()).hexdigest()) == before


@pytest.mark.parametrize(("data", "expected"), [
    (body(0, 10), 200), (body(0, 0, root=merkle.EMPTY_ROOT), 200), (body(0, 0, root=b"\1" * 32), 422),
    (body(0, 10, proof=[b"\0" * 32]), 422), (body(5, 10), 409)])
def test_first_checkpoint(book: Book, data: bytes, expected: int) -> None:
    assert status(book, data) == expected


def test_cosignature_holds_under_the_witness_key_and_only_there(book: Book) -> None:
    data = body(0, 10)
    answer = book.add(parse_request(data), time_s=1_760_000_000)
    signed = note.parse(data.partition(b"\n\n")[2] + answer.body, where="test")
    witness = note.VerifierKey("w", note.COSIGNATURE_V1, keys.public_bytes(WITNESS))
    assert [c.time_s for c in note.cosignatures(signed, [witness], where="test")] == [1_760_000_000]
    other = note.VerifierKey("w", note.COSIGNATURE_V1, keys.public_bytes(LOG))
    assert note.cosignatures(signed, [other], where="test") == []


@pytest.mark.parametrize("data", [
    b"", b"old 1", b"old 01\n\n", b"old -1\n\n", b"old x\n\n", b"new 1\n\n", body(0, 10)[4:],
    b"old 0\n" + b"AAAA\n" + body(0, 10)[6:], b"old 0\n" + b"!\n" + body(0, 10)[6:],
    b"old 0\n" + b"\xff\n" + body(0, 10)[6:], body(0, 10, proof=[b"\0" * 32] * (PROOF_LINES_MAX + 1)),
    body(0, 10)[:-1], body(0, 10).replace(b"\n10\n", b"\n010\n"), body(0, 10) + b"x" * 80_000,
    "old １\n\n".encode(), b"old 0\n\n" + b"a\n0\nb\n\n"])
def test_malformed_request(data: bytes) -> None:
    with pytest.raises(VerificationError):
        parse_request(data)


def test_a_second_process_is_kept_out(book: Book, tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"witness\.in_use"):
        Book(tmp_path, name="w", key=WITNESS, logs=LOGS)
    book.close()
    Book(tmp_path, name="w", key=WITNESS, logs=LOGS).close()


def test_memory_survives_a_restart(book: Book, tmp_path: Path) -> None:
    assert status(book, body(0, 10)) == 200
    book.close()
    again = Book(tmp_path, name="w", key=WITNESS, logs=LOGS)
    assert status(again, body(0, 20)) == 409
    assert status(again, body(10, 20)) == 200


def test_half_a_write_is_no_write(book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert status(book, body(0, 10)) == 200

    def full(*_: object) -> None:
        raise OSError(28, "no space left on device")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="no space"):
            status(book, body(10, 20))
    assert status(book, body(10, 15)) == 200, "nothing was promised for 20, so 15 may be co-signed"
    book.close()
    assert status(Book(tmp_path, name="w", key=WITNESS, logs=LOGS), body(15, 20)) == 200


@pytest.mark.parametrize("spoil", [
    lambda d: d.replace(b"\n10\n", b"\n11\n"), lambda d: d[:-40], lambda d: b"", lambda d: d.split("— w".encode())[0]])
def test_a_spoiled_memory_stops_the_witness(book: Book, tmp_path: Path, spoil: object) -> None:
    assert status(book, body(0, 10)) == 200
    book.close()
    path = next(tmp_path.glob("*.checkpoint"))
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]  # parametrised lambdas have no type
    with pytest.raises(EvidenceError, match=r"witness\.broken"):
        Book(tmp_path, name="w", key=WITNESS, logs=LOGS)


def test_requests_at_the_same_time_make_one_history(book: Book) -> None:
    """Of many branches from one size exactly one is co-signed."""
    assert status(book, body(0, 10)) == 200
    shared = [hashlib.sha256(bytes([i])).digest() for i in range(10)]
    branches = []
    for n in range(24):
        tree = merkle.Tree([*shared, *(hashlib.sha256(bytes([i, n])).digest() for i in range(5))])
        branches.append(body(10, 15, tree=tree))
    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(lambda data: status(book, data), branches))
    assert statuses == [200] + [409] * 23
