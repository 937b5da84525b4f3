"""A raw segment: what a gateway received in a run of windows, one Parquet file, promised by a `keep` entry.

It stays in the factory. Opened, it lets anybody compute the four columns and the sample totals of each of its windows
once more, under the sealing rule and the roster that the log names. Every row has a kind; fields that a kind does not
use are null.

    kind              slot    other fields
    window            -       count: rows `sample` of this window. One for each window, no hole between them
    sample            point   received_ns, source_ns, value, quality, and text where no float64 holds the value
    answered          device  received_ns: first answer, until_ns: last, count
    online, offline   device  received_ns, counted_s: start of the window it falls in, count: order of arrival
    discarded         -       text: reason, count: samples that a driver received and could not deliver
    value_before      point   value: the last usable one before the first window
    online_before     device  received_ns: its last birth, counted_s: the window of it, count: 1 online, 0 not
    connected_before  device  counted_s: a window that was open already, in which it had answered

`window_s` is the start of the window in which a sample was counted: one received before it came late. Of `online` and
`offline` it is the oldest window that was open when the event came. Rows of a row group are of no earlier window than
those of the group before, and sorted by kind, slot and time.
"""

from __future__ import annotations

from collections.abc import Mapping

FORMAT = "tallystick/raw/v1"
FORMAT_KEY = "tallystick"
"""Key of the file's metadata; its value is FORMAT."""

COLUMNS: Mapping[str, str] = {
    "window_s": "int64", "kind": "string", "slot": "int64", "received_ns": "int64", "source_ns": "int64",
    "value": "double", "quality": "uint8", "text": "string", "count": "int64", "until_ns": "int64",
    "counted_s": "int64",
}
"""Name -> Arrow type, in the order of the file."""

NEEDED: Mapping[str, tuple[str, ...]] = {
    "window": ("count",), "sample": ("slot", "received_ns", "source_ns", "value", "quality"),
    "answered": ("slot", "received_ns", "until_ns", "count"),
    "online": ("slot", "received_ns", "counted_s", "count"), "offline": ("slot", "received_ns", "counted_s", "count"),
    "discarded": ("text", "count"), "value_before": ("slot", "value"),
    "online_before": ("slot", "received_ns", "counted_s", "count"), "connected_before": ("slot", "counted_s"),
}
"""Kind -> fields that are not null in it."""

KINDS = tuple(NEEDED)

BYTES_MAX = 512 * 1024 * 1024
ROWS_MAX = 400_000_000
ROW_GROUPS_MAX = 20_000
GROUP_ROWS_MAX = 4_000_000
GROUP_BYTES_MAX = 512 * 1024 * 1024
WINDOW_ROWS_MAX = 40_000_000
"""Limits of one file, and of one row group and one window before they are unpacked: a reader holds both in memory."""

NS_PER_S = 1_000_000_000
HOUR_S = 3600
