"""What a cheat may try with probes, reads, attestations and chains: step 10, and the register's part of it.

Relay: a gateway passes the question of another one on to its own server, or shows the answer that another one got.
Reflection: a server that holds no machine asks the real one the same question. The challenge names the gateway and the
server's key, so neither gives an answer that holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from protocols.evidence import keys, note
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.encoding import from_base64, to_base64
from verifier.conformance import servers
from verifier.conformance.servers import AES256, seal_probe, seal_reads
from verifier.conformance.tamperings import CASES, Exhibit, case, closed
from verifier.conformance.world import REGISTER, START_S, Gateway, World, device_row, key_of, point_row, public
from verifier.proof.also import Also

__all__ = ["CASES", "Exhibit", "behind_servers", "with_also"]


def behind_servers(world: World | None = None, name: str = "gateway") -> tuple[World, Gateway]:
    """A gateway with two devices behind one server, and one that has no key; two windows are sealed."""
    world = world or World()
    gateway = world.gateway(name)
    world.round(time_s=START_S - 10)
    gateway.begin()
    gateway.roster(
        [device_row(0, server=servers.server("press")), device_row(1, server=servers.server("press", via=0)),
         device_row(2)],
        [point_row(slot, slot, gateway.id, protocol="opc_ua" if slot < 2 else "modbus_tcp") for slot in range(3)])
    gateway.window()
    gateway.window()
    return world, gateway


def sealed(change: Callable[[Gateway], object]) -> Exhibit:
    """A gateway that seals something wrong about its servers, with its own key."""
    world, gateway = behind_servers()
    change(gateway)
    gateway.window()
    return closed(world, gateway)


def other_seen(gateway: Gateway) -> dict[str, Any]:
    """Return an older `seen` of the same world: the question of an earlier time."""
    earlier = gateway.world.seen()
    assert earlier is not None
    gateway.world.round(time_s=gateway.now_s)
    return earlier


# --- the challenge


@case(10, "probe.challenge")
def an_answer_shown_again_under_a_newer_checkpoint() -> Exhibit:
    def replay(gateway: Gateway) -> None:
        old = servers.probe_fields(gateway)
        gateway.world.round(time_s=gateway.now_s)
        gateway.add("probe", **old | {"seen": gateway.world.seen()})
    return sealed(replay)


@case(10, "probe.challenge")
def an_answer_moved_to_another_window() -> Exhibit:
    return sealed(lambda g: seal_probe(g, challenged={"start_s": g.now_s - 60}))


@case(10, "probe.challenge")
def an_answer_that_another_gateway_got() -> Exhibit:
    """Relay: the other gateway's challenge, answered for our certificate by a server that signs what it is asked."""
    return sealed(lambda g: seal_probe(g, challenged={"gateway_spki": keys.spki(public("other gateway"))}))


@case(10, "probe.challenge")
def an_answer_asked_for_in_the_name_of_another_server() -> Exhibit:
    """Reflection: the question was for the lathe; the press signed it."""
    return sealed(lambda g: seal_probe(g, challenged={"server_spki": servers.spki("lathe")}))


@case(10, "probe.challenge")
def an_answer_from_before_a_change_of_the_key() -> Exhibit:
    def rotated(gateway: Gateway) -> None:
        gateway.rotate("gateway 2")
        seal_probe(gateway, challenged={"gateway_spki": keys.spki(public("gateway"))})
    return sealed(rotated)


@case(10, "probe.challenge")
def an_answer_under_a_nonce_that_was_known_before() -> Exhibit:
    return sealed(lambda g: seal_probe(g, challenged={"seen": other_seen(g)}))


# --- the signature


@case(10, "probe.signature")
def a_signature_of_another_server() -> Exhibit:
    return sealed(lambda g: seal_probe(g, signer="lathe"))


@case(10, "probe.signature")
def a_signature_with_one_bit_turned() -> Exhibit:
    def turned(gateway: Gateway) -> None:
        fields = servers.probe_fields(gateway)
        signature = bytearray(from_base64(fields["signature"], where=""))
        signature[100] ^= 1
        gateway.add("probe", **fields | {"signature": to_base64(bytes(signature))})
    return sealed(turned)


@case(10, "probe.signature")
def a_signature_over_the_nonce_without_the_certificate() -> Exhibit:
    def bare(gateway: Gateway) -> None:
        c = bytes.fromhex(servers.probe_fields(gateway)["c"])
        seal_probe(gateway, message=c)
    return sealed(bare)


@case(10, "probe.signature")
def a_signature_of_one_algorithm_under_the_policy_of_another() -> Exhibit:
    """The policy decides the algorithm, never the signature."""
    return sealed(lambda g: seal_probe(g, **servers.probe_fields(g) | {"policy_uri": AES256}))


@case(10, "probe.signature")
def a_signature_for_the_certificate_of_another_client() -> Exhibit:
    def foreign(gateway: Gateway) -> None:
        other = servers.client_certificate(keys.gateway_id(public("other gateway")))
        c = bytes.fromhex(servers.probe_fields(gateway)["c"])
        seal_probe(gateway, message=other + c)
    return sealed(foreign)


# --- keys and certificates


@case(10, "probe.weak_key")
def a_server_key_of_1024_bits() -> Exhibit:
    return sealed(lambda g: seal_probe(g, bits=1024))


@case(10, "probe.key")
def a_server_key_that_is_no_rsa_key() -> Exhibit:
    spki = keys.spki(public("server"))
    return sealed(lambda g: seal_probe(g, challenged={"server_spki": spki}, server_spki=to_base64(spki)))


@case(10, "probe.key")
def a_server_key_in_a_second_encoding() -> Exhibit:
    """The same key with the OID of RSASSA-PSS: it would count as another server."""
    spki = servers.spki("press")
    plain, other = bytes.fromhex("300d06092a864886f70d0101010500"), bytes.fromhex("300b06092a864886f70d01010a")
    second = spki[:2] + (len(spki) - 4 - 2).to_bytes(2, "big") + spki[4:].replace(plain, other)
    return sealed(lambda g: seal_probe(g, challenged={"server_spki": second}, server_spki=to_base64(second)))


@case(10, "probe.certificate")
def a_probe_with_the_certificate_of_another_gateway() -> Exhibit:
    """Relay with both halves borrowed: certificate and answer fit each other, not this gateway."""
    other = servers.client_certificate(keys.gateway_id(public("other gateway")))
    return sealed(lambda g: seal_probe(g, certificate=other))


@case(10, "probe.certificate")
def a_client_certificate_that_no_probe_may_have() -> Exhibit:
    """A maker's certificate, which names other things than the gateway."""
    return sealed(lambda g: seal_probe(g, certificate=servers.maker_ca()))


# --- seen, place


@case(10, "probe.seen")
def a_probe_whose_checkpoint_nobody_cosigned() -> Exhibit:
    def forged(gateway: Gateway) -> None:
        seen = dict(gateway.world.seen() or {})
        seal_probe(gateway, seen=seen | {"time_s": seen["time_s"] + 5})
    return sealed(forged)


@case(10, "seen.split_view")
def a_probe_under_another_face_of_the_register() -> Exhibit:
    return sealed(lambda gateway: _split(gateway, dict(gateway.world.seen() or {})))


@case(10, "seen.split_view")
def a_probe_under_an_older_face_of_the_register() -> Exhibit:
    """Of a size that other proofs in the bundle show, not of the one that the windows name."""
    def older(gateway: Gateway) -> None:
        earlier = other_seen(gateway)
        gateway.window()
        _split(gateway, earlier)
    return sealed(older)


def _split(gateway: Gateway, seen: dict[str, Any]) -> None:
    text = Checkpoint(REGISTER, seen["size"], bytes(32)).text
    signature = key_of(seen["witness"]).sign(note.cosigned_message(text, seen["time_s"]))
    seal_probe(gateway, seen=seen | {"root": bytes(32).hex(), "signature": to_base64(signature)})


@case(10, "probe.window")
def a_probe_kept_for_an_hour() -> Exhibit:
    return sealed(lambda g: seal_probe(g, start_s=g.now_s - 3600))


@case(10, "probe.window")
def a_probe_of_a_window_to_come() -> Exhibit:
    return sealed(lambda g: seal_probe(g, start_s=g.now_s + 300))


@case(10, "probe.window")
def a_probe_off_the_grid() -> Exhibit:
    return sealed(lambda g: seal_probe(g, start_s=g.now_s + 7))


# --- reads


@case(10, "reads.seen")
def reads_drawn_from_a_checkpoint_that_nobody_cosigned() -> Exhibit:
    def forged(gateway: Gateway) -> None:
        seen = dict(gateway.world.seen() or {})
        seal_reads(gateway, seen=seen | {"time_s": seen["time_s"] + 5})
    return sealed(forged)


@case(10, "reads.window")
def reads_kept_for_an_hour() -> Exhibit:
    return sealed(lambda g: seal_reads(g, start_s=g.now_s - 3600))


@case(10, "reads.answered")
def more_reads_answered_than_there_are() -> Exhibit:
    return sealed(lambda g: seal_reads(g, answered=5))


@case(10, "reads.roster")
def reads_drawn_from_another_list_of_points() -> Exhibit:
    def earlier(gateway: Gateway) -> None:
        old = gateway.roster_seq
        gateway.roster(gateway.devices, [*gateway.points, point_row(3, 2, gateway.id)])
        seal_reads(gateway, roster=old)
    return sealed(earlier)


def with_also(exhibit: Exhibit, *, transcript: Mapping[str, Any] | None = None,
              chain: Mapping[str, Any] | None = None) -> Exhibit:
    """Return an exhibit with files of --also."""
    exhibit.also = Also(transcripts=() if transcript is None else (("transcript.json", transcript),),
                        chains=() if chain is None else (("chain.json", chain),))
    return exhibit


def transcribed(change: Callable[[list[dict[str, Any]]], object], *, seal_it: bool) -> Exhibit:
    """Reads whose transcript is changed: after sealing, or before, so that its root fits."""
    kept: list[dict[str, Any]] = []

    def lie(gateway: Gateway) -> None:
        _, honest = seal_reads(gateway, silent=(1,))
        rows = [dict(row) for row in honest["rows"]]
        change(rows)
        if seal_it:
            gateway.entries.pop()
            gateway.tree = type(gateway.tree)()
            entries, gateway.entries = gateway.entries, []
            for data in entries:
                gateway.put(data)
            _, honest = seal_reads(gateway, told=rows)
        kept.append(honest | {"rows": rows})
    exhibit = sealed(lie)
    return with_also(exhibit, transcript=kept[0])


@case(10, "reads.root")
def a_transcript_with_another_value() -> Exhibit:
    return transcribed(lambda rows: rows[0].update(value="99"), seal_it=False)


@case(10, "reads.root")
def a_transcript_with_a_read_left_out() -> Exhibit:
    return transcribed(lambda rows: rows.pop(), seal_it=False)


@case(10, "reads.schedule")
def a_transcript_of_instants_that_somebody_chose() -> Exhibit:
    return transcribed(lambda rows: rows[0].update(at_ms=1, asked_ms=2, answered_ms=3), seal_it=True)


@case(10, "reads.schedule")
def a_transcript_of_a_point_that_somebody_chose() -> Exhibit:
    return transcribed(lambda rows: rows[0].update(point=0), seal_it=True)


@case(10, "reads.time")
def a_read_answered_before_it_was_asked() -> Exhibit:
    return transcribed(lambda rows: rows[0].update(answered_ms=rows[0]["asked_ms"] - 1), seal_it=True)


@case(10, "reads.time")
def a_read_asked_long_before_it_was_due() -> Exhibit:
    def early(rows: list[dict[str, Any]]) -> None:
        late = max(rows, key=lambda row: int(row["at_ms"]))
        late.update(asked_ms=0, answered_ms=1, value="20")
    return transcribed(early, seal_it=True)


@case(10, "reads.time")
def a_value_without_an_answer() -> Exhibit:
    return transcribed(lambda rows: rows[1].update(value="20"), seal_it=True)


@case(10, "reads.answered")
def fewer_answers_in_the_transcript_than_committed() -> Exhibit:
    kept: list[dict[str, Any]] = []
    exhibit = sealed(lambda g: kept.append(seal_reads(g, silent=(1,), answered=4)[1]))
    return with_also(exhibit, transcript=kept[0])


@case(10, "reads.rows")
def a_total_of_reads_that_the_transcript_does_not_have() -> Exhibit:
    kept: list[dict[str, Any]] = []
    exhibit = sealed(lambda g: kept.append(seal_reads(g, silent=(1,), rows=5)[1]))
    return with_also(exhibit, transcript=kept[0])


# --- chains and attestations


def chained(**lies: Any) -> Exhibit:
    """A bundle with a probe, and a chain that lies."""
    world, gateway = behind_servers()
    seal_probe(gateway)
    gateway.window()
    exhibit = closed(world, gateway)
    return with_also(exhibit, chain=servers.chain(gateway, serial="S-0", **lies))


@case(10, "chain.leaf")
def a_chain_of_another_server() -> Exhibit:
    return chained(name="lathe", spki_sha256=servers.server("press")["spki_sha256"])


@case(10, "chain.signature")
def a_chain_whose_maker_did_not_sign() -> Exhibit:
    return chained(through=("line",), leaf={"signer": key_of("friend")})


@case(10, "chain.malformed")
def a_chain_of_something_else() -> Exhibit:
    return chained(certificates=[to_base64(b"trust me")])


@case(10, "shape.bad_value")
def a_chain_too_long_to_be_read() -> Exhibit:
    return chained(certificates=[to_base64(b"trust me")] * 9)


@case(3, "signed.bad_signature")
def an_attestation_with_the_slot_changed() -> Exhibit:
    world, gateway = behind_servers()
    honest = world.entries[servers.attest(world, gateway, 0)]
    signature = json.loads(honest)["attestation"]["sig"]
    world.entries.pop()
    world.tree = type(world.tree)(world.tree.leaf(i) for i in range(len(world.entries)))
    world.last[gateway.uscc] = json.loads(honest)["last"]
    servers.attest(world, gateway, 1, sig=signature)
    return closed(world, gateway)
