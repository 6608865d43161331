"""What random schedules are drawn from: templates of lines, with their weights.

Problem: a schedule that is refused step after step, or that never meets a conflict, finds nothing.

Idea: few keys, so that replicas collide; the moves that conflicts need (partial delivery, news of
what is stable, collection) often; the moves that end a story (snapshots, restores, evictions)
seldom. ``explore.draw`` says what may stand in a template.

Invariants: every operation of the schedule language that users or operators have is drawn by some
profile, but for ``lose`` and ``repair``, which have their own tests.
"""

from __future__ import annotations

from tests.model.explore import Profile
from tests.model.membership import Replica

__all__ = ["data", "members", "trust"]

DATA = (
    (6, "{at}: put k v{n}"),
    (2, "{at}: put k v{n} @s{n}"),
    (1, "{at}: replace k w{n} @s{n}"),
    (3, "{at}: read k @s{n}"),
    (1, "{at}: delete k"),
    (1, "{at}: delete k @s{n}"),
    (3, "{at}: add t e{n}"),
    (2, "{at}: discard t e{n}"),
    (4, "{at}: include r e1"),
    (1, "{at}: include r e2 @s{n}"),
    (4, "{at}: exclude r e1"),
    (1, "{at}: exclude r e1 @s{n}"),
    (1, "{at}: read r @s{n}"),
    (1, "{at}: enable f"),
    (1, "{at}: disable f"),
    (2, "{at}: allow g"),
    (2, "{at}: forbid g"),
    (6, "{at}: increment c {n}"),
    (2, "{at}: decrement c {n}"),
    (3, "{at}: reset c"),
    (3, "{at}: mint q {n}"),
    (4, "{at}: spend q {n}"),
    (3, "{at}: transfer q {peer} {n}"),
    (2, "{at}: append l v{n}"),
    (1, "{at}: strike l {peer}:{n}"),
    (3, "{at}: edit d"),
    (1, "{at}: erase d"),
    (3, "{at}: compact d"),
    (1, "{at}: clear k"),
    (1, "{at}: clear c"),
    (1, "{at}: clear r"),
    (2, "{at}: increment c {n}; put k x{n}; include r e1"),
    (1, "{at}: increment c 1; reset c; increment c 2"),
    (1, "{at}: exclude r e1; include r e1; exclude r e2"),
)
TRAFFIC = (
    (14, "{at}: deliver {peer} {peer}"),
    (6, "{at}: deliver {peer} {other}"),
    (8, "{at}: pull {peer}"),
    (16, "{at}: acknowledge {peer}"),
    (14, "{at}: collect"),
    (1, "{at}: backup"),
    (1, "{at}: trim"),
    (1, "{at}: snapshot {peer}"),
    (1, "{at}: snapshot {peer}*"),
)
FEW = (
    (3, "{at}: put k v{n}"),
    (1, "{at}: delete k"),
    (5, "{at}: increment c {n}"),
    (2, "{at}: reset c"),
    (3, "{at}: include r e1"),
    (3, "{at}: exclude r e1"),
    (2, "{at}: mint q {n}"),
    (2, "{at}: spend q {n}"),
    (1, "{at}: transfer q {peer} {n}"),
    (1, "{at}: append l v{n}"),
    (1, "{at}: strike l {other}:{n}"),
    (1, "{at}: edit d"),
    (1, "{at}: erase d"),
    (1, "{at}: increment c 2; put k x; reset c"),
)
CHANGES = (
    (1, "{new}: boot"),
    (1, "{new}: restore {peer}"),
    (1, "{new}: clone {peer}"),
    (1, "{new}: rejoin {peer}"),
    (6, "{at}: admit {peer}"),
    (3, "{at}: evict {other}"),
    (8, "{at}: promise"),
    (3, "{at}: rescue {other}"),
)
TRUSTED_VERBS = (
    *("put", "replace", "delete", "add", "discard", "include", "exclude"),
    *("enable", "disable", "allow", "forbid"),
)


def data(founders: str, kind: type[Replica] = Replica) -> Profile:
    """Every datatype, among members that stay."""
    return Profile(founders, DATA + TRAFFIC, kind=kind)


def trust(founders: str, kind: type[Replica] = Replica) -> Profile:
    """The same where the policy orders trust, which each write draws anew."""
    trusted = tuple(
        (weight, line + " trust={n}")
        if line.split()[1] in TRUSTED_VERBS and ";" not in line
        # A transaction's operations keep the default.
        else (weight, line)
        for weight, line in DATA
    )
    return Profile(founders, trusted + TRAFFIC, trust_ordered=True, kind=kind)


def members(founders: str, kind: type[Replica] = Replica) -> Profile:
    """Fewer datatypes, among members that come, go, copy themselves and are restored."""
    return Profile(founders, FEW + TRAFFIC + CHANGES, kind=kind)
