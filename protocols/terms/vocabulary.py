"""The closed vocabularies that config, gateway and verifier share. Standard library only.

Source: design of the evidence format, and the programme data in `config/`.
"""

from __future__ import annotations

DISCARD_REASONS = ("bad_quality", "late", "not_live", "queue_full", "stale", "undecodable", "unknown_point")
"""Why a received sample was not counted. Sealed as a closed map: every reason is present, zeros included.

late: its window was sealed already. queue_full: a bounded queue overflowed. undecodable: the frame or payload could
not be turned into values. unknown_point: it names a point that the roster does not have.
"""

ROLES = ("switch", "parameter", "heartbeat", "derived", "constant")
THINGS = ("equipment", "product", "terminal", "line", "infrastructure")
DEPLOYMENTS = ("public", "private", "dedicated")
STATES = ("alive", "gone")

PROTOCOLS = ("opc_ua", "modbus_tcp", "modbus_rtu", "modbus_rtu_over_tcp", "modbus_tls", "mqtt", "sparkplug_b")

POINT_TYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64",
    "string", "bytes", "datetime", "bcd16", "bcd32",
)

TAG_SCHEMES = ("serial", "product_instance_uri", "asset", "vaa", "handle", "mac_unit")
"""Device tag schemes; `addr` and `base` are the two schemes of points."""

ID_BASES = ("read", "declared", "address")
"""How a device's identifiers were obtained: read from the device, declared by the owner, or none but its address."""

USABLE_QUALITIES = ("good", "uncertain")
OUTAGE_REASONS = ("crash", "off", "clock_back", "clock_forward", "rollback", "clone", "rule_change", "disk_full")
CLOCK_SOURCES = ("system", "ntp")
