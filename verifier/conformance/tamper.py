"""`make tamper`: every class of tampering against the verifier, and honest bundles that it must not refuse.

    python -m verifier.conformance.tamper [--seed N] [--instances N] [--honest N] [--class N]... [--jobs N]
    python -m verifier.conformance.tamper --markdown

Nothing is called detected that was not: an instance that passes, or is refused for a reason that is none of its
class, is printed with its seed. Exit status 1 if that happens, or if an honest bundle is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from protocols.errors import TallystickError
from protocols.evidence.bundle import open_bundle
from verifier.conformance import (  # noqa: F401 - fill KINDS, in this order
    classes,
    classes_content,
    classes_enterprises,
    classes_log,
    classes_probes,
    classes_register,
    classes_trust,
    classes_visits,
)
from verifier.conformance.classes import CLASSES, KINDS, NAMES, NO_OBJECT, PARTLY, PENDING
from verifier.conformance.draw import FEATURES, SERVERS, honest
from verifier.conformance.servers import rsa_key
from verifier.conformance.world import zipped
from verifier.proof.verify import verify

INSTANCES, HONEST, SEED = 100, 10_000, 1
CHUNK = 25
NICE = 10
TRIES_MAX = 3
"""So many times as many instances are drawn at most, when some come out alike."""
SHOWN_MAX = 5
COVERED_AT = 5000
"""So many honest bundles show every feature, or the draw has lost one."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One instance: its place in the class, its mode, what makes it different, what refused it."""

    place: int
    mode: str
    digest: bytes
    causes: tuple[str, ...]
    codes: tuple[str, ...]
    uncounted: bool


@dataclass(slots=True)
class Result:
    """What became of one class."""

    number: int
    seen: set[bytes] = field(default_factory=set)
    causes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    uncounted: int = 0
    passed: list[Shot] = field(default_factory=list)
    drawn: int = 0

    @property
    def instances(self) -> int:
        """Number of different instances."""
        return len(self.seen)

    def take(self, shot: Shot) -> None:
        """Add one shot; one that was there before counts once."""
        self.drawn = max(self.drawn, shot.place + 1)
        if shot.digest in self.seen:
            return
        self.seen.add(shot.digest)
        self.modes[shot.mode] += 1
        self.uncounted += shot.uncounted
        self.causes.update(shot.causes[:1])
        if not shot.causes:
            self.passed.append(shot)

    def detected(self, wanted: int) -> bool:
        """Return whether every instance was refused for a reason of its class, and there were enough."""
        return not self.passed and self.instances >= wanted


@dataclass(slots=True)
class Alarms:
    """What became of the honest bundles. refused: (seed, codes)."""

    drawn: int = 0
    features: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)


def shoot(number: int, seed: int, first: int, count: int) -> list[Shot]:
    """Make and judge instances [first, first + count) of a class."""
    shots = []
    for place in range(first, first + count):
        instance = classes.make(number, f"{seed}/{number}/{place}")
        told = classes.judge(instance)
        codes = sorted(told.codes)
        shots.append(Shot(place, instance.mode, hashlib.sha256(repr(instance.key()).encode()).digest(),
                          tuple(c for c in codes if KINDS[number].names(c)), tuple(codes), bool(told.uncounted)))
    return shots


def be_honest(seed: int, first: int, count: int) -> Alarms:
    """Draw and judge honest bundles [first, first + count)."""
    alarms = Alarms()
    for place in range(first, first + count):
        draw = honest(f"{seed}/honest/{place}").visited()
        codes: tuple[str, ...]
        try:
            with classes.beside(draw.also) as files:
                verdict = verify(open_bundle(zipped(draw.members, compress=draw.compressed)), draw.parsed_policy(),
                                 anchor=draw.anchor, also=files)
            codes = tuple(sorted({f.code for f in verdict.findings if f.severity == "fault"}))
            if not verdict.valid and not codes:
                codes = ("invalid",)
        except TallystickError as error:
            codes = tuple(p.code for p in error.problems)
        alarms.drawn += 1
        alarms.features.update(draw.features)
        if codes:
            alarms.refused.append((draw.seed, codes))
    return alarms


def _chunks(count: int, first: int = 0) -> Iterator[tuple[int, int]]:
    for at in range(first, first + count, CHUNK):
        yield at, min(CHUNK, first + count - at)


class _Here(Executor):
    """One job: everything in this process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def run(numbers: Sequence[int], *, seed: int, instances: int, honest_bundles: int, jobs: int,
        tell: Callable[[str], None]) -> tuple[dict[int, Result], Alarms]:
    """Judge everything on `jobs` processes. `tell` hears of progress."""
    results = {number: Result(number) for number in numbers}
    alarms = Alarms()
    if jobs > 1:
        for name in (*SERVERS, "client"):
            rsa_key(name)  # once, before the processes part
    with ProcessPoolExecutor(jobs, initializer=os.nice, initargs=(NICE,)) if jobs > 1 else _Here() as pool:
        for attempt in range(TRIES_MAX):
            waiting: dict[Future[list[Shot]], int] = {}
            for number, result in results.items():
                missing = instances - result.instances
                if missing > 0 and (attempt == 0 or not result.passed):
                    for first, count in _chunks(missing, result.drawn):
                        waiting[pool.submit(shoot, number, seed, first, count)] = number
            for future in as_completed(waiting):
                for shot in future.result():
                    results[waiting[future]].take(shot)
        tell(f"{sum(r.instances for r in results.values())} instances judged")
        told = 0
        for done in as_completed([pool.submit(be_honest, seed, *chunk) for chunk in _chunks(honest_bundles)]):
            part = done.result()
            alarms.drawn += part.drawn
            alarms.features.update(part.features)
            alarms.refused += part.refused
            if alarms.drawn - told >= 1000:
                told = alarms.drawn
                tell(f"{told} honest bundles judged")
    for result in results.values():
        result.passed.sort(key=lambda shot: shot.place)
    alarms.refused.sort()
    return results, alarms


def class_lines(results: dict[int, Result], wanted: int) -> list[str]:
    """Return the table of the classes."""
    lines = [f"{'class':<36}{'verdict':<16}{'instances':>9}  by"]
    for number in range(1, CLASSES + 1):
        name = f"{number:>2} {NAMES[number]}"
        if number in NO_OBJECT:
            lines.append(f"{name:<36}no object: {NO_OBJECT[number]}")
        elif number in PENDING:
            lines.append(f"{name:<36}pending: needs {PENDING[number]}")
        elif number in results:
            result = results[number]
            by = ", ".join(f"{code} {n}" for code, n in sorted(result.causes.items(), key=lambda i: (-i[1], i[0]))[:6])
            if len(result.causes) > 6:
                by += f", {len(result.causes) - 6} more"
            if result.uncounted:
                by += f" ({result.uncounted} are no fault: not counted)"
            told = "detected" if result.detected(wanted) else "NOT DETECTED"
            lines.append(f"{name:<36}{told:<16}{result.instances:>9}  {by}")
            if number in PARTLY:
                lines.append(f"{'':<36}in part {PARTLY[number]}")
    return lines


def markdown_lines() -> list[str]:
    """Return the table of docs/tampering.md: each class, the ways to do it, and what may refuse it."""
    lines = ["| class | ways to do it here | causes |", "| --- | --- | --- |"]
    for number in range(1, CLASSES + 1):
        head = f"| {number} {NAMES[number]} |"
        if number in NO_OBJECT:
            lines.append(f"{head} no object: {NO_OBJECT[number]} | |")
        elif number in PENDING:
            lines.append(f"{head} pending: needs {PENDING[number]} | |")
        else:
            kind = KINDS[number]
            ways = "; ".join(name.replace("_", " ") for name, _ in kind.modes)
            ways += f". In part {PARTLY[number]}" if number in PARTLY else ""
            causes = " ".join(f"`{c}*`" if c.endswith(".") else f"`{c}`" if "." in c else f"({c.replace('_', ' ')})"
                              for c in kind.causes)
            lines.append(f"{head} {ways} | {causes} |")
    return lines


def coverage_lines(alarms: Alarms) -> list[str]:
    """Return the table of what the honest bundles were like."""
    width = max(map(len, FEATURES)) + 2
    cells = [f"{name:<{width}}{alarms.features[name]:>7}" for name in sorted(FEATURES | set(alarms.features))]
    half = -(-len(cells) // 2)
    return [f"Honest bundles: {alarms.drawn}; of these, with"] + [
        f"  {left}    {right}".rstrip() for left, right in zip(cells[:half], [*cells[half:], ""], strict=False)]


def passed_lines(results: dict[int, Result], alarms: Alarms, seed: int) -> list[str]:
    """Return what went wrong, each with what repeats it."""
    lines = []
    for number, result in results.items():
        lines += [f"class {number} instance {seed}/{number}/{shot.place} ({shot.mode}): "
                  + (f"refused, but for {', '.join(shot.codes)}" if shot.codes else "PASSED")
                  for shot in result.passed[:SHOWN_MAX]]
        if len(result.passed) > SHOWN_MAX:
            lines.append(f"class {number}: {len(result.passed) - SHOWN_MAX} more")
    never = sorted(FEATURES - set(alarms.features)) if alarms.drawn >= COVERED_AT else []
    if never:
        lines.append(f"honest bundles never showed: {', '.join(never)}")
    lines += [f"honest bundle {name}: refused for {', '.join(codes)}" for name, codes in alarms.refused[:SHOWN_MAX]]
    return lines


def last_line(results: dict[int, Result], alarms: Alarms, wanted: int) -> str:
    """Return the line that sums it up."""
    def names(numbers: Sequence[int]) -> str:
        return f" ({', '.join(f'{n} {NAMES[n]}' for n in sorted(numbers))})" if numbers else ""

    detected = sum(r.detected(wanted) for r in results.values())
    return (f"{detected} of {CLASSES} classes detected, {len(PENDING)} pending{names(list(PENDING))}, {len(NO_OBJECT)} "
            f"without object{names(list(NO_OBJECT))}, {sum(r.instances for r in results.values())} instances, "
            f"{len(alarms.refused)} false alarms")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the classes and the honest bundles and print what became of them."""
    parser = argparse.ArgumentParser(prog="python -m verifier.conformance.tamper", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--instances", type=int, default=INSTANCES, metavar="N", help="of each class (100)")
    parser.add_argument("--honest", type=int, default=HONEST, metavar="N", help="honest bundles (10000)")
    parser.add_argument("--class", type=int, action="append", dest="classes", metavar="N", help="only this class")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/tampering.md, judge nothing")
    args = parser.parse_args(argv)
    if args.markdown:
        print("\n".join(markdown_lines()))
        return 0
    numbers = args.classes or sorted(KINDS)
    unknown = [n for n in numbers if n not in KINDS]
    if unknown:
        parser.error(f"nothing to draw for class {', '.join(map(str, unknown))}: "
                     + "; ".join(NO_OBJECT.get(n) or PENDING.get(n) or "no such class" for n in unknown))
    results, alarms = run(numbers, seed=args.seed, instances=args.instances, honest_bundles=args.honest,
                          jobs=args.jobs, tell=lambda text: print(text, file=sys.stderr, flush=True))
    print("\n".join(class_lines(results, args.instances)))
    if args.honest:
        print("\n" + "\n".join(coverage_lines(alarms)))
    wrong = passed_lines(results, alarms, args.seed)
    if wrong:
        print("\n" + "\n".join(wrong))
    print("\n" + last_line(results, alarms, args.instances))
    return 1 if wrong or not all(r.detected(args.instances) for r in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
