"""The HTTP face: the verbs of a node as an HTTP API with a description of itself.

One table of routes (``routes``) is what requests are found by and what ``/openapi.json`` is
written from. Handlers translate: a path, headers and a typed body into the body of a verb,
and its answer back. ``http`` listens, ``connection`` keeps deadlines, ``exchange`` is one
request, ``problems`` every error.
"""

from __future__ import annotations

from crdtmem.server.http import HttpFace, faces_of

__all__ = ["HttpFace", "faces_of"]
