"""Copies samples to an InfluxDB v2 write API, for people to look at. Nothing is ever read back from it.

A thread of its own behind a queue bounded in samples: `put` never waits, a server that hangs costs the queue and
nothing else, and what the queue had to drop is counted. A server of this kind may answer success to lines it
drops, so its figures are never the source of a count.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from influxdb_client._sync.api_client import ApiClient
from influxdb_client.configuration import Configuration
from influxdb_client.service.write_service import WriteService

from config.gateway import InfluxTable
from gateway.exporters.lines import Lines
from protocols.samples import PollBatch, SampleBatch

log = logging.getLogger(__name__)

RETRY_S = (0.5, 2.0, 8.0)
LINE_PROTOCOL = "text/plain; charset=utf-8"
LINGER_S = 1.0
"""How long a sample waits for others to be written with: a request costs as much as thousands of lines."""


class InfluxExporter:
    """Takes batches over and writes them in the background until `close`."""

    def __init__(self, settings: InfluxTable, token: str, series: Callable[[], Sequence[tuple[str, str]]]) -> None:
        """Prepare, without connecting. `series` returns (device id, point id) by point slot, of the roster in force.

        As long as it returns the same object, what is made of it is kept.
        """
        self._settings = settings
        self._token = token
        self._series = series
        self._lines = Lines(())
        self._queue: deque[SampleBatch] = deque()
        self._queued = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._untold = 0
        self.written = 0
        """Samples that the server answered for with success."""
        self.dropped = 0
        """Samples that the queue had no room for, or that the server refused to take."""

    def start(self) -> None:
        """Start the thread. It is a daemon: a hanging server cannot keep the process alive."""
        self._thread = threading.Thread(target=self._run, name="influx", daemon=True)
        self._thread.start()

    def put(self, batch: SampleBatch | PollBatch) -> None:
        """Queue a batch. Returns at once; without room the batch is dropped and counted."""
        samples = batch.samples() if isinstance(batch, PollBatch) else batch
        size = samples.point_index.size
        with self._wake:
            if self._queued + size > self._settings.queue_samples:
                self.dropped += size
                self._untold += size
                return
            was_empty, before = not self._queue, self._queued
            self._queue.append(samples)
            self._queued += size
            if was_empty or before < self._settings.batch_samples <= self._queued:
                self._wake.notify()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued for at most `timeout_s`, then leave the thread to its fate."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        write = self._service().post_write
        while batch := self._next():
            self._tell_dropped()
            self._write(write, batch)
        self._tell_dropped()

    def _service(self) -> WriteService:
        """Return what the library's WriteApi calls; that itself brings reactivex and every other API, 14 MB."""
        server = Configuration()  # type: ignore[no-untyped-call]  # here and below: generated code
        server.host = self._settings.url.removesuffix("/")
        server.timeout = int(self._settings.timeout_s * 1000)
        # Not compressed: the client's zlib takes ten times as long as everything else, and the server is in the plant.
        token = ("Authorization", f"Token {self._token}") if self._token else (None, None)
        return WriteService(ApiClient(server, *token))  # type: ignore[no-untyped-call]

    def _tell_dropped(self) -> None:
        """Say what found no room: once for each write, not for each batch."""
        with self._wake:
            count, self._untold = self._untold, 0
        if count:
            log.warning("influx: %d samples not written: the server is slower than what is measured", count)

    def _next(self) -> list[SampleBatch] | None:
        """Wait for batches; at most about `batch_samples` of them at once. None when closed and empty."""
        with self._wake:
            while not self._queue:
                if self._closing:
                    return None
                self._wake.wait()
            until_s = time.monotonic() + LINGER_S
            while self._queued < self._settings.batch_samples and not self._closing \
                    and (left_s := until_s - time.monotonic()) > 0:
                self._wake.wait(left_s)
            taken: list[SampleBatch] = []
            size = 0
            while self._queue and (not taken or size + self._queue[0].point_index.size <= self._settings.batch_samples):
                taken.append(self._queue.popleft())
                size += taken[-1].point_index.size
            self._queued -= size
            return taken

    def _write(self, write: Callable[..., object], batches: list[SampleBatch]) -> None:
        series = self._series()
        if series is not self._lines.series:
            self._lines = Lines(series)
        lines = b"".join(map(self._lines.of, batches))
        size = sum(batch.point_index.size for batch in batches)
        for wait_s in (*RETRY_S, None):
            try:
                write(org=self._settings.org, bucket=self._settings.bucket, body=lines, precision="ns",
                      content_type=LINE_PROTOCOL)
            except Exception as error:  # the client raises its own, urllib3's and the socket's errors alike
                if wait_s is None or self._closing:
                    self.dropped += size
                    reason = next(iter(str(error).splitlines()), type(error).__name__)
                    log.warning("influx: %d samples not written: %s", size, reason[:200])
                    return
                with self._wake:
                    self._wake.wait_for(lambda: self._closing, wait_s)
            else:
                self.written += size
                return
