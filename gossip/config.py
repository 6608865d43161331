"""The constants of the mesh, by profile, each with meaning, range and trade-off.

Problem: failure detection trades speed against false alarms and traffic, and the right
trade differs between one machine, one data centre and the wide area.

Idea: one frozen record, three named profiles. The figures of ``lan`` and ``wan`` are those
that memberlist has proven in the field; what differs is said where it differs.

Invariant: a ``Config`` that exists is within its ranges.

Sources: SWIM (Das, Gupta, Motivala 2002); Lifeguard (Dadgar, Phillips, Currey 2017);
HashiCorp memberlist's defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

from gossip.errors import ConfigError

__all__ = ["LAN", "LOCAL", "PROFILES", "WAN", "Config", "profile"]

_SECOND: Final = 1_000_000
_MS: Final = 1_000
_ROW_BYTES: Final = 35
_FRAME_OVERHEAD: Final = 32_768
"""What a frame has besides records: a key ring, lists of members, a header."""
_PACKET_OVERHEAD: Final = 200
"""What a packet has besides one record or payload: seal, header, stamps."""


@dataclass(frozen=True, slots=True)
class Config:
    """How one pool behaves. Times are microseconds; every field says what moving it costs.

    Raises ``ConfigError`` for a value out of its range.
    """

    # -- failure detection
    probe_interval_us: int = 1 * _SECOND
    """Between two probes by one member, at full health; 10 ms to 60 s. Shorter finds a dead
    member sooner, and costs every member two datagrams more per interval."""
    probe_timeout_us: int = 500 * _MS
    """How long a direct answer may take before others are asked, at full health; 1 ms to the
    interval. Should be above the 99th percentile of the round trip."""
    indirect_probes: int = 3
    """How many members are asked to probe in one's stead; 0 to 10. More see through more
    loss, for traffic when something is wrong only."""
    suspicion_multiplier: int = 4
    """The least suspicion lasts this × max(1, log10 n) × interval; 1 to 20. Higher gives slow
    members longer to refute, and finds the dead later."""
    suspicion_maximum_multiplier: int = 6
    """The longest suspicion, before any confirmation, in least suspicions; 1 to 20."""
    lonely_multiplier: int = 2
    """Where nobody else could confirm (two members) or nobody else is heard, the suspicion lasts
    so many least suspicions; 1 to 20. memberlist gives such pools no slack at all."""
    health_maximum: int = 7
    """The worst local health score; 0 to 20. Interval and timeout are scaled by score + 1."""
    stream_probes: bool = True
    """Whether a probe that fails by datagram is tried over a stream too: a member that answers
    only there is *degraded*, not dead."""

    # -- dissemination
    gossip_interval_us: int = 200 * _MS
    """Between two rounds of gossip, while there is something to tell; 10 ms to 10 s."""
    gossip_nodes: int = 3
    """How many members are told per round; 1 to 20."""
    gossip_to_dead_us: int = 30 * _SECOND
    """How long a dead member is still told of its death, so that it can refute; up to 1 h."""
    retransmit_multiplier: int = 4
    """News is passed on this × ⌈log10(n + 1)⌉ times by each; 1 to 20."""
    packet_bytes: int = 1_200
    """The largest datagram, sealed and all; 512 to 65,000. 1,200 passes every known path."""
    user_share_percent: int = 25
    """The part of every packet that payloads of users may claim before news of members; 0 to 90.
    Without it, a storm of news starves them."""
    user_queue_bytes: int = 65_536
    """What may wait to be broadcast for users; beyond it the oldest that was told most often is
    dropped, and counted."""
    user_payload_bytes: int = 512
    """The largest payload that can be broadcast; larger things belong on streams."""
    annotation_bytes: int = 64
    """The largest annotation that rides on every probe and its answer."""

    # -- anti-entropy and rejoining
    push_pull_interval_us: int = 30 * _SECOND
    """Between two comparisons of tables with a random member, over a stream; 100 ms to 1 h.
    Stretched by log2(n / 32) + 1 above 32 members. A table hash on every probe finds most
    differences sooner."""
    rejoin_interval_us: int = 30 * _SECOND
    """Between two attempts to reach somebody who is dead or was never met, jittered by half;
    for ever; 100 ms to 1 h. Bounds how long a healed partition goes unnoticed."""
    reap_dead_us: int = 24 * 3_600 * _SECOND
    """How long a dead member stays listed. It is still sought after that, for ever."""
    reap_left_us: int = 3_600 * _SECOND
    """How long one that left stays listed."""
    exchange_timeout_us: int = 10 * _SECOND
    """How long a stream's answer may take."""
    remembered_peers: int = 1_000
    """How many addresses are remembered over a restart, latest met first."""

    # -- bounds
    members: int = 1_000
    """How many members a pool may have; further ones are refused and counted."""
    profile_bytes: int = 512
    """The largest encoded profile."""
    frame_bytes: int = 4 * 1024 * 1024
    """The largest frame of a stream, checked before it is allocated."""
    exchanges: int = 32
    """How many exchanges may be out at a time; further ones wait for their next occasion."""
    incarnation_jump: int = 1_024
    """News that raises an incarnation by more is verified with its subject before it is
    believed; honest members rise one at a time."""

    # -- flap damping
    flap_half_life_us: int = 60 * _SECOND
    """How fast a member's penalty for coming and going decays."""
    flap_limit: int = 4
    """From this penalty on (one per death), a member is *damped*: listed, probed, told, but
    neither elected nor asked to probe for others until the penalty is below half of it."""

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(
                    f"{name} is {value}, which is not within {least} to {most}",
                    hint=f"leave it out for the profile's default, or choose {least} to {most}",
                    setting=name,
                )
        if self.probe_timeout_us > self.probe_interval_us:
            raise ConfigError(
                "probe_timeout_us is above probe_interval_us",
                hint="a probe must be over before the next begins",
                setting="probe_timeout_us",
            )
        # A view of a pool with all the dead and gone that it may list must pass as one frame.
        view_bytes = 4 * self.members * (self.profile_bytes + _ROW_BYTES) + _FRAME_OVERHEAD
        if self.frame_bytes < view_bytes:
            raise ConfigError(
                f"frame_bytes is {self.frame_bytes}; {self.members} members may need {view_bytes}",
                hint=f"raise frame_bytes to {view_bytes}, or lower members or profile_bytes",
                setting="frame_bytes",
            )
        for name in ("profile_bytes", "user_payload_bytes"):
            if getattr(self, name) > self.packet_bytes - _PACKET_OVERHEAD:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}, which does not fit into a packet",
                    hint=f"packet_bytes must be {_PACKET_OVERHEAD} more",
                    setting=name,
                )


_RANGES: Final = {
    "probe_interval_us": (10 * _MS, 60 * _SECOND),
    "probe_timeout_us": (1 * _MS, 60 * _SECOND),
    "indirect_probes": (0, 10),
    "suspicion_multiplier": (1, 20),
    "suspicion_maximum_multiplier": (1, 20),
    "lonely_multiplier": (1, 20),
    "health_maximum": (0, 20),
    "gossip_interval_us": (10 * _MS, 10 * _SECOND),
    "gossip_nodes": (1, 20),
    "gossip_to_dead_us": (0, 3_600 * _SECOND),
    "retransmit_multiplier": (1, 20),
    "packet_bytes": (512, 65_000),
    "user_share_percent": (0, 90),
    "user_queue_bytes": (1_024, 1 << 26),
    "user_payload_bytes": (16, 32_768),
    "annotation_bytes": (0, 128),
    "push_pull_interval_us": (100 * _MS, 3_600 * _SECOND),
    "rejoin_interval_us": (100 * _MS, 3_600 * _SECOND),
    "reap_dead_us": (1 * _SECOND, 1 << 52),
    "reap_left_us": (1 * _SECOND, 1 << 52),
    "exchange_timeout_us": (100 * _MS, 600 * _SECOND),
    "remembered_peers": (1, 100_000),
    "members": (2, 100_000),
    "profile_bytes": (64, 4_096),
    "frame_bytes": (65_536, 1 << 28),
    "exchanges": (1, 1_000),
    "incarnation_jump": (1, 1 << 32),
    "flap_half_life_us": (1 * _SECOND, 3_600 * _SECOND),
    "flap_limit": (2, 100),
}

LOCAL: Final = Config(
    probe_timeout_us=200 * _MS,
    indirect_probes=1,
    suspicion_multiplier=3,
    gossip_interval_us=100 * _MS,
    gossip_to_dead_us=15 * _SECOND,
    push_pull_interval_us=15 * _SECOND,
    rejoin_interval_us=5 * _SECOND,
)
"""Processes of one machine."""

LAN: Final = Config()
"""One data centre, or one region."""

WAN: Final = Config(
    probe_interval_us=5 * _SECOND,
    probe_timeout_us=3 * _SECOND,
    suspicion_multiplier=6,
    gossip_interval_us=500 * _MS,
    gossip_nodes=4,
    gossip_to_dead_us=60 * _SECOND,
    push_pull_interval_us=60 * _SECOND,
)
"""Between regions, where a slow path is not a dead one."""

PROFILES: Final = {"local": LOCAL, "lan": LAN, "wan": WAN}


def profile(name: str, **changes: int | bool) -> Config:
    """Return the profile of that name, with some constants changed. Raises ``ConfigError``."""
    known = {field.name for field in fields(Config)}
    unknown = sorted(set(changes) - known)
    if name not in PROFILES or unknown:
        what = f"profile {name!r}" if name not in PROFILES else f"constant {unknown[0]!r}"
        raise ConfigError(
            f"there is no {what}",
            hint=f"profiles: {', '.join(PROFILES)}; constants: see gossip.config.Config",
        )
    return replace(PROFILES[name], **changes)  # type: ignore[arg-type]
