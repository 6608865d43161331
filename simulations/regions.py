"""Where regions are, and how long light and routers take between them.

Problem: invented latencies hide what real geography does: a hub and its far
corners, two continents with one cable, an antipode at 150 ms.

Idea: each region is a place on the globe. The one-way latency between two is the
great-circle distance at the speed of light in glass (two thirds of that in vacuum),
stretched by the detours of real routes, plus a little for equipment at both ends.

Invariants: latency is symmetric, and never below ``LOCAL_US``.

The stretch of 1.6 puts the pairs that cloud providers publish (Frankfurt to Virginia
about 45 ms one way, Virginia to Oregon about 33 ms, Ireland to Singapore about 90 ms)
within a fifth of their real figures.
"""

from __future__ import annotations

from math import asin, cos, radians, sin, sqrt
from typing import Final

__all__ = ["LOCAL_US", "REGIONS", "one_way_us"]

LOCAL_US: Final = 500
"""One way between two machines of one region."""

_EARTH_KM: Final = 6_371.0
_GLASS_KM_PER_US: Final = 0.2
_STRETCH: Final = 1.6
_EQUIPMENT_US: Final = 1_000

REGIONS: Final[dict[str, tuple[float, float]]] = {
    "eu-west": (53.3, -6.3),
    "us-east": (38.9, -77.5),
    "ap-southeast": (1.35, 103.8),
    "us-west": (45.8, -119.7),
    "eu-central": (50.1, 8.7),
    "ap-northeast": (35.7, 139.7),
    "sa-east": (-23.5, -46.6),
    "ap-south": (19.1, 72.9),
    "af-south": (-33.9, 18.4),
    "ap-sydney": (-33.9, 151.2),
    "ca-central": (45.5, -73.6),
    "eu-north": (59.3, 18.1),
    "me-south": (26.1, 50.6),
    "eu-london": (51.5, -0.1),
    "eu-paris": (48.9, 2.4),
    "us-ohio": (40.0, -83.0),
    "us-california": (37.4, -121.9),
    "ap-seoul": (37.6, 127.0),
    "ap-osaka": (34.7, 135.5),
    "ap-hongkong": (22.3, 114.2),
    "ap-jakarta": (-6.2, 106.8),
    "ap-melbourne": (-37.8, 145.0),
    "eu-milan": (45.5, 9.2),
    "eu-madrid": (40.4, -3.7),
    "eu-zurich": (47.4, 8.5),
    "me-dubai": (25.2, 55.3),
    "me-telaviv": (32.1, 34.8),
    "ap-hyderabad": (17.4, 78.5),
    "ca-calgary": (51.0, -114.1),
    "us-texas": (32.8, -96.8),
    "us-iowa": (41.3, -95.9),
    "us-carolina": (33.2, -80.0),
    "us-nevada": (36.2, -115.1),
    "us-utah": (40.8, -111.9),
    "sa-santiago": (-33.4, -70.7),
    "sa-bogota": (4.7, -74.1),
    "mx-queretaro": (20.6, -100.4),
    "eu-warsaw": (52.2, 21.0),
    "eu-helsinki": (60.2, 24.9),
    "eu-belgium": (50.5, 3.8),
    "eu-netherlands": (53.4, 6.8),
    "eu-turin": (45.1, 7.7),
    "ap-taiwan": (24.1, 120.5),
    "ap-delhi": (28.6, 77.2),
    "ap-bangkok": (13.8, 100.5),
    "ap-manila": (14.6, 121.0),
    "ap-auckland": (-36.8, 174.8),
    "af-lagos": (6.5, 3.4),
    "af-nairobi": (-1.3, 36.8),
    "me-doha": (25.3, 51.5),
}
"""Name to (latitude, longitude) in degrees; the first three are the demo's."""


def one_way_us(here: str, there: str) -> int:
    """Return the one-way latency between two regions, in microseconds.

    Raises ``KeyError`` for a region that is not in ``REGIONS``.
    """
    if here == there:
        return LOCAL_US
    (latitude_a, longitude_a), (latitude_b, longitude_b) = REGIONS[here], REGIONS[there]
    phi_a, phi_b = radians(latitude_a), radians(latitude_b)
    half_a = sin((phi_b - phi_a) / 2) ** 2
    half_b = sin(radians(longitude_b - longitude_a) / 2) ** 2
    distance_km = 2 * _EARTH_KM * asin(sqrt(half_a + cos(phi_a) * cos(phi_b) * half_b))
    return max(LOCAL_US, int(distance_km / _GLASS_KM_PER_US * _STRETCH) + _EQUIPMENT_US)
