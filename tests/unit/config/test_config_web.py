"""[web]: loopback unless it is said otherwise, in as many words."""

from __future__ import annotations

import pytest

from config.web import WebPage, WebTable, web_page


def checked(**table: object) -> tuple[WebPage | None, list[str]]:
    page, problems = web_page(WebTable.model_validate(table), "gateway.toml, web")
    return page, [f"{problem.where}: {problem.code}" for problem in problems]


@pytest.mark.parametrize(("listen", "host", "url"), [
    ("127.0.0.1:8421", "127.0.0.1", "http://127.0.0.1:8421/"),
    ("localhost:1", "localhost", "http://localhost:1/"),
    ("[::1]:65535", "::1", "http://[::1]:65535/"),
])
def test_loopback_needs_no_permission(listen: str, host: str, url: str) -> None:
    page, problems = checked(listen=listen)
    assert not problems and page is not None
    assert (page.host, page.url, page.is_remote) == (host, url, False)


@pytest.mark.parametrize("listen", ["0.0.0.0:8421", "[::]:8421", "192.0.2.7:8421"])
def test_an_address_that_others_reach_must_be_allowed(listen: str) -> None:
    assert checked(listen=listen) == (None, ["gateway.toml, web.listen: web.remote"])
    page, problems = checked(listen=listen, allow_remote=True, hosts=["Gateway.Plant.Example."])
    assert not problems and page is not None
    assert page.is_remote and page.hosts == {"gateway.plant.example"}


@pytest.mark.parametrize("listen", [
    "", "127.0.0.1", ":8421", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:１", "::1:8421",
    "[127.0.0.1]:1",
    "gateway.plant.example:8421", "http://127.0.0.1:8421",
])
def test_what_is_no_address_is_refused(listen: str) -> None:
    assert checked(listen=listen, allow_remote=True) == (None, ["gateway.toml, web.listen: web.bad_listen"])


@pytest.mark.parametrize("name", ["http://x", "a:1", "a/b", "", "-a", "a..b", "a" * 64, "例"])
def test_what_is_no_host_name_is_refused(name: str) -> None:
    assert checked(hosts=[name]) == (None, ["gateway.toml, web.hosts: web.bad_host"])
