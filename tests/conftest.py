"""What every test shares: no test depends on the language, the terminal or the PATH of who runs it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.leftovers import Leftovers

# Debian keeps servers in sbin, which is not on the path of an ordinary user.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Who starts the tests in the background of a script makes them deaf to Ctrl-C, and so every program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two slow cores say nothing about a property; a failure prints the blob that replays it.
settings.register_profile("house", deadline=None, print_blob=True)
settings.load_profile("house")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Leftovers())


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """English, no colours, no developer mode; a test that wants another environment sets it."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG", "TALLYSTICK_DEBUG", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(autouse=True)
def hearing() -> Iterator[None]:
    """A service that ran inside a test leaves signals ignored, for it is about to end; the tests are not."""
    before = {number: signal.getsignal(number) for number in HEARD}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def nobody_writes() -> Iterator[None]:
    """No test, whatever it is about, asks a simulated plant of its process to change anything.

    That is a Modbus write, an OPC UA Write or Call, or a message other than a rebirth request or STATE.
    """
    counters = (("simulators.modbus_server", "ModbusPlant", "writes_of_process"),
                ("simulators.opcua_readonly", "ReadOnlyServer", "refused_of_process"),
                ("simulators.mqtt_faults", "Delivered", "writes_of_process"))

    def asked() -> dict[str, int]:
        return {owner: getattr(getattr(sys.modules[module], owner), name) if module in sys.modules else 0
                for module, owner, name in counters}

    before = asked()
    yield
    assert asked() == before, "somebody asked a simulated plant to change something"
