"""The page of the platform: who is enrolled, and what the latest window said. Plain HTML, Chinese and English."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

ZONE = timezone(timedelta(hours=8))
ROWS_MAX = 10_000


def render(rows: Sequence[Mapping[str, Any]], *, name: str, lang: str, register_size: int, now_s: int) -> str:
    """Return the page. `rows`: what `Service.gateways` gives."""
    words = _words()[lang]
    shown = [{**row, "reasons": [(words["reasons"].get(reason, reason), count)
                                 for reason, count in row["figures"]["reasons"].items()] if row["figures"] else []}
             for row in rows]
    total = {key: sum(row["figures"][key] for row in rows if row["figures"])
             for key in ("configured", "connected", "counted")}
    return _template().render(rows=shown, name=name, lang=lang, other="en" if lang == "zh" else "zh", words=words,
                              total=total, register_size=register_size, now_s=now_s)


@cache
def style() -> str:
    """Return the style sheet."""
    return files("verifier.platform").joinpath("page.css").read_text(encoding="utf-8")


def _when(time_s: int | None) -> str:
    """Return a time with its zone; a dash for none."""
    if time_s is None:
        return "—"
    try:
        return datetime.fromtimestamp(time_s, ZONE).strftime("%Y-%m-%d %H:%M:%S +08:00")
    except (ValueError, OverflowError, OSError):  # a gateway's window may name any time at all
        return f"@{time_s}"


@cache
def _words() -> dict[str, Any]:
    return tomllib.loads(files("verifier.platform").joinpath("page.toml").read_text(encoding="utf-8"))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)
    environment.filters["when"] = _when
    environment.filters["lines"] = lambda text: Markup("<br>").join(str(text).split(" ", 1))
    return environment.from_string(files("verifier.platform").joinpath("page.html").read_text(encoding="utf-8"))
