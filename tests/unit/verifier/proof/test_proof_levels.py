"""Levels: what a probe, an attestation and a chain raise, at which instant, and that one key raises one device."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509

from protocols.evidence.bundle import open_bundle
from protocols.evidence.encoding import to_base64
from protocols.evidence.policy import Policy
from protocols.terms.basis import Basis
from verifier.conformance import servers
from verifier.conformance.servers import AES128, AES256, BASIC, attest, seal_probe, seal_reads, server
from verifier.conformance.tamperings_probes import behind_servers
from verifier.conformance.world import (
    START_S,
    Gateway,
    World,
    device_row,
    key_of,
    point_row,
    private_part,
    public,
    zipped,
)
from verifier.proof.also import Also
from verifier.proof.figures import Figures, figures
from verifier.proof.verify import Verdict, verify

BASIS = Basis(key="test", version="1", freshness_s=3600, lateness_s=600)
PRIVATE = private_part("device 0", maker="Maker", model="M-1", serial="S-0", product_instance_uri="urn:maker:press:0")


def judge(gateway: Gateway, policy: Policy | None = None, *, opened: Mapping[int, Mapping[str, Any]] | None = None,
          **also: Any) -> Verdict:
    members = gateway.members()
    for slot, private in (opened or {}).items():
        members[f"openings/{slot}.json"] = gateway.opening(slot, private)
    verdict = verify(open_bundle(zipped(members)), policy or gateway.world.policy(), also=Also(**also))
    assert verdict.valid, verdict.findings
    return verdict


def remarks(verdict: Verdict) -> list[str]:
    return [finding.code for finding in verdict.findings if finding.step == 10]


def counted(*verdicts: Verdict, at_s: int | None = None, basis: Basis = BASIS) -> Figures:
    evidence = [v.evidence for v in verdicts if v.evidence is not None]
    ends = [e.covered[1] for e in evidence if e.covered is not None]
    return figures(evidence, min(ends) if at_s is None else at_s, basis)


def levels(*verdicts: Verdict, at_s: int | None = None, basis: Basis = BASIS) -> list[int]:
    return [device.level.level for device in counted(*verdicts, at_s=at_s, basis=basis).devices]


def probed(change: Callable[[Gateway], object] | None = None, **probe: Any) -> Gateway:
    """Two devices behind the press, one without a key; a probe, a window, co-signed ten seconds later."""
    world, gateway = behind_servers()
    seal_probe(gateway, **probe)
    if change is not None:
        change(gateway)
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    return gateway


@pytest.mark.parametrize("policy_uri", [BASIC, AES128, AES256])
def test_an_answer_raises_all_devices_behind_the_key_to_level_1(policy_uri: str) -> None:
    verdict = judge(probed(policy_uri=policy_uri))
    found = counted(verdict)
    assert [d.level.level for d in found.devices] == [1, 1, 0]
    assert found.levels.as_json() == {
        "devices": {"0": 1, "1": 2, "2": 0, "3": 0, "4": 0}, "behind_servers": 2, "servers": 1}
    assert {d.level.since_s for d in found.devices} == {None, START_S + 120}
    assert verdict.summary.as_json()["levels"]["at_the_end"] == found.levels.as_json()
    assert verdict.summary.probes == (1, 0, 0, 0) and remarks(verdict) == []


def test_without_a_probe_everything_is_the_gateways_word() -> None:
    world, gateway = behind_servers()
    attest(world, gateway, 0)
    world.round(time_s=gateway.now_s + 10)
    assert levels(judge(gateway)) == [0, 0, 0]


def test_a_policy_that_cannot_be_checked_raises_nobody_and_is_told() -> None:
    verdict = judge(probed(policy_uri="http://opcfoundation.org/UA/SecurityPolicy#ECC_nistP256"))
    assert levels(verdict) == [0, 0, 0]
    assert (verdict.summary.probes, remarks(verdict)) == ((0, 0, 1, 0), ["probe.unsupported"])


def test_a_witness_that_the_policy_does_not_call_independent_proves_no_freshness() -> None:
    gateway = probed()
    verdict = judge(gateway, gateway.world.policy(independent=["vendor"]))
    assert levels(verdict) == [0, 0, 0]
    assert (verdict.summary.probes, remarks(verdict)) == ((0, 1, 0, 0), ["probe.seen_unknown"])


def test_a_server_that_no_row_names_is_told_once() -> None:
    def twice(gateway: Gateway) -> None:
        seal_probe(gateway, "lathe")
        seal_probe(gateway, "lathe")
    verdict = judge(probed(twice))
    assert (levels(verdict), remarks(verdict)) == ([1, 1, 0], ["probe.unknown_server"])
    assert dict(next(f.args for f in verdict.findings if f.step == 10))["count"] == "2"


# --- time


@pytest.mark.parametrize(("later", "expected"), [(0, 1), (59, 1), (60, 0)])
def test_an_answer_counts_for_as_long_as_the_basis_says(later: int, expected: int) -> None:
    """The window of the answer ends in (T - 3600, T]."""
    world, gateway = behind_servers()
    world.round(time_s=gateway.now_s + 30)
    seal_probe(gateway)
    for _ in range(1 + later):
        gateway.window()
        world.round(time_s=gateway.now_s + 10)
    assert levels(judge(gateway))[0] == expected


@pytest.mark.parametrize(("later", "expected"), [(59, 1), (60, 0)])
def test_the_window_of_the_answer_decides_where_the_witness_is_ahead(later: int, expected: int) -> None:
    """The gateway's clock is half a minute behind: `seen` is newer than the end of its window."""
    world, gateway = behind_servers()
    world.round(time_s=gateway.now_s + 90)
    seal_probe(gateway)
    for _ in range(1 + later):
        gateway.window()
    world.round(time_s=gateway.now_s + 40)
    assert levels(judge(gateway))[0] == expected


def test_an_answer_under_an_old_checkpoint_is_not_fresh() -> None:
    """It may have been asked for when that checkpoint was new, and kept."""
    world, gateway = behind_servers()
    for _ in range(70):
        gateway.window()
    seal_probe(gateway)
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    verdict = judge(gateway)
    assert levels(verdict) == [0, 0, 0] and verdict.summary.probes[0] == 1
    assert levels(verdict, basis=Basis(key="day", version="1")) == [1, 1, 0]


@pytest.mark.parametrize(("delay_s", "expected"), [(600, 1), (601, 0)])
def test_an_answer_sealed_too_late_is_late_evidence(delay_s: int, expected: int) -> None:
    world, gateway = behind_servers()
    seal_probe(gateway)
    gateway.window()
    world.round(time_s=gateway.now_s + delay_s)
    assert levels(judge(gateway))[0] == expected


def test_an_answer_that_no_witness_has_seen_yet_does_not_count() -> None:
    world, gateway = behind_servers()
    world.round(time_s=gateway.now_s + 10)
    seal_probe(gateway)
    gateway.window()
    assert levels(judge(gateway)) == [0, 0, 0]


@pytest.mark.parametrize("off_s", [-366 * 86_400, 366 * 86_400])
def test_a_clock_that_is_wrong_by_a_year_changes_no_verdict_and_raises_nobody(off_s: int) -> None:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.now_s += off_s // 60 * 60
    gateway.begin()
    gateway.roster([device_row(0, server=server("press"))], [point_row(0, 0, gateway.id, protocol="opc_ua")])
    gateway.window()
    seal_probe(gateway)
    seal_reads(gateway)
    gateway.window()
    world.round(time_s=START_S + 120)
    verdict = judge(gateway)
    assert "time.outside" in [f.code for f in verdict.findings] and levels(verdict) == [0]
    patient = Basis(key="patient", version="1", freshness_s=10**9, lateness_s=10**9)
    assert levels(verdict, basis=patient) == [0]


def test_answers_of_windows_that_were_sealed_anew_do_not_count() -> None:
    world, gateway = behind_servers()
    seal_probe(gateway)
    gateway.window()
    gateway.outage(START_S + 60, "clock_back")
    for _ in range(3):
        gateway.window()
    world.round(time_s=gateway.now_s + 10)
    assert gateway.now_s > START_S + 180
    assert levels(judge(gateway)) == [0, 0, 0]


def test_reads_before_a_clock_was_set_back_keep_the_roster_of_their_window() -> None:
    """Found by the drawn honest bundles: the window sealed anew has another roster than the one that was read in."""
    world, gateway = behind_servers()
    seal_reads(gateway)
    gateway.window()
    gateway.outage(gateway.now_s - 60, "clock_back")
    gateway.roster(gateway.devices, [*gateway.points, point_row(3, 2, gateway.id)])
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    assert [f.code for f in judge(gateway).findings if f.severity == "fault"] == []


def test_answers_beyond_a_revocation_are_void() -> None:
    from protocols.evidence import signed
    world, gateway = behind_servers()
    size = len(gateway.entries)
    seal_probe(gateway)
    gateway.window()
    revocation = signed.sign("revocation", {"gateway": gateway.id, "gateway_key": public(gateway.name).hex(),
                                            "from_size": size}, key_of("platform"))
    world.add({"type": "revoke", "revocation": revocation})
    world.round(time_s=gateway.now_s + 10)
    verdict = judge(gateway)
    assert levels(verdict) == [0, 0, 0] and verdict.summary.probes == (0, 0, 0, 0)


@pytest.mark.parametrize("place", ["before", "during", "behind", "outage", "clock_back", "disk"])
def test_honest_places_of_a_probe(place: str) -> None:
    """Asking and sealing overlap: none of this is a fault."""
    world, gateway = behind_servers()
    match place:
        case "before":  # the next window has begun, the one before is still open for late samples
            seal_probe(gateway, start_s=gateway.now_s + 60)
        case "during":
            seal_probe(gateway)
        case "behind":  # answered after its window was sealed
            seal_probe(gateway, start_s=gateway.now_s - 60)
        case "outage":  # in a window that a crash cut
            seal_probe(gateway)
            gateway.start()
            gateway.outage(gateway.now_s + 7200)
        case "clock_back":  # asked after the clock was set back, sealed before the outage that says so
            seal_probe(gateway, start_s=gateway.now_s - 3600)
            gateway.outage(gateway.now_s - 3600, "clock_back")
        case "disk":  # windows were lost to a full disk, the probe was not
            seal_probe(gateway, start_s=gateway.now_s + 600)
            gateway.outage(gateway.now_s + 600, "disk_full")
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    assert judge(gateway).summary.probes == (1, 0, 0, 0)


def test_a_probe_at_the_beginning_of_a_bundle_for_an_interval() -> None:
    """What stood before it is not shipped; the outage behind it says where it belongs."""
    world, gateway = behind_servers()
    while len(gateway.entries) < 256:
        gateway.window()
    seal_probe(gateway)
    gateway.start()
    gateway.outage(gateway.now_s + 7200)
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    verdict = verify(open_bundle(zipped(gateway.members(first_tile=1))), world.policy())
    assert verdict.valid and verdict.summary.probes == (1, 0, 0, 0)


def test_a_probe_at_the_end_of_a_bundle_needs_no_window_behind_it() -> None:
    world, gateway = behind_servers()
    seal_probe(gateway)
    world.round(time_s=gateway.now_s + 10)
    assert judge(gateway).summary.probes == (1, 0, 0, 0)


# --- since when


def test_the_same_key_since_the_first_answer_after_the_row_named_it() -> None:
    world, gateway = behind_servers()
    for name in ("press", "lathe", "lathe", "press", "press"):
        rows = [device_row(0, server=server(name)), *gateway.devices[1:]]
        if rows != gateway.devices:
            gateway.roster(rows, gateway.points)
        seal_probe(gateway, name)
        gateway.window()
        world.round(time_s=gateway.now_s + 10)
    verdict = judge(gateway)
    of = {at: counted(verdict, at_s=START_S + 120 + 60 * at).devices for at in range(1, 6)}
    assert {at: (d[0].level.level, d[0].level.since_s) for at, d in of.items()} == {
        1: (1, START_S + 120), 2: (1, START_S + 180), 3: (1, START_S + 180), 4: (1, START_S + 300),
        5: (1, START_S + 300)}
    assert of[5][1].level.since_s == START_S + 120  # the other one never changed


def test_a_key_that_came_into_the_row_after_its_last_answer() -> None:
    world, gateway = behind_servers()
    seal_probe(gateway, "lathe")
    gateway.window()
    gateway.roster([*gateway.devices[:2], device_row(2, server=server("lathe"))], gateway.points)
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    found = counted(judge(gateway))
    assert [(d.level.level, d.level.since_s) for d in found.devices] == [(0, None), (0, None), (1, START_S + 120)]


# --- attestations


def test_an_attestation_raises_one_device_behind_the_key_to_level_2() -> None:
    verdict = judge(probed(lambda g: attest(g.world, g, 0)))
    assert levels(verdict) == [2, 1, 0] and remarks(verdict) == []
    assert counted(verdict).levels.as_json()["servers"] == 1


@pytest.mark.parametrize(("slots", "expected"), [
    ((0, 1), [2, 1, 0]), ((1, 0), [2, 1, 0]), ((1,), [1, 2, 0]), ((0, 0), [2, 1, 0])])
def test_of_two_attested_devices_behind_one_key_the_owner_is_raised(slots: tuple[int, ...],
                                                                  expected: list[int]) -> None:
    assert levels(judge(probed(lambda g: [attest(g.world, g, slot) for slot in slots]))) == expected


@pytest.mark.parametrize(("lies", "code"), [
    ({"tags": []}, "attest.no_tags"),
    ({"tags": [{"scheme": "serial", "tag": "00" * 32}]}, "attest.differs"),
    ({"kind": "00" * 32}, "attest.differs"), ({"kind": None}, "attest.differs"),
    ({"server_spki_sha256": server("lathe")["spki_sha256"]}, "attest.differs"), ({"slot": 77}, "attest.differs")])
def test_an_attestation_that_does_not_fit_the_row_raises_nobody(lies: dict[str, Any], code: str) -> None:
    verdict = judge(probed(lambda g: attest(g.world, g, 0, **lies)))
    assert (levels(verdict), remarks(verdict)) == ([1, 1, 0], [code])


def test_an_attestation_of_somebody_whom_the_policy_does_not_know_raises_nobody() -> None:
    verdict = judge(probed(lambda g: attest(g.world, g, 0, signer="platform")))
    assert levels(verdict) == [1, 1, 0]
    assert [f.code for f in verdict.findings] == ["register.unknown_signer"]


def test_a_tag_learnt_later_leaves_an_attestation_as_it_is_and_a_tombstone_ends_it() -> None:
    world, gateway = behind_servers()
    attest(world, gateway, 0)
    learnt = device_row(0, server=server("press"), private=private_part(
        "device 0", maker="Maker", model="M-1", serial="S-0", asset="A-1"))
    gateway.roster([learnt, *gateway.devices[1:]], gateway.points)
    seal_probe(gateway)
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    assert levels(judge(gateway)) == [2, 1, 0]
    gone = [gateway.devices[0] | {"state": "gone"}, *gateway.devices[1:]]
    gateway.roster(gone, [gateway.points[0] | {"state": "gone"}, *gateway.points[1:]])
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    verdict = judge(gateway)
    assert [(d.row.slot, d.level.level) for d in counted(verdict).devices] == [(1, 1), (2, 0)]
    assert remarks(verdict) == ["attest.differs"]


def test_one_key_behind_two_gateways_raises_one_device() -> None:
    """Two gateways reach one server; both rows are attested. The device that counts is raised, the other is not."""
    world = World()
    gateways = [behind_servers(world, name)[1] for name in ("north", "south")]
    for gateway in gateways:
        seal_probe(gateway)
        gateway.window()
        attest(world, gateway, 0)
    world.round(time_s=gateways[0].now_s + 10)
    found = counted(*(judge(gateway) for gateway in gateways))
    assert [(d.reason, d.level.level) for d in found.devices] == [
        (None, 2), (None, 1), (None, 0), ("duplicate_identity", 1), ("duplicate_identity", 1),
        ("duplicate_identity", 0)]
    assert found.levels.as_json() == {
        "devices": {"0": 1, "1": 1, "2": 1, "3": 0, "4": 0}, "behind_servers": 2, "servers": 1}


def test_a_device_that_does_not_count_leaves_the_level_to_one_that_does() -> None:
    """The same machine on an old gateway, where it is silent, and on the new one."""
    world = World()
    old, new = world.gateway("old"), world.gateway("new")
    world.round(time_s=START_S - 10)
    for gateway, producing in ((old, []), (new, [0])):
        gateway.begin()
        gateway.roster([device_row(0, server=server("press"))], [point_row(0, 0, gateway.id, protocol="opc_ua")])
        seal_probe(gateway)
        gateway.window(producing=producing)
        attest(world, gateway, 0)
    world.round(time_s=new.now_s + 10)
    found = counted(judge(old), judge(new))
    assert [(d.reason, d.level.level) for d in found.devices] == [("no_valid_data", 1), (None, 2)]


# --- chains


def chained(gateway: Gateway, /, *, serial: str | None = "S-0", cas: tuple[bytes, ...] | None = None,
            opened: Mapping[int, Mapping[str, Any]] | None = None, **lies: Any) -> Verdict:
    cas = (servers.maker_ca(),) if cas is None else cas
    chain = servers.chain(gateway, serial=serial, **lies)
    policy = gateway.world.policy(maker_cas=[to_base64(ca) for ca in cas])
    return judge(gateway, policy, opened={0: PRIVATE} if opened is None else opened, chains=(("chain.json", chain),))


def opened_press() -> Gateway:
    """As `probed`, with a row that PRIVATE opens."""
    world, gateway = behind_servers()
    gateway.roster([device_row(0, private=PRIVATE, server=server("press")) | {"replaces": None},
                    *gateway.devices[1:]], gateway.points)
    seal_probe(gateway)
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    return gateway


@pytest.mark.parametrize("lies", [
    {}, {"serial": "s 0"}, {"serial": None, "uri": "urn:maker:press:0"}, {"through": ("line",)},
    {"through": ("works", "line")}, {"serial": "S-1", "uri": "urn:maker:press:0"}])
def test_a_chain_to_a_maker_that_names_the_device_raises_it_to_level_3(lies: dict[str, Any]) -> None:
    verdict = chained(opened_press(), **lies)
    assert levels(verdict) == [3, 1, 0] and remarks(verdict) == []


def test_a_chain_may_bring_its_makers_certificate_along() -> None:
    gateway = opened_press()
    chain = servers.chain(gateway, serial="S-0")
    chain["certificates"].append(to_base64(servers.maker_ca()))
    policy = gateway.world.policy(maker_cas=[to_base64(servers.maker_ca())])
    assert levels(judge(gateway, policy, opened={0: PRIVATE}, chains=(("c", chain),))) == [3, 1, 0]


@pytest.mark.parametrize(("lies", "code"), [
    ({"cas": ()}, "chain.untrusted"),
    ({"cas": (servers.maker_ca("another"),)}, "chain.untrusted"),
    ({"cas": (b"no certificate",)}, "chain.untrusted"),
    ({"serial": "S-1"}, "chain.identity"), ({"serial": None}, "chain.identity"), ({"serial": "--"}, "chain.identity"),
    ({"opened": {}}, "chain.identity"),
    ({"name": "lathe"}, "chain.identity"),
    ({"gateway": "ab" * 16}, "chain.unrelated"),
    ({"leaf": {"ca": True}}, "chain.constraint"),
    ({"leaf": {"critical": x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")}},
     "chain.constraint"),
    ({"cas": (servers.maker_ca(path_length=0),), "through": ("line",)}, "chain.constraint"),
])
def test_a_chain_that_proves_too_little_raises_nobody_and_says_why(lies: dict[str, Any], code: str) -> None:
    verdict = chained(opened_press(), **lies)
    assert (levels(verdict), remarks(verdict)) == ([1, 1, 0], [code])


def test_a_chain_from_a_key_that_can_be_broken_raises_nobody() -> None:
    key = servers.rsa_key("weak", 1024)
    weak = servers.certificate_of("maker", "maker", key.public_key(), ca=True, signer=key)
    verdict = chained(opened_press(), cas=(weak,), leaf={"signer": key})
    assert (levels(verdict), remarks(verdict)) == ([1, 1, 0], ["chain.weak"])


def test_a_ca_that_may_not_sign_certificates_raises_nobody() -> None:
    verdict = chained(opened_press(), cas=(servers.maker_ca(key_cert_sign=False),))
    assert (levels(verdict), remarks(verdict)) == ([1, 1, 0], ["chain.constraint"])


def test_an_empty_serial_names_no_device() -> None:
    private = private_part("device 0", asset="A-1")
    world, gateway = behind_servers()
    gateway.roster([*gateway.devices, device_row(3, private=private, server=server("mill"))], gateway.points)
    seal_probe(gateway, "mill")
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    verdict = chained(gateway, name="mill", serial="-", uri="-", opened={3: private})
    assert (levels(verdict)[3], remarks(verdict)) == (1, ["chain.identity"])


@pytest.mark.parametrize(("leaf", "expected"), [
    ({"not_after": datetime.fromtimestamp(START_S + 30, UTC)}, 1),
    ({"not_before": datetime.fromtimestamp(START_S + 500, UTC)}, 1),
    ({"not_before": datetime.fromtimestamp(START_S - 3600, UTC),
      "not_after": datetime.fromtimestamp(START_S + 3600, UTC)}, 3),
    ({"not_after": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)}, 3)])
def test_a_chain_must_be_valid_when_the_key_answered(leaf: dict[str, Any], expected: int) -> None:
    assert levels(chained(opened_press(), leaf=leaf))[0] == expected


def test_an_opening_speaks_for_the_row_that_it_opens_only() -> None:
    """The serial was learnt later: the opening is of the newest row, and says nothing of the one before."""
    world, gateway = behind_servers()
    early = private_part("device 3", asset="A-1")
    late = private_part("device 3", asset="A-1", serial="S-3")
    gateway.roster([*gateway.devices, device_row(3, private=early, server=server("mill"))], gateway.points)
    seal_probe(gateway, "mill")
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    gateway.roster([*gateway.devices[:3], device_row(3, private=late, server=server("mill"))], gateway.points)
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    verdict = chained(gateway, name="mill", serial="S-3", opened={3: late})
    assert [levels(verdict, at_s=at_s)[3] for at_s in (START_S + 180, START_S + 240)] == [1, 3]


def test_a_chain_without_an_answer_raises_nobody() -> None:
    world, gateway = behind_servers()
    world.round(time_s=gateway.now_s + 10)
    private = private_part("device 0", maker="Maker", model="M-1", serial="S-0")
    assert levels(chained(gateway, opened={0: private})) == [0, 0, 0]


def test_an_attested_and_a_certified_device_behind_one_key_are_one() -> None:
    gateway = opened_press()
    world = gateway.world
    attest(world, gateway, 1)
    world.round(time_s=gateway.now_s + 20)
    assert levels(chained(gateway)) == [3, 1, 0]


# --- reads


def test_reads_are_committed_and_opened() -> None:
    kept: list[dict[str, Any]] = []

    def asked(gateway: Gateway) -> None:
        kept.append(seal_reads(gateway, count=6, silent=(2,))[1])
        gateway.window()
        kept.append(seal_reads(gateway, count=3)[1])
    gateway = probed(asked)
    verdict = judge(gateway)
    assert verdict.summary.reads.as_json() == {
        "entries": 2, "rows": 9, "answered": 8, "opened": 0, "opened_rows": 0, "opened_answered": 0, "late": 0}
    verdict = judge(gateway, transcripts=(("a", kept[0]),))
    assert verdict.summary.reads.as_json() == {
        "entries": 2, "rows": 9, "answered": 8, "opened": 1, "opened_rows": 6, "opened_answered": 5, "late": 0}
    assert remarks(verdict) == []
    other = judge(gateway, transcripts=(("a", kept[0] | {"gateway": "ab" * 16}), ("b", kept[1] | {"seq": 2})))
    assert remarks(other) == ["reads.unrelated", "reads.unrelated"]
    assert {row["point"] for row in kept[0]["rows"]} == {2}  # only the Modbus point has no key


def test_a_read_asked_late_is_told_and_a_message_that_came_by_itself_is_none() -> None:
    kept: list[dict[str, Any]] = []

    def asked(gateway: Gateway) -> None:
        _, honest = seal_reads(gateway, count=3)
        gateway.entries.pop()
        entries, gateway.entries, gateway.tree = gateway.entries, [], type(gateway.tree)()
        for data in entries:
            gateway.put(data)
        rows = honest["rows"]
        rows[0] |= {"asked_ms": rows[0]["at_ms"] + 1001, "answered_ms": rows[0]["at_ms"] + 1001}
        rows[1] |= {"asked_ms": None, "answered_ms": rows[1]["at_ms"]}
        rows[2] |= {"asked_ms": None, "answered_ms": None, "value": None}
        kept.append(seal_reads(gateway, told=rows)[1])
    verdict = judge(probed(asked), transcripts=(("a", kept[0]),) if kept else ())
    assert verdict.summary.reads.entries == 1
    verdict = judge(probed(asked), transcripts=(("a", kept[0]),))
    assert verdict.summary.reads.as_json() == {
        "entries": 1, "rows": 3, "answered": 2, "opened": 1, "opened_rows": 3, "opened_answered": 2, "late": 1}


def test_reads_under_a_roster_without_points_to_read_hold_nothing() -> None:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    gateway.roster([device_row(0)], [point_row(0, 0, gateway.id, protocol="opc_ua")])
    _, transcript = seal_reads(gateway)
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    assert transcript["rows"] == []
    assert judge(gateway, transcripts=(("a", transcript),)).summary.reads.opened == 1


def test_reads_of_a_window_that_was_sealed_anew_keep_their_roster() -> None:
    """The clock was set back between two windows with one start, and the roster changed."""
    world, gateway = behind_servers()
    _, transcript = seal_reads(gateway)
    start_s = gateway.now_s
    gateway.window()
    gateway.outage(start_s, "clock_back")
    gateway.roster(gateway.devices, [*gateway.points, point_row(3, 2, gateway.id)])
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    assert judge(gateway, transcripts=(("a", transcript),)).summary.reads.opened == 1


def test_a_transcript_under_a_roster_that_is_not_here_opens_nothing() -> None:
    """In a window that a crash cut, an entry could name any roster."""
    world, gateway = behind_servers()
    _, transcript = seal_reads(gateway, roster=1)
    gateway.start()
    gateway.outage(gateway.now_s + 600)
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    verdict = judge(gateway, transcripts=(("a", transcript),))
    assert (verdict.summary.reads.opened, remarks(verdict)) == (0, ["reads.no_roster"])


# --- never too much


@pytest.mark.parametrize("seed", range(12))
def test_levels_never_exceed_devices_and_keys(seed: int) -> None:
    """Whatever is probed and attested: each device has one level, and at most one for each key is above 1."""
    rng = random.Random(seed)
    world = World()
    verdicts, gateways = [], []
    for name in ("north", "south")[: rng.randint(1, 2)]:
        gateway = world.gateway(name)
        gateways.append(gateway)
        if not world.rounds:
            world.round(time_s=START_S - 10)
        gateway.begin()
        keys = ["press", "lathe", "mill"]
        rows = [device_row(i, f"{name} {i}" if rng.random() < 0.8 else None, server=server(
            rng.choice(keys), via=rng.choice([None, None, 0, -1])) if rng.random() < 0.8 else
            {"spki_sha256": None, "via": None}) for i in range(rng.randint(1, 6))]
        gateway.roster(rows, [point_row(i, i, gateway.id, protocol="opc_ua") for i in range(len(rows))])
        for _ in range(4):
            for key in keys:
                if rng.random() < 0.5:
                    seal_probe(gateway, key)
            gateway.window(producing=[i for i in range(len(rows)) if rng.random() < 0.8])
        for slot in range(len(rows)):
            if rng.random() < 0.6:
                attest(world, gateway, slot, rng.choice(keys))
    world.round(time_s=gateways[0].now_s + 10)
    verdicts = [judge(gateway) for gateway in gateways]
    found = counted(*verdicts)
    assert sum(found.levels.devices.values()) == found.counted
    assert found.levels.behind == sum(n for level, n in found.levels.devices.items() if level)
    above = [d.row.server_spki_sha256 for d in found.devices if d.level.level > 1]
    assert len(above) == len(set(above)) and None not in above
    assert found.levels.servers <= 3
    for device in found.devices:
        assert (device.level.since_s is None) == (device.level.level == 0)
