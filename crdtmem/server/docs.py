"""The description as a page to read, without anything from elsewhere.

Problem: the usual viewers (Swagger UI, Redoc) are megabytes of JavaScript that a page
fetches from another host, which a node on a closed network cannot, and which would then run
with the rights of a page of this machine. Packages that carry those files lag years behind.

Idea: the page is written here, from the description itself: sections by tag, operations
that unfold, tables of fields. No script at all; its own policy forbids the browser to load
or run anything.

Invariants: every text is escaped; the page names every operation, parameter, field and
status of the description.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

__all__ = ["PAGE_HEADERS", "page_of"]

PAGE_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color-scheme: light dark; }
code, .path { font-family: ui-monospace, monospace; }
details { border: 1px solid #8886; border-radius: 6px; margin: .4rem 0; padding: .3rem .8rem; }
summary { cursor: pointer; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 700; }
table { border-collapse: collapse; width: 100%; margin: .3rem 0 .8rem; }
td, th { text-align: left; vertical-align: top; padding: .15rem .8rem .15rem 0;
         border-bottom: 1px solid #8883; }
h4 { margin: .8rem 0 .2rem; }
"""
_DEEPEST: Final = 4


def page_of(description: Mapping[str, Any]) -> str:
    """Return the page that shows a description."""
    info = description["info"]
    sections = []
    for tag in description["tags"]:
        shown = [
            _operation(method, path, operation, description)
            for path, item in description["paths"].items()
            for method, operation in item.items()
            if tag["name"] in operation["tags"]
        ]
        sections.append(f"<h2>{escape(tag['name'])}</h2>{''.join(shown)}")
    about = "".join(f"<p>{escape(part)}</p>" for part in info["description"].split("\n\n"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>{about}"
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>'
        f"{''.join(sections)}</body></html>"
    )


def _operation(
    method: str, path: str, operation: Mapping[str, Any], description: Mapping[str, Any]
) -> str:
    parts = [
        f'<details id="{escape(operation["operationId"])}"><summary>',
        f'<span class="method">{escape(method.upper())}</span> ',
        f'<span class="path">{escape(path)}</span> {escape(operation["summary"])}</summary>',
    ]
    if "description" in operation:
        parts.append(f"<p>{escape(operation['description'])}</p>")
    rows = [
        (one["name"], f"{one['in']}: {_kind(one['schema'], description)}", one["description"])
        for one in operation.get("parameters", ())
    ]
    if rows:
        parts.append("<h4>Parameters</h4>" + _table(rows))
    body = operation.get("requestBody")
    if body is not None:
        schema = next(iter(body["content"].values()))["schema"]
        parts.append("<h4>Body</h4>" + "".join(_shown(schema, description)))
    parts.append("<h4>Answers</h4>")
    answers = []
    for code, given in operation["responses"].items():
        answer = _resolved(given, description)
        content = answer.get("content", {})
        answers.append((code, ", ".join(content), answer["description"]))
    parts.append(_table(answers))
    good = operation["responses"].get("200", {}).get("content", {})
    if good:
        parts += _shown(next(iter(good.values()))["schema"], description)
    return "".join([*parts, "</details>"])


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = [
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(kind)}</td>"
        f"<td>{escape(about)}</td></tr>"
        for name, kind, about in rows
    ]
    return f"<table>{''.join(lines)}</table>"


def _resolved(schema: Mapping[str, Any], description: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in schema:
        found: Any = description
        for step in str(schema["$ref"]).split("/")[1:]:
            found = found[step]
        return dict(found)
    return schema


def _shown(
    schema: Mapping[str, Any], description: Mapping[str, Any], depth: int = 0
) -> Iterator[str]:
    """Yield tables of a schema's fields, one for each shape that it may have."""
    found = _resolved(schema, description)
    if depth > _DEEPEST:
        return
    for option in found.get("oneOf", ()):
        yield from _shown(option, description, depth + 1)
    properties = found.get("properties", {})
    if properties or "description" in found:
        title, about = found.get("title", ""), found.get("description", "")
        yield f"<p><b>{escape(title)}</b> {escape(about)}</p>"
    if properties:
        required = found.get("required", ())
        yield _table(
            [
                (
                    name if name in required else f"{name}?",
                    _kind(field, description),
                    field.get("description", ""),
                )
                for name, field in properties.items()
            ]
        )
    for field in properties.values():
        inner = field.get("items", field)
        if "oneOf" in _resolved(inner, description):
            yield from _shown(inner, description, depth + 1)


def _kind(schema: Mapping[str, Any], description: Mapping[str, Any]) -> str:
    """Return in a few words what a schema takes."""
    if "$ref" in schema:
        return str(_resolved(schema, description).get("title", "object"))
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(_kind(option, description) for option in schema[choice])
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}), description)}"
    return str(schema.get("type", "any value"))
