"""The reads of one poll as one piece of work: frames made once, replies compared with nine bytes known in advance.

    request     | tid hi lo | 0 0 | 0 6     | unit | function | address hi lo | count hi lo |
    good reply  | tid hi lo | 0 0 | 0 3 + n | unit | function | n |  n bytes of data        |
                 `------------- nine bytes that are known ---------'

A reply whose nine bytes and length are as known needs no more parsing. Everything else, an exception reply, a part of a
reply, a mismatch, is left to `frames.match`, the same judge that single requests have. Modbus TCP only: RTU frames
carry no transaction id. Pure; no sockets, no clock.

With more than one request in flight, replies come in the order of the requests, as one connection of one device gives
them; another order is a mismatch. A reply is confirmed by what follows it, the end of what arrived or a good head:
bytes that belong to nobody show that a frame was cut, and the reply before them is not taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protocols.modbus import frames
from protocols.modbus.plan import Request

REQUEST_SIZE = 12
HEAD_SIZE = 9
TRANSACTION_MAX = 0xFFFF
FEW = 8
"""Below so many reads it takes less time to number one by one than all at once."""

REQUESTS_MAX = 0x4000
"""Far fewer than there are transaction ids: no number comes again while a late answer to it may be on its way."""


class Cycle:
    """Some reads in a row, asked and answered any number of times: `begin`, `number`, then frames out and bytes in.

    devices: slots of the devices that are asked. confirmed: how many are answered for certain. has_exception: whether
    an exception reply came since the last frames.

    replies: data bytes of each good reply, an exception code (int) for an exception reply; as many as are confirmed.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        """Make the frames. Raises ValueError for no or too many reads, or one that is no read."""
        if not 0 < len(requests) <= REQUESTS_MAX:
            raise ValueError(f"{len(requests)} reads in one cycle, 1 to {REQUESTS_MAX} are possible")
        self.requests = tuple(requests)
        asked = [_request(request) for request in requests]
        if not all(frames.is_read_only(frames.pdu_of(frame, is_rtu=False)) for frame in asked):
            raise ValueError("a request that is no read")
        self._asked = _bytes(asked)
        self._heads = _bytes([_head(request) for request in requests])
        self._unnumbered = [frame[2:] for frame in asked]
        self._tails = [_head(request)[2:] for request in requests]
        self._steps = np.arange(len(requests), dtype=np.int64)
        self.devices = list(dict.fromkeys(request.device_index for request in requests))
        self._sizes = [HEAD_SIZE + r.data_size for r in requests]
        self._first = 0
        self._frames = b""
        self._wanted: list[bytes] = []
        self._rest = b""
        self._found: list[bytes | int] = []
        self._sent = 0
        self.confirmed = 0
        self.has_exception = False

    @property
    def size(self) -> int:
        """How many reads there are."""
        return len(self.requests)

    @property
    def is_numbered(self) -> bool:
        """Whether its requests have their transaction ids."""
        return bool(self._frames)

    @property
    def replies(self) -> Sequence[bytes | int]:
        """What the reads were answered with, as far as it is confirmed."""
        return self._found[:self.confirmed]

    @property
    def outstanding(self) -> int:
        """Requests that were sent and are not answered."""
        return self._sent - len(self._found)

    @property
    def is_done(self) -> bool:
        """Whether every read is answered."""
        return self.confirmed == len(self.requests)

    def begin(self) -> None:
        """Forget the last time it was asked; `number` comes next."""
        self._frames = self._rest = b""
        self._found = []
        self._sent = self.confirmed = 0

    def number(self, first: int) -> int:
        """Get ready to be asked, with transaction ids from `first` on, 1 to TRANSACTION_MAX. Return the last one."""
        if len(self.requests) < FEW:
            few = [((first - 1 + step) % TRANSACTION_MAX + 1).to_bytes(2, "big") for step in range(len(self.requests))]
            self._frames = b"".join([number + frame for number, frame in zip(few, self._unnumbered, strict=True)])
            self._wanted = [number + head for number, head in zip(few, self._tails, strict=True)]
            return int.from_bytes(few[-1], "big")
        ids = self._steps + first
        if ids[-1] > TRANSACTION_MAX:
            ids[ids > TRANSACTION_MAX] -= TRANSACTION_MAX
        self._asked[:, :2] = self._heads[:, :2] = ids.astype(">u2").view(np.uint8).reshape(-1, 2)
        self._frames = self._asked.tobytes()
        heads = self._heads.tobytes()
        self._wanted = [heads[at:at + HEAD_SIZE] for at in range(0, len(heads), HEAD_SIZE)]
        return int(ids[-1])

    def next_frames(self, in_flight: int) -> bytes:
        """Return the next requests to send, so that `in_flight` are outstanding; empty if none is left."""
        sent = self._sent
        self._sent = end = min(len(self._found) + in_flight, len(self.requests))
        self.has_exception = False
        return self._frames[REQUEST_SIZE * sent:REQUEST_SIZE * end]

    def received(self, data: bytes) -> frames.Mismatch | None:
        """Take bytes that arrived. Return what is wrong with them; then nothing that follows can be trusted."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        wanted, sizes, found, sent = self._wanted, self._sizes, self._found, self._sent
        at, i, arrived = 0, len(found), len(data)
        while at < arrived:
            if i >= sent:
                self._take_back(at)
                return frames.Mismatch("surplus")
            end = at + sizes[i]
            if end <= arrived and data.startswith(wanted[i], at):
                found.append(data[at + HEAD_SIZE:end])
            else:
                reply = self._unusual(i, data, at)
                if isinstance(reply, frames.Mismatch):
                    self._take_back(at)
                    return reply
                if reply is None:
                    self._rest = data[at:]
                    self.confirmed = max(self.confirmed, i if arrived - at >= HEAD_SIZE else i - 1)
                    return None
                end = at + frames.MBAP_SIZE + 2
                found.append(reply.exception)
                self.has_exception = True
            at = end
            i += 1
        self.confirmed = i
        return None

    def _unusual(self, i: int, data: bytes, at: int) -> frames.Reply | frames.Mismatch | None:
        """Judge what is not the good reply that was expected. What follows it is another reply if more are expected."""
        head = self._wanted[i]
        expected = frames.Expected(int.from_bytes(head[:2], "big"), head[6], head[7], head[8])
        end = len(data)
        if i + 1 < self._sent and len(data) >= at + frames.MBAP_SIZE:
            end = min(end, at + 6 + int.from_bytes(data[at + 4:at + 6], "big"))
        return frames.match(expected, data[at:end])

    def _take_back(self, at: int) -> None:
        """Forget the reply before bytes that belong to nobody, if it is not confirmed: its frame may have been cut."""
        if at:  # it ended within these bytes; one before it is confirmed by its head
            self.confirmed = max(self.confirmed, len(self._found) - 1)
        del self._found[self.confirmed:]


def _bytes(rows: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -1).copy()


def _request(request: Request) -> bytes:
    return (b"\0\0\0\0\0\x06" + bytes([request.unit, request.function]) + request.address.to_bytes(2, "big")
            + request.count.to_bytes(2, "big"))


def _head(request: Request) -> bytes:
    return (b"\0\0\0\0" + (3 + request.data_size).to_bytes(2, "big")
            + bytes([request.unit, request.function, request.data_size]))
