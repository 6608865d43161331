"""The simulator: production state machines in hostile worlds of virtual time.

``DESIGN.md`` beside this file is the guided tour.
"""

__all__: list[str] = []
