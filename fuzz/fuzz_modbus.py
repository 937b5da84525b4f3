"""What a Modbus device answers. The first byte chooses the request, the rest is all that arrived since."""

from fuzz.harness import start, watched

with watched("protocols.modbus"):
    from protocols.modbus import frames, identity
    from protocols.modbus.codec import BlockCodec
    from protocols.modbus.plan import Request
    from protocols.modbus.target import ModbusPoint, parse_address

TYPES = ("int16", "uint16", "int32", "uint32", "float32", "int64", "uint64", "float64", "bcd16", "bcd32")
ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")


def _point(slot: int, address: str, kind: str) -> ModbusPoint:
    return ModbusPoint(point_index=slot, device_index=0, address=parse_address(address, kind), order=ORDERS[slot % 4])


REGISTERS = [_point(i, f"1/holding/{4 * i}", kind) for i, kind in enumerate(TYPES)]
REGISTERS += [_point(10, "1/holding/40:4", "string"), _point(11, "1/holding/44.3", "bool")]
COILS = [_point(i, f"1/coil/{i}", "bool") for i in range(11)]
PLANS = {3: BlockCodec([Request(unit=1, table="holding", address=0, count=45, device_index=0,
                                points=tuple(REGISTERS))]),
         1: BlockCodec([Request(unit=1, table="coil", address=0, count=11, device_index=0, points=tuple(COILS))])}
REQUESTS = {3: b"\3\0\0\0\x2d", 1: b"\1\0\0\0\x0b", 43: b"\x2b\x0e\1\0", 17: b"\x11"}
FRAMES = [(is_rtu, function, b"\1" + pdu + b"\0\0" if is_rtu else b"\0\7\0\0\0\6\1" + pdu)
          for function, pdu in REQUESTS.items() for is_rtu in (False, True)]


def check(data: bytes) -> None:
    """One answer, as it comes in piece by piece; with a right checksum as well, where there is one."""
    is_rtu, function, request = FRAMES[data[0] % len(FRAMES)] if data else FRAMES[0]
    answers = [data[1:]]
    if is_rtu:
        answers.append(data[1:] + frames.crc16(data[1:]).to_bytes(2, "little"))
    expected = frames.expect(request, is_rtu=is_rtu)
    for answer in answers:
        found = frames.match(expected, answer)
        if isinstance(found, frames.Reply):
            assert frames.match(expected, answer[:-1]) is None, "complete before its end"
            _read(function, found)


def _read(function: int, reply: frames.Reply) -> None:
    if reply.exception:
        assert reply.body == b""
    elif function in PLANS:
        decoded = PLANS[function].decode(reply.body)
        assert decoded.value.shape == PLANS[function].numeric.shape
    elif function == 43:
        identity.nameplate(identity.parse_page(reply.body).objects)


if __name__ == "__main__":
    start(check)
