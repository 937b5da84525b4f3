"""Chunks as tables, tables as one Parquet file. The only place of the gateway that imports pyarrow; all of it is pure.

A window is packed into frames (Arrow IPC, zstd) that a journal can take one after the other; a segment is then made
from its frames, a bounded number of rows at a time. What the rows mean is told in protocols/evidence/raw.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gateway.counting.window import Before
from gateway.keeping.spool import Chunk, Piece
from protocols.errors import Problem, VerificationError
from protocols.evidence.raw import COLUMNS, FORMAT, FORMAT_KEY, GROUP_ROWS_MAX
from protocols.samples import PollBatch

SCHEMA = pa.schema([(name, getattr(pa, {"double": "float64"}.get(kind, kind))()) for name, kind in COLUMNS.items()])
FRAME = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1), use_threads=False)
GROUP_ROWS = GROUP_ROWS_MAX // 4
TEXT_CHARS_MAX = 4096
"""A longer text is cut: its fingerprint in `value` is what counts."""


def pack_samples(start_s: int, pieces: Sequence[Piece]) -> bytes:
    """Return one frame with the samples of a window."""
    columns: dict[str, list[Any]] = {name: [] for name in ("slot", "received_ns", "source_ns", "value", "quality")}
    texts: list[tuple[int, str]] = []
    at = 0
    for batch, mask in pieces:
        plain = batch.samples() if isinstance(batch, PollBatch) else batch
        rows = slice(None) if mask is None else mask
        for name, column in (("slot", plain.point_index), ("received_ns", plain.received_ns),
                             ("source_ns", plain.source_ns), ("value", plain.value), ("quality", plain.quality)):
            columns[name].append(column[rows])
        if plain.texts:
            place = np.arange(plain.point_index.size) if mask is None else np.cumsum(mask) - 1
            texts += [(at + int(place[row]), text) for row, text in plain.texts if mask is None or mask[row]]
        at += columns["slot"][-1].size
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    order = np.lexsort((arrays["source_ns"], arrays["received_ns"], arrays["slot"]))
    fields: dict[str, Any] = {name: array[order] for name, array in arrays.items()}
    if texts:
        whole = np.full(at, None, dtype=object)
        for row, text in texts:
            whole[row] = text[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode()
        fields["text"] = whole[order]
    return _frame(_table(start_s, "sample", at, fields))


def pack_rest(chunk: Chunk, samples: int, *, state: bool) -> bytes:
    """Return the last frame of a window: all that is no sample. state: with what was known before it."""
    start_s = chunk.start_s
    answers = sorted(chunk.answers.items())
    tables = [_table(start_s, "window", 1, {"count": [samples]}), _table(start_s, "answered", len(answers), {
        "slot": [device for device, _ in answers], "count": [a[0] for _, a in answers],
        "received_ns": [a[1] for _, a in answers], "until_ns": [a[2] for _, a in answers]})]
    for number, event in enumerate(chunk.events):
        n = event.devices.size
        tables.append(_table(start_s, event.kind, n, {
            "slot": event.devices, "received_ns": np.full(n, event.received_ns, dtype=np.int64),
            "counted_s": np.full(n, event.index * chunk.len_s, dtype=np.int64),
            "count": np.full(n, number, dtype=np.int64)}))
    tables.append(_table(start_s, "discarded", len(chunk.discarded), {
        "text": list(chunk.discarded), "count": list(chunk.discarded.values())}))
    if state and chunk.before is not None:
        tables += _state(start_s, chunk.len_s, chunk.before)
    return _frame(pa.concat_tables(tables))


def _state(start_s: int, len_s: int, before: Before) -> list[pa.Table]:
    points = np.flatnonzero(before.carry.known)
    born = np.flatnonzero(before.online | (before.online_at > 0))
    tables = [
        _table(start_s, "value_before", points.size, {
            "slot": points, "value": np.ascontiguousarray(before.carry.bits[points]).view(np.float64)}),
        _table(start_s, "online_before", born.size, {
            "slot": born, "received_ns": before.online_at[born], "counted_s": before.online_from[born] * len_s,
            "count": before.online[born].astype(np.int64)})]
    for index, connected in sorted(before.connected.items()):
        devices = np.flatnonzero(connected)
        tables.append(_table(start_s, "connected_before", devices.size, {
            "slot": devices, "counted_s": np.full(devices.size, index * len_s, dtype=np.int64)}))
    return tables


def write_segment(frames: Iterable[bytes]) -> bytes:
    """Return the Parquet file of some windows, given as their frames in order.

    Row groups hold about GROUP_ROWS rows, so that neither this nor a reader must hold an hour in memory.
    """
    sink = pa.BufferOutputStream()
    plain = ["window_s", "slot", "received_ns", "source_ns", "until_ns", "counted_s", "count"]
    writer = pq.ParquetWriter(
        sink, SCHEMA.with_metadata({FORMAT_KEY: FORMAT}), compression="zstd", use_dictionary=["kind", "text", "value"],
        column_encoding=dict.fromkeys(plain, "DELTA_BINARY_PACKED"), write_statistics=False, store_schema=False)
    with writer:
        waiting: list[pa.Table] = []
        for frame in frames:
            with pa.ipc.open_stream(frame) as reader:
                waiting.append(reader.read_all())
            if sum(table.num_rows for table in waiting) >= GROUP_ROWS:
                _write_group(writer, waiting)
                waiting = []
        if waiting:
            _write_group(writer, waiting)
    return bytes(sink.getvalue())


def windows_of(data: bytes) -> list[int]:
    """Return the starts of a file's windows, in order. Raises VerificationError `keep.broken` for no file of ours."""
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            rows = [file.read_row_group(number, columns=["window_s", "kind"]) for number in
                    range(file.metadata.num_row_groups)]
        table = pa.concat_tables(rows)
        starts: list[int] = table.filter(pc.equal(table["kind"], "window"))["window_s"].to_pylist()
        if not starts:
            raise ValueError("no window")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise VerificationError(Problem.of("raw", "keep.broken", reason=type(error).__name__)) from error
    return sorted(starts)


def _write_group(writer: pq.ParquetWriter, tables: list[pa.Table]) -> None:
    table = pa.concat_tables(tables)
    order = [(name, "ascending") for name in ("kind", "slot", "received_ns", "source_ns", "count")]
    writer.write_table(table.sort_by(order), row_group_size=max(1, table.num_rows))


def _table(start_s: int, kind: str, rows: int, fields: dict[str, Any]) -> pa.Table:
    columns = {"window_s": np.full(rows, start_s, dtype=np.int64), "kind": pa.repeat(kind, rows), **fields}
    return pa.table([_array(columns.get(field.name), field.type, rows) for field in SCHEMA], schema=SCHEMA)


def _array(values: Any, kind: pa.DataType, rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(rows, kind)
    # from_pandas stays off: a NaN is a value here, and no null
    return values if isinstance(values, pa.Array) else pa.array(values, type=kind, from_pandas=False)


def _frame(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=FRAME) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


