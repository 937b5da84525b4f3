"""What a Sparkplug birth certificate said about metrics, for as long as it is in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Binding:
    """What a birth said about one metric. point_index: None if the roster has no such point.

    is_own: it belongs to the protocol and is no sample.
    """

    name: str
    datatype: int
    point_index: int | None
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class AliasTable:
    """Metrics of one birth certificate, by alias and by name."""

    by_alias: Mapping[int, Binding]
    by_name: Mapping[str, Binding]
