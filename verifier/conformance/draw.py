"""Honest gateways with a drawn life: what may happen to a plant, happened to none of them by design.

    draw = lived(7)               # the gateway of seed 7, its last head not yet in the register
    draw.close()                  # last round of the register, then the bundle: draw.members, draw.policy, draw.anchor
    honest(7)                     # both

The same seed gives the same bytes. `features` names what happened, so that a run can show what it covered.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from protocols.errors import ConfigError
from protocols.evidence import jcs, keys, note, roster, signed, tiles
from protocols.evidence.encoding import to_base64
from protocols.evidence.policy import Policy
from protocols.evidence.policy import parse as parse_policy
from protocols.terms.vocabulary import (
    DEPLOYMENTS,
    OUTAGE_REASONS,
    POINT_TYPES,
    PROTOCOLS,
    ROLES,
    THINGS,
)
from verifier.conformance import servers as key_holder
from verifier.conformance import visits
from verifier.conformance.world import (
    OTHER_USCC,
    START_S,
    Gateway,
    K,
    World,
    device_row,
    key_of,
    point_row,
    private_part,
    public,
    zipped,
)
from verifier.proof.also import EQUIVOCATION
from verifier.sampling.spotcheck import close

WITNESSES = ("bureau", "vendor", "association", "city", "union")
HOUR_S, DAY_S = 3600, 86_400
EVENTS_MAX = 24
LONG_WINDOWS = 300
"""Windows of a long log: more than one tile, so that a bundle may leave tiles out."""

SERVERS = ("press", "lathe", "mill")
"""Names of servers with keys of their own; a key takes half a second to make, once in a process."""

@dataclass
class Draw:
    """One gateway, its world, and after `close` what is put before a verifier."""

    seed: str
    rng: random.Random
    world: World
    gateway: Gateway
    mode: str
    privates: dict[int, dict[str, Any]] = field(default_factory=dict)
    features: set[str] = field(default_factory=set)
    skew_s: int = 0
    """How far the gateway's clock is ahead of the witnesses'."""
    offline: dict[str, Any] | None = None
    """The `seen` of a gateway that hears nothing new."""
    is_offline: bool = False
    keys: list[tuple[int, str]] = field(default_factory=list)
    """(first size that it signs, name) of each key."""
    kept: list[bytes] = field(default_factory=list)
    """Checkpoints that a checker asked for along the way."""
    revoked_from: int | None = None
    servers: bool = True
    """Whether servers are probed."""
    members: dict[str, bytes] = field(default_factory=dict)
    policy: bytes = b""
    anchor: bytes | None = None
    also: dict[str, bytes] = field(default_factory=dict)
    """File name -> bytes of what the checker has beside the bundle."""
    compressed: bool = False

    @property
    def true_s(self) -> int:
        """The time of the witnesses' clocks now."""
        return self.gateway.now_s - self.skew_s

    def parsed_policy(self) -> Policy:
        """Return the policy that the verifier uses."""
        return parse_policy(self.policy or self.policy_json(), where="policy")

    def policy_json(self) -> bytes:
        """Return the policy of a checker who knows everybody whom honesty needs."""
        if self.mode == "alone":
            vkey = note.VerifierKey(keys.gateway_origin(self.gateway.id), note.ED25519, public(self.gateway.name))
            return json.dumps({"gateways": [str(vkey)]}).encode()
        return self.world.policy_json(maker_cas=[to_base64(key_holder.maker_ca())])

    def key_at(self, size: int) -> str:
        """Return the name of the key that signs a checkpoint of this size."""
        return [name for first, name in self.keys if first <= size][-1]

    def sealed(self, **changes: Any) -> int:
        """Seal a window as this gateway would now, changed as told."""
        if self.is_offline:
            changes = {"seen": self.offline} | changes
        return self.gateway.window(**changes)

    def round(self, *, delay_s: int = 10) -> None:
        """Put the heads into the register, co-signed by enough witnesses for the quorum."""
        if self.mode == "alone":
            return
        by = list(self.world.witnesses)
        if len(by) > 1 and self.rng.random() < 0.3:
            holds = parse_policy(self.world.policy_json(), where="policy").quorum.holds
            some = [w for w in by if self.rng.random() < 0.7]
            if holds({public(w) for w in some}):
                if some != by:
                    self.features.add("witness down")
                by = some
        self.rng.shuffle(by)
        self.world.round(time_s=max(self.world.time_s + 1, self.true_s + delay_s), by=by)

    def close(self, *, thin: bool = True) -> Draw:
        """The last head into the register, then the bundle. `thin`: as a bundler may, leave heads out."""
        rng, gateway = self.rng, self.gateway
        self.round(delay_s=rng.randrange(1, 40))
        self.policy = self.policy_json()
        whole = -(-len(gateway.entries) // tiles.WIDTH)
        first, end = 0, whole
        if whole > 1 and rng.random() < 0.8:
            first = rng.randrange(whole)
            end = rng.randrange(first + 1, whole + 1)
            self.features.add("interval")
        self.members = gateway.members(first_tile=first, end_tile=end)
        if self.mode != "alone":
            self._proofs(thin)
        self._openings()
        if rng.random() < 0.3:
            self._anchor()
        if rng.random() < 0.15:
            self.members["checkpoint"] = self._strange_line(self.members["checkpoint"])
        if rng.random() < 0.15:
            self._beside()
        self.compressed = rng.random() < 0.5
        self.features |= {_BESIDE[name.partition("-")[0]] for name in self.also}
        return self

    def heads(self) -> list[int]:
        """Return the register indices of this gateway's heads that are co-signed."""
        covered = self.world.rounds[-1][0] if self.world.rounds else 0
        return [i for i, e in enumerate(self.world.entries[:covered])
                if (v := json.loads(e))["type"] == "head" and v["gateway"] == self.gateway.id]

    def _proofs(self, thin: bool) -> None:
        """Leave heads out but the newest, show proofs under later checkpoints: both only make times later."""
        rng, world = self.rng, self.world
        heads = self.heads()
        if thin and len(heads) > 1 and rng.random() < 0.4:
            for index in heads[:-1]:
                if rng.random() < 0.5:
                    del self.members[f"register/{index}.proof"]
                    self.features.add("heads thinned out")
        if len(world.rounds) > 1 and rng.random() < 0.3:
            size, checkpoint = world.rounds[-1]
            for name in [n for n in self.members if n.startswith("register/")]:
                if rng.random() < 0.5:
                    index = int(name.removeprefix("register/").removesuffix(".proof"))
                    self.members[name] = world.proof(index, checkpoint=checkpoint, size=size)
            self.features.add("proofs under a later checkpoint")

    def _openings(self) -> None:
        rng, gateway = self.rng, self.gateway
        # A bundle that ends before the last roster opens against the rows it has: only whole bundles are opened here.
        if self.privates and "interval" not in self.features and self.revoked_from is None and rng.random() < 0.4:
            for slot in sorted(self.privates):
                if rng.random() < 0.5:
                    self.members[f"openings/{slot}.json"] = gateway.opening(slot, self.privates[slot])
                    self.features.add("opening")

    def _anchor(self) -> None:
        rng = self.rng
        heads = self.heads() if self.mode != "alone" else []
        if self.kept and (not heads or rng.random() < 0.5):
            self.anchor = rng.choice(self.kept)
            self.features.add("anchor: checkpoint")
        elif heads:
            self.anchor = self.world.proof(rng.choice(heads))
            self.features.add("anchor: head")

    def _beside(self) -> None:
        """What a checker may hold beside the bundle without harm: an older state of this log, lies of another one."""
        rng, gateway = self.rng, self.gateway
        kind = rng.choice(["kept", "older", "other"])
        if kind == "kept" and self.kept:
            self.also["kept-checkpoint"] = rng.choice(self.kept)
        elif kind == "older":
            self.also["older-bundle.tally"] = zipped(self.members)
        else:
            stranger = Gateway(self.world, f"stranger {rng.randrange(1000)}", gateway.uscc, {})
            stranger.add("enrolment", certificate=stranger.certificate)
            pair = [stranger.checkpoint().decode(), stranger.checkpoint(root=rng.randbytes(32)).decode()]
            self.also["other-equivocation.json"] = jcs.encode({"type": EQUIVOCATION, "a": pair[0], "b": pair[1]})

    def visited(self) -> Draw:
        """A checker who trusts an assessor may hold the findings of a visit to devices that this bundle shows."""
        rng = random.Random(f"visit {self.seed}")  # of its own: nothing else is drawn otherwise because of it
        if self.mode != "witnessed" or rng.random() >= 0.2:
            return self
        policy = json.dumps(json.loads(self.policy) | {"assessors": [public(visits.ASSESSOR).hex()]}).encode()
        seen: dict[int, int] = {}  # co-signature -> start of the first window that names it
        for value in map(json.loads, self.gateway.entries):
            if value["type"] == "window" and value.get("seen"):
                seen.setdefault(value["seen"]["time_s"], value["start_s"])
        pairs = list(pairwise(sorted(seen)))
        for before_s, after_s in rng.sample(pairs, min(len(pairs), 4)):
            try:
                drawn = visits.honest_draw(
                    [self.members], policy, after_s - 1, at_s=min(seen[before_s], after_s - 1),
                    basis=visits.PATIENT, at_least_permille=rng.choice([500, 950, 1000]))
            except ConfigError:
                continue  # no device counted then, or the bundle does not show it
            told = {place: rng.choice(["match", "match", "mismatch", "unverified", None])
                    for place in range(len(drawn["devices"]))}
            made = visits.visit(drawn, told)
            if rng.random() < 0.8:
                close(made, missing_allowed=True)
            self.also["findings.json"] = made.encode()
            self.policy = policy
            self.features.add(_BESIDE["findings.json"])
            break
        return self

    def _strange_line(self, data: bytes) -> bytes:
        parsed = note.parse(data, where="")
        stranger = note.Signature("stranger.example", self.rng.randbytes(4), self.rng.randbytes(64))
        lines = [*parsed.signatures, stranger]
        self.rng.shuffle(lines)
        self.features.add("signature of a stranger")
        return note.format_note(parsed.text, lines)


_BESIDE = {"chain": "chain of a server", "reads": "transcript of reads", "kept": "beside it: an older checkpoint",
           "findings.json": "findings of a visit", "older": "beside it: another bundle of this log",
           "other": "beside it: a proof about another log"}
"""First word of a file's name -> feature."""


def _quorum(rng: random.Random, names: Sequence[str]) -> tuple[list[str], str | None, str]:
    """Return (group lines, quorum, feature)."""
    everyone = " ".join(names)
    kind = rng.choice(["all", "any", "k of n", "one", "nested", "none"])
    match kind:
        case "any":
            return [f"group some any {everyone}"], "some", "quorum any"
        case "k of n":
            return [f"group some {rng.randint(1, len(names))} {everyone}"], "some", "quorum k of n"
        case "one":
            return [], rng.choice(list(names)), "quorum of one witness"
        case "nested" if len(names) > 2:
            cut = rng.randint(1, len(names) - 1)
            return [f"group left any {' '.join(names[:cut])}", f"group right all {' '.join(names[cut:])}",
                    f"group both {rng.randint(1, 2)} left right"], "both", "quorum of nested groups"
        case "none":
            return [], "none", "quorum none, with witnesses"
    return [], None, "quorum all"


def _world(rng: random.Random, mode: str, features: set[str]) -> World:
    if mode != "witnessed":
        features.add("plant without a platform" if mode == "alone" else "register without witnesses")
        return World(witnesses=())
    names = rng.sample(WITNESSES, rng.randint(1, 4))
    independent = rng.sample(names, rng.randint(1, len(names))) if rng.random() < 0.95 else []
    groups, quorum, feature = _quorum(rng, names)
    late = {w: rng.randrange(30) for w in names} if rng.random() < 0.3 else {}
    features |= {feature, f"{len(names)} witnesses" if len(names) > 1 else "1 witness",
                 "no witness is independent" if not independent else "independent witness"}
    return World(witnesses=names, independent=independent, groups=groups, quorum=quorum, late_s=late,
                 time_s=START_S - rng.randrange(30, 4000))


def lived(seed: object, *, mode: str | None = None, long: bool | None = None, revoke: bool | None = None,
          skew: bool | None = None, servers: bool = True) -> Draw:
    """Return a gateway that has lived as the seed drew it. What is given is not drawn.

    mode: `witnessed`, `unwitnessed` (a register, no witness) or `alone` (no platform).
    """
    rng = random.Random(f"tallystick {seed}")
    features: set[str] = set()
    mode = mode or rng.choices(["witnessed", "unwitnessed", "alone"], [84, 6, 10])[0]
    world = _world(rng, mode, features)
    gateway, before = _enrolled(rng, world, mode, features)
    draw = Draw(str(seed), rng, world, gateway, mode, features=features, servers=servers)
    draw.keys.append((0, gateway.key_name))
    draw.features |= before
    long = rng.random() < 0.04 if long is None else long
    gateway.len_s = rng.choice([60, 60, 60, 20, 300, 900, 3600])
    if skew if skew is not None else rng.random() < 0.08:
        draw.skew_s = rng.choice([-400, -1, 1, 2]) * rng.choice([HOUR_S, DAY_S, 365 * DAY_S]) + rng.randrange(60)
        draw.features.add("clock far ahead" if draw.skew_s > 0 else "clock far behind")
    gateway.now_s = max(0, (START_S + draw.skew_s) // 3600 * 3600)
    draw.skew_s = gateway.now_s - START_S if draw.skew_s else 0
    if mode != "alone" and rng.random() < 0.9:
        world.round(time_s=max(world.time_s + 1, draw.true_s - rng.randrange(1, 50)))
    gateway.begin(len_s=gateway.len_s)
    _first_roster(draw)
    for _ in range(rng.randint(1, EVENTS_MAX)):
        _happens(draw)
    if long:
        draw.features.add("more than one tile")
        for number in range(LONG_WINDOWS):
            draw.sealed()
            if number % 50 == 49:
                _happens(draw)
    if mode != "alone" and (revoke if revoke is not None else rng.random() < 0.06):
        _revoked(draw)
    draw.sealed()
    return draw


def honest(seed: object, **fixed: Any) -> Draw:
    """Return a drawn gateway and its bundle."""
    return lived(seed, **fixed).close()


def _enrolled(rng: random.Random, world: World, mode: str, features: set[str]) -> tuple[Gateway, set[str]]:
    """Enrol the gateway, after and before others of its enterprise and of another one."""
    before: set[str] = set()
    if mode == "alone":
        name = f"alone {rng.randrange(1000)}"
        return world.gateway(name, enrol=False, signer=f"recovery {name}"), before
    lies: dict[str, Any] = {}
    if rng.random() < 0.2:
        world.gateway("of another enterprise", uscc=OTHER_USCC, k_sha256=roster.k_sha256(b"other")).begin()
        before.add("another enterprise")
    if rng.random() < 0.25:
        other = world.gateway("sister")
        other.begin()
        before.add("a second gateway")
        if rng.random() < 0.4:
            _revocation(world, other, rng.randint(1, 5), rng.choice(["platform", "recovery sister"]))
            before.add("revocation elsewhere")
    if rng.random() < 0.12:
        old = world.gateway("the one before")
        old.begin()
        world.round(time_s=world.time_s + 5)
        if rng.random() < 0.7:
            _revocation(world, old, len(old.entries), "recovery the one before")
        lies["supersedes"] = old.id
        before.add("re-enrolment")
    gateway = world.gateway(f"gateway {rng.randrange(100_000)}", **lies)
    if rng.random() < 0.1:
        world.gateway("younger sister")
        before.add("a second gateway")
    return gateway, before


def _revocation(world: World, gateway: Gateway, from_size: int, signer: str) -> None:
    revocation = signed.sign("revocation", {"gateway": gateway.id, "gateway_key": public(gateway.key_name).hex(),
                                            "from_size": from_size}, key_of(signer))
    world.add({"type": "revoke", "revocation": revocation}, gateway.uscc)


def _device(draw: Draw, slot: int, **fields: Any) -> dict[str, Any]:
    """Return a drawn device row; its private part is kept for openings."""
    rng = draw.rng
    private = private_part(
        f"{draw.seed} {slot}", maker=rng.choice(["Maker", "海天", ""]), model=rng.choice(["M-1", "M-2", ""]),
        serial=rng.choice([f"S-{slot}-{rng.randrange(99)}", "S-1", ""]), asset=rng.choice(["", f"A-{slot}"]),
        product_instance_uri=rng.choice(["", f"urn:maker:{slot}"]), handle=rng.choice(["", f"88.1/{slot}"]),
        mac=rng.choice(["", "00-11-22-33-44-55"]), unit=str(slot))
    draw.privates[slot] = private
    owner = rng.choice(SERVERS)
    first = next((d["slot"] for d in draw.gateway.devices if d["server"] == key_holder.server(owner)), None)
    server = rng.choice([key_holder.server(owner, via=first), {"spki_sha256": None, "via": None},
                         {"spki_sha256": f"{slot:064x}", "via": None},
                         {"spki_sha256": "ab" * 32, "via": roster.NOT_IN_ROSTER}])
    drawn: dict[str, Any] = {
        "parent": rng.choice([None, None, rng.randrange(slot)]) if slot else None, "thing": rng.choice(THINGS),
        "class": rng.choice(["machine_tool", "robot", None]), "industry": rng.choice(["3421", None]),
        "region": rng.choice(["320100", None]), "deployment": rng.choice([*DEPLOYMENTS, None]),
        "energy": rng.choice([True, False, None]), "server": server}
    return device_row(slot, private=private, **drawn | fields)


def _point(draw: Draw, point: int, device: int) -> dict[str, Any]:
    rng = draw.rng
    bit = f"/{rng.randrange(16)}" if rng.random() < 0.2 else ""
    return point_row(point, device, draw.gateway.id, address=f"{device + 1}/holding/{point}/uint16{bit}",
                     base=f"{device + 1}/holding/{rng.choice([point, 0])}", protocol=rng.choice(PROTOCOLS),
                     role=rng.choice(ROLES), type=rng.choice([*POINT_TYPES, None]))


def _first_roster(draw: Draw) -> None:
    rng = draw.rng
    devices = [_device(draw, slot) for slot in range(rng.randint(1, 6))]
    count = rng.choice([0, 1, 3, len(devices), 9, 17])
    draw.gateway.roster(devices, [_point(draw, i, rng.randrange(len(devices))) for i in range(count)])


def _happens(draw: Draw) -> None:
    """Let one thing happen."""
    weights = [weight if draw.servers or happen not in (_probe, _reads, _attest) else 0
               for weight, happen in EVENTS.values()]
    EVENTS[draw.rng.choices(list(EVENTS), weights)[0]][1](draw)


def _windows(draw: Draw) -> None:
    rng, gateway = draw.rng, draw.gateway
    for _ in range(rng.randint(1, 4)):
        alive = [d["slot"] for d in gateway.devices if d["state"] == "alive"]
        online = [slot for slot in alive if rng.random() < 0.8]
        every = [p["point"] for p in gateway.points if p["state"] == "alive"
                 and gateway.devices[p["device"]]["state"] == "alive"]
        sampled = [p for p in every if rng.random() < 0.9]
        producing = [p for p in sampled if gateway.points[p]["device"] in online and rng.random() < 0.9]
        changing = [p for p in producing if rng.random() < 0.7]
        draw.sealed(connected=online, sampled=sampled, producing=producing, changing=changing,
                    clock={"source": rng.choice(["ntp", "system"]), "offset_ms": rng.randrange(-900, 900),
                           "step_ms": rng.choice([0, 0, 0, rng.randrange(-1500, 1500)])})
    draw.features.add("windows with gaps in the columns")


def _quiet(draw: Draw) -> None:
    draw.sealed(connected=[], sampled=[])
    draw.features.add("window without a sign of life")


def _round(draw: Draw) -> None:
    if draw.mode == "alone":
        return
    if not draw.is_offline:
        draw.round(delay_s=draw.rng.choice([1, 5, 30, 30, 600, 7200]))


def _offline(draw: Draw) -> None:
    """The line is cut: `seen` stays what it was, no head reaches the register."""
    if draw.mode == "alone":
        return
    draw.is_offline = not draw.is_offline
    if draw.is_offline:
        draw.offline = draw.world.seen()
        draw.features.add("offline")
        for _ in range(draw.rng.choice([1, 3, 3 * DAY_S // HOUR_S if draw.gateway.len_s == HOUR_S else 5])):
            draw.sealed()
        if draw.gateway.len_s == HOUR_S:
            draw.features.add("offline for days")
    else:
        draw.round(delay_s=3)


def _outage(draw: Draw) -> None:
    """A hole of every reason, as a gateway puts it on record."""
    rng, gateway = draw.rng, draw.gateway
    reason = rng.choice(OUTAGE_REASONS)
    len_s = gateway.len_s
    forward = gateway.now_s + len_s * rng.randint(1, 5)
    if reason in ("clock_back", "clone"):
        draw.sealed()
        back = gateway.now_s - len_s * rng.randint(1, 3)
        if reason == "clone":
            gateway.start()
        elif draw.skew_s:
            draw.skew_s -= gateway.now_s - back  # the clock was wrong before, and is wrong by another amount now
        gateway.outage(max(0, back), reason)
        draw.features.add("windows taken back")
    elif reason == "rule_change":
        new = rng.choice([n for n in (20, 60, 300, 900, 3600) if n != len_s])
        gateway.start(len_s=new)
        gateway.outage(-(-gateway.now_s // new) * new, reason)
        draw.features.add("window length changed")
    elif reason == "rollback":
        gateway.start(resealed_from=len(gateway.entries) - 1, platform_size=len(gateway.entries))
        gateway.outage(forward, reason)
    elif reason == "clock_forward":
        gateway.outage(forward, reason)
    else:
        gateway.start()
        gateway.outage(forward, reason, missing={"windows": (forward - gateway.now_s) // len_s,
                                                 "samples": rng.choice([None, 0, 17])})
    draw.features.add(f"outage: {reason}")
    draw.sealed()


def _restart(draw: Draw) -> None:
    draw.gateway.start()
    draw.features.add("restart without a hole")


def _roster(draw: Draw) -> None:
    """A change of the roster: devices and points come, go, are renamed, replaced or learn a tag."""
    rng, gateway = draw.rng, draw.gateway
    devices, points = [dict(d) for d in gateway.devices], [dict(p) for p in gateway.points]
    alive = [d["slot"] for d in devices if d["state"] == "alive"]
    kind = rng.choice(["grow", "retire", "replace", "rename", "tag", "points", "class", "parent"])
    match kind:
        case "retire" if len(alive) > 1:
            slot = rng.choice(alive)
            devices[slot]["state"] = "gone"
            for p in points:
                if p["device"] == slot:
                    p["state"] = "gone"
        case "replace" if len(alive) > 1:
            slot = rng.choice(alive)
            devices[slot]["state"] = "gone"
            for p in points:
                if p["device"] == slot:
                    p["state"] = "gone"
            devices.append(_device(draw, len(devices), replaces=slot))
            points.append(_point(draw, len(points), len(devices) - 1))
        case "rename" if alive:
            slot = rng.choice(alive)
            private = draw.privates[slot] | {"name": f"renamed {len(gateway.entries)}"}
            draw.privates[slot] = private
            devices[slot]["private_sha256"] = roster.private_sha256(private)
        case "tag" if alive:
            slot = rng.choice(alive)
            private = draw.privates[slot]
            ids = private["identifiers"]
            draw.privates[slot] = private = private | {
                "identifiers": ids | {"vaa": ids["vaa"] or f"88.{slot}", "mac": ids["mac"] or "00-11"}}
            devices[slot]["private_sha256"] = roster.private_sha256(private)
            devices[slot]["tags"] = [{"scheme": s, "tag": roster.keyed_tag(K, s, v)}
                                     for s, v in sorted(roster.tag_values(private).items())]
        case "points" if alive:
            points.append(_point(draw, len(points), rng.choice(alive)))
            live = [p["point"] for p in points if p["state"] == "alive"]
            if len(live) > 2:
                points[rng.choice(live[:-1])]["state"] = "gone"
        case "class" if alive:
            devices[rng.choice(alive)].update({"class": rng.choice(["robot", "machine_tool"]), "industry": "3421"})
        case "parent" if len(alive) > 1:
            devices[alive[-1]]["parent"] = rng.choice([None, *alive[:-1]])
        case _:
            kind = "grow"
            devices.append(_device(draw, len(devices)))
            points += [_point(draw, len(points) + i, len(devices) - 1) for i in range(rng.randrange(3))]
    gateway.roster(devices, points)
    draw.features.add(f"roster: {kind}")


def _rotate(draw: Draw) -> None:
    gateway = draw.gateway
    gateway.rotate(f"{gateway.name} key {len(gateway.entries)}")
    draw.keys.append((len(gateway.entries), gateway.key_name))
    draw.features.add("rotation" if len(draw.keys) == 2 else "several rotations")


def _unknown(draw: Draw) -> None:
    draw.gateway.add("tpm", quote="abc")
    draw.features.add("entry of an unknown type")


def _keep(draw: Draw) -> None:
    seq = len(draw.gateway.entries)
    draw.gateway.add("keep", from_seq=max(0, seq - 5), to_seq=seq - 1, name=f"hour-{seq}.parquet",
                     sha256=f"{seq:064x}", bytes=4096, retain_until_s=draw.gateway.now_s + 30 * DAY_S)
    draw.features.add("keep")


def _statement(draw: Draw) -> None:
    """An attestation or a demand, by somebody the checker knows or does not know; or what no format knows.

    A demand of nothing announces a draw.
    """
    rng, gateway, world = draw.rng, draw.gateway, draw.world
    if draw.mode == "alone":
        return
    row: Mapping[str, Any] = rng.choice(gateway.devices)
    kind = rng.choice(["attest", "demand", "unknown"])
    if kind == "attest":
        value = signed.sign("attestation", {
            "gateway": gateway.id, "slot": row["slot"], "kind": row["kind"], "tags": row["tags"],
            "server_spki_sha256": row["server"]["spki_sha256"] or "cd" * 32}, key_of("supervisor"))
        world.add({"type": "attest", "attestation": value}, gateway.uscc)
    elif kind == "demand":
        announced = len(world.entries) % 2 == 1
        value = signed.sign("demand", {"gateway": gateway.id, "slots": [] if announced else [row["slot"]], "hours": [],
                                       "deadline_s": draw.true_s + DAY_S}, key_of(rng.choice(["auditor", "passer-by"])))
        kind = "announced draw" if announced else kind
        world.add({"type": "demand", "demand": value}, gateway.uscc)
    else:
        world.add({"type": "advice"}, gateway.uscc)
    draw.features.add(f"register: {kind}")


def _fresh_seen(draw: Draw) -> dict[str, Any] | None:
    return draw.offline if draw.is_offline else draw.world.seen()


def _probe(draw: Draw) -> None:
    """Ask servers to sign: those of the roster, sometimes one that no row names, sometimes in an unknown way."""
    rng, seen = draw.rng, _fresh_seen(draw)
    if seen is None:
        return
    known = [name for name in SERVERS if any(
        d["server"]["spki_sha256"] == key_holder.server(name)["spki_sha256"] for d in draw.gateway.devices)]
    for name in known or SERVERS[:1]:
        if rng.random() < 0.1:
            fields = key_holder.probe_fields(draw.gateway, name, seen=seen)
            draw.gateway.add("probe", **fields | {"policy_uri": "http://opcfoundation.org/UA/SecurityPolicy#Next"})
            draw.features.add("probe of an unknown security policy")
        else:
            policy_uri = rng.choice([key_holder.BASIC, key_holder.AES128, key_holder.AES256])
            key_holder.seal_probe(draw.gateway, name, policy_uri, seen=seen)
            draw.features.add("probe")
    draw.sealed()


def _reads(draw: Draw) -> None:
    seen = _fresh_seen(draw)
    if seen is None or draw.is_offline:
        return
    count = draw.rng.randrange(6)
    seq, transcript = key_holder.seal_reads(draw.gateway, count=count, silent=[
        i for i in range(count) if draw.rng.random() < 0.2])
    draw.features.add("reads")
    if draw.rng.random() < 0.5:
        draw.also[f"reads-{seq}.json"] = jcs.encode(transcript)
    draw.sealed()


def _attest(draw: Draw) -> None:
    """A supervisor has seen a server; its maker's certificates are at hand."""
    rng, gateway = draw.rng, draw.gateway
    if draw.mode == "alone":
        return
    slot = rng.randrange(len(gateway.devices))
    name = rng.choice(SERVERS)
    key_holder.attest(draw.world, gateway, slot, name)
    draw.features.add("attestation of a server")
    if rng.random() < 0.5:
        chain = key_holder.chain(gateway, name, serial=f"S-{slot}", through=rng.choice([(), ("line",)]))
        draw.also[f"chain-{name}.json"] = jcs.encode(chain)


def _kept(draw: Draw) -> None:
    draw.kept.append(draw.gateway.checkpoint())


def _revoked(draw: Draw) -> None:
    """The key was stolen: the log ends here, and what the thief seals afterwards is void."""
    rng, gateway = draw.rng, draw.gateway
    draw.sealed()
    draw.revoked_from = len(gateway.entries)
    for _ in range(rng.randrange(4)):
        if rng.random() < 0.3:
            gateway.add("window", True, nonsense=1)
        elif rng.random() < 0.3:
            _roster(draw)
        else:
            draw.sealed()
    _revocation(draw.world, gateway, draw.revoked_from, rng.choice(["platform", f"recovery {gateway.name}"]))
    draw.features.add("revoked")


EVENTS: dict[str, tuple[int, Callable[[Draw], None]]] = {
    "windows": (8, _windows), "quiet": (1, _quiet), "round": (5, _round), "offline": (1, _offline),
    "outage": (3, _outage), "restart": (1, _restart), "roster": (3, _roster), "rotate": (1, _rotate),
    "unknown": (1, _unknown), "keep": (1, _keep), "statement": (1, _statement), "kept": (2, _kept),
    "probe": (2, _probe), "reads": (1, _reads), "attest": (1, _attest),
}

FEATURES = frozenset({
    "1 witness", "2 witnesses", "3 witnesses", "4 witnesses", "a second gateway", "anchor: checkpoint",
    "anchor: head", "another enterprise", *_BESIDE.values(), "attestation of a server", "clock far ahead",
    "clock far behind", "entry of an unknown type", "heads thinned out", "independent witness", "interval", "keep",
    "more than one tile", "no witness is independent", "offline", "offline for days", "opening",
    *(f"outage: {reason}" for reason in OUTAGE_REASONS), "plant without a platform", "probe",
    "probe of an unknown security policy", "proofs under a later checkpoint", "quorum all", "quorum any",
    "quorum k of n", "quorum none, with witnesses", "quorum of nested groups", "quorum of one witness",
    "re-enrolment", "reads", "register without witnesses", "register: announced draw", "register: attest",
    "register: demand", "register: unknown", "restart without a hole", "revocation elsewhere", "revoked",
    *(f"roster: {what}" for what in ("grow", "retire", "replace", "rename", "tag", "points", "class", "parent")),
    "rotation", "several rotations", "signature of a stranger", "window length changed",
    "window without a sign of life", "windows taken back", "windows with gaps in the columns", "witness down",
})
"""What a draw may hold; a run that is long enough shows each."""
