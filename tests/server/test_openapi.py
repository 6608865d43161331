"""The description of the API: valid, true to what is served, and readable."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from openapi_pydantic import OpenAPI

from crdtmem.crdt import DATATYPES
from crdtmem.server.docs import page_of
from crdtmem.server.openapi import describe, statuses_of
from crdtmem.server.problems import STATUSES
from crdtmem.server.routes import ROUTES
from crdtmem.server.routing import Router
from tests.server.serving import Answer, Served, run

_DESCRIPTION = describe(ROUTES)


def test_it_is_openapi_3_1() -> None:
    schemathesis.openapi.from_dict(_DESCRIPTION).validate()
    assert OpenAPI.model_validate(_DESCRIPTION).openapi == "3.1.1"


def test_a_description_that_is_none_is_found_out() -> None:
    broken = json.loads(json.dumps(_DESCRIPTION))
    broken["paths"]["/v1/status"]["get"]["responses"] = []
    with pytest.raises(jsonschema_rs.ValidationError):
        schemathesis.openapi.from_dict(broken).validate()


def test_every_reference_leads_somewhere_and_everything_shared_is_used() -> None:
    used: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                found: Any = _DESCRIPTION
                for step in value["$ref"].split("/")[1:]:
                    found = found[step]
                used.add(value["$ref"].rpartition("/")[2])
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(_DESCRIPTION)
    assert set(_DESCRIPTION["components"]["schemas"]) <= used


def test_every_route_is_described_once() -> None:
    described = {
        (method.upper(), path) for path, item in _DESCRIPTION["paths"].items() for method in item
    }
    assert described == {(route.method, route.path) for route in ROUTES}
    names = [route.name for route in ROUTES]
    assert len(set(names)) == len(names)


def test_every_status_of_an_error_is_described_somewhere() -> None:
    described = {status for route in ROUTES for status in statuses_of(route)}
    assert set(STATUSES.values()) <= described


def test_two_routes_of_one_name_are_refused() -> None:
    with pytest.raises(AssertionError, match="twice"):
        Router([*ROUTES, ROUTES[0]])


def _fits(name: str, answer: Answer, method: str, path: str) -> None:
    """Hold an answer against the description."""
    operation = _DESCRIPTION["paths"][path][method.lower()]
    declared = operation["responses"][str(answer.status)]
    if "$ref" in declared:
        declared = _DESCRIPTION["components"]["responses"][declared["$ref"].rpartition("/")[2]]
    schema = declared["content"][answer.headers["content-type"]]["schema"]
    whole = {**schema, "components": _DESCRIPTION["components"]}
    jsonschema_rs.validator_for(whole).validate(answer.value)


def test_real_answers_are_as_described(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        body: Any
        for datatype in DATATYPES:
            keys, path = (
                f"/v1/spaces/{{space}}/{datatype}",
                f"/v1/spaces/{{space}}/{datatype}/{{key}}",
            )
            real = "/v1/spaces/team/" + datatype
            body = {"operation": "delete"}
            for method, template, where, sent in (
                ("POST", path, real + "/key", body),
                ("GET", path, real + "/key?siblings=true", None),
                ("GET", keys, real, None),
                ("DELETE", path, real + "/key", None),
                ("POST", path, real + "/key", {"operation": "explode"}),
                ("POST", path, real + "/key", None),
            ):
                _fits(datatype, await served.ask(method, where, sent), method, template)
        await served.good("PUT", "/v1/spaces/team/register/city", {"value": "Rome"}, X_Author="a")
        body = {"value": "Oslo", "observed": "o1.kA"}
        await served.good("PUT", "/v1/spaces/team/register/city", body)
        read = "/v1/spaces/team/register/city?siblings=true"
        city = "/v1/spaces/{space}/register/{key}"
        _fits("siblings", await served.ask("GET", read), "GET", city)
        for method, path, sent in (
            ("GET", "/v1/spaces", None),
            ("GET", "/v1/conflicts", None),
            ("GET", "/v1/context", None),
            ("GET", "/v1/status", None),
            ("GET", "/v1/members", None),
            ("GET", "/v1/peers", None),
            ("GET", "/v1/admin/keyring", None),
            ("GET", "/v1/admin/rescue", None),
            ("GET", "/openapi.json", None),
            ("POST", "/v1/reads", {"reads": [{"space": ["team"], "key": "city"}]}),
            ("POST", "/v1/reads", {"reads": 7}),
            ("POST", "/v1/transactions", {"operations": []}),
            ("POST", "/v1/admin/checkpoint", None),
            ("POST", "/v1/admin/verify", {}),
            ("POST", "/v1/admin/evict", {"replica": "0" * 15 + "7"}),
            ("POST", "/v1/admin/rejoin", None),
        ):
            _fits(path, await served.ask(method, path, sent), method, path)

    run(tmp_path, scene, store=f"sqlite:///{tmp_path}/store.db")


class _Page(html.parser.HTMLParser):
    """Collects what a page would load or run, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "onclick")]
        if tag in ("script", "link", "iframe"):
            self.loads.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_names_every_operation_and_loads_nothing(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        answer = await served.ask("GET", "/docs")
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        page = _Page()
        page.feed(answer.value.decode())
        assert page.open == []
        assert page.loads == []
        text = "\n".join(page.text)
        for route in ROUTES:
            assert route.path in text
            assert route.summary in text
        assert "Supersede just what that read returned" in text

    run(tmp_path, scene)


def test_the_page_escapes_what_it_shows() -> None:
    bad = json.loads(json.dumps(_DESCRIPTION))
    bad["info"]["description"] = "<script>alert(1)</script>"
    assert "<script" not in page_of(bad)


def test_what_is_served_is_the_description(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        answer = await served.ask("GET", "/openapi.json")
        assert answer.value == json.loads(json.dumps(_DESCRIPTION))

    run(tmp_path, scene)
