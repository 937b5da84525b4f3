"""When to ask, when to send, when to stop: events in, effects out. No sockets, no disk, no clock of its own.

The platform's size is asked before anything is sent, and again after every failure: whether a lost answer had taken
effect is found out, never guessed. So every entry arrives exactly once and in order, however often a request repeats.
An answer to the question alone calms nothing: a platform that tells its size and refuses every submission is asked
less and less often, until one of them makes progress.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

NS_PER_S = 1_000_000_000
BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 300.0
REGISTER_POLL_S = 10.0
"""How often the register is asked while the newest entries have no co-signed head yet, unless told otherwise."""

TRIES_COUNTED_MAX = 32


@dataclass(frozen=True, slots=True)
class Grew:
    """The journal sealed more: `size` entries now."""

    size: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The platform told its size, as an answer to a question, a submission or a conflict.

    agrees: whether its root is ours at that size; None if it is ahead of us. Its signature was checked before.
    """

    size: int
    agrees: bool | None


@dataclass(frozen=True, slots=True)
class Proven:
    """Receipts were taken in: `size` is what the newest co-signed head with a complete chain covers, 0 if none."""

    size: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A request failed or was refused; what it did is unknown. jitter: 0 <= jitter < 1, drawn by the caller."""

    jitter: float


Event = Grew | Tick | Answered | Proven | Failed


@dataclass(frozen=True, slots=True)
class AskSize:
    """Ask the platform for size and root."""


@dataclass(frozen=True, slots=True)
class Submit:
    """Send entries from `first` on, as many as fit one request."""

    first: int


@dataclass(frozen=True, slots=True)
class AskRegister:
    """Ask for the newest proofs of the register."""


@dataclass(frozen=True, slots=True)
class Halt:
    """Send nothing more: `ahead`, the platform has entries of ours that we lack; `fork`, it has others than we."""

    why: str
    size: int


Effect = AskSize | Submit | AskRegister | Halt


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """local, remote: sizes here and there, remote None while unknown. proven: covered by a co-signed head.

    reached: the largest size the platform ever told. busy: a request is under way. tries: failures since it last made
    progress. wake_ns: nothing is tried before. halted: why no more. poll_s: how often the register is asked.
    """

    local: int = 0
    remote: int | None = None
    reached: int = 0
    proven: int = 0
    busy: bool = False
    tries: int = 0
    wake_ns: int = 0
    poll_ns: int = 0
    halted: str | None = None
    poll_s: float = REGISTER_POLL_S

    def step(self, event: Event, *, now_ns: int) -> tuple[Outbox, tuple[Effect, ...]]:
        """Return the outbox after `event` and what to do now: at most one request at a time."""
        match event:
            case Grew(size):
                return replace(self, local=max(self.local, size))._next(now_ns)
            case Answered(size, agrees):
                # The journal may have grown while the request was under way: agreement at a size means we have it.
                local = max(self.local, size) if agrees else self.local
                answered = replace(self, busy=False, wake_ns=0, reached=max(self.reached, size), local=local)
                if agrees is not True:
                    why = "ahead" if size > self.local else "fork"
                    return replace(answered, halted=why), (Halt(why, size),)
                nothing_left = size == local and self.proven >= local
                tries = 0 if size > self.reached or nothing_left else self.tries
                return replace(answered, remote=size, tries=tries)._next(now_ns)
            case Proven(size):
                polled = replace(self, busy=False, tries=0, wake_ns=0, proven=max(self.proven, size),
                                 poll_ns=now_ns + int(self.poll_s * NS_PER_S))
                return polled._next(now_ns)
            case Failed(jitter):
                wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0**self.tries) * (0.5 + jitter / 2)
                return replace(self, busy=False, remote=None, tries=min(self.tries + 1, TRIES_COUNTED_MAX),
                               wake_ns=now_ns + int(wait_s * NS_PER_S)), ()
            case Tick():
                return self._next(now_ns)

    @property
    def due_ns(self) -> int | None:
        """When the next `Tick` will do something; None if only an event can."""
        if self.halted or self.busy:
            return None
        if self.remote is None or self.remote < self.local:
            return self.wake_ns
        return max(self.wake_ns, self.poll_ns) if self.proven < self.local else None

    def _next(self, now_ns: int) -> tuple[Outbox, tuple[Effect, ...]]:
        if self.due_ns is None or now_ns < self.due_ns or not self.local:
            return self, ()
        asked = replace(self, busy=True)
        if self.remote is None:
            return asked, (AskSize(),)
        if self.remote < self.local:
            return asked, (Submit(self.remote),)
        return asked, (AskRegister(),)
