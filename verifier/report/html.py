"""The report of an audit: one HTML file that needs no script, no network and no other file, and that prints on A4.

It is made of the published JSON and nothing else, so it can say nothing that the JSON does not.
"""

from __future__ import annotations

from functools import partial

from jinja2 import Environment, PackageLoader, StrictUndefined

from protocols.terms.say import Say
from verifier.commands import level_lines, local_time
from verifier.report import wording
from verifier.report.wording import Json

TEMPLATE = "audit_report.html"
ROWS_MAX = 1_000
"""Devices printed one by one in each list; the JSON lists all."""

FAULTS_MAX = 5
"""Faults told in the verdict itself; all of them stand among the findings."""

STATUS_MARKS = {"met": "●", "declared": "◐", "not_met": "○"}
"""Filled, half, empty: they differ in black and white too, and the words stand beside them."""


def render(result: Json, say: Say) -> str:
    """Return the HTML of an audit result (docs/schemas/audit.schema.json). The same result gives the same bytes."""
    environment = Environment(loader=PackageLoader("verifier.report", ""), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    sentences = {name: partial(getattr(wording, name), say=say) for name in
               ("basis_rows", "named", "number", "finding", "interval", "protocols",
                "running_days", "sealed_lines", "device_level", "bundle_lines", "enterprise_lines", "presence_lines")}
    sentences["level_lines"] = partial(level_lines, say=say)
    count = result["count"]
    return environment.get_template(TEMPLATE).render(
        result=result, count=count, figures=count["figures"], say=say, marks=STATUS_MARKS, rows_max=ROWS_MAX,
        faults_max=FAULTS_MAX,
        left_out=[d for d in count["devices"] if d["reason"] is not None],
        counted=[d for d in count["devices"] if d["reason"] is None], local_time=local_time,
        percent=wording.percent, names={m["key"]: wording.named(m, say) for m in result["metrics"]}, **sentences)
