"""RFC 6962 Merkle trees: roots, proofs, and their verification. Section 2.1; the same in RFC 9162.

Published vectors: transparency-dev/merkle, 98 inclusion and 98 consistency cases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from protocols.errors import Problem, VerificationError

HASH_BYTES = 32
PROOF_HASHES_MAX = 63
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def verify_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes, where: str) -> None:
    """Check that the leaf hash `leaf` stands at `index` of the tree of `size` leaves with `root`.

    `size` and `root` must come from a checkpoint that was verified, never from the proof: the same hashes prove
    other indexes in trees of other sizes. Raises: VerificationError `merkle.inclusion`.
    """
    if not 0 <= index < size or len(leaf) != HASH_BYTES or not {HASH_BYTES}.issuperset(map(len, proof)):
        raise VerificationError(Problem.of(where, "merkle.inclusion", reason="index, size or a hash is out of range"))
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    if len(proof) != inner + border:
        raise VerificationError(Problem.of(where, "merkle.inclusion",
                                           reason=f"{len(proof)} hashes instead of {inner + border}"))
    if _climb(leaf, index, inner, proof) != root:
        raise VerificationError(Problem.of(where, "merkle.inclusion", reason="the root differs"))


def verify_consistency(*, old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes,
                       where: str) -> None:
    """Check that the tree of `new_size` begins with the tree of `old_size`.

    A proof from size 0 is an error here; the witness protocol, which allows it, decides that by itself.
    Raises: VerificationError `merkle.consistency`.
    """
    def refuse(reason: str) -> VerificationError:
        return VerificationError(Problem.of(where, "merkle.consistency", reason=reason))

    if not 0 < old_size <= new_size or any(len(h) != HASH_BYTES for h in proof):
        raise refuse("a size or a hash is out of range")
    if old_size == new_size:
        if proof:
            raise refuse("the sizes are equal, yet there is a proof")
        if old_root != new_root:
            raise refuse("same size with another root")
        return
    # Walk from the last leaf of the old tree; `shift` skips the levels below its largest complete right edge.
    shift = ((old_size & -old_size).bit_length()) - 1
    inner = ((old_size - 1) ^ (new_size - 1)).bit_length() - shift
    border = ((old_size - 1) >> (inner + shift)).bit_count()
    start = 0 if old_size == 1 << shift else 1
    if len(proof) != start + inner + border:
        raise refuse(f"{len(proof)} hashes instead of {start + inner + border}")
    seed = old_root if start == 0 else proof[0]
    rest = proof[start:]
    mask = (old_size - 1) >> shift
    rebuilt_old = seed
    for level, sibling in enumerate(rest[:inner]):
        if mask >> level & 1:
            rebuilt_old = node_hash(sibling, rebuilt_old)
    for sibling in rest[inner:]:
        rebuilt_old = node_hash(sibling, rebuilt_old)
    if rebuilt_old != old_root:
        raise refuse("the old root differs")
    if _climb(seed, mask, inner, rest) != new_root:
        raise refuse("the new root differs")


def _climb(start: bytes, index: int, inner: int, proof: Sequence[bytes]) -> bytes:
    """Fold a proof: left or right by the bits of `index` for `inner` levels, then always from the left."""
    result = start
    for level, sibling in enumerate(proof[:inner]):
        result = node_hash(sibling, result) if index >> level & 1 else node_hash(result, sibling)
    for sibling in proof[inner:]:
        result = node_hash(sibling, result)
    return result


class Tree:
    """A Merkle tree that grows at its right edge and remembers the hash of every complete subtree.

    Level k holds, packed, the hashes of the complete subtrees of 2^k leaves: 64 bytes a leaf in all.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[bytearray] = [bytearray()]
        self.extend(b"".join(leaves))

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash (32 bytes)."""
        levels, level, node, index = self._levels, 0, leaf, self.size
        levels[0] += leaf
        while index & 1:
            left = bytes(levels[level][-2 * HASH_BYTES : -HASH_BYTES])
            node = node_hash(left, node)
            level, index = level + 1, index >> 1
            if level == len(levels):
                levels.append(bytearray())
            levels[level] += node

    def extend(self, leaves: bytes) -> None:
        """Add leaf hashes, packed, 32 bytes each: the same tree as `append` makes, level by level."""
        sha256, below, level = hashlib.sha256, self._levels[0], 1
        below += leaves
        while (pairs := len(below) // (2 * HASH_BYTES)) > 0:
            if level == len(self._levels):
                self._levels.append(bytearray())
            above = self._levels[level]
            new = bytes(below[2 * len(above) : 2 * HASH_BYTES * pairs])
            above += b"".join([sha256(b"\x01" + new[i : i + 2 * HASH_BYTES]).digest()
                               for i in range(0, len(new), 2 * HASH_BYTES)])
            below, level = above, level + 1

    def leaf(self, index: int) -> bytes:
        """Return the leaf hash at `index`."""
        return self._node(0, index)

    def leaves(self, low: int, high: int) -> bytes:
        """Return the leaf hashes at [low, high), packed."""
        return bytes(self._levels[0][low * HASH_BYTES : high * HASH_BYTES])

    def subtree(self, level: int, index: int) -> bytes:
        """Return the hash of the complete subtree `index` of 2^level leaves. Raises ValueError if it is not there."""
        node = self._node(level, index) if 0 <= level < len(self._levels) else b""
        if len(node) != HASH_BYTES:
            raise ValueError(f"no complete subtree {index} of 2^{level} leaves in a tree of {self.size}")
        return node

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first `size` leaves (all by default). Raises ValueError beyond the tree."""
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise ValueError(f"size {size} of a tree of {self.size}")
        # From the right: each bit of the size is a complete subtree, left of all that was joined before.
        root, rest, level = b"", size, 0
        while rest:
            if rest & 1:
                left = bytes(self._levels[level][(rest - 1) * HASH_BYTES : rest * HASH_BYTES])
                root = node_hash(left, root) if root else left
            rest, level = rest >> 1, level + 1
        return root or EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the inclusion proof of leaf `index` in the first `size` leaves."""
        if not 0 <= index < size <= self.size:
            raise ValueError(f"index {index}, size {size} of a tree of {self.size}")
        proof: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                proof.append(self._range(middle, high))
                high = middle
            else:
                proof.append(self._range(low, middle))
                low = middle
        return proof[::-1]

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Return the consistency proof between two sizes, 0 < old <= new."""
        if not 0 < old_size <= new_size <= self.size:
            raise ValueError(f"sizes {old_size}, {new_size} of a tree of {self.size}")
        proof: list[bytes] = []
        low, high, complete = 0, new_size, True
        while old_size - low != high - low:
            middle = low + _split(high - low)
            if old_size <= middle:
                proof.append(self._range(middle, high))
                high = middle
            else:
                proof.append(self._range(low, middle))
                low, complete = middle, False
        if not complete:
            proof.append(self._range(low, high))
        return proof[::-1]

    def _node(self, level: int, index: int) -> bytes:
        return bytes(self._levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES])

    def _range(self, low: int, high: int) -> bytes:
        """Return the hash over leaves [low, high); low is a multiple of the power of two that covers the range."""
        count = high - low
        if count & (count - 1) == 0:
            level = count.bit_length() - 1
            return self._node(level, low >> level)
        middle = low + _split(count)
        return node_hash(self._range(low, middle), self._range(middle, high))


def _split(count: int) -> int:
    """Return the largest power of two strictly below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def root_of(entries: Iterable[bytes]) -> bytes:
    """Return the root over whole entries (not hashes)."""
    return Tree(leaf_hash(entry) for entry in entries).root()
