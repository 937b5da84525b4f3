"""A sample of the devices that count, drawn so that the claimant cannot choose it and anybody can draw it again.

Fixed before the announced instant: the rosters, and every window that says who counts. Unknown before it: the first
independent co-signature after it that the gateways sealed. What is hashed: protocols.evidence.sample.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from protocols.errors import ConfigError, Problem, VerificationError
from protocols.evidence import entry, jcs, sample
from protocols.evidence.signed import GATEWAYS_MAX, SAMPLE_MAX, STRATA_MAX
from protocols.terms.basis import Basis
from verifier.commands import local_time
from verifier.proof.bound import Seen, alpha_of, lower_bound, sample_size, together
from verifier.proof.figures import DeviceFigure, Evidence, figures
from verifier.proof.history import OVERLAPPED, UNKNOWN
from verifier.proof.visits import first_seen, order

STRATA = ("none", "class", "protocol", "gateway")
ALL = "all"
NOT_STATED = "-"
Label = Callable[[DeviceFigure], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to draw. announced_s: said before it came; at_s: the devices that count then, not later than announced_s.

    size: how many, or None for as many as prove `at_least_permille` of them if none fails.
    basis_sha256: of every parameter of the basis. label: stratum of a device.
    """

    announced_s: int
    at_s: int
    basis: Basis
    basis_sha256: str
    confidence_permille: int = 950
    at_least_permille: int = 950
    size: int | None = None
    strata_by: str = "none"
    label: Label = lambda device: ALL


def draw(evidence: Sequence[Evidence], wanted: Order) -> dict[str, Any]:
    """Return the draw (protocols.evidence.sample.DRAW_FILE, its `draw`). The order of `evidence` does not matter.

    Raises: ConfigError `sampling.*`, every problem at once as far as possible, or `figures.*`.
    """
    ordered = sorted(evidence, key=lambda e: e.gateway)
    problems = []
    if wanted.at_s > wanted.announced_s:
        problems.append(Problem.of("--at", "sampling.at_late", at=local_time(wanted.at_s),
                                   announced=local_time(wanted.announced_s)))
    shown = [seen for e in ordered if (seen := first_seen(e.log, e.windows, wanted.announced_s)) is not None]
    if not shown:
        problems.append(Problem.of("--announced", "sampling.no_cosignature",
                                   announced=local_time(wanted.announced_s)))
    if len(ordered) > GATEWAYS_MAX:
        problems.append(Problem.of("bundle", "sampling.too_many_gateways", count=len(ordered), limit=GATEWAYS_MAX))
    rosters = [_roster(e, wanted, problems) for e in ordered]
    if problems:
        raise ConfigError(problems)

    # A window counts only if it was co-signed by the announced instant: nobody enters once the seed is known.
    counted_s = max(_rounded(e, wanted.at_s) for e in ordered)
    fixed = replace(wanted.basis, lateness_s=min(wanted.basis.lateness_s, wanted.announced_s - counted_s))
    try:
        counted = [d for d in figures(ordered, wanted.at_s, fixed).devices if d.reason is None]
    except VerificationError as error:
        raise ConfigError(error.problems) from error
    cosignature = min(shown, key=order)
    seed = sample.seed(cosignature, rosters)
    strata: dict[str, list[tuple[bytes, DeviceFigure]]] = defaultdict(list)
    for device in counted:
        strata[wanted.label(device)].append((sample.rank(seed, device.gateway, device.row.slot), device))
    names = sorted(strata)
    sizes = _sizes([len(strata[name]) for name in names], wanted)
    devices = []
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        lowest = sorted(strata[name], key=lambda ranked: ranked[0])[:size]
        devices += [{"gateway": d.gateway, "slot": d.row.slot, "stratum": number} for _, d in lowest]
    return {
        "announced_s": wanted.announced_s, "at_s": wanted.at_s, "basis_sha256": wanted.basis_sha256,
        "cosignature": dict(cosignature), "seed": seed.hex(), "confidence_permille": wanted.confidence_permille,
        "at_least_permille": wanted.at_least_permille if wanted.size is None else None, "gateways": rosters,
        "strata_by": wanted.strata_by, "devices": devices,
        "strata": [{"name": name, "population": len(strata[name]), "drawn": size}
                   for name, size in zip(names, sizes, strict=True)]}


def _rounded(evidence: Evidence, at_s: int) -> int:
    """Return the instant at which `figures` counts this gateway: T, or the start of the window that T is inside of."""
    windows = evidence.windows
    return next((windows.start_s[i] for i in range(len(windows))
                 if windows.state[i] != OVERLAPPED and windows.start_s[i] < at_s < windows.end_s[i]), at_s)


def _roster(evidence: Evidence, wanted: Order, problems: list[Problem]) -> dict[str, Any]:
    """Return the roster in force at at_s, as the draw names it. It must be co-signed by the announced instant."""
    windows, where = evidence.windows, f"gateway {evidence.gateway}"
    before = [i for i in range(len(windows)) if windows.state[i] != OVERLAPPED and windows.end_s[i] <= wanted.at_s]
    if not before:
        problems.append(Problem.of(where, "figures.no_window", at_s=wanted.at_s))
        return {}
    seq = windows.roster[before[-1]]
    data = evidence.log.entry(seq)
    if data is None:
        problems.append(Problem.of(where, "sampling.no_roster", seq=seq))
        return {}
    # What includes a later window includes the roster that it names.
    fixed_s = min((after for at, after in zip(windows.seq, windows.not_after_s, strict=True)
                   if at > seq and after != UNKNOWN), default=UNKNOWN)
    if fixed_s == UNKNOWN or fixed_s > wanted.announced_s:
        problems.append(Problem.of(where, "sampling.roster_late", seq=seq, announced=local_time(wanted.announced_s),
                                   fixed=local_time(fixed_s) if fixed_s != UNKNOWN else "-"))
    return {"gateway": evidence.gateway, "roster": seq,
            "devices_root": entry.decode(data, seq=seq)["devices_root"]}


def _sizes(populations: Sequence[int], wanted: Order) -> list[int]:
    """Return how many to draw of each stratum. Raises ConfigError if that cannot be."""
    total = sum(populations)
    if not total:
        raise ConfigError(Problem.of("sample", "sampling.nobody", at=local_time(wanted.at_s)))
    if len(populations) > STRATA_MAX:
        raise ConfigError(Problem.of("--strata", "sampling.too_many_strata", count=len(populations), limit=STRATA_MAX))
    if wanted.size is None:
        alpha = alpha_of(wanted.confidence_permille) / len(populations)
        sizes = [max(1, sample_size(n, -(-n * wanted.at_least_permille // 1000), alpha)) for n in populations]
    elif not len(populations) <= wanted.size <= total:
        raise ConfigError(Problem.of("--n", "sampling.bad_size", size=wanted.size, strata=len(populations),
                                     devices=total))
    else:
        sizes = _shares(populations, wanted.size)
    if sum(sizes) > SAMPLE_MAX:
        raise ConfigError(Problem.of("sample", "sampling.too_large", size=sum(sizes), limit=SAMPLE_MAX))
    return sizes


def _shares(populations: Sequence[int], size: int) -> list[int]:
    """Share `size` in proportion, at least one for each stratum: what is left over goes to the largest remainders."""
    total = sum(populations)
    sizes = [max(1, n * size // total) for n in populations]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(populations[i] * size % total), i))
    while sum(sizes) < size:
        for i in by_remainder:
            if sizes[i] < populations[i] and sum(sizes) < size:
                sizes[i] += 1
    while sum(sizes) > size:  # small strata took more than their share
        sizes[max(range(len(sizes)), key=lambda i: (sizes[i], -i))] -= 1
    return sizes


def file_bytes(drawn: Mapping[str, Any]) -> bytes:
    """Return the file of a draw: the same for the same draw."""
    return jcs.encode({"type": sample.DRAW_TYPE, "draw": dict(drawn)})


def promise(drawn: Mapping[str, Any]) -> int:
    """Return the lower bound if none of the drawn devices fails."""
    return together([Seen(s["population"], s["drawn"], 0) for s in drawn["strata"]],
                    alpha_of(drawn["confidence_permille"]))


def bounds(drawn: Mapping[str, Any], failures: Sequence[int]) -> tuple[list[int], int]:
    """Return the lower bound of each stratum, each with its share of alpha, and their sum."""
    alpha = alpha_of(drawn["confidence_permille"]) / max(1, len(drawn["strata"]))
    each = [lower_bound(s["population"], s["drawn"], x, alpha)
            for s, x in zip(drawn["strata"], failures, strict=True)]
    return each, sum(each)


def basis_sha256(parameters: Mapping[str, Any]) -> str:
    """Return the digest of every parameter of a basis."""
    return hashlib.sha256(jcs.encode(dict(parameters))).hexdigest()
