"""Bodies of batches: the fast way reads what gateways write, and never anything that the slow way reads otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sealing.link import pieces
from protocols.errors import VerificationError
from protocols.evidence import jcs
from protocols.exchange import CHECKPOINT_CHARS_MAX, ENTRY_CHARS_MAX, SUBMIT_ENTRIES_MAX
from verifier.platform import batch, states, web
from verifier.platform.intake import LogState
from verifier.platform.refusal import RefusalError
from verifier.platform.service import unpack

TEXT = st.text(st.one_of(st.sampled_from('"\\\n\x00/é€😀\ud800{}[],:'), st.characters()), max_size=20)
BODY = st.fixed_dictionaries({
    "checkpoint": TEXT, "entries": st.lists(TEXT, max_size=4), "first": st.integers(0, jcs.INTEGER_MAX),
    "rosters": st.just([])})


def slowly(data: bytes) -> batch.Batch | None:
    """Return what the slow way reads, None if it refuses."""
    try:
        return unpack(jcs.parse(data, where="request", bytes_max=1 << 26))
    except (RefusalError, VerificationError):
        return None


@given(body=BODY)
def test_what_gateways_write_is_read_the_fast_way(body: dict[str, Any]) -> None:
    try:
        data = b"".join(pieces(body))
    except ValueError:  # half a surrogate: no gateway can write that
        return
    assert batch.take(data) == slowly(data) == (
        body["first"], [text.encode() for text in body["entries"]], body["checkpoint"].encode(), {})


@given(body=BODY, at=st.integers(0, 10_000), changed=st.sampled_from(
    [b"", b" ", b'"', b"\\", b",", b"0", b"-", b".5", b"e9", b"]", b"}", b"[1]", b"{}", b"null", b'\\ud800', b"\xff",
     b',"first":1', b'"checkpoint":"x",', b'"a":1,']), cut=st.integers(0, 3))
def test_what_was_changed_is_read_alike_or_not_at_all(body: dict[str, Any], at: int, changed: bytes, cut: int) -> None:
    whole = json.dumps(body, separators=(",", ":")).encode()
    at %= len(whole) + 1
    data = whole[:at] + changed + whole[at + cut:]
    assert batch.take(data) in (None, slowly(data))


@pytest.mark.parametrize("data", [
    pytest.param(b'{"checkpoint":"","entries":' + b"[" * 100_000 + b',"first":0,"rosters":[]}', id="deep"),
    pytest.param(b'{"checkpoint":"","entries":["a",{"b":1,"b":2}],"first":0,"rosters":[]}', id="a key twice"),
    pytest.param(b'{"checkpoint":"","entries":[NaN],"first":0,"rosters":[]}', id="no number"),
    pytest.param(b'{"checkpoint":"","entries":[],"first":00,"rosters":[]}', id="two zeros"),
    pytest.param(b'{"checkpoint":"","entries":[],"first":9007199254740992,"rosters":[]}', id="beyond 2^53-1"),
    pytest.param(b'{"checkpoint":"","entries":[],"first":1,"rosters":[{"rows":"","seq":1}]}', id="a roster"),
    pytest.param(b'{"checkpoint":"","entries":"ab","first":1,"rosters":[]}', id="text for entries"),
    pytest.param(b'{"checkpoint":"","entries":{"a":1},"first":1,"rosters":[]}', id="an object for entries"),
    pytest.param(b'{"checkpoint":"";"entries":[],"first":1,"rosters":[]}', id="another sign between"),
    pytest.param(b'{"checkpoint":"","entries":["a\nb"],"first":1,"rosters":[]}', id="a bare line end in a text"),
    pytest.param(b'{"checkpoint":"","entries":[],"first":1,"rosters":[]}{}', id="more behind the end"),
    pytest.param(b'{"checkpoint":"%b","entries":[],"first":1,"rosters":[]}' % (b"a" * (CHECKPOINT_CHARS_MAX + 1)),
                 id="a long checkpoint"),
    pytest.param(b'{"checkpoint":"","entries":["%b"],"first":1,"rosters":[]}' % (b"a" * (ENTRY_CHARS_MAX + 1)),
                 id="a long entry"),
    pytest.param(b'{"checkpoint":"","entries":[%b],"first":1,"rosters":[]}' % b",".join(
        [b'""'] * (SUBMIT_ENTRIES_MAX + 1)), id="too many entries"),
])
def test_the_fast_way_keeps_every_limit(data: bytes) -> None:
    assert batch.take(data) is None


def test_only_short_bodies_are_read_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer ones may have too many parts: that is looked at first."""
    asked, take = list[int](), batch.take

    def watched(data: bytes) -> batch.Batch | None:
        asked.append(len(data))
        return take(data)
    monkeypatch.setattr(batch, "take", watched)
    empty = b'{"checkpoint":"","entries":[],"first":0,"rosters":[]}'
    for size in (web.AT_ONCE_BYTES_MAX, web.AT_ONCE_BYTES_MAX + 1):
        data = empty.replace(b'""', b'"%b"' % (b"a" * (size - len(empty))))
        assert len(data) == size and web._batch(data) == slowly(data)
    assert asked == [web.AT_ONCE_BYTES_MAX]


@pytest.mark.parametrize("proof", [pytest.param(None, id="nothing co-signed"), pytest.param('—\n"\\', id="a proof")])
def test_an_answer_is_what_json_writes_of_it(proof: str | None) -> None:
    for size in (3, 4):
        value = {"size": size, "proof": proof, "register_checkpoint": proof}
        assert batch.answer(size=size, proof=proof, register_checkpoint=proof) == json.dumps(value).encode()


def test_a_state_is_stored_as_json_with_what_is_not_known_yet_as_null() -> None:
    state = LogState(gateway="a" * 32, certificate={}, key_history=((0, b"\1" * 32), (7, b"\2" * 32)), life=-1,
                     len_s=60, window_end_s=1_760_000_040)
    assert json.loads(states.dump(state)) == {
        "key_history": [[0, "01" * 32], [7, "02" * 32]], "life": -1, "len_s": 60, "roster_seq": None,
        "window_end_s": 1_760_000_040, "resume_s": None}


def test_keys_of_one_gateway_are_not_kept_without_limit() -> None:
    state = LogState(gateway="a" * 32, certificate={}, key_history=tuple(
        (seq, seq.to_bytes(32, "big")) for seq in range(states.KEYS_KEPT_MAX)))
    states.dump(state)
    before = states._kept_history.cache_info().currsize
    more = replace(state, key_history=(*state.key_history, (99, b"\1" * 32)))
    assert json.loads(states.dump(more))["key_history"] == [
        [first, public.hex()] for first, public in more.key_history]
    assert states._kept_history.cache_info().currsize == before
