"""The columns and totals of windows once more, from what the gateway received: protocols/evidence/raw.py.

Written from the rules of the counting page, not from the gateway's kernel. Samples are sorted in columns; the rules
themselves are plain loops. A file comes from the claimant: what it says of its size is checked before it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocols.errors import Problem, VerificationError
from protocols.evidence import raw
from protocols.evidence.raw import NS_PER_S
from protocols.terms.vocabulary import USABLE_QUALITIES
from verifier.proof.kept import Counted, Terms, TermsOf
from verifier.proof.recount import mask

NOT_LIVE = 0x80
NO_SOURCE_TIME = 0
WINDOWS_MAX = 4_000
"""Windows of one file: an hour of one-second windows, and some."""

LOOP_ROWS = 65_536
DISCARDED_ROWS_MAX = 10_000
"""Rows `discarded` of one window: a reason each, and a file may tell it in pieces."""

TEXT_BYTES_MAX = 16_384
DICTIONARY_BYTES_MAX = 64 * 1024 * 1024
_TEXTS = ("kind", "text")
"""Columns that stay dictionaries: one long text in a million rows would fill the memory if it were written out."""

THRIFT_BYTES_MAX = 64 * 1024 * 1024


@dataclass(slots=True)
class _State:
    """What passes from window to window.

    values: point -> bit pattern of the last usable value. online: device -> (window of its birth, whether it still
    is). birth_ns: device -> newest birth. connected: start of a window that is open -> devices.
    """

    values: dict[int, int] = field(default_factory=dict)
    online: dict[int, tuple[int, bool]] = field(default_factory=dict)
    birth_ns: dict[int, int] = field(default_factory=dict)
    connected: dict[int, set[int]] = field(default_factory=dict)


def recount(path: Path, size: int, terms_of: TermsOf, where: str) -> Iterator[Counted]:
    """Count every window of a segment, in order.

    Args:
        size: bytes that the `keep` entry names. terms_of: start of a window -> its terms, None if nothing is known
            of it: then it and all that follow are left out, because `changing` needs the windows before.
    Raises: VerificationError `raw.*` for a file that is no segment; ImportError without pyarrow.
    """
    state = _State()
    expected: int | None = None
    for start_s, rows in _windows(path, size, where):
        terms = terms_of(start_s)
        if terms is None:
            return
        if expected is not None and start_s != expected:
            raise VerificationError(Problem.of(where, "raw.hole", start=start_s, expected=expected))
        expected = start_s + terms.len_s
        yield _count(start_s, rows, terms, state, where)


def _count(start_s: int, rows: Any, terms: Terms, state: _State, where: str) -> Counted:
    result = Counted(start_s=start_s)
    kinds = _by_kind(rows)
    for slot, value in _pairs(kinds, "value_before", "slot", "value"):
        state.values[slot] = value
    for slot, at, since, count in _pairs(kinds, "online_before", "slot", "received_ns", "counted_s", "count"):
        state.online[slot] = since, count == 1
        state.birth_ns[slot] = at
    for slot, window_s in _pairs(kinds, "connected_before", "slot", "counted_s"):
        state.connected.setdefault(window_s, set()).add(slot)

    samples = kinds.get("sample")
    told = sum(count for (count,) in _pairs(kinds, "window", "count"))
    if told != (0 if samples is None else samples.num_rows):
        raise VerificationError(Problem.of(where, "raw.samples", start=start_s, told=told))
    producing = set() if samples is None else _samples(samples, terms, state, result)
    if "discarded" in kinds and kinds["discarded"].num_rows > DISCARDED_ROWS_MAX:
        raise VerificationError(Problem.of(where, "raw.too_large", start=start_s, limit=DISCARDED_ROWS_MAX))
    for reason, count in _pairs(kinds, "discarded", "text", "count"):
        if reason not in result.discarded or count < 0:
            raise VerificationError(Problem.of(where, "raw.reason", start=start_s, reason=reason[:80]))
        result.discarded[reason] += count
        result.received += count

    connected = state.connected.setdefault(start_s, set())
    connected |= {slot for (slot,) in _pairs(kinds, "answered", "slot")}
    _events(start_s, kinds, terms, state)
    connected |= {slot for slot, (since_s, still) in state.online.items() if still and since_s <= start_s}
    connected |= {terms.owner[point] for point in producing}
    slots = terms.devices.bit_length()
    result.connected = mask(slot for slot in connected if 0 <= slot < slots) & terms.devices
    for old in [window_s for window_s in state.connected if window_s <= start_s]:
        del state.connected[old]
    return result


def _samples(samples: Any, terms: Terms, state: _State, result: Counted) -> set[int]:
    """Count the samples of a window; each has the first reason that fits, or none. Return who was producing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    alive = pa.array(terms.points, type=pa.int64())
    good = pa.array([USABLE_QUALITIES.index(name) for name in terms.usable], type=pa.uint8())
    start_ns = result.start_s * NS_PER_S

    def sift(table: Any, keep: Any, reason: str) -> Any:
        kept = table.filter(keep)
        result.discarded[reason] += table.num_rows - kept.num_rows
        return kept

    result.received += samples.num_rows
    known = sift(samples, pc.is_in(samples["slot"], value_set=alive), "unknown_point")
    live = sift(known, pc.less(known["quality"], NOT_LIVE), "not_live")
    timely = sift(live, pc.greater_equal(live["received_ns"], start_ns), "late")
    result.sampled = mask(pc.unique(timely["slot"]).to_pylist())
    usable = sift(timely, pc.is_in(timely["quality"], value_set=good), "bad_quality")
    oldest = pc.subtract(usable["received_ns"], terms.max_source_age_s * NS_PER_S)
    fresh = pc.or_(pc.equal(usable["source_ns"], NO_SOURCE_TIME), pc.greater_equal(usable["source_ns"], oldest))
    counted = sift(usable, fresh, "stale")
    result.counted += counted.num_rows

    plain = pc.add(counted["value"], 0.0)  # -0.0 is 0.0
    plain = pc.if_else(pc.is_nan(plain), float("nan"), plain)  # every NaN is one
    bits = pa.chunked_array(plain).combine_chunks().view(pa.int64()) if counted.num_rows else pa.array([], pa.int64())
    ordered = pa.table({"slot": counted["slot"], "received_ns": counted["received_ns"],
                        "source_ns": counted["source_ns"], "bits": bits}).sort_by(
        [(name, "ascending") for name in ("slot", "received_ns", "source_ns", "bits")])
    producing: set[int] = set()
    changing: set[int] = set()
    for part in ordered.to_batches(max_chunksize=LOOP_ROWS):
        for slot, value in zip(part["slot"].to_pylist(), part["bits"].to_pylist(), strict=True):
            producing.add(slot)
            if state.values.setdefault(slot, value) != value:
                changing.add(slot)
                state.values[slot] = value
    result.producing, result.changing = mask(producing), mask(changing)
    return producing


def _events(start_s: int, kinds: dict[str, Any], terms: Terms, state: _State) -> None:
    """Births and deaths, in the order in which they came while this was the oldest open window."""
    events = [(count, kind, slot, at, falls_s) for kind in ("online", "offline") for slot, at, falls_s, count in
              _pairs(kinds, kind, "slot", "received_ns", "counted_s", "count")]
    for _, kind, slot, at, falls_s in sorted(events, key=lambda event: event[0]):
        since_s, still = state.online.get(slot, (0, False))
        if kind == "online":
            state.online[slot] = (since_s if still else falls_s), True
            state.birth_ns[slot] = max(state.birth_ns.get(slot, 0), at)
            if falls_s >= start_s:
                state.connected.setdefault(falls_s, set()).add(slot)
        elif still and state.birth_ns.get(slot, 0) <= at:  # a death older than the last birth is passed over
            for window_s in range(start_s, min(falls_s, start_s + raw.HOUR_S) + 1, terms.len_s):
                if since_s <= window_s:
                    state.connected.setdefault(window_s, set()).add(slot)
            state.online[slot] = since_s, False


def _by_kind(rows: Any) -> dict[str, Any]:
    import pyarrow.compute as pc

    return {kind: rows.filter(pc.equal(rows["kind"], kind)) for kind in pc.unique(rows["kind"]).to_pylist()}


def _pairs(kinds: dict[str, Any], kind: str, *names: str) -> Iterator[tuple[Any, ...]]:
    import pyarrow as pa

    table = kinds.get(kind)
    if table is None:
        return
    columns = [table[name].combine_chunks().view(pa.int64()) if name == "value" else table[name] for name in names]
    yield from zip(*(column.to_pylist() for column in columns), strict=True)


def _windows(path: Path, size: int, where: str) -> Iterator[tuple[int, Any]]:
    """Yield (start, rows) of each window, in order; one row group is in memory at a time, and one window."""
    import pyarrow as pa
    import pyarrow.compute as pc

    held: dict[int, list[Any]] = {}
    last: int | None = None
    total = 0
    for group in groups(path, size, where):
        starts = sorted(pc.unique(group["window_s"]).to_pylist())
        if last is not None and starts and starts[0] < last:
            raise VerificationError(Problem.of(where, "raw.order", start=starts[0]))
        for done in [s for s in sorted(held) if starts and s < starts[0]]:
            yield done, pa.concat_tables(held.pop(done))
        for start_s in starts:
            total += start_s not in held
            if total > WINDOWS_MAX:
                raise VerificationError(Problem.of(where, "raw.too_many_windows", limit=WINDOWS_MAX))
            held.setdefault(start_s, []).append(group.filter(pc.equal(group["window_s"], start_s)))
            if sum(part.num_rows for part in held[start_s]) > raw.WINDOW_ROWS_MAX:
                raise VerificationError(Problem.of(where, "raw.too_large", start=start_s, limit=raw.WINDOW_ROWS_MAX))
        last = starts[-1] if starts else last
    for start_s in sorted(held):
        yield start_s, pa.concat_tables(held.pop(start_s))


def groups(path: Path, size: int, where: str) -> Iterator[Any]:
    """Yield row groups as tables, each without a null where its kind needs a value. Limits first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if size > raw.BYTES_MAX or path.stat().st_size != size:
        raise VerificationError(Problem.of(where, "raw.size", size=path.stat().st_size, expected=size,
                                           limit=raw.BYTES_MAX))
    try:
        with pq.ParquetFile(path, read_dictionary=list(_TEXTS), thrift_string_size_limit=THRIFT_BYTES_MAX,
                            thrift_container_size_limit=raw.ROW_GROUPS_MAX * 2 * len(raw.COLUMNS)) as file:
            _check_limits(file, where)
            for number in range(file.metadata.num_row_groups):
                group = file.read_row_group(number, use_threads=False)
                group.validate(full=True)
                yield _checked(group, where)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise VerificationError(Problem.of(where, "raw.unreadable", reason=type(error).__name__)) from error


def _check_limits(file: Any, where: str) -> None:
    found = [(field.name, str(field.type.value_type if field.name in _TEXTS else field.type))
             for field in file.schema_arrow if field.name not in _TEXTS or hasattr(field.type, "value_type")]
    if found != list(raw.COLUMNS.items()):
        raise VerificationError(Problem.of(where, "raw.columns"))
    metadata = file.metadata
    if metadata.num_rows > raw.ROWS_MAX or metadata.num_row_groups > raw.ROW_GROUPS_MAX:
        raise VerificationError(Problem.of(where, "raw.too_large", start="-", limit=raw.ROWS_MAX))
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if not 0 <= group.num_rows <= raw.GROUP_ROWS_MAX or group.total_byte_size > raw.GROUP_BYTES_MAX:
            raise VerificationError(Problem.of(where, "raw.too_large", start="-", limit=raw.GROUP_ROWS_MAX))


def _checked(group: Any, where: str) -> Any:
    """Return a row group whose kinds are text, and that has no null where its kind needs a value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in _TEXTS:
        for chunk in group[name].chunks:
            longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
            if chunk.dictionary.nbytes > DICTIONARY_BYTES_MAX or longest > TEXT_BYTES_MAX or (
                    name == "kind" and not set(chunk.dictionary.to_pylist()) <= set(raw.KINDS)):
                raise VerificationError(Problem.of(where, "raw.columns"))
    if group["kind"].null_count or group["window_s"].null_count:
        raise VerificationError(Problem.of(where, "raw.columns"))
    group = group.set_column(group.schema.get_field_index("kind"), "kind", group["kind"].cast(pa.string()))
    for kind, rows in _by_kind(group).items():
        if any(rows[name].null_count for name in raw.NEEDED[kind]):
            raise VerificationError(Problem.of(where, "raw.columns"))
    return group
