"""Writes the seeds of the corpus from our own fixtures: `python -m fuzz.seeds`. Same fixtures, same files.

Other files of the corpus are finds: inputs that once broke a target, or that reach what no seed does. They stay.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from fuzz import fuzz_cells, fuzz_visit
from fuzz.fuzz_modbus import FRAMES
from fuzz.running import CORPUS
from protocols import exchange
from protocols.evidence import column, jcs, keys, merkle, note, roster, sample, signed, statement, tiles
from protocols.evidence.checkpoint import Checkpoint
from protocols.evidence.encoding import to_base64
from protocols.mqtt import codec
from protocols.mqtt.sparkplug_pb2 import Payload
from tests.support.source import ROOT
from verifier.conformance import visits, world

Seeds = Iterator[tuple[str, bytes]]


def _vkey(name: str, kind: int) -> str:
    return str(note.VerifierKey(f"{name}.example", kind, world.public(name)))


def _note() -> Seeds:
    honest = world.small()[0]
    yield "register", honest.cosigned(1, time_s=world.START_S)
    yield "gateway", world.small()[1].checkpoint()
    yield "vkeys", "\n".join((_vkey("w1", note.COSIGNATURE_V1), _vkey("register", note.ED25519))).encode()
    yield "checkpoint_and_more", note.format_note("origin\n3\nAAAA\nextension\n", [note.sign(
        "origin\n3\nAAAA\nextension\n", world.key_of("x"), name="x.example")])


def _checkpoint() -> Seeds:
    for size in (0, 1, 2**53 - 1):
        yield f"size_{size}", Checkpoint("tallystick/g/" + "0" * 32, size, merkle.EMPTY_ROOT).text.encode()


def _tiles() -> Seeds:
    for name, tile in (("entries", tiles.Tile(None, 1_234_067, 3)), ("level_0", tiles.Tile(0, 7, 3)),
                       ("level_1", tiles.Tile(1, 0, 17))):
        content = (tiles.join_entries([b"{}", b"", b"x" * 40]) if tile.level is None else b"h" * 32 * tile.width)
        yield name, tile.path.encode() + b"\n" + content


def _beside_windows(plant: world.Gateway) -> None:
    """Add an entry of each type that no window needs."""
    seen = plant.world.seen()
    plant.add("reads", start_s=plant.now_s, roster=2, seen=seen, rows=2, answered=1, root="0" * 64)
    plant.add("keep", from_seq=3, to_seq=4, name="raw-2026-09-21t14.parquet", sha256="1" * 64, bytes=10,
              retain_until_s=plant.now_s)
    plant.add("probe", start_s=plant.now_s, seen=seen,
              policy_uri="http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256", server_spki="AAAA",
              client_certificate="AAAA", c="2" * 64, signature="AAAA")


def _entries() -> Seeds:
    plant = world.small()[1]
    plant.outage(plant.now_s + 120)
    plant.rotate("second key")
    _beside_windows(plant)
    plant.add("of_later_days", True, more=[1, {"a": None}, "文字"])
    for data in plant.entries:
        value = json.loads(data)
        yield f"{value['type']}_{value['seq']}", data


def _register() -> Seeds:
    honest, plant = world.small()
    for index, data in enumerate(honest.entries):
        yield f"{json.loads(data)['type']}_{index}", data
    head = {"gateway": plant.id}
    for kind, type_, fields in (
            ("revocation", "revoke", {**head, "gateway_key": world.public("plant").hex(), "from_size": 3}),
            ("attestation", "attest", {**head, "slot": 0, "kind": None, "tags": [], "server_spki_sha256": "3" * 64}),
            ("demand", "demand", {**head, "slots": [0], "hours": [1_789_999_200], "deadline_s": 1_790_090_000})):
        made = signed.sign(kind, fields, world.key_of("recovery plant"))
        yield type_, jcs.encode({"type": type_, "last": 0, kind: made})
    text = plant.checkpoint().decode()
    yield "fork", jcs.encode({"type": "fork", "last": 0, "gateway": plant.id, "a": text, "b": text})


def _rows() -> Seeds:
    devices, points = world.two_devices(world.World().gateway())
    yield "two", world.lines([*devices, *points])
    yield "device", world.lines(devices[:1])
    yield "tombstone", world.lines([devices[0], {**devices[1], "state": "tombstone"}, *points])


def _columns() -> Seeds:
    for slots, bits in ((0, 0), (9, 257), (1000, 2**999 + 5)):
        yield f"slots_{slots}", slots.to_bytes(2, "big") + column.pack(bits, slots).encode()


def _proof() -> Seeds:
    honest, plant = world.small()
    for number, data in enumerate(sorted(honest.proofs_for(plant).values())):
        yield f"register_{number}", data


def _policy() -> Seeds:
    whole = world.World().policy_json()
    yield "whole", whole
    yield "empty", b"{}"
    yield "witnesses", json.loads(whole)["witnesses"].encode()
    lines = [f"log {_vkey('register', note.ED25519)}"]
    lines += [f"witness {name} {_vkey(name, note.COSIGNATURE_V1)} https://{name}.example/" for name in "abcd"]
    lines += ["group ab any a b", "group cd 2 c d", "# both", "group g all ab cd", "quorum g", ""]
    yield "groups", "\n".join(lines).encode()
    yield "plant", jcs.encode({"gateways": [str(note.VerifierKey(
        keys.gateway_origin(keys.gateway_id(world.public("plant"))), note.ED25519, world.public("plant")))]})


def _zip() -> Seeds:
    members = world.small()[1].members()
    yield "stored", world.zipped(members)
    yield "packed", world.zipped(members, compress=True)
    yield "empty", b"PK\x05\x06" + bytes(18)


def _verify() -> Seeds:
    plant = world.small()[1]
    yield "small", tiles.join_entries(plant.entries)
    plant.outage(plant.now_s + 120)
    plant.start()
    plant.window()
    yield "outage", tiles.join_entries(plant.entries)
    plant = world.small()[1]
    plant.rotate("second key")
    plant.window(connected=[], sampled=[])
    plant.add("of_later_days", True)
    yield "rotation", tiles.join_entries(plant.entries)
    plant = world.small()[1]
    _beside_windows(plant)
    yield "beside_windows", tiles.join_entries(plant.entries)


def _also() -> Seeds:
    honest, plant = world.small()
    yield "opening", plant.opening(0, world.private_part("device 0", maker="Maker", model="M-1", serial="S-0"))
    yield "checkpoint", plant.checkpoint()
    yield "proof", next(iter(honest.proofs_for(plant).values()))
    text = plant.checkpoint().decode()
    yield "equivocation", jcs.encode({"type": "tallystick/equivocation/v1", "a": text, "b": plant.checkpoint(
        root=merkle.EMPTY_ROOT).decode()})
    yield "transcript", jcs.encode({"type": "tallystick/transcript/v1", "gateway": plant.id, "seq": 3, "rows": []})
    yield "chain", jcs.encode({"type": "tallystick/chain/v1", "gateway": plant.id, "spki_sha256": "0" * 64,
                               "certificates": [to_base64(CERTIFICATE.read_bytes()[1:])]})
    yield "other", b"anything else"


def _visit() -> Seeds:
    drawn = fuzz_visit.DRAWN
    yield "draw", b"d" + jcs.encode({"type": sample.DRAW_TYPE, "draw": drawn})
    yield "findings", b"f" + jcs.encode(visits.findings(drawn, {1: "mismatch"}))
    yield "open", b"f" + jcs.encode(visits.as_object(visits.visit(drawn, {0: None})))
    gateway = drawn["gateways"][0]["gateway"]
    yield "answers", ("cgateway,slot,result,at,note,photos\n"
                      f"{gateway},0,match,2026-09-21T22:30+08:00,,\n"
                      f"{gateway[:8]},1,无法核实,2026-09-21T15:00:00Z,\"locked, dark\",\n").encode()
    yield "wrong", ("c\ufeffslot,gateway,result,at,photos\n1,x,,,a;b\n" + '"').encode()


def _http() -> Seeds:
    plant = world.World().gateway("plant")
    request = {"token": "t" * 32, "gateway_key": world.public("plant").hex(), "uscc": world.USCC, "site": "plant",
               "k_sha256": roster.k_sha256(world.K), "recovery_key": world.public("recovery plant").hex(),
               "supersedes": None}
    yield "enrol", b"e" + jcs.encode(exchange.prove_possession(request, world.key_of("plant")))
    plant.begin()
    plant.roster(*world.two_devices(plant))
    plant.window(seen=None)
    body = {"first": 0, "entries": [one.decode() for one in plant.entries], "checkpoint": plant.checkpoint().decode(),
            "rosters": [{"seq": seq, "rows": rows.decode()} for seq, rows in plant.rows.items()]}
    yield "entries", b"s" + jcs.encode(body)
    yield "entries_fast", b"s" + jcs.encode({**body, "entries": ["a", 'b"\\'], "rosters": []})
    honest = world.small()[0]
    head = honest.cosigned(1, time_s=world.START_S)
    yield "add_checkpoint", b"wold 0\n\n" + head
    yield "add_checkpoint_proof", b"wold 1\n" + b"A" * 43 + b"=\n\n" + head
    yield "size", b"a" + jcs.encode({"size": 3, "root": "0" * 64, "checkpoint": None})
    yield "submitted", b"a" + jcs.encode({"size": 3, "proof": None, "register_checkpoint": head.decode()})
    yield "tail", b"a" + jcs.encode(body)
    yield "refusal", b"a" + jcs.encode({"code": "a.b", "args": ["x=1"], "where": "w", "message": "m"})
    spki = "3" * 64
    row = {**world.two_devices(plant)[0][0], "server": {"spki_sha256": spki, "via": None}}
    for kind, fields in (
            ("revocation", {"gateway_key": world.public("plant").hex(), "from_size": 3}),
            ("attestation", {"slot": 0, "kind": row["kind"], "tags": row["tags"], "server_spki_sha256": spki}),
            ("demand", {"slots": [0, 1], "hours": [1_789_996_800], "deadline_s": 1_790_090_000})):
        made = signed.sign(kind, {"gateway": plant.id, **fields}, world.key_of("recovery plant"))
        yield kind, b"t" + statement.Statement(kind, made).encode()
    yield "stated", b"a" + jcs.encode({"index": 7})
    yield "witness_size", b"c17\n"
    yield "witness_line", b"c" + head.rpartition(b"\n\n")[2].splitlines(keepends=True)[-1]


def _csv() -> Seeds:
    devices, points = ((ROOT / "config" / "examples" / f"{name}.csv").read_bytes() for name in ("devices", "points"))
    yield "example", devices + b"\0" + points
    yield "gb18030", devices.decode().encode("gb18030") + b"\0" + points
    yield "quotes", devices.replace(b",", b'","', 3) + b"\0" + b'"device","id"\r\n"a","b\n"'
    head, row = devices.splitlines()[:2]
    yield "templates", b"\0".join((
        b"sep=;\r\n" + b"\n".join((head + b",template,{first}", row + b",press,7")).replace(b",", b";") + b"\n;;;\n",
        points, b"template,id,address,type,role\npress,a,{id}/{{x}}/{first+3},,switch\npress,b,{frist-1}/{,,\n"))


def _toml() -> Seeds:
    for letter, name in ((b"g", "gateway"), (b"p", "platform"), (b"w", "witness"), (b"r", "programme")):
        yield name, letter + (ROOT / "config" / "examples" / f"{name}.toml").read_bytes()
    yield "basis", b"b" + BASIS
    yield "claim", b"c" + CLAIM


def _lists() -> Seeds:
    _, gateway = world.small()
    explained = ('schema = "explanations/1"\n[[explanation]]\n'
                 f'devices = ["{gateway.id}:0", "{gateway.id[:8]}:1"]\ntext = "two"\nby = "N"\ndate = 2026-11-20\n')
    yield "explanations", b"e" + explained.encode()
    yield "list", b"l" + f"工业设备列表\n设备ID,设备名称,序列号\n{gateway.id}:0,压机,S-1\n\n{gateway.id}:9,,\n".encode()
    yield "list_apart", b"l" + f"\ufeffgateway,slot,name\r\n{gateway.id},1,\"a\nb\"\r\n".encode()


def _cells() -> Seeds:
    yield "file", b"z" + fuzz_cells.zipped()
    yield "sheet", b"s" + fuzz_cells.SHEET.encode()
    yield "texts", b"t" + fuzz_cells.TEXTS.encode()


def _modbus() -> Seeds:
    for number, (is_rtu, function, request) in enumerate(FRAMES):
        data = {3: b"\3\x5a" + bytes(range(90)), 1: b"\1\2\xff\7", 17: b"\x11\5id\xff12",
                43: b"\x2b\x0e\1\1\0\0\2\0\5Maker\1\3M-1"}[function]
        for name, pdu in ((f"{function}", data), (f"{function}_exception", bytes([function | 0x80, 2]))):
            frame = b"\1" + pdu if is_rtu else request[:4] + struct.pack(">H", len(pdu) + 1) + b"\1" + pdu
            yield f"{'rtu' if is_rtu else 'tcp'}_{name}", bytes([number]) + frame


def _sparkplug() -> Seeds:
    def payload(seq: int | None, *names: str, alias: bool = False) -> bytes:
        made = Payload(timestamp=1_700_000_000_000)
        if seq is not None:
            made.seq = seq
        for number, name in enumerate(names):
            metric = made.metrics.add(datatype=10, double_value=1.5 + number, timestamp=1_700_000_000_000)
            metric.alias = number
            if not alias:
                metric.name = name
        return bytes(made.SerializeToString())

    def birth() -> bytes:
        made = Payload()
        made.ParseFromString(payload(0, "N"))
        made.metrics.add(name="bdSeq", datatype=8, long_value=0)
        return bytes(made.SerializeToString())

    def row(kind: int, body: bytes) -> bytes:
        return bytes([kind]) + struct.pack(">H", len(body)) + body

    start = row(0, birth()) + row(3, payload(1, "A", "B", "door/open"))
    death = Payload()
    death.metrics.add(name="bdSeq", datatype=8, long_value=0)
    end = row(5, payload(3)) + row(2, death.SerializeToString())
    yield "life", start + row(4, payload(2, "A", "B", alias=True)) + end
    yield "gap", start + row(4, payload(9, "A")) + row(4, payload(2, "A"))
    for name, pack in (("deflate", zlib.compress), ("gzip", lambda body: gzip.compress(body, mtime=0))):
        envelope = Payload(uuid=codec.COMPRESSED, body=pack(payload(2, "A")))
        yield name, start + row(4, envelope.SerializeToString())
    yield "retained", row(0x80, birth())


def _json() -> Seeds:
    yield "object", b'{"a":{"b":[1,{"c":true}]},"~":{"/":"2026-11-01T08:00:00+08:00"}}'
    yield "number", b"-12.5e3"
    yield "text", '"温度"'.encode()
    yield "list", b'{"a":[1,2,3]}'


def _opcua() -> Seeds:
    stamp = struct.pack("<q", 133_000_000_000_000_000)
    header = stamp + struct.pack("<IIB", 1, 0, 0) + struct.pack("<i", -1) + b"\0\0\0"
    value = b"\x05" + b"\x0b" + struct.pack("<d", 1.5) + stamp
    yield "read", b"r\1\0" + struct.pack("<H", 634) + header + struct.pack("<i", 2) + value * 2 + struct.pack("<i", -1)
    items = struct.pack("<i", 2) + struct.pack("<I", 0) + value + struct.pack("<I", 1) + value + struct.pack("<i", -1)
    change = b"\1\0" + struct.pack("<H", 811) + b"\1" + struct.pack("<i", len(items)) + items
    message = struct.pack("<I", 1) + stamp + struct.pack("<i", 1) + change
    start = header + struct.pack("<Ii", 1, -1) + b"\0"
    yield "publish", b"p\1\0" + struct.pack("<H", 829) + start + message + struct.pack("<ii", -1, -1)
    yield "republish", b"q\1\0" + struct.pack("<H", 835) + header + message


CERTIFICATE = CORPUS / "opcua" / "certificate_rsa"
BASIS = b"""\
schema = "basis/1"
key = "mine"
[basis]
freshness_s = 60
deployments = ["private"]
regions = "any"
day_boundary = "Asia/Shanghai"
roles = ["switch"]
"""
CLAIM = b"""\
[claim]
programme = "jiangsu_2019"
type = "enterprise"
at = 2026-10-01T10:00:00+08:00
branch = "discrete"
[claim.enterprise]
name = "N"
uscc = "91320000MA1XYRAB34"
[metrics]
device_connected_count = 5
"""


def main() -> None:
    """Write every seed that differs from what is there."""
    for name, made in list(globals().items()):
        target = name.removeprefix("_")
        if not (name.startswith("_") and (Path(__file__).parent / f"fuzz_{target}.py").is_file()):
            continue
        for seed, data in made():
            file = CORPUS / target / f"seed_{seed}"
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.is_file() or file.read_bytes() != data:
                file.write_bytes(data)


if __name__ == "__main__":
    main()
