"""The gateway's durable log: entries in append-only segments, and the signed checkpoint that says how many count.

    current                     which log is in force, and after a rollback which one it replaced
    log-<k>/checkpoint          signed note, replaced whole: what it covers is sealed, nothing else is
    log-<k>/entries/<first>     256 records each: length, CRC-32, entry
    log-<k>/roster/<seq>.jsonl  changed rows of a roster, all rows of the first
    register/<index>.proof      receipts of the platform
    stopped                     left by a clean stop

The order of durable steps, for one or more entries that are sealed together:

    1  roster rows, whole, synced
    2  entries appended, file and folder synced
    3  the signed checkpoint replaced, synced
    4  only then is anything of it in memory, and only from memory may a byte leave

A crash before 3 is done leaves bytes that no checkpoint covers: they are cut off at the next start and never signed,
because a process signs only what it counted itself. What a checkpoint covers and does not verify stops everything:
the files are left as they are.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.sealing.disk import Disk
from gateway.sealing.history import History, read_history
from protocols.errors import EvidenceError, Problem, VerificationError
from protocols.evidence import entry as entries_format
from protocols.evidence import note
from protocols.evidence.checkpoint import Checkpoint, parse_text
from protocols.evidence.merkle import EMPTY_ROOT, Tree, leaf_hash, node_hash
from protocols.evidence.tiles import ENTRY_BYTES_MAX, WIDTH

HEADER_BYTES = 8
FIRST_LOG = "log-0"
CURRENT = "current"
STOPPED = "stopped"

Signer = Callable[[int, bytes], bytes]
"""signer(size, root) returns the signed checkpoint note."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Which log is in force. After a rollback: the log it replaced, the last common size, and the size taken over."""

    log: str = FIRST_LOG
    before: str | None = None
    common: int = 0
    taken: int = 0


@dataclass(frozen=True, slots=True)
class _Pending:
    """An append whose effect on the disk is not known to be complete."""

    encoded: tuple[bytes, ...]
    values: tuple[Mapping[str, Any], ...]
    checkpoint: bytes


class Journal:
    """The log of one gateway on one disk. Reading is safe from any thread, writing is for one at a time."""

    def __init__(self, disk: Disk, *, where: str = "journal", writable: bool = True) -> None:
        """Lock and load the journal; cut off what no checkpoint covers.

        writable: False reads beside a gateway that runs, without a lock and without changing anything.

        Raises: EvidenceError `journal.locked`, or `journal.broken` when what a checkpoint covers does not verify:
        nothing on the disk is changed then.
        """
        self.disk = disk
        self.where = where
        self.checkpoint: bytes | None = None
        self.tree = Tree()
        self.history = History()
        self.branch = Branch()
        self._ends = array("Q")  # end of each entry's record in its segment
        self._pending: _Pending | None = None
        self._writable = writable
        if writable:
            disk.lock()
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Number of entries that are sealed."""
        return len(self._ends)

    def close(self) -> None:
        """Let another process in."""
        if self._writable:
            self.disk.unlock()

    # Reading

    def encoded(self, first: int, end: int) -> list[bytes]:
        """Return the bytes of entries [first, end). Raises EvidenceError if the disk gives others than were sealed."""
        if not 0 <= first <= end <= self.size:
            raise ValueError(f"entries {first}..{end} of a log of {self.size}")
        result: list[bytes] = []
        for base in range(first - first % WIDTH, end, WIDTH):
            low, high = max(first, base), min(end, base + WIDTH)
            offset = self._ends[low - 1] if low > base else 0
            data = self.disk.read(self._segment(base), offset, self._ends[high - 1] - offset) or b""
            records = _records(data)
            if len(records) != high - low:
                raise self._broken(f"segment {base} changed while running")
            for seq, record in enumerate(records, start=low):
                if leaf_hash(record) != self.tree.leaf(seq):
                    raise self._broken(f"entry {seq} changed while running")
            result += records
        return result

    def entry(self, seq: int) -> dict[str, Any]:
        """Return one entry as its object."""
        return entries_format.decode(self.encoded(seq, seq + 1)[0], seq=seq)

    def roster_rows(self, seq: int) -> bytes:
        """Return the rows that the roster entry at `seq` changed, as JSON lines. Raises EvidenceError."""
        rows = self.disk.read(self._roster(seq))
        if rows is None:
            raise self._broken(f"the rows of roster {seq} are missing")
        return rows

    def replaced_windows(self) -> list[tuple[dict[str, Any], tuple[str, str]]]:
        """Return the windows that the replaced branch sealed beyond the common size, each with its roster's roots.

        Empty if there is no replaced branch.
        """
        branch = self.branch
        if branch.before is None:
            return []
        found = self._read_log(branch.before)
        roots: dict[int, tuple[str, str]] = {}
        result = []
        for seq in range(branch.common, len(found)):
            value = entries_format.decode(found[seq], seq=seq)
            if value["type"] == "window":
                at = value["roster"]
                if at not in roots:
                    roster = entries_format.decode(found[at], seq=at)
                    roots[at] = roster["devices_root"], roster["points_root"]
                result.append((value, roots[at]))
        return result

    # Writing

    def append(self, values: Sequence[Mapping[str, Any]], signer: Signer,
               rosters: Mapping[int, bytes] | None = None) -> None:
        """Seal entries, all or none of them: see the order of durable steps above.

        Raises: OSError when the disk refuses; `settle` then tells, now or later, whether it took effect.
        VerificationError when an entry is not as its type says: nothing is written then.
        """
        encoded = tuple(entries_format.encode(value) for value in values)
        self.append_encoded(encoded, values, signer, rosters or {})

    def append_encoded(self, encoded: Sequence[bytes], values: Sequence[Mapping[str, Any]], signer: Signer,
                       rosters: Mapping[int, bytes]) -> None:
        """Seal entries whose bytes exist already (taken over from the platform)."""
        self.settle()
        size = self.size + len(encoded)
        checkpoint = signer(size, grown_root(self.tree, [leaf_hash(e) for e in encoded]))
        pending = _Pending(tuple(encoded), tuple(values), checkpoint)
        self._pending = pending
        for seq, rows in rosters.items():  # step 1
            self.disk.replace(self._roster(seq), rows)
        at = 0
        while at < len(encoded):  # step 2
            base = (self.size + at) // WIDTH * WIDTH
            part = encoded[at : at + base + WIDTH - (self.size + at)]
            self.disk.append(self._segment(base), b"".join(map(_record, part)))
            self.disk.sync(self._segment(base))
            at += len(part)
        self.disk.replace(self._checkpoint, checkpoint)  # step 3
        self._commit(pending)  # step 4

    def settle(self) -> bool:
        """Find out what became of an append that failed; True if it did take effect after all.

        Raises: OSError as long as the disk refuses.
        """
        if not self._writable:
            raise ValueError("this journal was opened to read only")
        pending = self._pending
        if pending is None:
            return False
        on_disk = self.disk.read(self._checkpoint)
        if on_disk == pending.checkpoint:
            # The name may not be durable yet although it can be read: write it once more before it counts.
            self.disk.replace(self._checkpoint, pending.checkpoint)
            self._commit(pending)
            return True
        if on_disk != self.checkpoint:
            raise self._broken("the checkpoint is none of those that were written")
        self._cut()
        self._pending = None
        return False

    def take_over(self, common: int, encoded: Sequence[bytes], rosters: Mapping[int, bytes], checkpoint: bytes) -> None:
        """Continue on the platform's history: the first `common` entries of this log, then `encoded`.

        The caller has verified all of it. The log that was in force stays on the disk as it is.
        """
        self.settle()
        name = f"log-{int(self.branch.log.removeprefix('log-')) + 1}"
        branch = Branch(name, self.branch.log, common, common + len(encoded))
        everything = self.encoded(0, common) + list(encoded)
        kept = {seq: self.roster_rows(seq) for seq in self._roster_seqs() if seq < common}
        for seq, rows in {**kept, **rosters}.items():
            self.disk.replace(f"{name}/roster/{seq}.jsonl", rows)
        for base in range(0, len(everything), WIDTH):
            segment = f"{name}/entries/{base:012d}"
            self.disk.replace(segment, b"".join(map(_record, everything[base : base + WIDTH])))
        self.disk.replace(f"{name}/checkpoint", checkpoint)
        self.disk.replace(CURRENT, _branch_bytes(branch))  # from here on the other log is in force
        self._load()

    # Inside

    @property
    def _checkpoint(self) -> str:
        return f"{self.branch.log}/checkpoint"

    def _segment(self, base: int) -> str:
        return f"{self.branch.log}/entries/{base:012d}"

    def _roster(self, seq: int) -> str:
        return f"{self.branch.log}/roster/{seq}.jsonl"

    def _roster_seqs(self) -> list[int]:
        return sorted(int(name.removesuffix(".jsonl")) for name in self.disk.names(f"{self.branch.log}/roster"))

    def _broken(self, reason: str) -> EvidenceError:
        return EvidenceError(Problem.of(self.where, "journal.broken", reason=reason))

    def _commit(self, pending: _Pending) -> None:
        base = self._ends[-1] if self.size % WIDTH else 0
        for encoded, value in zip(pending.encoded, pending.values, strict=True):
            if self.size % WIDTH == 0:
                base = 0
            base += HEADER_BYTES + len(encoded)
            self.tree.append(leaf_hash(encoded))
            self.history = self.history.after(value)
            self._ends.append(base)
        self.checkpoint = pending.checkpoint
        self._pending = None

    def _load(self) -> None:
        self._pending = None
        self.branch = self._read_branch()
        self.checkpoint = self.disk.read(self._checkpoint)
        head = self._read_head(self.checkpoint)
        self.tree, self._ends = Tree(), array("Q")
        spare = 0
        for name in self.disk.names(f"{self.branch.log}/entries"):
            if self.size >= head.size:
                spare += len(_records(self.disk.read(f"{self.branch.log}/entries/{name}") or b""))
                continue
            if name != f"{self.size:012d}":
                raise self._broken(f"segment {self.size} is missing")
            at = 0
            for record in _records(self.disk.read(self._segment(self.size)) or b""):
                if self.size == head.size:
                    spare += 1
                    continue
                at += HEADER_BYTES + len(record)
                self.tree.append(leaf_hash(record))
                self._ends.append(at)
            if self.size < head.size and self.size % WIDTH:
                raise self._broken(f"the checkpoint covers {head.size} entries, only {self.size} are whole")
        if self.size != head.size:
            raise self._broken(f"the checkpoint covers {head.size} entries, only {self.size} are whole")
        if head.size and self.tree.root() != head.root:
            raise self._broken("the entries do not give the root of the checkpoint")
        if self.checkpoint is None and spare > 1:
            # The first append is the enrolment alone: more than that without a checkpoint means that it was lost.
            raise self._broken(f"there are {spare} entries and no checkpoint")
        try:
            self.history = read_history(self.size, self.entry)
            self._check_signature(head)
        except VerificationError as error:
            raise self._broken(str(error)) from error
        if not self._writable:
            return
        self._cut()
        # What was read may be a rename that a crash can still undo, and from now on bytes may leave.
        self.disk.sync(CURRENT)
        if self.checkpoint is not None:
            self.disk.sync(self._checkpoint)

    def _read_log(self, log: str) -> list[bytes]:
        """Return every sealed entry of a branch that is not in force. Raises EvidenceError when it does not verify."""
        head = self._read_head(self.disk.read(f"{log}/checkpoint"))
        found: list[bytes] = []
        for name in self.disk.names(f"{log}/entries"):
            found += _records(self.disk.read(f"{log}/entries/{name}") or b"")
        del found[head.size:]
        if len(found) != head.size or grown_root(Tree(), [leaf_hash(e) for e in found]) != head.root:
            raise self._broken(f"{log} does not give the root of its checkpoint")
        return found

    def _read_branch(self) -> Branch:
        data = self.disk.read(CURRENT)
        if data is None:
            if self.disk.names(FIRST_LOG):
                raise self._broken(f"{CURRENT} is missing")
            if self._writable:
                self.disk.replace(CURRENT, _branch_bytes(Branch()))
            return Branch()
        try:
            branch = Branch(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise self._broken(f"{CURRENT} cannot be read") from error
        if _branch_bytes(branch) != data:
            raise self._broken(f"{CURRENT} cannot be read")
        return branch

    def _read_head(self, checkpoint: bytes | None) -> Checkpoint:
        if checkpoint is None:
            return Checkpoint("", 0, EMPTY_ROOT)
        try:
            head = parse_text(note.parse(checkpoint, where=self.where).text, where=self.where)
        except VerificationError as error:
            raise self._broken(str(error)) from error
        return head

    def _check_signature(self, head: Checkpoint) -> None:
        if self.checkpoint is None:
            return
        public = bytes.fromhex(self.history.key_at(head.size))
        key = note.VerifierKey(self.history.origin, note.ED25519, public)
        if head.origin != self.history.origin:
            raise self._broken("the checkpoint is of another log")
        note.require_signed(note.parse(self.checkpoint, where=self.where), key, where=self.where)

    def _cut(self) -> None:
        """Remove what no checkpoint covers."""
        for name in self.disk.names(f"{self.branch.log}/entries"):
            path, base = f"{self.branch.log}/entries/{name}", int(name)
            if base >= self.size:
                self.disk.remove(path)
            elif base + WIDTH > self.size and self.disk.size(path) != self._ends[-1]:
                self.disk.truncate(path, self._ends[-1])
        for seq in self._roster_seqs():
            if seq >= self.size:
                self.disk.remove(self._roster(seq))


def grown_root(tree: Tree, leaves: Sequence[bytes]) -> bytes:
    """Return the root of `tree` with `leaves` added; the tree is unchanged."""
    peaks: list[tuple[int, bytes]] = []  # (level, hash) of the complete subtrees from left to right
    at = 0
    for level in range(tree.size.bit_length() - 1, -1, -1):
        if tree.size >> level & 1:
            peaks.append((level, tree.subtree(level, at >> level)))
            at += 1 << level
    for leaf in leaves:
        peaks.append((0, leaf))
        while len(peaks) > 1 and peaks[-1][0] == peaks[-2][0]:
            (level, right), (_, left) = peaks.pop(), peaks.pop()
            peaks.append((level + 1, node_hash(left, right)))
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1][1]
    for _, left in reversed(peaks[:-1]):
        root = node_hash(left, root)
    return root


def _record(entry: bytes) -> bytes:
    length = len(entry).to_bytes(4, "big")
    return length + zlib.crc32(entry, zlib.crc32(length)).to_bytes(4, "big") + entry


def _records(data: bytes) -> list[bytes]:
    """Return the whole records from the beginning of a segment, up to the first that is cut or damaged."""
    result: list[bytes] = []
    at = 0
    while at + HEADER_BYTES <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        entry = data[at + HEADER_BYTES : at + HEADER_BYTES + length]
        if not 0 < length <= ENTRY_BYTES_MAX or len(entry) != length or \
                data[at + 4 : at + HEADER_BYTES] != zlib.crc32(entry, zlib.crc32(data[at : at + 4])).to_bytes(4, "big"):
            break
        result.append(entry)
        at += HEADER_BYTES + length
    return result


def _branch_bytes(branch: Branch) -> bytes:
    return json.dumps({"log": branch.log, "before": branch.before, "common": branch.common, "taken": branch.taken},
                      sort_keys=True).encode() + b"\n"
