"""A space's policy: how its conflicts are read, and who may displace whom.

Problem: a resolver or a trust rule that differed between regions would make
equal states read differently.

Idea: the policy is data, an ordinary register in the system space, replicated
and resolved by ``latest`` like any other. It names its resolver with a version;
a node that lacks that version serves the siblings and says so, rather than
guess. Joining never looks at a policy: it decides at the origin (trust) and at
reading (resolver) only. So are quotas: they bind local writes, never joins, and two
regions that write at the same time may together go beyond one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from crdtmem.batch import SpaceName
from crdtmem.errors import InvalidValue

__all__ = ["DEFAULT_POLICY", "SYSTEM_SPACE", "Policy", "policy_key", "policy_space"]

SYSTEM_SPACE: Final[SpaceName] = ("crdtmem",)
"""The space that holds policies, members and evictions. Users cannot write to it directly."""

_KEY_PREFIX: Final = "policy:"
_QUOTAS: Final = ("quota_keys", "quota_entries")


@dataclass(frozen=True, slots=True)
class Policy:
    """One space's policy.

    ``resolver`` and ``resolver_version`` name how siblings are read.
    ``trust_ordered``: a write never supersedes an entry of higher trust than
    its author's. ``quota_keys`` and ``quota_entries``: most keys, and most live
    entries (a key of a map or a set holds many), that a local write may leave the
    space with; ``None`` is no quota. See ``quotas``.
    """

    resolver: str = "latest"
    resolver_version: int = 1
    trust_ordered: bool = False
    quota_keys: int | None = None
    quota_entries: int | None = None

    def __post_init__(self) -> None:
        for name in _QUOTAS:
            quota = getattr(self, name)
            if quota is not None and (type(quota) is not int or not 0 <= quota < 1 << 63):
                raise InvalidValue(
                    f"{name} is {quota!r:.80}", hint="a quota is a whole number of at least 0"
                )

    @property
    def has_quota(self) -> bool:
        """Whether writes of the space are to be counted."""
        return self.quota_keys is not None or self.quota_entries is not None

    def as_value(self) -> dict[str, Any]:
        """Return the policy as a storable value. A quota that is not set is left out."""
        value = asdict(self)
        for name in _QUOTAS:
            if value[name] is None:
                del value[name]
        return value

    @classmethod
    def from_value(cls, value: Any) -> Policy:
        """Rebuild from a stored value; unknown fields are ignored, for later versions."""
        if not isinstance(value, dict):
            raise InvalidValue(
                "a policy is a map of settings", hint="write one with space.set_policy"
            )
        resolver = value.get("resolver", "latest")
        version = value.get("resolver_version", 1)
        trust_ordered = value.get("trust_ordered", False)
        if type(resolver) is not str or type(version) is not int or type(trust_ordered) is not bool:
            raise InvalidValue(
                "a policy names a resolver, its version, and whether trust orders",
                hint="write one with space.set_policy",
            )
        return cls(resolver, version, trust_ordered, *(value.get(name) for name in _QUOTAS))


DEFAULT_POLICY: Final = Policy()


def policy_key(space: SpaceName) -> str:
    """Return the key of a space's policy in the system space."""
    return _KEY_PREFIX + json.dumps(list(space), ensure_ascii=False, separators=(",", ":"))


def policy_space(key: str) -> SpaceName | None:
    """Return the space that a system key sets the policy of, or ``None``."""
    if not key.startswith(_KEY_PREFIX):
        return None
    try:
        labels = json.loads(key[len(_KEY_PREFIX) :])
    except ValueError:
        return None
    return tuple(labels) if type(labels) is list else None
