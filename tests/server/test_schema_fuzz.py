"""A node against its own description: requests drawn from it, answers held against it.

Schemathesis draws requests that fit ``/openapi.json``, and requests that do not, and judges
every answer: no status of 500 or above that is not told, none that is not described, the
media type, headers and body as described, and nothing accepted that does not fit.

What is drawn at random names keys that nobody wrote and tokens that no node gave, so half
of the fitting requests are *grounded*: they take the few spaces and keys that others of
this run write to, and the tokens that the node itself gave last.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, Response
from schemathesis.core import NotSet
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import positive_data_acceptance

from crdtmem.server.routes import ROUTES
from crdtmem.server.routing import Route
from tests.node.processes import NodeProcess

_ENDING: Final = ("leave", "stop")
"""They end the node: each has one of its own."""

_STREAMS: Final = ("changes", "member_changes")
"""Their answers have no end."""

_ORDINARY: Final = [route for route in ROUTES if route.name not in _ENDING]
_LAST: Final = [route for route in ROUTES if route.name in _ENDING]
_TAKING: Final = [
    route
    for route in _ORDINARY
    if route.headers or route.body is not None or (route.query and route.query.model_fields)
]
"""Those to which anything can be said, and so said wrongly."""

_DRAWN: Final = 4
_DRAWN_SLOWLY: Final = 20
_WAIT_MS: Final = 10
"""How long drawn requests wait for contexts that nobody will ever join."""

_FITTING: Final = GenerationMode.POSITIVE
_MISFIT: Final = GenerationMode.NEGATIVE
_SETTINGS: Final = settings(
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
_FLAGS: Final = ("--region=here", "--http=127.0.0.1:0")
_KEYS: Final = ("city", "a/b", "ключ")


@schemathesis.serializer("application/msgpack")
def _as_msgpack(context: Any, value: Any) -> Any:
    try:
        return msgpack.packb(value)
    except OverflowError:
        # JSON has integers that MessagePack lacks.
        reject()


@schemathesis.deserializer("application/msgpack")
def _of_msgpack(context: Any, response: Any) -> Any:
    return msgpack.unpackb(response.content, strict_map_key=False)


class Fuzzed:
    """A node process, its description, and what it has told so far."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.base = node.ready["http"]
        self.session = requests.Session()
        self.description = self.session.get(f"{self.base}/openapi.json", timeout=20).json()
        self.read()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.tokens: dict[str, str] = {}
        self.ring: str | None = None

    def read(self) -> None:
        """Take the description for what the node promises."""
        self.schema = schemathesis.openapi.from_dict(self.description)
        # A stream has no end: one event of it will do.
        self.schema.config.max_stream_events = 1
        # Too much of what is right otherwise is refused with 413, a context to come with 412.
        refusing = self.schema.config.checks.negative_data_rejection
        refusing.expected_statuses = [*refusing.expected_statuses, "412", "413"]

    def cases(self, route: Route, mode: GenerationMode) -> st.SearchStrategy[Case[Any]]:
        """Return requests to a route that fit its description, or do not."""
        return self.schema[route.path][route.method].as_strategy(generation_mode=mode)

    def send(self, route: Route, case: Case[Any], grounded: int) -> Response:
        """Send a request, shortened where it would wait, grounded if ``grounded`` is not 0."""
        _shorten(case)
        if route.name == "backup" and isinstance(case.body, dict) and "path" in case.body:
            self._redirect(case.body)
        if grounded:
            self._ground(case, _KEYS[grounded % len(_KEYS)])
        answer = case.call(base_url=self.base, session=self.session, timeout=30)
        self.statuses[route.name, answer.status_code] += 1
        self._learn(answer)
        return answer

    def judge(self, route: Route, case: Case[Any], grounded: int = 0) -> None:
        """Send a request and hold its answer against the description."""
        answer = self.send(route, case, grounded)
        # That a token is well formed does not make it one that a node gave.
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])

    def fuzz(self, route: Route, mode: GenerationMode, examples: int = _DRAWN) -> None:
        """Judge as many requests as that; the usual few are the same in every run."""

        @settings(_SETTINGS, max_examples=examples, derandomize=examples == _DRAWN)
        @given(case=self.cases(route, mode), grounded=st.integers(0, 5))
        def judge(case: Case[Any], grounded: int) -> None:
            self.judge(route, case, grounded if mode is _FITTING else 0)

        judge()

    def _redirect(self, body: dict[str, Any]) -> None:
        """Keep backups within the node's folder."""
        if isinstance(path := body["path"], str) and path:
            body["path"] = str(self.node.folder / f"copy-{len(path)}")

    def _ground(self, case: Case[Any], key: str) -> None:
        places = case.path_parameters or {}
        if "space" in places:
            places["space"] = "team"
        if "key" in places:
            places["key"] = key
        token = self.tokens.get
        for given_in in (case.headers or {}, case.query or {}):
            for name in ("X-Context", "at_least", "observed", "expect", "cursor"):
                if name in given_in:
                    given_in[name] = token(name.removeprefix("X-").lower(), given_in[name])
        if isinstance(case.body, dict):
            self._ground_body(case.body, key)

    def _ground_body(self, value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name in ("observed", "expect"):
                if isinstance(value.get(name), str):
                    value[name] = self.tokens.get("observed", value[name])
            if isinstance(value.get("space"), list):
                value |= {"space": ["team"], "key": key}
            elif isinstance(value.get("key"), str) and self.ring is not None:
                value["key"] = self.ring
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, dict | list):
                self._ground_body(item, key)

    def _learn(self, answer: Response) -> None:
        if context := answer.headers.get("x-context"):
            self.tokens |= {"context": context[0], "at_least": context[0]}
        if not answer.headers.get("content-type", [""])[0].startswith("application/json"):
            return
        said = json.loads(answer.content)
        if isinstance(said.get("observed"), str):
            self.tokens |= {"observed": said["observed"], "expect": said["observed"]}
        if isinstance(said.get("cursor"), str):
            self.tokens["cursor"] = said["cursor"]
        if isinstance(said.get("key"), str):
            self.ring = said["key"]


def _shorten(case: Case[Any]) -> None:
    """Have a request wait for moments only, where the time that it gives is one."""
    headers = case.headers
    if "X-Timeout-Ms" not in headers or _is_a_time(headers["X-Timeout-Ms"]):
        headers["X-Timeout-Ms"] = str(_WAIT_MS)
    for given_in in (case.query, case.body):
        if isinstance(given_in, dict) and _is_a_time(given_in.get("timeout_ms", "")):
            given_in["timeout_ms"] = _WAIT_MS
    if case.operation.path.startswith("/v1/context") and "timeout_ms" not in case.query:
        case.query["timeout_ms"] = _WAIT_MS


def _is_a_time(given_time: Any) -> bool:
    text = str(given_time)
    return text.isascii() and text.isdigit() and int(text) <= 86_400_000


@contextlib.contextmanager
def _fuzzing(node: NodeProcess) -> Iterator[Fuzzed]:
    found = Fuzzed(node)
    with contextlib.closing(found.session):
        yield found


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    """One node for all; what it logged of itself is looked at in the end."""
    folder = tmp_path_factory.mktemp("fuzzed")
    with NodeProcess(folder, *_FLAGS, sealed=True) as node, _fuzzing(node) as found:
        yield found
        assert found.session.get(f"{found.base}/v1/status", timeout=20).status_code == 200
        assert "unexpected" not in node.log()


def _name(route: Route) -> str:
    return route.name


# ------------------------------------------------------------------ what comes to an end


@pytest.mark.parametrize("route", _ORDINARY, ids=_name)
def test_what_fits_is_answered_as_described(fuzzed: Fuzzed, route: Route) -> None:
    fuzzed.fuzz(route, _FITTING)


@pytest.mark.parametrize("route", _TAKING, ids=_name)
def test_what_does_not_fit_is_refused_as_described(fuzzed: Fuzzed, route: Route) -> None:
    fuzzed.fuzz(route, _MISFIT)


@pytest.mark.slow
@pytest.mark.parametrize("route", _ORDINARY, ids=_name)
def test_more_that_fits_and_does_not(fuzzed: Fuzzed, route: Route) -> None:
    fuzzed.fuzz(route, _FITTING, _DRAWN_SLOWLY)
    if route in _TAKING:
        fuzzed.fuzz(route, _MISFIT, _DRAWN_SLOWLY)


def test_every_method_that_a_path_lacks_is_refused_as_such(fuzzed: Fuzzed) -> None:
    for path, known in fuzzed.description["paths"].items():
        url = fuzzed.base + path.replace("{space}", "team").replace("{key}", "city")
        for method in {"get", "put", "post", "delete", "patch", "options", "trace"} - set(known):
            answer = fuzzed.session.request(method.upper(), url, timeout=20)
            assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
            assert answer.headers["Allow"].lower().split(", ") == sorted(known)


def test_what_is_drawn_is_carried_out_too(fuzzed: Fuzzed) -> None:
    # A node that refused everything would pass all of the above.
    for name in ("put_register", "change_set", "change_log", "put_policy", "read_many", "backup"):
        route = next(route for route in _ORDINARY if route.name == name)
        fuzzed.fuzz(route, _FITTING, 10)
        assert fuzzed.statuses[name, 200], name


@pytest.mark.parametrize(
    ("where", "lie"),
    [
        (("components", "schemas", "ReadAnswer", "properties", "exists"), {"type": "integer"}),
        (("paths", "/v1/spaces/{space}/register/{key}", "get", "responses", "200", "content"),
         {"text/plain": {}}),
        (("paths", "/v1/spaces/{space}/register/{key}", "get", "responses"), {"418": {}}),
        (("paths", "/v1/spaces/{space}/register/{key}", "get", "responses", "200", "headers",
          "X-Context", "schema"), {"type": "integer"}),
    ],
)  # fmt: skip
def test_a_description_that_lies_is_found_out(
    fuzzed: Fuzzed, where: tuple[str, ...], lie: dict[str, Any]
) -> None:
    route = next(route for route in _ORDINARY if route.name == "read_register")
    with _fuzzing(fuzzed.node) as other:
        at: Any = other.description
        *path, last = where
        for step in path:
            at = at[step]
        at[last] = lie
        other.read()
        with pytest.raises(FailureGroup):
            other.fuzz(route, _FITTING, 10)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_bounds_of_every_field_are_as_described(fuzzed: Fuzzed, tmp_path: Path) -> None:
    # Not drawn but enumerated: just within and just beyond each bound, alone and in pairs. An
    # unknown header counts as a misfit there, so what does not fit is left to the tests above.
    checks = [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "unsupported_method",
    ]
    left_out = (*_ENDING, *_STREAMS, "backup")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{fuzzed.base}/openapi.json"),
            *("--phases", "coverage", "--request-timeout", "20", "--checks", ",".join(checks)),
            *(f"--exclude-operation-id={name}" for name in left_out),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-8_000:]
    (tested,) = re.findall(r"Tested: ([0-9]+)", done.stdout)
    # The description is not asked for itself.
    assert int(tested) == len(ROUTES) - len(left_out) - 1


# ------------------------------------------------------------------ what ends the node


@pytest.mark.parametrize("route", _LAST, ids=_name)
def test_what_ends_a_node_is_answered_as_described(route: Route, tmp_path: Path) -> None:
    answered: list[int] = []

    def ask(fuzzed: Fuzzed) -> None:
        @settings(_SETTINGS, max_examples=1, derandomize=True)
        @given(case=fuzzed.cases(route, _FITTING))
        def judge(case: Case[Any]) -> None:
            if isinstance(case.body, dict) and route.name == "leave":
                # Alone in its cluster it has nobody to hand over to.
                case.body["forced"] = True
            fuzzed.judge(route, case)

        judge()
        answered.append(fuzzed.statuses[route.name, 200])

    with NodeProcess(tmp_path, *_FLAGS) as node, _fuzzing(node) as fuzzed:
        ask(fuzzed)
        assert answered == [1]
        assert node.wait() == 0


def _has_body(case: Case[Any]) -> bool:
    return bool(case.body) and not isinstance(case.body, NotSet)


@pytest.mark.parametrize("route", _LAST, ids=_name)
def test_what_is_wrongly_asked_ends_no_node(fuzzed: Fuzzed, route: Route) -> None:
    # Nothing is a body of either, and an empty one may be what was drawn: so it is not sent.
    @settings(_SETTINGS, max_examples=_DRAWN, derandomize=True)
    @given(case=fuzzed.cases(route, _MISFIT).filter(_has_body))
    def judge(case: Case[Any]) -> None:
        fuzzed.judge(route, case)

    judge()
    assert not fuzzed.statuses[route.name, 200]
