"""Times and sizes for people."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["local_time", "size_text"]


def local_time(time_us: int) -> str:
    """Return microseconds since 1970 as UTC, to the millisecond."""
    moment = datetime.fromtimestamp(time_us / 1e6, tz=UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def size_text(size_bytes: int) -> str:
    """Return a size with the unit that leaves at most four digits before the point."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
