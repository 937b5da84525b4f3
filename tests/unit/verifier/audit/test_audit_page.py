"""The claim that docs/auditing.md shows is a claim, and the page names every status and every division."""

from __future__ import annotations

import re
import tomllib
import typing

from config.programme_rules import Division
from tests.support.source import ROOT
from verifier.audit.claim import claim_from_fields
from verifier.audit.results_audit import Status

PAGE = (ROOT / "docs" / "auditing.md").read_text(encoding="utf-8")


def test_the_claim_of_the_page_is_read() -> None:
    found = re.search(r"<!-- claim -->\n```toml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    claim = claim_from_fields(tomllib.loads(found[1]), where="page", sha256="0" * 64, folder=None)
    assert claim.metrics["industrial_device_ledger_count"] == 1200
    assert [(g.by, g.key) for g in claim.groups] == [("industry", "automotive")]
    split = claim.split("device_connected_count", "deployment")
    assert split is not None and dict(split.parts) == {"private": 900, "public": 60} and split.explanation
    assert [(d.metric, d.state) for d in claim.documents] == [
        ("staff_count", "absent"), ("industrial_device_ledger_count", "absent")]
    assert claim.explained("jxg22.all.staff")


def test_the_page_names_every_status_and_division() -> None:
    for name in (*typing.get_args(Status), *typing.get_args(Division)):
        assert f"`{name}`" in PAGE, name
