"""Steps 4 and 5: the checkpoint and its key, then tiles and entries under it.

Size and root come only from the signed checkpoint. The root is computed from every level-0 hash tile, and every
entry is hashed and compared with its place there before anything reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from protocols.errors import Problem, VerificationError
from protocols.evidence import entry, keys, merkle, note, proof, signed, tiles
from protocols.evidence.bundle import Bundle
from protocols.evidence.checkpoint import Checkpoint, parse_text
from protocols.evidence.policy import Policy
from verifier.proof.findings import CHECKPOINT, NO_ENTRY, TILES, Findings
from verifier.proof.register import Head, verify_anchor

ORIGIN_PREFIX = "tallystick/g/"


@dataclass(frozen=True, slots=True)
class Claim:
    """A checkpoint as it was read: nothing in it is verified."""

    note: note.Note
    checkpoint: Checkpoint

    @property
    def gateway(self) -> str:
        """The gateway whose log this says it is."""
        return self.checkpoint.origin.removeprefix(ORIGIN_PREFIX)


@dataclass(slots=True)
class Log:
    """The log of one gateway: every entry that comes out of it stands under the verified checkpoint.

    first, end: the shipped entry tiles hold entries [first, end); single entries may stand outside.
    """

    bundle: Bundle
    gateway: str
    checkpoint: Checkpoint
    tree: merkle.Tree
    first: int
    end: int
    _found: Findings
    _tile: tuple[int, dict[int, bytes]] = field(default=(-1, {}))

    def entry(self, seq: int) -> bytes | None:
        """Return the bytes of one entry, None if the bundle does not hold it or it is not what the log holds."""
        if self.first <= seq < self.end:
            return self._entries(seq // tiles.WIDTH).get(seq)
        if seq not in self.bundle.numbered["entry"]:
            return None
        data = self._found.get(TILES, seq, self.bundle.read, entry.name(seq))
        return data if data is not None and self._is_at(seq, data) else None

    def ships(self, seq: int) -> bool:
        """Return whether the bundle has something at this place, whether or not it holds."""
        return self.first <= seq < self.end or seq in self.bundle.numbered["entry"]

    def stream(self, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield (seq, bytes) of the shipped tiles in order, below `end`. What does not hold is left out."""
        for number in range(self.first // tiles.WIDTH, -(-min(self.end, end) // tiles.WIDTH)):
            for seq, data in self._entries(number).items():
                if seq < end:
                    yield seq, data

    def _entries(self, number: int) -> dict[int, bytes]:
        """Return seq -> bytes of one entry tile, without those that differ from the hash tile."""
        if self._tile[0] != number:
            tile = _entry_tile(number, self.checkpoint.size)
            found = self._found
            data = found.get(TILES, NO_ENTRY, self.bundle.read, tile.path)
            whole = None if data is None else found.get(TILES, NO_ENTRY, tiles.split_entries, data, tile,
                                                        where=tile.path)
            self._tile = (number, self._in_place(number * tiles.WIDTH, whole or []))
        return self._tile[1]

    def _in_place(self, base: int, whole: list[bytes]) -> dict[int, bytes]:
        """Return seq -> bytes of those that are where the log holds them, from `base` on."""
        seqs = range(base, base + len(whole))
        if b"".join(map(merkle.leaf_hash, whole)) == self.tree.leaves(base, seqs.stop):
            return dict(zip(seqs, whole, strict=True))
        return {seq: one for seq, one in zip(seqs, whole, strict=True) if self._is_at(seq, one)}

    def _is_at(self, seq: int, data: bytes) -> bool:
        if seq < self.tree.size and self.tree.leaf(seq) == merkle.leaf_hash(data):
            return True
        return not self._found.fault(TILES, "entry.altered", entry.name(seq), seq=seq)


def _entry_tile(number: int, size: int) -> tiles.Tile:
    return tiles.Tile(None, number, min(tiles.WIDTH, size - number * tiles.WIDTH))


def read_claim(bundle: Bundle, found: Findings) -> Claim | None:
    """Parse the checkpoint. Its origin says which gateway the bundle is about; nothing is trusted yet."""
    data = found.get(CHECKPOINT, NO_ENTRY, bundle.read, "checkpoint")
    parsed = None if data is None else found.get(CHECKPOINT, NO_ENTRY, note.parse, data, where="checkpoint")
    if parsed is None:
        return None
    checkpoint = found.get(CHECKPOINT, NO_ENTRY, parse_text, parsed.text, where="checkpoint")
    if checkpoint is None:
        return None
    claim = Claim(parsed, checkpoint)
    if checkpoint.origin != keys.gateway_origin(claim.gateway) or len(claim.gateway) != 32 or checkpoint.size < 1:
        found.fault(CHECKPOINT, "checkpoint.origin", "checkpoint", origin=checkpoint.origin)
        return None
    return claim


@dataclass(frozen=True, slots=True)
class Signers:
    """The keys of a gateway, raw, oldest first: its first key and those it rotated to. `signer` signed the checkpoint.

    Each rotation is signed by the key before it; step 6 checks that `signer` is the key in force at the checkpoint.
    since: the seq of the `key` entry that brought each, 0 for the first.
    """

    origin: str
    chain: tuple[bytes, ...]
    signer: bytes
    since: tuple[int, ...] = (0,)

    def in_force(self, size: int) -> bytes:
        """Return the key that signs a checkpoint of this size: a `key` entry that is in it counts already."""
        return self.chain[max(i for i, seq in enumerate(self.since) if i == 0 or seq < size)]

    def require_any(self, signed_note: note.Note, *, where: str) -> bytes:
        """Return the newest key that signed a note. Raises VerificationError `note.unsigned`, `note.bad_signature`."""
        named = {(line.name, line.key_id) for line in signed_note.signatures}
        found = None
        for raw in reversed(self.chain):
            key = note.VerifierKey(self.origin, note.ED25519, raw)
            if (key.name, key.key_id) in named:
                note.require_signed(signed_note, key, where=where)
                found = found or raw
        if found is None:
            raise VerificationError(Problem.of(where, "note.unsigned", name=self.origin))
        return found


def verify_signature(bundle: Bundle, claim: Claim, first_key: bytes, found: Findings) -> Signers | None:
    """Check the signature of the checkpoint under the first key, or one that a chain of rotations leads to.

    Rotations are read here before the entries are authenticated: each is signed by the key before it, which is all
    that this step needs.
    """
    chain, since = [first_key], [0]
    for rotation in _rotations(bundle, claim):
        try:
            signed.verify("rotation", rotation, signers={chain[-1].hex()}, where="checkpoint")
            chain.append(keys.check_public(bytes.fromhex(str(rotation["new_key"])), where="checkpoint"))
            since.append(int(str(rotation["seq"])))
        except VerificationError:
            break  # step 6 says what is wrong with this entry
    signers = Signers(claim.checkpoint.origin, tuple(chain), chain[-1], tuple(since))
    if not found.holds(CHECKPOINT, NO_ENTRY, signers.require_any, claim.note, where="checkpoint"):
        return None
    try:
        return replace(signers, signer=signers.require_any(claim.note, where="checkpoint"))
    except VerificationError:  # this step is left out
        return signers


def _rotations(bundle: Bundle, claim: Claim) -> list[dict[str, object]]:
    """Return the `rotation` of every `key` entry along the life chain, oldest first, as far as it can be read."""
    shipped = {tile.number: tile for tile in bundle.entry_tiles}
    split: dict[int, list[bytes]] = {}
    result: list[dict[str, object]] = []
    at = claim.checkpoint.size - 1
    try:
        while at >= 0:
            number = at // tiles.WIDTH
            if number in shipped:
                if number not in split:
                    tile = shipped[number]
                    split = {number: tiles.split_entries(bundle.read(tile.path), tile, where=tile.path)}
                data = split[number][at % tiles.WIDTH]
            else:
                data = bundle.read(entry.name(at))
            value = entry.decode(data, seq=at)
            if value["type"] == "key":
                result.append(value["rotation"])
            if value["life"] >= at:
                break
            at = value["life"]
    except (VerificationError, IndexError):
        pass  # steps 5 and 6 say what is wrong
    return result[::-1]


def read_tiles(bundle: Bundle, claim: Claim, found: Findings) -> Log | None:
    """Compute the root from the hash tiles and look which entries are shipped. None if the root is another."""
    size = claim.checkpoint.size
    if len(bundle.hash_tiles) < -(-size // tiles.WIDTH):  # before anything is built to a size that is only said
        found.fault(TILES, "tile.missing", "tile/0", found=len(bundle.hash_tiles), expected=-(-size // tiles.WIDTH))
        return None
    expected = tiles.tiles_of(0, size)
    if set(expected) - set(bundle.hash_tiles):
        found.fault(TILES, "tile.missing", "tile/0", found=len(set(expected) & set(bundle.hash_tiles)),
                    expected=len(expected))
        return None
    for tile in sorted(set(bundle.hash_tiles) - set(expected)):
        found.fault(TILES, "tile.unexpected", tile.path)
    tree = merkle.Tree()
    for tile in expected:
        data = found.get(TILES, NO_ENTRY, bundle.read, tile.path)
        hashes = None if data is None else found.get(TILES, NO_ENTRY, tiles.require_hashes, data, tile,
                                                     where=tile.path)
        if hashes is None:
            return None
        tree.extend(hashes)
    if tree.root() != claim.checkpoint.root and found.fault(TILES, "tile.root", "tile/0"):
        return None

    numbers = []
    for tile in bundle.entry_tiles:
        if tile.number * tiles.WIDTH >= size or tile != _entry_tile(tile.number, size):
            found.fault(TILES, "tile.unexpected", tile.path)
        else:
            numbers.append(tile.number)
    if not numbers:
        found.fault(TILES, "tile.no_entries", "tile/entries")
        return None
    for number in sorted(set(range(numbers[0], numbers[-1])) - set(numbers)):
        found.fault(TILES, "tile.gap", _entry_tile(number, size).path)
    log = Log(bundle, claim.gateway, claim.checkpoint, tree, numbers[0] * tiles.WIDTH,
              min((numbers[-1] + 1) * tiles.WIDTH, size), found)
    for seq in bundle.numbered["entry"]:
        if seq >= size:
            found.fault(TILES, "entry.beyond", entry.name(seq), seq=seq, size=size)
        elif log.first <= seq < log.end:
            found.fault(TILES, "entry.doubled", entry.name(seq), seq=seq)
        else:
            log.entry(seq)
    return log


def check_heads(log: Log, heads: Sequence[Head], found: Findings) -> tuple[Head, ...]:
    """Return the heads that are heads of this log; each other one is a fault."""
    return tuple(head for head in heads
                 if found.holds(TILES, NO_ENTRY, _check_head, log, head.size, head.root,
                                where=f"register/{head.index}.proof"))


def check_anchor(log: Log, anchor: bytes, policy: Policy, signers: Signers, found: Findings) -> None:
    """Compare the log with what the checker kept: a tlog-proof of a head, or a signed checkpoint of the gateway."""
    if anchor.startswith(proof.HEADER.encode()):
        known = found.get(TILES, NO_ENTRY, verify_anchor, anchor, policy, log.gateway)
    else:
        known = found.get(TILES, NO_ENTRY, _own_checkpoint, anchor, log, signers, where="anchor")
    if known is not None:
        found.holds(TILES, NO_ENTRY, _check_head, log, *known, where="anchor")


def check_forks(log: Log, forks: Sequence[tuple[int, tuple[str, ...]]], signers: Signers, found: Findings) -> None:
    """Say which pairs of checkpoints in the register prove two histories under one key. The co-signed one stands."""
    for index, texts in forks:
        where = f"register/{index}.proof"
        try:
            heads = {_own_checkpoint(text.encode(), log, signers, where=where) for text in texts}
        except VerificationError:
            heads = set()
        proven = len(heads) == 2 and len({size for size, _ in heads}) == 1
        found.remark(TILES, "register.fork" if proven else "register.fork_unproven", where)


def _own_checkpoint(data: bytes, log: Log, signers: Signers, *, where: str) -> tuple[int, bytes]:
    """Return (size, root) of a checkpoint that this gateway signed with any of its keys."""
    parsed = note.parse(data, where=where)
    checkpoint = parse_text(parsed.text, where=where)
    if checkpoint.origin != log.checkpoint.origin:
        raise VerificationError(Problem.of(where, "anchor.other", gateway=log.gateway))
    signers.require_any(parsed, where=where)
    return checkpoint.size, checkpoint.root


def _check_head(log: Log, size: int, root: bytes, *, where: str) -> None:
    if size > log.checkpoint.size:
        raise VerificationError(Problem.of(where, "head.truncated", size=log.checkpoint.size, known=size))
    if log.tree.root(size) != root:
        raise VerificationError(Problem.of(where, "head.differs", size=size))
