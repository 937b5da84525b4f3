"""Asks every device once, before anything is collected: does it answer, all its points, and who does it say it is.

No device library. Reads only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from protocols.errors import DeviceError, Problem
from protocols.modbus import identity
from protocols.modbus.line import Line
from protocols.modbus.plan import (
    GATEWAY_EXCEPTIONS,
    ILLEGAL_ADDRESS,
    ILLEGAL_FUNCTION,
    NO_REPLY,
    ReadPlan,
    Request,
    single,
)
from protocols.modbus.target import ModbusPoint
from protocols.terms.check import CheckResult

CHECK_PIECES_MAX = 256
"""Reads that `check` spends on one device beyond its plan, bisecting what it refuses."""

CHECK_MUTE_MAX = 16
"""Reads without an answer that `check` spends on one device that answers others: each costs a timeout."""

CHECK_NAMED_MAX = 5
IDENTITY_PAGES_MAX = 16
ABOUT_ONE_UNIT = ("modbus.timeout", "modbus.mismatch", "modbus.gateway_exception")


async def check_devices(line: Line, name: str, requests: Sequence[Request]) -> list[CheckResult]:
    """Read every point of every device once, and name each device; see `driver.Driver.check`.

    name: of the connection. requests: its whole plan.
    """
    results: dict[int, CheckResult] = {}
    silent: dict[int, Problem] = {}
    for device in sorted({r.device_index for r in requests}):
        mine = [r for r in requests if r.device_index == device]
        results[device] = await _check_device(line, name, device, mine, silent)
    return [results[device] for device in sorted(results)]


def with_session(result: CheckResult, session: Mapping[str, str]) -> CheckResult:
    """Return a good result with what the TLS connection showed; any other as it is."""
    if not session or result.code != "modbus.check_ok":
        return result
    return CheckResult(result.device_index, result.ok, "modbus.check_ok_tls",
                       Problem.of("", result.code, **dict(result.args), **session).args)


async def _check_device(
    line: Line, name: str, device: int, requests: list[Request], silent: dict[int, Problem]
) -> CheckResult:
    """silent: units that failed already; they are not asked again for their other devices."""
    plans = {unit: ReadPlan([r for r in requests if r.unit == unit]) for unit in {r.unit for r in requests}}
    seen = _Seen(len(requests) + CHECK_PIECES_MAX)
    try:
        for unit, plan in plans.items():
            if unit in silent:
                raise DeviceError(silent[unit])
            trouble = await _check_unit(line, name, plan, seen)
            if trouble is not None:
                read, exception = trouble
                return _result(device, "modbus.exception", unit=unit, exception=exception, table=read.table,
                               address=read.address, count=read.count)
    except DeviceError as error:
        problem = error.problems[0]
        if problem.code in ABOUT_ONE_UNIT:
            silent.update({unit: problem for unit in plans if ("unit", str(unit)) in problem.args})
        return CheckResult(device, False, problem.code, problem.args)
    lost = [p for plan in plans.values() for p in plan.given_up]
    lost += [p for plan in plans.values() for r in plan.active if r not in seen.asked for p in r.points]
    if lost:
        named = ", ".join(p.address.canonical for p in lost[:CHECK_NAMED_MAX])
        named += ", ..." if len(lost) > CHECK_NAMED_MAX else ""
        if not seen.refused_with:
            return _result(device, "modbus.check_mute", points=len(lost), named=named)
        return _result(device, "modbus.check_refused", points=len(lost), exception=seen.refused_with, named=named)
    found = await _nameplate(line, min(plans))
    return _result(device, "modbus.check_ok", ok=True, reads=len(seen.asked), identity=identity.title(found) or "-",
                   points=sum(len(r.points) for r in requests))


@dataclass(slots=True)
class _Seen:
    """What the check of one device has met so far. most: reads that it may cost."""

    most: int
    asked: set[Request] = field(default_factory=set)
    refused_with: int = 0
    mute: int = 0


async def _check_unit(line: Line, name: str, plan: ReadPlan, seen: _Seen) -> tuple[Request, int] | None:
    """Read all of one unit once, cutting in two what it refuses, and what it does not answer although it lives.

    Returns: a read and the exception that it met which is not about its addresses; None if there was none.
    Raises: DeviceError if the unit answers nothing, or if the line is in trouble.
    """
    has_answered = False
    while todo := [r for r in plan.active if r not in seen.asked]:
        if len(seen.asked) >= seen.most or seen.mute > CHECK_MUTE_MAX:
            return None
        read = todo[0]
        seen.asked.add(read)
        try:
            exception = await _check_read(line, name, read)
        except DeviceError as error:
            if error.problems[0].code not in NO_REPLY:
                raise
            seen.mute += 1
            if not has_answered:  # does the unit live at all?
                other = _other_point(plan, read)
                if other is None:
                    raise
                await _check_read(line, name, single(other))
                has_answered = True
            plan.refused(read, ILLEGAL_ADDRESS, 0.0)
            continue
        has_answered = True
        if exception:
            plan.refused(read, exception, 0.0)
            if any(r is read for r in plan.active):
                return read, exception
            seen.refused_with = exception
    return None


def _other_point(plan: ReadPlan, mute: Request) -> ModbusPoint | None:
    """Return a point whose read shows whether a unit lives that did not answer this one; None if it has only this."""
    for read in plan.active:
        if read is not mute:
            return read.points[0]
    return mute.points[-1] if len(mute.points) > 1 else None


def _result(device: int, code: str, ok: bool = False, **args: object) -> CheckResult:
    return CheckResult(device, ok, code, Problem.of("", code, **args).args)


async def _check_read(line: Line, name: str, request: Request) -> int:
    """Return 0 or the exception code. Raises DeviceError."""
    async with line.turn(request.unit):
        if not line.is_open:
            await line.open()
        reply, _ = await line.read(request)
    if reply.exception in GATEWAY_EXCEPTIONS:
        raise DeviceError(Problem.of(name, "modbus.gateway_exception", unit=request.unit, exception=reply.exception))
    return reply.exception


async def _nameplate(line: Line, unit: int) -> Mapping[str, str]:
    try:
        return await identify(line, unit)
    except DeviceError:
        return {}  # many devices do not answer what they do not know; that is no fault


async def identify(line: Line, unit: int) -> dict[str, str]:
    """Read the nameplate of a unit: function 43/14, else function 17; see `driver.Driver.identify`.

    Each request is a turn of its own, so that a poll that is under way goes on in between.
    """
    found: dict[int, bytes] = {}
    for code in (2, 1):  # regular, which holds basic; some devices know basic only and refuse the rest
        object_id, exception = 0, 0
        for _ in range(IDENTITY_PAGES_MAX):
            async with line.turn(unit):
                if not line.is_open:
                    await line.open()
                reply = await line.read_identification(unit, code, object_id)
            exception = reply.exception
            if exception:
                break
            page = identity.parse_page(reply.body)
            found |= page.objects
            if page.next_object is None or page.next_object <= object_id:  # a device may not send us in circles
                break
            object_id = page.next_object
        if found or exception == ILLEGAL_FUNCTION:
            break
    if found:
        return identity.nameplate(found)
    async with line.turn(unit):
        if not line.is_open:
            await line.open()
        reply = await line.read_server_id(unit)
    server_id = identity.printable(reply.body)
    return {"server_id": server_id} if server_id else {}


async def identify_devices(line: Line, requests: Sequence[Request]) -> dict[int, dict[str, str]]:
    """Read the nameplate of each device of the plan; see `driver.Driver.identities`."""
    units: dict[int, int] = {}
    for request in requests:
        units.setdefault(request.device_index, request.unit)
    plates: dict[int, dict[str, str]] = {}
    silent: set[int] = set()
    for device, unit in sorted(units.items()):
        if unit in silent:
            continue
        try:
            plates[device] = await identify(line, unit)
        except DeviceError as error:
            if error.problems[0].code not in ABOUT_ONE_UNIT:
                raise
            silent.add(unit)
    return plates
