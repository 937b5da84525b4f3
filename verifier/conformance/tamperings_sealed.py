"""What a cheat may seal with the gateway's own key, or change in rows and openings: steps 6 to 9."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from protocols.evidence import column, jcs, signed
from verifier.conformance.tamperings import CASES, Exhibit, case, changed, closed, opened
from verifier.conformance.world import (
    OTHER_USCC,
    START_S,
    Gateway,
    World,
    bits,
    device_row,
    key_of,
    lines,
    point_row,
    private_part,
    small,
    two_devices,
)

__all__ = ["CASES", "Exhibit"]

# --- 6 the life of the log


def sealed(change: Callable[[Gateway], object], *, window_before: bool = True) -> Exhibit:
    """A gateway that seals something wrong, with its own key."""
    world, gateway = opened()
    if window_before:
        gateway.window()
    change(gateway)
    return closed(world, gateway)


@case(6, "window.gap")
def a_window_left_out() -> Exhibit:
    return sealed(lambda g: g.window(start_s=g.now_s + 60))


@case(6, "window.overlap")
def a_window_sealed_twice() -> Exhibit:
    return sealed(lambda g: g.window(start_s=g.now_s - 60))


@case(6, "window.alignment")
def a_window_that_begins_off_the_grid() -> Exhibit:
    return sealed(lambda g: g.window(start_s=g.now_s + 7), window_before=False)


@case(6, "window.length")
def a_window_of_another_length() -> Exhibit:
    return sealed(lambda g: g.window(len_s=20), window_before=False)


@case(6, "window.roster")
def a_window_under_a_roster_of_the_past() -> Exhibit:
    def change(gateway: Gateway) -> None:
        devices, points = two_devices(gateway)
        gateway.roster([*devices, device_row(2)], points)
        empty = column.pack(bits([0]), 2)
        gateway.window(roster=2, columns={"connected": empty, "sampled": empty, "producing": empty, "changing": empty})
    return sealed(change)


@case(6, "start.window_length")
def windows_that_do_not_divide_the_hour() -> Exhibit:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin(len_s=7)
    gateway.roster(*two_devices(gateway))
    gateway.now_s = START_S // 7 * 7
    gateway.window()
    return closed(world, gateway)


@case(6, "outage.start")
def an_outage_that_begins_later() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.outage(gateway.now_s + 120, start_s=gateway.now_s + 60, missing={"windows": 1, "samples": None})
        gateway.window()
    return sealed(change)


@case(6, "outage.missing")
def an_outage_made_smaller() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.outage(gateway.now_s + 600, missing={"windows": 1, "samples": 0})
        gateway.window()
    return sealed(change)


@case(6, "outage.order")
def an_outage_that_runs_backwards() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.outage(gateway.now_s - 60, "crash")
        gateway.window()
    return sealed(change)


@case(6, "life.false")
def a_life_that_skips_an_outage() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.outage(gateway.now_s + 60)
        gateway.life = 2
        gateway.window()
    return sealed(change)


@case(6, "enrolment.differs")
def another_certificate_in_the_log() -> Exhibit:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.certificate = signed.sign("certificate", {
        n: v for n, v in gateway.certificate.items() if n not in ("key", "sig")} | {"site": "elsewhere"},
        key_of("platform"))
    gateway.begin()
    gateway.roster(*two_devices(gateway))
    gateway.window()
    return closed(world, gateway)


@case(6, "start.missing")
def a_log_without_a_start() -> Exhibit:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.add("enrolment", certificate=gateway.certificate)
    gateway.roster(*two_devices(gateway))
    gateway.start()
    gateway.window()
    return closed(world, gateway)


@case(6, "enrolment.misplaced")
def enrolled_again_in_the_middle() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.add("enrolment", certificate=gateway.certificate)
        gateway.window()
    return sealed(change)


@case(6, "entry.gateway")
def an_entry_of_another_gateway() -> Exhibit:
    return sealed(lambda g: g.window(gateway="ab" * 16))


@case(6, "entry.misplaced")
def an_entry_that_names_another_place() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.window(seq=7)
        gateway.window()
    return sealed(change)


@case(6, "shape.unknown_field")
def a_field_that_the_format_does_not_have() -> Exhibit:
    return sealed(lambda g: g.add("window", True, **json.loads(g.entries[-1]) | {
        "seq": 4, "start_s": g.now_s, "note": "hidden"}))


@case(6, "json.not_canonical")
def the_same_meaning_in_other_bytes() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.window()
        data = gateway.entries.pop()
        gateway.tree = type(gateway.tree)()
        whole, gateway.entries = [*gateway.entries, data.replace(b'":', b'": ', 1)], []
        for one in whole:
            gateway.put(one)
        gateway.window()
    return sealed(change)


@case(6, "key.misplaced")
def a_key_change_taken_from_another_place() -> Exhibit:
    def change(gateway: Gateway) -> None:
        gateway.rotate("gateway 2", seq=3)
        gateway.window()
    return sealed(change)


# --- 7 time


def seen_as(**changes: Any) -> Exhibit:
    """A window whose `seen` was changed by the gateway."""
    def change(gateway: Gateway) -> None:
        gateway.window(seen=(gateway.world.seen() or {}) | changes)
    return sealed(change)


@case(7, "seen.bad_signature")
def an_earliest_time_made_earlier() -> Exhibit:
    return seen_as(time_s=START_S - 3600)


@case(7, "seen.bad_signature")
def a_seen_of_another_size() -> Exhibit:
    return seen_as(size=77)


@case(7, "seen.split_view")
def a_window_that_saw_another_register() -> Exhibit:
    other = World()
    other.gateway("foreign", uscc=OTHER_USCC)
    other.round(time_s=START_S - 5)
    return sealed(lambda g: g.window(seen=other.seen()))


# --- 8 rosters


@case(8, "roster.root")
def a_class_changed_in_a_row() -> Exhibit:
    return changed(roster=lambda data: data.replace(b"machine_tool", b"machine_toad", 1))


@case(8, "roster.slots")
def a_row_removed() -> Exhibit:
    return changed(roster=lambda data: b"\n".join(data.split(b"\n")[1:]))


@case(8, "roster.slots")
def a_row_added() -> Exhibit:
    return changed(roster=lambda data: b"\n".join([*data.split(b"\n")[:2], lines([device_row(2)]).rstrip(b"\n"),
                                                   *data.split(b"\n")[2:]]))


@case(8, "roster.order")
def a_row_doubled() -> Exhibit:
    return changed(roster=lambda data: b"\n".join([data.split(b"\n")[0], *data.split(b"\n")]))


@case(8, "roster.order")
def two_rows_swapped() -> Exhibit:
    return changed(roster=lambda data: b"\n".join(data.split(b"\n")[i] for i in (1, 0, 2, 3, 4)))


@case(8, "roster.lines")
def the_last_newline_cut() -> Exhibit:
    return changed(roster=lambda data: data[:-1])


@case(8, "roster.missing")
def the_rows_left_out() -> Exhibit:
    world, gateway = small()
    members = gateway.members()
    del members["roster/2.jsonl"]
    return Exhibit(members, world.policy())


@case(8, "roster.unexpected")
def rows_of_a_roster_that_is_not_there() -> Exhibit:
    world, gateway = small()
    members = gateway.members()
    return Exhibit(members | {"roster/3.jsonl": members["roster/2.jsonl"]}, world.policy())


def under(devices: list[dict[str, Any]], points: list[dict[str, Any]] | None = None, **window: Any) -> Exhibit:
    """A gateway that seals a roster which contradicts itself, and then a window."""
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    gateway.roster(devices, points if points is not None else [point_row(0, 0, gateway.id)])
    gateway.window(**window)
    return closed(world, gateway)


def rows_then(change: Callable[[list[dict[str, Any]], list[dict[str, Any]]], object]) -> Exhibit:
    """A second roster with rows changed."""
    def second(gateway: Gateway) -> None:
        devices, points = two_devices(gateway)
        change(devices, points)
        gateway.roster(devices, points)
        gateway.window()
    return sealed(second)


@case(8, "roster.parent")
def a_device_below_itself() -> Exhibit:
    return under([device_row(0, parent=1), device_row(1, parent=0)])


@case(8, "roster.replaces")
def a_device_that_replaces_a_live_one() -> Exhibit:
    return under([device_row(0), device_row(1, replaces=0)])


@case(8, "roster.via")
def a_server_without_a_slot() -> Exhibit:
    return under([device_row(0, server={"spki_sha256": None, "via": 9}), device_row(1)])


@case(8, "roster.tags")
def one_scheme_twice_in_a_row() -> Exhibit:
    tags = device_row(0)["tags"] + device_row(1)["tags"]
    return under([device_row(0, tags=tags)])


@case(8, "roster.point_twice")
def one_register_as_two_points() -> Exhibit:
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    gateway.roster([device_row(0)], [point_row(0, 0, gateway.id, address="1/holding/0/uint16"),
                                     point_row(1, 0, gateway.id, address="1/holding/0/uint16")])
    gateway.window()
    return closed(world, gateway)


@case(8, "roster.owner")
def a_point_without_a_device() -> Exhibit:
    world = World()
    gateway = world.gateway()
    return under([device_row(0)], [point_row(0, 0, gateway.id), point_row(1, 5, gateway.id)],
                 sampled=[0], connected=[0])


@case(8, "roster.identity")
def another_machine_in_the_same_slot() -> Exhibit:
    return rows_then(lambda devices, _: devices[0].update(
        device_row(0, private=private_part("new", maker="Maker", model="M-2", serial="S-9"))))


@case(8, "roster.identity")
def another_register_in_the_same_point() -> Exhibit:
    return rows_then(lambda _, points: points[0].update(addr="cd" * 32))


@case(8, "roster.tombstone")
def a_device_that_changes_as_it_goes() -> Exhibit:
    return rows_then(lambda devices, points: (
        devices[1].update(state="gone", **{"class": "robot"}), points[1].update(state="gone")))


@case(8, "roster.tombstone")
def a_device_that_comes_back() -> Exhibit:
    def twice(gateway: Gateway) -> None:
        devices, points = two_devices(gateway)
        gateway.roster([devices[0], devices[1] | {"state": "gone"}], [points[0], points[1] | {"state": "gone"}])
        gateway.window()
        gateway.roster(devices, points)
        gateway.window()
    return sealed(twice)


@case(8, "roster.unchanged")
def rows_repeated_that_did_not_change() -> Exhibit:
    def second(gateway: Gateway) -> None:
        devices, points = two_devices(gateway)
        gateway.roster([*devices, device_row(2)], points)
        gateway.rows[gateway.roster_seq] = lines([devices[0], device_row(2)])
        gateway.window()
    return sealed(second)


def opening_of(change: Callable[[dict[str, Any]], object], *, slot: int = 0) -> Exhibit:
    """An opening that was changed."""
    world = World()
    gateway = world.gateway()
    world.round(time_s=START_S - 10)
    gateway.begin()
    private = private_part("press", maker="Maker", model="M-1", serial="S-0", asset="A-7")
    gateway.roster([device_row(0, private=private), device_row(1)], two_devices(gateway)[1])
    gateway.window()
    world.round(time_s=gateway.now_s + 10)
    value = json.loads(gateway.opening(0, private))
    change(value)
    return Exhibit(gateway.members() | {f"openings/{slot}.json": jcs.encode(value)}, world.policy())


@case(8, "opening.private")
def an_opening_with_another_name() -> Exhibit:
    return opening_of(lambda value: value["private"].update(name="lathe"))


@case(8, "opening.tags")
def an_opening_without_a_tag() -> Exhibit:
    return opening_of(lambda value: value["tags"].pop())


@case(8, "opening.tags")
def an_opening_with_another_blinding() -> Exhibit:
    return opening_of(lambda value: value["tags"][0].update(r="00" * 32))


@case(8, "opening.misplaced")
def an_opening_of_another_slot() -> Exhibit:
    return opening_of(lambda value: None, slot=1)


# --- 9 recount


@case(9, "column.nesting")
def changing_without_producing() -> Exhibit:
    return sealed(lambda g: g.window(producing=[0], changing=[0, 1]))


@case(9, "column.nesting")
def producing_without_samples() -> Exhibit:
    return sealed(lambda g: g.window(sampled=[0], producing=[0, 1]))


@case(9, "column.unconnected")
def producing_without_a_connection() -> Exhibit:
    return sealed(lambda g: g.window(connected=[0]))


@case(9, "column.length")
def a_column_of_another_length() -> Exhibit:
    def change(gateway: Gateway) -> None:
        value = json.loads(gateway.entries[-1])["columns"]
        gateway.window(columns=value | {"connected": column.pack(3, 9)})
    return sealed(change)


@case(9, "column.spare_bits")
def a_bit_behind_the_last_slot() -> Exhibit:
    def change(gateway: Gateway) -> None:
        value = json.loads(gateway.entries[-1])["columns"]
        gateway.window(columns=value | {"connected": column.pack(7, 8)})
    return sealed(change)


@case(9, "column.tombstone")
def a_bit_for_a_device_that_is_gone() -> Exhibit:
    def change(gateway: Gateway) -> None:
        devices, points = two_devices(gateway)
        gateway.roster([devices[0], devices[1] | {"state": "gone"}], [points[0], points[1] | {"state": "gone"}])
        gateway.window(connected=[0, 1], sampled=[0])
    return sealed(change)


@case(9, "samples.conservation")
def samples_that_do_not_add_up() -> Exhibit:
    def change(gateway: Gateway) -> None:
        value = json.loads(gateway.entries[-1])["samples"]
        gateway.window(samples=value | {"received": value["received"] + 1})
    return sealed(change)


@case(9, "samples.columns")
def more_points_than_samples() -> Exhibit:
    def change(gateway: Gateway) -> None:
        value = json.loads(gateway.entries[-1])["samples"]
        gateway.window(samples=value | {"received": value["received"] - value["counted"] + 1, "counted": 1})
    return sealed(change)
