"""Loading a node's settings: four sources, one precedence, every mistake named.

Problem: ambient configuration, read wherever it is wanted, cannot be checked,
printed or tested; and a misspelt setting that is ignored is worse than none.

Idea: four sources in rising precedence: the defaults, ``crdtmem.toml``,
``CRDTMEM_*`` in the environment (``__`` between levels:
``CRDTMEM_LIMITS__KEY_BYTES``), and flags. Each is first flattened into dotted
names (``limits.key_bytes``), so that precedence is one dictionary update, an
unknown name is found before anything is interpreted, and every value remembers
where it came from.

Rules:
1. An unknown name is refused, whatever its source, with the nearest known one.
2. Every problem of one load is reported in one error, each with its source.
3. Sizes (names in ``_bytes``) may be written ``"8 MiB"``; decimal units are
   refused, because half of those who write ``MB`` mean ``MiB``.

This module reads one file and nothing else: environment and flags are
arguments. What the settings mean is said in ``settings``.

Source: datasette's tests that every setting is explained.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from crdtmem.errors import ConfigError
from crdtmem.settings import DESCRIPTIONS, SWITCHES, Settings, look_up, parse_size

__all__ = [
    "ENVIRONMENT_PREFIX",
    "RESERVED_VARIABLES",
    "SettingRow",
    "Settings",
    "explain",
    "load_settings",
]

ENVIRONMENT_PREFIX: Final = "CRDTMEM_"

# Variables with our prefix that are not settings: where the file lies (read by the
# CLI), and the mark by which the project's own checks know that they run in CI.
RESERVED_VARIABLES: Final = frozenset({"CRDTMEM_CONFIG", "CRDTMEM_CI"})

_PASSWORD: Final = re.compile(r"(?<=://)([^/@:]*):[^/@]*(?=@)")


class SettingRow(NamedTuple):
    """One line of ``crdtmem config --check``."""

    name: str
    value: object
    source: str
    description: str


def load_settings(
    path: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, object],
) -> Settings:
    """Merge defaults, the file at ``path``, ``environment`` and ``flags`` into ``Settings``.

    ``path`` is ``None`` for no file. ``flags`` may be nested or dotted, with ``-``
    or ``_``; a flag that is ``None`` was not given. Raises ``ConfigError`` that
    names every offending setting and where it was set; ``details["problems"]``
    lists them.
    """
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []
    for name, value, source in _every_given(path, environment, flags):
        if name not in DESCRIPTIONS:
            problems.append(f"{source}: there is no setting {name!r}{_did_you_mean(name)}")
            continue
        try:
            values[name] = _interpret(name, value)
        except ValueError as error:
            problems.append(f"{source}: {name}: {error}")
        sources[name] = source
    if problems:
        raise _refusal(problems, "`crdtmem config --check` lists every setting")
    return _validate(values, sources)


def explain(settings: Settings) -> list[SettingRow]:
    """Return every setting with its value, its source and its meaning, passwords masked."""
    rows = []
    for name, description in DESCRIPTIONS.items():
        value = look_up(settings, name)
        if isinstance(value, str):
            value = _PASSWORD.sub(r"\1:***", value)
        rows.append(SettingRow(name, value, settings.source_of(name), description))
    return rows


def _validate(values: Mapping[str, object], sources: Mapping[str, str]) -> Settings:
    try:
        return Settings.from_sources(_nest(values), sources)
    except ValidationError as error:
        problems = []
        for fault in error.errors(include_url=False):
            name = ".".join(part for part in fault["loc"] if isinstance(part, str))
            message = fault["msg"].removeprefix("Value error, ")
            problems.append(f"{sources.get(name, 'default')}: {name}: {message}")
        raise _refusal(problems, "`crdtmem config --check` explains every setting") from error
    except ConfigError as error:
        involved = error.details.get("settings", ())
        where = [f"{name} from {sources.get(name, 'default')}" for name in involved]
        message = f"{error.message} ({', '.join(where)})"
        raise ConfigError(message, hint=error.hint, problems=[message]) from error


def _interpret(name: str, value: object) -> object:
    """Read what the unit in a name says, before types are looked at."""
    if isinstance(value, bool) and name not in SWITCHES:
        raise ValueError(f"{str(value).lower()} is a switch's value, and this is no switch")
    if isinstance(value, str) and name.endswith("_bytes"):
        return parse_size(value)
    return value


def _every_given(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, object]
) -> Iterator[tuple[str, object, str]]:
    """Yield (dotted name, value, source) of all that was given, weakest source first."""
    if path is not None:
        for name, value in _flatten(_read_toml(path)):
            yield name, value, str(path)
    for variable, text in sorted(environment.items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in RESERVED_VARIABLES:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            yield name, text, variable
    for flag, value in _flatten(flags):
        if value is not None:
            yield flag.replace("-", "_"), value, f"--{flag.replace('_', '-')}"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist", hint="check the path") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="check it") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8", hint="save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="see https://toml.io") from error


def _flatten(given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        name = prefix + key
        if isinstance(value, Mapping):
            yield from _flatten(value, name + ".")
        else:
            yield name, value


def _nest(values: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, field = name.rpartition(".")
        (nested.setdefault(section, {}) if dot else nested)[field] = value
    return nested


def _did_you_mean(name: str) -> str:
    near = difflib.get_close_matches(name, DESCRIPTIONS, n=1)
    if not near:  # the right word in the wrong section
        last = {known.rpartition(".")[2]: known for known in DESCRIPTIONS}
        near = [last[word] for word in difflib.get_close_matches(name.split(".")[-1], last, n=1)]
    return f"; did you mean {near[0]!r}?" if near else ""


def _refusal(problems: list[str], hint: str) -> ConfigError:
    if len(problems) == 1:
        return ConfigError(problems[0], hint=hint, problems=problems)
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ConfigError(
        f"{len(problems)} settings are wrong:{lines}\n", hint=hint, problems=problems
    )
