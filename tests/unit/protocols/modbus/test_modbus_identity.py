"""Who a device says it is: gathered for every device, and compared with the ledger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DeviceError
from protocols.modbus.driver import Driver
from protocols.modbus.identity import title
from protocols.terms.nameplate import contradictions
from tests.unit.protocols.modbus.recording import Recording, closed_port, endpoint, point, running, silent, until
from tests.unit.protocols.modbus.test_modbus_driver import NUMBERS, device, nameplates, serving, silence

PLATE = {"vendor_name": "Huichuan", "product_code": "MD500T37G", "model_name": "MD500", "object_128": "HC-00123"}


@pytest.mark.parametrize(("ledger", "facts"), [
    (("Huichuan", "MD500", "HC-00123"), []),
    (("huichuan technology", "md 500", "hc00123"), []),
    (("汇川", "MD500", ""), []),  # another script: nobody here can tell
    (("", "", ""), []),
    (("Siemens", "MD500", "HC-00123"), ["maker"]),
    (("Huichuan", "G120", "HC-00123"), ["model"]),
    (("Huichuan", "MD500", "HC-00124"), ["serial"]),
    (("Huichuan", "MD500", "A7"), []),  # a private object may be anything
    (("Siemens", "G120", "HC-99999"), ["maker", "model", "serial"])])
def test_contradictions(ledger: tuple[str, str, str], facts: list[str]) -> None:
    maker, model, serial = ledger
    found = contradictions(PLATE, maker=maker, model=model, serial=serial)
    assert [c.fact for c in found] == facts
    assert all(c.ledger in ledger and c.device in PLATE.values() for c in found)


def test_a_device_that_says_nothing_contradicts_nothing() -> None:
    assert contradictions({}, maker="A", model="B", serial="C") == []
    assert contradictions({"server_id": "LMB3.1.6"}, maker="A", model="B", serial="C") == []
    assert title({}) == ""


@given(st.dictionaries(st.sampled_from([*PLATE, "object_129", "product_name"]), st.text(max_size=20)),
       st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_whoever_agrees_with_himself_has_no_contradiction(
    plate: dict[str, str], maker: str, model: str, serial: str
) -> None:
    contradictions(plate, maker=maker, model=model, serial=serial)
    own = {**plate, "vendor_name": maker, "product_code": model, "object_128": serial}
    assert {c.fact for c in contradictions(own, maker=maker, model=model, serial=serial)} <= {
        fact for fact, text in (("serial", serial),) if not any(c.isalnum() for c in text)}


async def test_every_device_that_answers_is_named_while_it_is_polled() -> None:
    """1 and 2 have nameplates, 3 has none but a server id, 4 is silent, device 9 shares unit 1."""
    sink = Recording()
    points = [point(unit, f"{unit}/holding/0", "uint16", device=unit) for unit in (1, 2, 3, 4)]
    points.append(point(9, "1/holding/1", "uint16", device=9))
    plates = {1: {0: b"Huichuan", 1: b"MD500"}, 2: {0: b"Inovance", 128: b"SN-7"}}
    async with serving(*(device(u, NUMBERS) for u in (1, 2, 3, 4)), trace_pdu=nameplates(plates),
                       trace_packet=silence(4)) as port:
        driver = Driver(endpoint(port, units=silent(4)), points, sink)
        before = await driver.identities()
        async with running(driver):
            # After each silence of unit 4 the line is down for a moment, in which nobody is asked.
            await until(lambda: len(sink.values) >= 3 and driver._link.is_open)
            during = await driver.identities()
    for found in (before, during):
        assert sorted(found) == [1, 2, 3, 9]
        assert found[1] == found[9] == {"vendor_name": "Huichuan", "product_code": "MD500"}
        assert found[2] == {"vendor_name": "Inovance", "object_128": "SN-7"}
        assert list(found[3]) == ["server_id"]


async def test_no_identity_without_a_connection() -> None:
    with closed_port() as port, pytest.raises(DeviceError) as caught:
        await Driver(endpoint(port), [point(1, "1/holding/0", "uint16")], Recording()).identities()
    assert caught.value.problems[0].code == "modbus.refused"


async def test_a_number_without_a_label_is_told_once_and_counts() -> None:
    sink = Recording()
    labels = ((0, "stopped"), (1, "running"))
    points = [point(0, "1/holding/0", "uint16", labels=labels), point(1, "1/holding/1", "int16", labels=labels),
              point(2, "1/coil/0", labels=labels), point(3, "1/holding/2", "bcd16", labels=((7, "seven"),)),
              point(4, "1/holding/3", "uint16")]
    async with serving(device(1, [1, 17, 0x00FF, 5])) as port:
        async with running(Driver(endpoint(port), points, sink)):
            await until(lambda: len(sink.values.get(1, [])) > 3)
    assert [(code, args) for code, _, args in sink.events] == [
        ("modbus.label_unknown", {"address": "1/holding/1/int16"})]
    assert {slot: set(values) for slot, values in sink.values.items()} == {0: {1.0}, 1: {17.0}, 2: {1.0}, 4: {5.0}}
