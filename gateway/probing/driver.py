"""Asks one OPC UA server to sign a challenge: CreateSession with our nonce, then CloseSession. Never ActivateSession.

A connection and a client certificate of its own: collecting is not touched. asyncua draws the nonce of a session
itself, in `Client.create_session`; so that method is not called, and the request is built here for the client below it
(`UaClient.create_session`), which takes the parameters as they are. What the server signed is checked here before
anything is sealed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from asyncua import ua as _ua
from asyncua.client.ua_client import UaClientState
from cryptography import x509

from gateway.probing.certificate import ProbeCertificate, spki_of
from protocols.errors import DeviceError, Problem, VerificationError
from protocols.evidence import probe
from protocols.opcua.guarded.driver import DISTRUST, POLICY_CLASSES, GuardedClient, within
from protocols.opcua.pki import leaf_of
from protocols.opcua.target import SECURITY_POLICIES, OpcUaEndpoint

ua: Any = _ua
"""Untyped here, as in protocols/opcua/guarded/driver.py."""

PROBE_REQUESTS: tuple[type, ...] = (ua.CreateSessionRequest, ua.CloseSessionRequest)
CLOSE_S = 1.0
SESSION_MS = 10_000.0
"""What is asked for: a server that does not let a session be closed before it was activated drops it soon."""
CHANNEL_MS = 60_000
_REFUSED_CHANNEL = (ConnectionError,)
"""Servers that do not trust a client hang up without a word."""


async def ask(endpoint: OpcUaEndpoint, *, server_certificate: bytes, own: ProbeCertificate, gateway: str, c: bytes,
              deadline_s: float) -> bytes:
    """Have the server sign `own.certificate` || `c`; return its signature, which verifies.

    Args:
        endpoint: a secured connection; its policy and mode are used. server_certificate: DER, trusted by a person.
        c: the challenge, 32 bytes. deadline_s: for everything, closing included up to CLOSE_S more.
    Raises: DeviceError `probing.refused` (the server does not take our certificate), `probing.timeout`,
        `probing.unreachable`, `probing.wrong_certificate`, `probing.bad_signature`, `probing.failed`.
    """
    def problem(code: str, **args: object) -> DeviceError:
        return DeviceError(Problem.of(endpoint.name, code, endpoint=endpoint.url, **args))

    client = GuardedClient(endpoint, PROBE_REQUESTS)
    client.application_uri = probe.certificate_name(gateway)
    client.session_timeout = int(SESSION_MS)
    client.secure_channel_timeout = CHANNEL_MS
    try:
        try:
            async with within(deadline_s):
                result = await _create_session(client, endpoint, server_certificate, own, c)
        finally:
            await _close(client)
        if not _shows(result, server_certificate):
            raise problem("probing.wrong_certificate")
        signature = bytes(result.ServerSignature.Signature or b"")
        probe.verify_signature(
            policy_uri=SECURITY_POLICIES[endpoint.security_policy], server_spki=spki_of(server_certificate),
            client_certificate=own.certificate, c=c, signature=signature, where=endpoint.name)
        return signature
    except (DeviceError, AssertionError):
        raise
    except VerificationError as error:
        raise problem("probing.bad_signature", reason=error.problems[0].code) from error
    except _ChannelRefusedError as error:
        raise problem("probing.refused", status=error, file=own.file) from error
    except ua.UaStatusCodeError as error:
        code = "probing.refused" if error.code in DISTRUST else "probing.failed"
        why = {"file": own.file, "status": ua.StatusCode(error.code).name} if code == "probing.refused" else \
            {"reason": ua.StatusCode(error.code).name}
        raise problem(code, **why) from error
    except TimeoutError as error:
        raise problem("probing.timeout", deadline_s=f"{deadline_s:g}") from error
    except OSError as error:
        raise problem("probing.unreachable", reason=error.strerror or error) from error
    except Exception as error:  # what asyncua raises on a hostile answer has no end
        raise problem("probing.failed", reason=f"{type(error).__name__}: {error}"[:200]) from error


class _ChannelRefusedError(Exception):
    """The line was cut while the secure channel or the session was opened."""


async def _create_session(client: GuardedClient, endpoint: OpcUaEndpoint, server_certificate: bytes,
                          own: ProbeCertificate, c: bytes) -> Any:
    # As `Client.set_security` does, without loading the key anew from PEM.
    client.security_policy = POLICY_CLASSES[endpoint.security_policy](
        x509.load_der_x509_certificate(server_certificate), x509.load_der_x509_certificate(own.certificate), own.key,
        ua.MessageSecurityMode[endpoint.security_mode])
    client.uaclient.set_security(client.security_policy)
    await client.connect_socket()
    try:
        await client.send_hello()
        await client.open_secure_channel()
        return await client.uaclient.create_session(_parameters(client, endpoint, own, c))
    except _REFUSED_CHANNEL as error:
        raise _ChannelRefusedError(type(error).__name__) from error


def _parameters(client: GuardedClient, endpoint: OpcUaEndpoint, own: ProbeCertificate, c: bytes) -> Any:
    parameters = ua.CreateSessionParameters()
    parameters.ClientDescription = ua.ApplicationDescription(
        ApplicationUri=client.application_uri, ProductUri=client.product_uri,
        ApplicationName=ua.LocalizedText("Tallystick probe"), ApplicationType=ua.ApplicationType.Client)
    parameters.EndpointUrl = endpoint.url
    parameters.SessionName = "Tallystick probe"
    parameters.ClientNonce = c
    parameters.ClientCertificate = own.certificate
    parameters.RequestedSessionTimeout = SESSION_MS
    parameters.MaxResponseMessageSize = 0
    return parameters


def _shows(result: Any, certificate: bytes) -> bool:
    """Return whether the session shows this certificate: alone, or first in a chain."""
    try:
        return leaf_of(result.ServerCertificate or b"") == certificate
    except ValueError:
        return False


async def _close(client: GuardedClient) -> None:
    """Close session, channel and socket, in CLOSE_S at most, whatever the server does."""
    if client.uaclient.state is UaClientState.DISCONNECTED:
        return
    with suppress(TimeoutError):
        async with within(CLOSE_S):
            if client.our_session.has_session:
                with suppress(Exception):
                    await client.our_session.close_session(True)
            with suppress(Exception):
                await client.close_secure_channel()
    client.disconnect_socket()
