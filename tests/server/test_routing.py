"""Paths, values and types of content: any text and any value there and back, without a node."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.control_frames import decode_body
from crdtmem.errors import InvalidValue
from crdtmem.server.negotiation import (
    encode,
    is_json_body,
    json_form,
    prefers_msgpack,
    value_of_json,
    write_json,
)
from crdtmem.server.problems import Refusal
from crdtmem.server.routes import ROUTES
from crdtmem.server.routing import Router, space_of, text_of
from tests.server.serving import Served, run, segment

_ROUTER = Router(ROUTES)
_TEXTS = st.text(min_size=1)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("$bytes"), inner),
    max_leaves=20,
)


@given(st.lists(_TEXTS, min_size=1, max_size=8), _TEXTS)
def test_any_labels_and_key_are_found_again(labels: list[str], key: str) -> None:
    path = f"/v1/spaces/{','.join(map(segment, labels))}/register/{segment(key)}"
    found = _ROUTER.find("GET", path + "?siblings=true")
    assert found.route.name == "read_register"
    assert found.query == "siblings=true"
    assert space_of(found.variables[0]) == tuple(labels)
    assert text_of(found.variables[1]) == key


@given(st.sampled_from(ROUTES))
def test_every_route_is_found_by_its_own_path(route: Any) -> None:
    path = route.path.replace("{space}", "{}").replace("{key}", "%7B%7D")
    assert _ROUTER.find(route.method, path).route is route


_AWKWARD = st.text(alphabet="/%.{}?#:, avV1\\\x00\udc80é", max_size=30)


@given(_AWKWARD, st.sampled_from(["GET", "PUT"]))
def test_no_target_is_more_than_refused(target: str, method: str) -> None:
    status = 200
    try:
        found = _ROUTER.find(method, "/v1/spaces/" + target)
        space_of(found.variables[0])
        for variable in found.variables:
            text_of(variable).encode()
    except Refusal as refusal:
        status = refusal.status
    assert status in (200, 400, 404, 405)


@given(_VALUES)
def test_a_value_is_the_same_after_either_form(value: Any) -> None:
    assert value_of_json(json.loads(encode(value))) == value
    assert json.loads(encode(value)) == json.loads(write_json(json_form(value)))
    as_sent = decode_body(encode(value, msgpack=True))
    assert value_of_json(json.loads(encode(as_sent))) == value


def test_what_is_no_number_keeps_what_it_is() -> None:
    assert math.isnan(value_of_json(json.loads(encode(math.nan))))
    for text in ("NaN", "[1e999]", '{"a": [-Infinity]}'):
        with pytest.raises(InvalidValue):
            value_of_json(json.loads(text))


def test_text_that_is_none_does_not_break_an_answer() -> None:
    assert json.loads(encode({"detail": "\udcff"})) == {"detail": "\udcff"}


@pytest.mark.parametrize(
    ("content_type", "is_json"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/msgpack", False),
        ("application/vnd.msgpack", False),
    ],
)
def test_bodies_are_read_by_their_type(content_type: str, is_json: bool) -> None:
    assert is_json_body(content_type) == is_json


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/jsonx", "json", ";"])
def test_bodies_of_other_types_are_refused(content_type: str) -> None:
    with pytest.raises(Refusal) as caught:
        is_json_body(content_type)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("accept", "msgpack"),
    [
        ("*/*", False),
        ("", False),
        ("text/html", False),
        ("application/json", False),
        ("application/msgpack", True),
        ("application/msgpack, application/json", False),
        ("application/msgpack, application/json;q=0.9", True),
        ("application/x-msgpack;q=0.5, */*;q=0.1", True),
        ("application/msgpack;q=nonsense", False),
        ("application/msgpack;q=0", False),
    ],
)
def test_answers_are_written_as_is_preferred(accept: str, msgpack: bool) -> None:
    assert prefers_msgpack(accept) == msgpack


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("listen", ["localhost:0", "127.0.0.1:0", "[::1]:0"])
def test_the_address_that_is_told_is_the_one_that_answers(listen: str, tmp_path: Path) -> None:
    if "::" in listen and not _has_ipv6():
        listen = "127.0.0.2:0"

    async def scene(served: Served) -> None:
        assert (await served.ask("GET", "/v1/context")).status == 200
        if listen[0] == "[":
            assert served.base.startswith("http://[::1]:")

    run(tmp_path, scene, http__listen=listen)
