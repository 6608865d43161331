"""The errors of the mesh: one tree, each with what happened and what to do.

Idea: whoever embeds the mesh catches ``GossipError``; what comes from the network is
``Rejected`` and below, is counted, and changes nothing.

Invariant: an error never carries key material.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AuthenticationFailed",
    "ConfigError",
    "GossipError",
    "KeyringError",
    "Malformed",
    "Rejected",
    "Replayed",
    "TooLarge",
    "TransportError",
    "UnknownMember",
]


class GossipError(Exception):
    """Something that the mesh refuses or cannot do.

    ``hint`` says what to do about it; ``details`` holds plain values for machines.
    """

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


class ConfigError(GossipError):
    """A setting is out of its range; nothing was started."""


class TooLarge(GossipError):
    """A payload, an annotation or a profile is over its stated size; nothing was queued."""


class UnknownMember(GossipError):
    """No member of that id is known here; nothing was changed."""


class KeyringError(GossipError):
    """A key cannot be installed, used or removed now; the ring is as it was."""


class TransportError(GossipError):
    """A socket could not be opened or has failed; the members known are as they were."""


class Rejected(GossipError):
    """What came from the network was refused; it is counted, and nothing was changed."""


class Malformed(Rejected):
    """Bytes that no member of this version writes."""


class AuthenticationFailed(Rejected):
    """Sealed with a key that is not in the ring, for another cluster, or altered on the way."""


class Replayed(Rejected):
    """A packet that was taken before, or too old to tell."""
