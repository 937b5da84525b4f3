"""A claim: what an enterprise says it has, as a TOML file of metric keys. Every problem at once, with its place."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, create_model, field_validator

from config.loader import Section, read_toml
from config.programme import metrics
from protocols.errors import ConfigError, Problem
from protocols.terms import uscc as codes

COUNT_MAX = 10**12
TEXT_MAX = 2000


class EnterpriseTable(Section):
    """[claim.enterprise]: who claims. `uscc`: 统一社会信用代码."""

    name: str = Field(min_length=1, max_length=200)
    uscc: str

    @field_validator("uscc")
    @classmethod
    def _valid(cls, value: str) -> str:
        if not codes.is_valid(value):
            raise ValueError("GB 32100-2015")
        return value


class ClaimTable(Section):
    """[claim]: under which programme and type, for which instant, by whom. `branch`: 离散行业 or 流程行业."""

    programme: str
    type: str
    at: datetime
    branch: Literal["discrete", "process"] | None = None
    enterprise: EnterpriseTable

    @field_validator("at")
    @classmethod
    def _zoned(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("no zone")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim as it is used. `metrics`: key -> value, only what is claimed."""

    table: ClaimTable
    metrics: dict[str, int | float | bool]
    sha256: str

    @property
    def at_s(self) -> int:
        """T in POSIX seconds; a fraction of a second is dropped."""
        return int(self.table.at.timestamp())


@cache
def claim_model() -> type[Section]:
    """Return the model of a claim file: `metrics` knows every key of config/programmes/metrics.toml and no other."""
    limits: dict[str, Any] = {
        "count": (int | None, Field(default=None, ge=0, le=COUNT_MAX)),
        "number": (int | float | None, Field(default=None, ge=0, le=COUNT_MAX)),
        "yes_no": (bool | None, None),
        "text": (str | None, Field(default=None, min_length=1, max_length=TEXT_MAX))}
    table: Any = create_model("MetricsTable", __base__=Section, __doc__="[metrics]: what is claimed.",
                              **{key: limits[item.kind] for key, item in metrics().items()})
    return create_model("ClaimFile", __base__=Section, __doc__="A claim under one programme.", claim=(ClaimTable, ...),
                        metrics=(table, ...))


def load_claim(path: Path) -> Claim:
    """Read a claim file. Raises ConfigError with every problem: unknown keys come with the nearest known one."""
    file: Any
    file, problems = read_toml(path, claim_model())
    if problems:
        raise ConfigError([_told(problem) for problem in problems])
    claimed = {key: value for key in metrics() if (value := getattr(file.metrics, key)) is not None}
    return Claim(table=file.claim, metrics=claimed, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


_OWN_WORDS = {"claim.at": "audit.no_zone", "claim.enterprise.uscc": "audit.bad_uscc"}
"""Places whose own checks refused them, and the sentence that says so."""


def _told(problem: Problem) -> Problem:
    code = _OWN_WORDS.get(problem.where.rpartition(", ")[2])
    if code is None or problem.code != "config.bad_value":
        return problem
    return Problem(problem.where, code, problem.args)
