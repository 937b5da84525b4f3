"""The form of a visit in a terminal: device after device, what is there. Offline; saved after every answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from protocols.errors import ConfigError, Problem
from protocols.evidence.signed import MATCH, MISMATCH, PHOTOS_MAX, UNVERIFIED
from protocols.terms.say import Say
from verifier.sampling.spotcheck import NOTE_MAX, Device, Visit, photo_sha256, save

CHOICES = {"1": MATCH, "2": MISMATCH, "3": UNVERIFIED}
BACK, STOP = "b", "q"


class _Stopped(Exception):  # noqa: N818 - no error: the visit goes on later
    """The assessor stops for now."""


def _read(prompt: str) -> str:
    """Return one line; the prompt goes to stderr, where progress belongs."""
    print(prompt, end=" ", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise _Stopped
    return line.strip()


def ask(visit: Visit, state: Path, say: Say, *, name: Callable[[Device], str], read: Callable[[str], str] = _read,
        now: Callable[[], float] = time.time) -> bool:
    """Ask for every device without an answer. Return whether all are answered and the assessor wants to close.

    Raises: ConfigError `sampling.clock` if this computer's clock is before the draw: its times would be refused.
    """
    if now() < visit.draw["cosignature"]["time_s"]:
        raise ConfigError(Problem.of("clock", "sampling.clock"))
    history = [device for device in visit.devices if device in visit.answers]
    total = len(visit.devices)
    if history:
        _tell(say("sampling.resumed", answers=len(history), total=total))
    try:
        while True:
            if not visit.open:
                choice = read(say("sampling.ask_close", total=total)).lower()
                if choice in ("", STOP):
                    return not choice
                if choice == BACK:
                    _back(visit, history)
                else:  # what is signed cannot be taken back: a slip of the finger does not do it
                    _tell(say("sampling.close_again"))
                continue
            device = visit.open[0]
            _tell("")
            _tell(say("sampling.now", number=visit.devices[device] + 1, total=total, device=name(device)))
            choice = read(say("sampling.ask_result")).lower()
            if choice == STOP:
                return False
            if choice == BACK:
                _back(visit, history)
            elif choice in CHOICES:
                note = _note(say, read)
                photos = _photos(say, read)
                visit.answer(device, CHOICES[choice], at_s=int(now()), note=note, photos=photos)
                history.append(device)
            else:
                _tell(say("sampling.ask_again"))
                continue
            save(visit, state)
    except (_Stopped, KeyboardInterrupt):
        _tell("")
        return False


def _back(visit: Visit, history: list[Device]) -> None:
    if history:
        del visit.answers[history.pop()]


def _note(say: Say, read: Callable[[str], str]) -> str:
    while True:
        note = read(say("sampling.ask_note"))
        if len(note) <= NOTE_MAX and note.isprintable():
            return note
        _tell(say("sampling.note_again", limit=NOTE_MAX))


def _photos(say: Say, read: Callable[[str], str]) -> tuple[str, ...]:
    """Return the SHA-256 of each photo. The files stay with the assessor."""
    photos: list[str] = []
    while len(photos) < PHOTOS_MAX and (path := read(say("sampling.ask_photo"))):
        try:
            photos.append(photo_sha256(Path(path).expanduser()))
        except OSError as error:
            _tell(say("sampling.photo_again", name=path, reason=error.strerror or type(error).__name__))
        else:
            _tell(say("sampling.photo_taken", digest=photos[-1][:16]))
    return tuple(photos)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
