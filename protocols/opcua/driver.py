"""The OPC UA driver: one session per server, subscriptions in batches. `link/driver.py` holds the session.

asyncua does the socket, the secure channel, the session and the encoding of requests. What it does not do is done here:
its publish loop drops a response that it cannot parse, its iterator drops what exceeds a queue, its reconnecting starts
without a certificate check. So the driver publishes itself, decodes into columns (codec.py), and reconnects itself.

Nothing is ever written: a request that is not in READ_ONLY_REQUESTS does not leave.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

from asyncua import ua as _ua
from asyncua.client.client import Client
from asyncua.common.utils import ServiceError
from asyncua.crypto.uacrypto import CertProperties
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocols.errors import ConfigError, DeviceError, Problem
from protocols.opcua import collector, discovery, session, takeover
from protocols.opcua.collector import PUBLISH_OUTSTANDING, Collector
from protocols.opcua.commission import judge, plan_rows, type_word
from protocols.opcua.guarded.driver import DISTRUST, POLICY_CLASSES, REFUSED_LOGIN, GuardedClient
from protocols.opcua.link.driver import Link
from protocols.opcua.nameplate import TEXT_CHARS_MAX, gently, read_nameplates
from protocols.opcua.pki import (
    OWN_CERTIFICATE,
    OwnCertificate,
    check_server_certificate,
    own_certificate,
    server_spki_sha256,
    user_identity,
)
from protocols.opcua.target import SECURITY_POLICIES, Nameplate, OpcUaEndpoint, OpcUaPoint
from protocols.samples import Sink
from protocols.terms.check import CheckResult

ua: Any = _ua
"""Untyped here: asyncua fills this package with star imports and generated classes that mypy cannot follow."""

Result = TypeVar("Result")

RESUME_S = 50.0
"""For so long after a loss the session on the server is taken up again: what it queued meanwhile is not lost."""
STEADY_S = 5.0
"""A connection that held for so long starts its pauses anew; one that fails at once is not pressed."""


class OpcUaDriver:
    """Collects the points of one server.

    Args:
        endpoint: where and how. Raises ConfigError when it cannot be used.
        points: the slots to collect, each in one subscription item.
        sink: takes batches, answers and events. clock_ns: the gateway's UTC clock.
    """

    def __init__(self, endpoint: OpcUaEndpoint, points: Sequence[OpcUaPoint], sink: Sink,
                 clock_ns: Callable[[], int] = time.time_ns) -> None:
        if problems := endpoint.problems(endpoint.name):
            raise ConfigError(problems)
        self._endpoint = endpoint
        self._sink = sink
        self._rng = random.Random()
        self._collector = Collector(endpoint, points, sink, clock_ns, self._rng)
        self._collector.changing = self._remember
        self._digest = takeover.digest(endpoint, self._collector.points)
        self._disk: ThreadPoolExecutor | None = None
        self._spki: str | None = None
        self._server_certificate: bytes | None = None
        self._serving: Link | None = None
        self._is_running = False
        self._told: Problem | None = None
        self._told_s = 0.0
        self._lost_at: datetime | None = None

    def server_spki_sha256(self) -> str | None:
        """Hex SHA-256 of the server's DER SubjectPublicKeyInfo, proven by the last channel; None when unsecured."""
        return self._spki

    def server_certificate(self) -> bytes | None:
        """DER of the trusted certificate that the server proved by the last channel; None when unsecured."""
        return self._server_certificate

    def clock_offset_s(self) -> float | None:
        """How far the server's clock was ahead of ours at the last look; None before the first."""
        return self._collector.clock_offset_s

    def plan(self) -> list[dict[str, str]]:
        """Return the requests that would be sent, without any network, as rows of request, count and detail."""
        return plan_rows(self._endpoint, len(self._collector.points), self._collector.devices.size, PUBLISH_OUTSTANDING)

    # Connecting

    async def run(self) -> None:
        """Collect until cancelled. Reconnects for ever; on cancel deletes what it made on the server."""
        self._disk = ThreadPoolExecutor(1, "opcua")
        self._is_running = True
        link: Link | None = None
        attempt = -1
        loop = asyncio.get_running_loop()
        try:
            while True:
                cap_s = session.BACKOFF_REFUSED_CAP_S
                since_s = float("inf")
                try:
                    if link is not None and not await self._resumed(link):
                        await self._close(link)
                        link = None
                    if link is None:
                        link = await self._subscribed()
                        self._tell_gap()
                    since_s, self._lost_at = loop.time(), None
                    self._tell_back(since_s)
                    await self._serve(link)
                except OSError as error:  # refused, reset, timed out: the session may outlive it
                    cap_s = session.BACKOFF_UNREACHABLE_CAP_S
                    self._tell_lost(self._problem_of(error), loop.time())
                except AssertionError:
                    raise
                except Exception as error:  # what asyncua raises on a hostile answer has no end
                    self._tell_lost(self._problem_of(error), loop.time())
                    if link is not None:
                        await self._close(link)
                        link = None
                if since_s < loop.time() and self._lost_at is None:
                    self._lost_at = datetime.now(UTC)
                if link is not None and link.lost_s is None:
                    link.lost_s = loop.time()
                attempt = 0 if loop.time() - since_s > STEADY_S else attempt + 1
                await asyncio.sleep(session.backoff_s(attempt, cap_s, self._rng))
        finally:
            try:
                if link is not None:
                    await self._close(link)
            finally:
                self._is_running = False
                self._disk.shutdown(wait=False)

    async def _resumed(self, link: Link) -> bool:
        """Take a lost session up again while the server still has it."""
        now_s = asyncio.get_running_loop().time()
        if link.lost_s is None or now_s - link.lost_s >= RESUME_S:
            return False
        if not await link.resume(self._endpoint.username, await self._password()):
            return False
        link.lost_s = None
        if link.created is None:
            return True
        await self._remember(link)  # the server gave a new nonce
        link.subscription.heard_s = now_s
        try:
            await self._collector.catch_up(link)
        except ua.UaStatusCodeError:
            return False  # the session is there, its subscription is not
        return True

    async def _serve(self, link: Link) -> None:
        """Collect, and renew the channel, until something ends it."""
        self._serving = link
        renewing = asyncio.create_task(link.renew())
        collecting = asyncio.create_task(self._collector.collect(link))
        try:
            done, _ = await asyncio.wait((renewing, collecting), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._serving = None
            renewing.cancel()
            collecting.cancel()
            await asyncio.gather(renewing, collecting, return_exceptions=True)

    async def _subscribed(self) -> Link:
        """Return a new session with its subscription."""
        link = await self._open()
        try:
            await link.learn()
            if self._endpoint.reads == "subscription":
                link = await self._taken_over(link)
                if link.created is None:
                    await link.subscribe(self._endpoint, self._collector)
                await self._remember(link)
        except BaseException:
            await link.close()
            raise
        return link

    async def _open(self) -> Link:
        """Open channel and session as configured; nothing secret is sent before the server's certificate is trusted."""
        password = await self._password()
        link = await self._opened_channel()
        try:
            await link.client.create_session()
            await self._activate(link, password)
        except BaseException:
            await link.close()
            raise
        self._server_certificate = link.server_certificate
        self._spki = server_spki_sha256(link.server_certificate) if link.server_certificate else None
        return link

    async def _activate(self, link: Link, password: str | None) -> None:
        """Activate the session of this link as the configured user."""
        self._refuse_clear_password(link.client)
        await link.client.activate_session(self._endpoint.username, password, link.client.user_certificate)

    async def _opened_channel(self) -> Link:
        """Open a channel to a server whose certificate is trusted, without a session."""
        end = self._endpoint
        client = GuardedClient(end)
        times = ua.TimestampsToReturn.Both if end.server_timestamps else ua.TimestampsToReturn.Source
        link = Link(client=client, server_certificate=None, wanted_profile=end.profile, timestamps=times)
        try:
            if end.is_secured:
                own = await asyncio.to_thread(own_certificate, end.pki_dir)
                link.server_certificate = await self._trusted_certificate(own)
                client.application_uri = own.application_uri
                await client.set_security(
                    POLICY_CLASSES[end.security_policy], CertProperties(own.certificate, "der"),
                    CertProperties(own.key, "pem"),
                    server_certificate=CertProperties(link.server_certificate, "der"),
                    mode=ua.MessageSecurityMode[end.security_mode])
            client.certificate_validator = self._validator(link.server_certificate)
            await self._load_identity(client)
            await client.connect_socket()
            try:
                await client.send_hello()
                await client.open_secure_channel()
            except (ConnectionError, TimeoutError) as error:
                if end.is_secured:  # servers that do not trust us hang up without a word
                    raise DeviceError(self._channel_refused(type(error).__name__)) from error
                raise
        except BaseException:
            await link.close()
            raise
        return link

    # What a gateway that was killed left

    async def _taken_over(self, link: Link) -> Link:
        """Go on where a gateway that was killed left this run of the server; the given link where nothing was left.

        Its session, activated on a channel of ours, comes with all that the server queued; else its subscription is
        asked for; else what was queued is lost, and that is told.
        """
        end = self._endpoint
        if end.takeover_file is None:
            return link
        link.server_started = await link.started()
        left = await self._on_disk(takeover.read, end.takeover_file, self._digest, len(self._collector.points))
        await self._on_disk(takeover.forget, end.takeover_file)
        if left is None:
            return link
        if not link.server_started or left.started != link.server_started:
            self._sink.event("opcua.not_taken_over", end.name, endpoint=end.url, why="StartTime")
            return link
        taken, status = await self._activated_again(link, left)
        if taken is None and not await link.transfer(left):
            self._sink.event("opcua.not_taken_over", end.name, endpoint=end.url, why=status)
            return link
        if taken is not None:
            try:
                await link.close()
            except BaseException:
                taken.client.disconnect_socket()
                raise
            link = taken
        link.follow(left, end, self._collector)
        self._sink.event("opcua.taken_over", end.name, endpoint=end.url)
        return link

    async def _activated_again(self, beside: Link, left: takeover.Left) -> tuple[Link | None, str]:
        """Return a link with the session of an earlier run, or None and why the server did not give it."""
        password = await self._password()
        taken: Link | None = None
        try:
            taken = await self._opened_channel()
            taken.adopt(left, beside)
            await self._activate(taken, password)
            await taken.learn()
        except (ua.UaError, OSError, DeviceError) as error:
            if taken is not None:
                taken.client.disconnect_socket()
            if isinstance(error, ua.UaStatusCodeError):
                return None, ua.StatusCode(error.code).name
            return None, type(error).__name__
        except BaseException:
            if taken is not None:
                taken.client.disconnect_socket()
            raise
        return taken, ""

    async def _remember(self, link: collector.Link | None) -> None:
        """Write what a gateway after this one can take over; while items change, nothing."""
        file = self._endpoint.takeover_file
        if file is None:
            return
        left = link.leaves() if isinstance(link, Link) else None
        if left is None:
            await self._on_disk(takeover.forget, file)
        else:
            await self._on_disk(takeover.write, file, self._digest, left)

    async def _on_disk(self, work: Callable[..., Result], *args: Any) -> Result:
        """Work on the file one after the other, also when a task that began it was cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, *args)

    async def _close(self, link: Link) -> None:
        """Close a session for good: nothing is left to take over."""
        try:
            await self._remember(None)
        finally:
            await link.close()

    # Connecting, the parts

    async def _trusted_certificate(self, own: OwnCertificate) -> bytes:
        """Ask the server for its endpoints, find the configured one, and check its certificate against the store."""
        end = self._endpoint
        client = GuardedClient(end)
        client.application_uri = own.application_uri
        client.certificate_validator = self._validator(None)
        offered = await client.connect_and_get_server_endpoints()
        mode, policy = ua.MessageSecurityMode[end.security_mode], SECURITY_POLICIES[end.security_policy]
        for description in offered:
            if (description.SecurityMode == mode and description.SecurityPolicyUri == policy
                    and (description.EndpointUrl or "").startswith("opc.tcp:")):
                return await asyncio.to_thread(
                    check_server_certificate, description.ServerCertificate or b"",
                    description.Server.ApplicationUri or "", end.trust_dir, where=end.name, url=end.url,
                    now=datetime.now(UTC))
        names = {uri: name for name, uri in SECURITY_POLICIES.items()}
        listed = sorted({f"{names.get(d.SecurityPolicyUri or '', d.SecurityPolicyUri)}/{d.SecurityMode.name}"
                         for d in offered})
        raise DeviceError(Problem.of(end.name, "opcua.policy_not_offered", endpoint=end.url,
                                     policy=f"{end.security_policy}/{end.security_mode}", offered=", ".join(listed)))

    def _validator(self, trusted: bytes | None) -> Callable[[x509.Certificate, Any], Awaitable[None]]:
        """Return asyncua's hook: the session's certificate must be the one that was checked for the channel."""
        async def validate(certificate: x509.Certificate, _application: Any) -> None:
            if self._endpoint.is_secured and certificate.public_bytes(Encoding.DER) != trusted:
                raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)
        return validate

    async def _load_identity(self, client: GuardedClient) -> None:
        """Load the user's certificate and key, at each connect, so that they can be renewed."""
        end = self._endpoint
        if end.user_certificate_file is None or end.user_key_file is None:
            return
        try:
            client.user_certificate, client.user_private_key = await asyncio.to_thread(
                user_identity, end.user_certificate_file, end.user_key_file)
        except (OSError, ValueError, TypeError) as error:
            raise DeviceError(Problem.of(end.name, "opcua.identity_files", file=end.user_certificate_file,
                                         why=error)) from error

    async def _password(self) -> str | None:
        path = self._endpoint.password_file
        if path is None:
            return None
        try:
            return (await asyncio.to_thread(path.read_text, "utf-8")).rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise DeviceError(Problem.of(self._endpoint.name, "opcua.password_file", file=path, why=error)) from error

    def _refuse_clear_password(self, client: Client) -> None:
        end = self._endpoint
        if end.username is None or end.allow_insecure or end.security_mode == "SignAndEncrypt":
            return
        policy = client.server_policy(ua.UserTokenType.UserName).SecurityPolicyUri
        if not policy or policy == SECURITY_POLICIES["None"]:
            raise DeviceError(Problem.of(end.name, "opcua.password_in_clear", endpoint=end.url))

    # Telling

    def _tell_lost(self, problem: Problem, now_s: float) -> None:
        """Say once why the server is lost, and again only when the cause is another one."""
        if self._told is None:
            self._told_s = now_s
        if self._told is None or self._told.code != problem.code:
            self._sink.event(problem.code, problem.where, **dict(problem.args))
        self._told = problem

    def _tell_gap(self) -> None:
        """A session made anew after a loss has nothing of what happened meanwhile: say from when to when."""
        if self._lost_at is not None:
            since, until = (time.isoformat(timespec="seconds") for time in (self._lost_at, datetime.now(UTC)))
            self._sink.event("opcua.changes_lost", self._endpoint.name, endpoint=self._endpoint.url, since=since,
                             until=until, why=self._told.code if self._told is not None else "")

    def _tell_back(self, now_s: float) -> None:
        if self._told is not None:
            self._sink.event("opcua.back", self._endpoint.name, endpoint=self._endpoint.url,
                             seconds=round(now_s - self._told_s))
        self._told = None

    def _problem_of(self, error: BaseException) -> Problem:
        """Name what went wrong, in our words."""
        end = self._endpoint
        if isinstance(error, DeviceError | ConfigError):
            return error.problems[0]
        if isinstance(error, ua.UaStatusCodeError):
            if error.code in DISTRUST:
                return self._channel_refused(ua.StatusCode(error.code).name)
            code = "opcua.login_refused" if error.code in REFUSED_LOGIN else "opcua.refused"
            return Problem.of(end.name, code, endpoint=end.url, status=ua.StatusCode(error.code).name,
                              user=end.identity)
        if isinstance(error, TimeoutError):
            return Problem.of(end.name, "opcua.timeout", endpoint=end.url, timeout_s=end.timeout_s)
        if isinstance(error, OSError):
            return Problem.of(end.name, "opcua.unreachable", endpoint=end.url, why=error.strerror or error)
        return Problem.of(end.name, "opcua.protocol_error", endpoint=end.url,
                          why=f"{type(error).__name__}: {error}"[:200])

    def _channel_refused(self, status: str) -> Problem:
        return Problem.of(self._endpoint.name, "opcua.channel_refused", endpoint=self._endpoint.url, status=status,
                          file=self._endpoint.pki_dir / OWN_CERTIFICATE)

    # Commissioning

    async def check(self) -> list[CheckResult]:
        """Connect, read every point once, and close. Returns one result per device, ordered by device."""
        try:
            link = await self._open()
            try:
                await link.learn()
                return await self._check_points(link)
            finally:
                await link.close()
        except AssertionError:
            raise
        except Exception as error:  # what asyncua raises on a hostile answer has no end
            problem = self._problem_of(error)
            return [CheckResult(int(device), False, problem.code, problem.args) for device in self._collector.devices]

    async def _check_points(self, link: Link) -> list[CheckResult]:
        points = self._collector.points
        known = [position for position, point in enumerate(points) if link.knows(point.address)]
        items = await link.read([points[position].address for position in known])
        row_of = {position: row for row, position in enumerate(known)}
        return judge(points, row_of, items, lambda status: str(ua.StatusCode(status).name))

    async def discover(self, *, nodes_max: int = discovery.NODES_MAX,
                       progress: Callable[[discovery.Walk], None] = lambda _walk: None,
                       ) -> tuple[discovery.Walk, list[discovery.Machine]]:
        """Walk the whole server and suggest its devices, with types of points and nameplates. Raises DeviceError."""
        try:
            link = await self._open()
            try:
                await link.learn()
                found = await discovery.walk(
                    ua.NodeId(ua.ObjectIds.ObjectsFolder), link.references, batch=link.browse_batch,
                    nodes_max=nodes_max, progress=progress, clock=asyncio.get_running_loop().time)
                address_of = {node.key: node.address for node in found.nodes}
                found.endless = [address_of.get(node, discovery.OBJECTS) for node in link.endless]
                machines = discovery.suggest(found.nodes)
                variables = [found.nodes[position] for machine in machines for position in machine.points]
                types = await link.data_types([node.key for node in variables])
                for node, type_id in zip(variables, types, strict=True):
                    node.data_type = type_word(type_id)
                await self._read_plates(link, found, machines)
                return found, machines
            finally:
                await link.close()
        except (AssertionError, DeviceError):
            raise
        except Exception as error:  # what asyncua raises on a hostile answer has no end
            raise DeviceError(self._problem_of(error)) from error

    async def _read_plates(self, link: Link, found: discovery.Walk, machines: Sequence[discovery.Machine]) -> None:
        plates = discovery.plates_of(found.nodes)
        wanted = [(machine, name, node) for machine in machines
                  for name, node in plates.get(machine.node, {}).items()]
        texts = await link.texts([found.nodes[node].key for _, _, node in wanted])
        for (machine, name, _), text in zip(wanted, texts, strict=True):
            machine.plate[name] = "".join(c for c in text if c.isprintable())[:TEXT_CHARS_MAX]

    async def identify(self) -> list[Nameplate]:
        """Read the nameplates that the server shows near each device's points; while `run` runs, in its session.

        Raises: DeviceError when there is no connection.
        """
        try:
            if self._serving is not None:
                return await self._nameplates(self._serving)
            if self._is_running:
                raise DeviceError(self._told or Problem.of(self._endpoint.name, "opcua.unreachable",
                                                           endpoint=self._endpoint.url, why="-"))
            link = await self._open()
            try:
                await link.learn()
                return await self._nameplates(link)
            finally:
                await link.close()
        except (AssertionError, DeviceError):
            raise
        except Exception as error:  # what asyncua raises on a hostile answer has no end
            raise DeviceError(self._problem_of(error)) from error

    async def _nameplates(self, link: Link) -> list[Nameplate]:
        collector = self._collector
        first = {int(device): collector.points[positions[0]].address
                 for device, positions in zip(collector.devices, collector.points_of, strict=True)}
        start = {device: link.node_id(address) for device, address in first.items() if link.knows(address)}
        clock, batch = asyncio.get_running_loop().time, link.browse_batch
        return await read_nameplates(
            start, root=ua.NodeId(ua.ObjectIds.ObjectsFolder), parents=gently(link.parents, batch, clock=clock),
            children=gently(link.children, batch, clock=clock), read_text=gently(link.texts, batch, clock=clock))
