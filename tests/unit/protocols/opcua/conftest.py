from __future__ import annotations

import pytest

from tests.unit.protocols.opcua.bench import be_patient


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests look at what is left on the server: a busy machine is no reason to leave something there."""
    be_patient(monkeypatch)
