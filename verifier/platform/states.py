"""What intake knows of a gateway, in memory and back from the store.

The states used last are kept while there is room; the others are rebuilt from what is stored. A state is taken out
before its successor is written and put back after, so that what is in memory is never another one than what is stored.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections import OrderedDict
from dataclasses import replace
from functools import lru_cache

from protocols.evidence import jcs
from verifier.platform import intake
from verifier.platform.intake import LogState
from verifier.platform.roster import Roster, apply_rows
from verifier.platform.store import Store

SLOTS_IN_MEMORY_MAX = 2_000_000
"""Devices and points of the states that are kept in memory."""
STATES_IN_MEMORY_MAX = 4_096
KEYS_KEPT_MAX = 16
"""The JSON of so many keys of one gateway is kept. Of more it is written each time: their holder decides how many."""
CERTIFICATE_BYTES_MAX = 65_535


class States:
    """The states used last, by gateway."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, LogState] = OrderedDict()
        self._slots = 0

    def __contains__(self, gateway: str) -> bool:
        return gateway in self._states

    def get(self, gateway: str) -> LogState | None:
        """Return the state of a gateway if it is here."""
        state = self._states.get(gateway)
        if state is not None:
            self._states.move_to_end(gateway)
        return state

    def peek(self, gateway: str) -> LogState | None:
        """Return the state of a gateway if it is here, without calling that a use."""
        return self._states.get(gateway)

    def put(self, state: LogState) -> None:
        """Keep a state; those that were not used for longest make room."""
        self.drop(state.gateway)
        self._states[state.gateway] = state
        self._slots += state.roster.slots
        while len(self._states) > STATES_IN_MEMORY_MAX or (
                len(self._states) > 1 and self._slots > SLOTS_IN_MEMORY_MAX):
            self._slots -= self._states.popitem(last=False)[1].roster.slots

    def drop(self, gateway: str) -> None:
        """Forget a state: it will be read from the store again."""
        state = self._states.pop(gateway, None)
        if state is not None:
            self._slots -= state.roster.slots


def dump(state: LogState) -> str:
    """Return what cannot be read back from the log in a moment; the rest is rebuilt by `load`."""
    numbers = {"life": state.life, "len_s": state.len_s, "roster_seq": state.roster_seq,
               "window_end_s": state.window_end_s, "resume_s": state.resume_s}
    members = [f'"{name}": {"null" if value is None else value}' for name, value in numbers.items()]
    history = (_kept_history if len(state.key_history) <= KEYS_KEPT_MAX else _history)(state.key_history)
    return f'{{"key_history": {history}, {", ".join(members)}}}'


def _history(keys: tuple[tuple[int, bytes], ...]) -> str:
    return json.dumps([[first, public.hex()] for first, public in keys])


_kept_history = lru_cache(maxsize=STATES_IN_MEMORY_MAX)(_history)


def load(store: Store, connection: sqlite3.Connection, gateway: str) -> LogState:
    """Rebuild a state from what is stored. Raises EvidenceError `log.broken` if it does not fit together."""
    row = connection.execute("SELECT * FROM gateways WHERE id = ?", (gateway,)).fetchone()
    state = intake.first_state(jcs.decode(row["certificate"].encode(), where="store",
                                          bytes_max=CERTIFICATE_BYTES_MAX))
    if row["size"] == 0:
        return state
    kept = json.loads(row["state"])
    edge = store.edge(connection, f"g/{gateway}", row["size"], row["root"])
    roster = Roster()
    for seq, rows in roster_rows(connection, gateway):
        roster = grown(roster, seq, rows)
    history = tuple((first, bytes.fromhex(public)) for first, public in kept.pop("key_history"))
    return replace(state, edge=edge, roster=roster, key_history=history, window_seq=row["window_seq"], **kept)


def roster_rows(connection: sqlite3.Connection, gateway: str) -> list[tuple[int, bytes]]:
    """Return the seq of each roster of a gateway, ascending, with the rows that it changed, compressed."""
    return [(row["seq"], bytes(row["rows"])) for row in connection.execute(
        "SELECT seq, rows FROM rosters WHERE gateway = ? ORDER BY seq", (gateway,))]


def grown(roster: Roster, seq: int, rows: bytes) -> Roster:
    """Return a roster with stored rows applied."""
    return apply_rows(roster, zlib.decompress(rows).decode(), where=f"roster/{seq}")[0]
