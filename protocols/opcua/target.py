"""What an OPC UA driver is aimed at: endpoint settings, addresses and points. Pure; no device library.

Source: OPC 10000-6 (1.05) 5.1.12, textual forms of NodeId with a namespace URI; OPC 10000-4 7.27, NumericRange.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from protocols.errors import ConfigError, Problem
from protocols.opcua.profiles import AUTO, PROFILES

NAMESPACE_0 = "http://opcfoundation.org/UA/"

SECURITY_POLICIES = {
    "None": "http://opcfoundation.org/UA/SecurityPolicy#None",
    "Basic256Sha256": "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256",
    "Aes128_Sha256_RsaOaep": "http://opcfoundation.org/UA/SecurityPolicy#Aes128_Sha256_RsaOaep",
    "Aes256_Sha256_RsaPss": "http://opcfoundation.org/UA/SecurityPolicy#Aes256_Sha256_RsaPss",
}
"""Name in the configuration -> policy URI. The SHA-1 policies are left out on purpose."""

SECURITY_MODES = ("None", "Sign", "SignAndEncrypt")
READS = ("subscription", "polling")

ADDRESS_CHARS_MAX = 4096
"""OPC 10000-3: the identifier of a String NodeId has at most 4096 characters."""

PUBLISHING_INTERVAL_MS_MIN = 10
PUBLISHING_INTERVAL_MS_MAX = 60_000
QUEUE_SIZE_MAX = 10_000

_SUFFIX = re.compile(r"#Value(\[(\d{1,9}(?::\d{1,9})?(?:,\d{1,9}(?::\d{1,9})?)*)\])?\Z", re.ASCII)
_NUMERIC = re.compile(r"(?:0|[1-9][0-9]{0,9})\Z", re.ASCII)
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcUaEndpoint:
    """One server and how to speak with it. Names and meanings as in `[[connections]]` of gateway.toml.

    name: the connection, used as `where` of events. url: `opc.tcp://host:port/path`.
    pki_dir: keeps our own certificate and key, made once. trust_dir: DER files of the servers that are trusted;
    unknown ones land in `trust_dir/rejected/`. password_file is read at each connect, so it can be rotated.
    idle_read_s: a device silent for so long gets one Read of one of its points. queue_size: samples that the server
    keeps per point between two notifications. user_certificate_file, user_key_file: a certificate (DER or PEM) and its
    key (PEM) as the user's identity. reads: subscription, or polling every `poll_s`, as are points beyond the number of
    items that the server takes. profile: kind of server, of profiles.py, or auto for what its BuildInfo says.
    server_timestamps: whether the server's own time of each value is asked for, beside that of its source.
    takeover_file: remembers the session, so that the gateway after one that was killed takes it over.
    """

    name: str
    url: str
    security_policy: str = "Basic256Sha256"
    security_mode: str = "SignAndEncrypt"
    allow_insecure: bool = False
    pki_dir: Path
    trust_dir: Path
    username: str | None = None
    password_file: Path | None = None
    user_certificate_file: Path | None = None
    user_key_file: Path | None = None
    reads: str = "subscription"
    poll_s: float = 1.0
    profile: str = AUTO
    takeover_file: Path | None = None
    publishing_interval_ms: int = 500
    idle_read_s: float = 20.0
    timeout_s: float = 5.0
    queue_size: int = 10
    server_timestamps: bool = False

    @property
    def is_secured(self) -> bool:
        """Whether messages are at least signed."""
        return self.security_mode != "None"

    @property
    def identity(self) -> str:
        """Who we are to the server, for people."""
        if self.user_certificate_file is not None:
            return f"certificate {self.user_certificate_file.name}"
        return f"user {self.username}" if self.username else "anonymous"

    def problems(self, where: str) -> tuple[Problem, ...]:
        """Return everything that is wrong with these settings, all at once; empty when they can be used."""
        found: list[Problem] = []
        try:
            parts = urlsplit(self.url)
            is_url = parts.scheme == "opc.tcp" and bool(parts.hostname) and parts.port is not None
            has_user = "@" in parts.netloc
        except ValueError:
            is_url, has_user = False, False
        if not is_url or has_user:
            found.append(Problem.of(where, "opcua.bad_endpoint", endpoint=self.url))
        if self.security_policy not in SECURITY_POLICIES:
            found.append(Problem.of(where, "opcua.bad_policy", policy=self.security_policy,
                                    known=", ".join(SECURITY_POLICIES)))
        if self.security_mode not in SECURITY_MODES:
            found.append(Problem.of(where, "opcua.bad_mode", mode=self.security_mode, known=", ".join(SECURITY_MODES)))
        if (self.security_policy == "None") != (self.security_mode == "None"):
            found.append(Problem.of(where, "opcua.policy_and_mode", policy=self.security_policy,
                                    mode=self.security_mode))
        elif not self.is_secured and not self.allow_insecure:
            found.append(Problem.of(where, "opcua.insecure", endpoint=self.url))
        if (self.username is None) != (self.password_file is None):
            found.append(Problem.of(where, "opcua.half_login"))
        if (self.user_certificate_file is None) != (self.user_key_file is None):
            found.append(Problem.of(where, "opcua.half_identity"))
        elif self.user_certificate_file is not None:
            if self.username is not None:
                found.append(Problem.of(where, "opcua.two_identities"))
            if not self.is_secured:
                found.append(Problem.of(where, "opcua.identity_unsecured"))
        for code, word, known in (("opcua.bad_reads", self.reads, READS),
                                  ("opcua.bad_profile", self.profile, (AUTO, *PROFILES))):
            if word not in known:
                found.append(Problem.of(where, code, value=word, known=", ".join(known)))
        for name, value, low, high in (
            ("publishing_interval_ms", self.publishing_interval_ms, PUBLISHING_INTERVAL_MS_MIN,
             PUBLISHING_INTERVAL_MS_MAX),
            ("idle_read_s", self.idle_read_s, 0.1, 3600), ("poll_s", self.poll_s, 0.05, 3600),
            ("timeout_s", self.timeout_s, 0.1, 60), ("queue_size", self.queue_size, 1, QUEUE_SIZE_MAX),
        ):
            if not low <= value <= high:
                found.append(Problem.of(where, "opcua.out_of_range", name=name, value=value, low=low, high=high))
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcUaAddress:
    """The Value attribute of one node, named by namespace URI: indexes move when a server restarts.

    id_type: i, s, g or b. identifier: its canonical text (decimal, string, lower-case GUID, base64).
    index_range: NumericRange, for one element of an array; empty for the whole value.
    """

    namespace_uri: str
    id_type: str
    identifier: str
    index_range: str = ""

    @property
    def node(self) -> str:
        """`nsu=URI;s=...`: the node without its attribute."""
        uri = self.namespace_uri.replace("%", "%25").replace(";", "%3B")
        return f"nsu={uri};{self.id_type}={self.identifier}"

    @property
    def value(self) -> int | str | uuid.UUID | bytes:
        """The identifier as what it is."""
        match self.id_type:
            case "i":
                return int(self.identifier)
            case "g":
                return uuid.UUID(self.identifier)
            case "b":
                return base64.b64decode(self.identifier)
        return self.identifier

    @property
    def base(self) -> str:
        """Canonical text without the index range: points with one base are folded by some counting bases."""
        return f"{self.node}#Value"

    @property
    def canonical(self) -> str:
        """The one text of this address that evidence hashes. `parse_address` takes it back unchanged."""
        return f"{self.base}[{self.index_range}]" if self.index_range else self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcUaPoint:
    """One point of the roster. type: of POINT_TYPES, or empty when the owner did not say; only `check` compares it."""

    point_index: int
    device_index: int
    address: OpcUaAddress
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nameplate:
    """What a device's own node says about it; a property that the server lacks is empty."""

    device_index: int
    manufacturer: str = ""
    model: str = ""
    serial_number: str = ""
    product_instance_uri: str = ""


def parse_address(text: str, where: str = "address") -> OpcUaAddress:
    """Parse `nsu=URI;s=...` (also i, g, b) or `i=...` of namespace 0, with or without `#Value` and `[index range]`.

    A `;` or `%` of the URI is written %3B or %25. A string identifier that itself ends in `#Value` needs a second one.
    Raises: ConfigError (opcua.bad_address, opcua.namespace_index) with `where` as its place.
    """
    shown = text if len(text) <= 200 else f"{text[:200]}..."

    def wrong(why: str) -> ConfigError:
        return ConfigError(Problem.of(where, "opcua.bad_address", address=shown, why=why))

    if len(text) > ADDRESS_CHARS_MAX:
        raise wrong("too long")
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise wrong("control character")
    if text.startswith(("ns=", "svr=")):
        raise ConfigError(Problem.of(where, "opcua.namespace_index", address=shown))
    index_range = ""
    if suffix := _SUFFIX.search(text):
        index_range = suffix.group(2) or ""
        text = text[:suffix.start()]
    uri = NAMESPACE_0
    if text.startswith("nsu="):
        escaped, semicolon, text = text[4:].partition(";")
        if not semicolon or not escaped:
            raise wrong("nsu=URI;")
        uri = _unescape(escaped)
    elif not text.startswith("i="):
        raise wrong("nsu=")
    id_type, identifier = text[:1], text[2:]
    if text[1:2] != "=" or id_type not in "isgb" or not identifier:
        raise wrong("i= s= g= b=")
    return OpcUaAddress(namespace_uri=uri, id_type=id_type,
                        identifier=_canonical_identifier(id_type, identifier, wrong(f"{id_type}=")),
                        index_range=_canonical_range(index_range, wrong("[]")))


def _unescape(uri: str) -> str:
    """Undo the two escapes of OPC 10000-6. Any other percent sign stays: URIs have their own."""
    return re.sub(r"%(3[bB]|25)", lambda found: "%" if found[1] == "25" else ";", uri)


def _canonical_identifier(id_type: str, text: str, error: ConfigError) -> str:
    if id_type == "i":
        if not _NUMERIC.match(text) or int(text) >= 2**32:
            raise error
        return text
    if id_type == "g":
        if not _GUID.match(text):
            raise error
        return text.lower()
    if id_type == "b":
        try:
            return base64.b64encode(base64.b64decode(text, validate=True)).decode()
        except (binascii.Error, ValueError):
            raise error from None
    return text


def _canonical_range(text: str, error: ConfigError) -> str:
    """Strip leading zeros; refuse `5:5` and `7:3`, which NumericRange forbids."""
    if not text:
        return ""
    dimensions = []
    for dimension in text.split(","):
        bounds = [int(b) for b in dimension.split(":")]
        if len(bounds) == 2 and bounds[0] >= bounds[1]:
            raise error
        dimensions.append(":".join(map(str, bounds)))
    return ",".join(dimensions)
