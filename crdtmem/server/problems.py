"""Problem details: every error of the API in one form (RFC 9457), with a stable code.

Problem: a program must know from an answer what happened, what state is left, and whether
to retry, without reading sentences; a person wants the sentence.

Idea: an error of ``crdtmem.errors`` becomes a JSON object of its own fields (``code``,
``hint``, ``state_left``, its details) under the standard ones (``type``, ``title``,
``status``, ``detail``). One table gives each code its status. What HTTP itself refuses (no
such path, a body of a type that is not spoken here) is a ``Refusal``, in the same form.

The statuses, where they are not obvious:

* 202 for ``durability_timeout``: the write *was* taken, is durable here and keeps
  spreading. A status of failure would have clients repeat it. ``X-Context`` names it.
* 409 for a write that the state forbids, now: a condition that fails, siblings at their
  limit, rights that are held elsewhere.
* 412 for a context that was not joined in time: ``X-Context`` is a precondition.
* 410 for history that was cut: it will not come back.
* 429 and 503 carry ``Retry-After``.

Invariants: an answer outside of 2xx is always a problem; nothing in it shows the inside of
the program, only what an error says of itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from crdtmem.errors import CrdtmemError
from crdtmem.operations import encode_error

__all__ = ["MEDIA_TYPE", "STATUSES", "Refusal", "problem_of", "problem_of_refusal", "status_of"]

MEDIA_TYPE: Final = "application/problem+json"

STATUSES: Final[Mapping[str, int]] = {
    "error": 500,
    "local": 400,
    "invalid_value": 400,
    "invalid_token": 400,
    "limit_exceeded": 413,
    "sibling_limit": 409,
    "condition_failed": 409,
    "not_covered": 412,
    "insufficient_rights": 409,
    "unknown_name": 404,
    "config": 400,
    "overloaded": 429,
    "quota_exceeded": 429,
    "durability_timeout": 202,
    "closed": 503,
    "remote": 400,
    "malformed_frame": 400,
    "frame_too_large": 413,
    "protocol_mismatch": 400,
    "wrong_cluster": 409,
    "fork_detected": 409,
    "store": 503,
    "store_locked": 503,
    "store_read_only": 503,
    "store_full": 507,
    "store_corrupt": 503,
    "store_failed": 503,
    "store_undecided": 503,
    "store_version": 503,
    "history_gap": 410,
    "replica_halted": 503,
    "defect": 500,
    "unreachable": 503,
}
"""The status of each code of ``crdtmem.errors``."""

_RETRY_AFTER_S: Final = 1


class Refusal(Exception):
    """A request that HTTP itself refuses, before any verb is asked. Nothing was changed."""

    def __init__(
        self, status: int, code: str, message: str, *, hint: str = "", **headers: str
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def status_of(error: CrdtmemError) -> int:
    """Return the status that an error is answered with."""
    return STATUSES.get(error.code, 500)


def problem_of(error: CrdtmemError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return an error's status, its problem details and the headers that go with it."""
    status = status_of(error)
    code, message, hint, details = encode_error(error)
    problem = _problem(status, code, message, hint, error.state_left)
    # Details never displace what the form itself says.
    problem.update({name: value for name, value in details.items() if name not in problem})
    headers: dict[str, str] = {}
    if status in (429, 503):
        pause_ms = details.get("retry_after_ms")
        known = type(pause_ms) in (int, float) and pause_ms >= 0
        headers["Retry-After"] = str(math.ceil(pause_ms / 1_000) if known else _RETRY_AFTER_S)
    if status == 202 and type(details.get("context")) is str:
        headers["X-Context"] = details["context"]
    return status, problem, headers


def problem_of_refusal(refusal: Refusal) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return a refusal's status, its problem details and the headers that go with it."""
    problem = _problem(
        refusal.status, refusal.code, refusal.message, refusal.hint, "nothing was changed"
    )
    return refusal.status, problem, refusal.headers


def _problem(status: int, code: str, message: str, hint: str, state_left: str) -> dict[str, Any]:
    return {
        "type": f"urn:crdtmem:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": message,
        "code": code,
        "hint": hint,
        "state_left": state_left,
    }
