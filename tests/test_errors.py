"""The error tree: drawn as it is, codes unique, every error rebuilt from its code."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from crdtmem import errors
from crdtmem.errors import CrdtmemError, error_from_code


def every_error(root: type[CrdtmemError] = CrdtmemError) -> Iterator[type[CrdtmemError]]:
    """Walk the classes of the module itself; other tests may have added subclasses."""
    if root.__module__ == errors.__name__:
        yield root
        for child in root.__subclasses__():
            yield from every_error(child)


def drawn_tree(docstring: str) -> dict[str, str | None]:
    """Read ``{name: parent}`` off a tree drawn with box characters, four columns a level."""
    tree: dict[str, str | None] = {}
    path: list[str] = []
    for line in docstring.splitlines():
        match = re.match(r"    ((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)\b", line)
        if match is None or (not match[1] and match[2] != "CrdtmemError"):
            continue
        depth = len(match[1]) // 4
        del path[depth:]
        tree[match[2]] = path[-1] if path else None
        path.append(match[2])
    return tree


def real_tree() -> dict[str, str | None]:
    return {
        error.__name__: None if error is CrdtmemError else error.__bases__[0].__name__
        for error in every_error()
    }


def test_the_drawn_tree_is_the_real_one() -> None:
    assert drawn_tree(errors.__doc__ or "") == real_tree()


def test_a_tree_drawn_wrong_is_noticed() -> None:
    drawing = errors.__doc__ or ""
    assert drawn_tree(drawing.replace("│   ├── Overloaded", "│   ├── Overlooked")) != real_tree()
    assert drawn_tree(drawing.replace("│   │   └── SiblingLimit", "│   ├── SiblingLimit")) != (
        real_tree()
    )


def test_each_code_names_one_error() -> None:
    codes = [error.code for error in every_error()]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_every_error_has_a_code_of_its_own() -> None:
    assert [error.__name__ for error in every_error() if "code" not in vars(error)] == []


def test_every_error_is_exported() -> None:
    names = {error.__name__ for error in every_error()}
    assert names | {"error_from_code"} == set(errors.__all__)


def test_every_error_says_what_state_is_left() -> None:
    unknown = [error.__name__ for error in every_error() if error.state_left == "unknown"]
    assert unknown == ["CrdtmemError"]


@pytest.mark.parametrize("error", list(every_error()), ids=lambda error: error.__name__)
def test_an_error_survives_the_wire(error: type[CrdtmemError]) -> None:
    sent = error("the thing failed", hint="mend the thing", siblings=[1, 2], limit=64)
    received = error_from_code(sent.code, sent.message, sent.hint, sent.details)
    assert type(received) is error
    assert received.message == "the thing failed"
    assert received.hint == "mend the thing"
    assert received.details == {"siblings": [1, 2], "limit": 64}
    assert str(received) == str(sent) == "the thing failed (mend the thing)"


def test_a_code_of_a_newer_program_is_still_an_error() -> None:
    received = error_from_code("from_the_future", "what", "", {})
    assert type(received) is CrdtmemError
    assert str(received) == "what"


def test_an_error_is_caught_by_whose_move_it_is() -> None:
    with pytest.raises(errors.LocalError):
        raise errors.SiblingLimit("too many")
    with pytest.raises(errors.RemoteError):
        raise errors.ForkDetected("two contents")
    with pytest.raises(errors.StoreError):
        raise errors.StoreFull("no space")
