"""The house rules as functions: source text in, offences out.

Problem: rules that live in a document are kept until the first hurried day.

Idea: each rule is a pure function from a module's source (or, where only an
import can tell, the module) to a list of sentences, each naming the place and
the rule. ``test_tidy.py`` runs them over the project and, because a check that
cannot fail is a defect, over a planted offence each.

Source: TigerBeetle's ``tidy`` and httpx's test of its exported members.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import inspect
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = [
    "IMPURE",
    "IMPURE_GOSSIP",
    "WORLDLY_SIMULATIONS",
    "bare_top_level",
    "impure_imports",
    "loud_comments",
    "missing_documentation",
    "module_name",
    "own_words",
    "oversized",
    "silent_excepts",
    "sleeps",
    "top_level_names",
    "unlisted_names",
    "unrepeatable",
]

MODULE_LINES = 500
FUNCTION_LINES = 70

# The edge: modules that may touch files, sockets, clocks and chance. Everything else
# is pure, and a new module is pure until it is written down here.
IMPURE = frozenset({
    "__main__", "chains", "checkpointing", "cli", "client", "client_address", "client_events",
    "client_feed", "client_nodes", "client_stream", "client_transport", "client_websocket",
    "config", "control", "control_connection", "control_parts", "control_path", "control_service",
    "datagram_relay", "demo", "editing", "executor", "feeds", "importer", "integrations", "keys",
    "memory", "mesh_life", "mesh_verbs", "meshing", "node", "node_verbs", "peer_stream", "peers",
    "pressure", "recovery", "relay", "rescuing", "retirement", "runtime", "server", "services",
    "settings", "settings_parts", "settings_service", "store", "synchronous", "verbs", "wall",
})  # fmt: skip

# The edge of the mesh: the rest of it is a pure machine.
IMPURE_GOSSIP = frozenset({"__main__", "driver", "transport"})

# The edge of the simulator: the rest of it depends on nothing but its arguments and its seed.
WORLDLY_SIMULATIONS = frozenset({
    "__main__", "campaign", "processes", "real", "report", "workers",
})  # fmt: skip
# They look for files before a world begins: scenarios by path, recordings to be replayed.
_READERS = frozenset({"stage", "workloads.replays"})

# What production runs at its edge and a world plays the world for.
_PLAYED = frozenset({
    "checkpointing", "executor", "recovery", "rescuing", "retirement", "services", "store",
})  # fmt: skip

# What a pure module may not import: the world, and libraries that only the edge needs.
_WORLD = frozenset({
    "asyncio", "click", "concurrent", "fcntl", "glob", "importlib", "io", "logging", "mmap",
    "multiprocessing", "os", "pathlib", "pydantic", "random", "rich", "secrets", "select",
    "selectors", "shutil", "signal", "socket", "socketserver", "sqlite3", "ssl", "subprocess",
    "tempfile", "threading", "time", "urllib", "uuid", "uvloop",
})  # fmt: skip
_WORLDLY_CALLS = frozenset({"open", "print", "input", "breakpoint", "__import__", "exec", "eval"})
_CLOCK_READS = frozenset({"now", "utcnow", "today"})

_ALLOWED_TOP_LEVEL = frozenset({
    "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "crdtmem", "gossip", "tests",
    "simulations", "deploy", ".ci", ".gitignore",
})  # fmt: skip

# Put together, so that this file does not offend against itself.
_UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
_MACHINE_PATHS = re.compile("|".join(["/wo" + "rk/", "/ho" + "me/", "/Us" + "ers/", "/ro" + "ot/"]))

_COMPUTED = (property, functools.cached_property)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.lru_cache(maxsize=2)
def _parsed(source: str) -> ast.Module:
    """Return a module's tree; several rules look at one after the other."""
    return ast.parse(source)


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name of the module at ``path``."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# ------------------------------------------------------------------ purity


def impure_imports(module: str, source: str, *, package: str = "crdtmem") -> list[str]:
    """Find where a pure module reaches for the world, at any depth, functions included.

    Imports under ``if TYPE_CHECKING:`` do not run and may name ``random.Random``.
    """
    if _is_impure(module, package):
        return []
    offences = []
    for node in _running_nodes(_parsed(source)):
        for imported in _imported(node):
            if imported.partition(".")[0] in _WORLD:
                offences.append(f"{module}:{_line(node)}: a pure module imports {imported}")
            elif imported.startswith(f"{package}.") and _is_impure(imported, package):
                offences.append(f"{module}:{_line(node)}: a pure module imports impure {imported}")
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in _WORLDLY_CALLS:
                offences.append(f"{module}:{node.lineno}: a pure module calls {called.id}()")
            if isinstance(called, ast.Attribute) and called.attr in _CLOCK_READS:
                offences.append(f"{module}:{node.lineno}: a pure module reads a clock")
    return offences


def unrepeatable(module: str, source: str) -> list[str]:
    """Find what could make two runs of one seed differ, in the simulator's pure modules."""
    name = module.removeprefix("simulations").removeprefix(".")
    if name in WORLDLY_SIMULATIONS | _READERS:
        return []
    offences = []
    for node in _running_nodes(_parsed(source)):
        for imported in _imported(node):
            top, _, rest = imported.partition(".")
            within = rest.partition(".")[0]
            if (
                (top in _WORLD and imported not in ("random", "random.Random"))
                or (isinstance(node, ast.Import) and imported == "random")
                or (top == "simulations" and rest in WORLDLY_SIMULATIONS)
                or (top == "crdtmem" and within in IMPURE - _PLAYED)
            ):
                offences.append(f"{module}:{_line(node)}: a simulated world imports {imported}")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in _WORLDLY_CALLS | {"hash", "id"} or (called == "Random" and not node.args):
                offences.append(f"{module}:{node.lineno}: a simulated world calls {called}()")
        looped = [node.iter] if isinstance(node, (ast.For, ast.comprehension)) else []
        for over in looped:
            unordered = isinstance(over, (ast.Set, ast.SetComp)) or (
                isinstance(over, ast.Call) and ast.unparse(over.func) in ("set", "frozenset")
            )
            if unordered:
                offences.append(f"{module}:{_line(over)}: a simulated world goes through a set")
    return offences


def _is_impure(module: str, package: str) -> bool:
    parts = module.split(".")
    # The package itself is the front door: it hands out the edge's names.
    edge = IMPURE_GOSSIP if package == "gossip" else IMPURE
    return parts[0] == package and (len(parts) == 1 or parts[1] in edge)


def _running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk all nodes but the bodies of ``if TYPE_CHECKING:``."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _running_nodes(other)
        else:
            yield from _running_nodes(child)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module is not None:
        # `from crdtmem import store` imports a module too.
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


# ------------------------------------------------------------------ documentation


def unlisted_names(module: str, source: str) -> list[str]:
    """Find a missing docstring or ``__all__``, and public definitions that it leaves out."""
    tree = _parsed(source)
    offences = [] if ast.get_docstring(tree) else [f"{module}: no module docstring"]
    listed = _listed(tree)
    if listed is None:
        return [*offences, f"{module}: no __all__"]
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | _Function) and not node.name.startswith("_")
    }
    missing = [f"{module}: {name} is public and not in __all__" for name in defined - listed]
    return offences + sorted(missing)


def _listed(tree: ast.Module) -> set[str] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            constants = (part for part in ast.walk(node) if isinstance(part, ast.Constant))
            return {part.value for part in constants if isinstance(part.value, str)}
    return None


def missing_documentation(module: ModuleType) -> list[str]:
    """Find names in ``__all__`` that do not exist, or are not explained.

    A method may inherit its docstring from the protocol or base that it implements.
    """
    offences = []
    for name in module.__all__:
        if not hasattr(module, name):
            offences.append(f"{module.__name__}: __all__ names {name}, which does not exist")
            continue
        thing = getattr(module, name)
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing):
            offences += _undocumented_class(module.__name__, thing)
        elif inspect.isroutine(thing) and not inspect.getdoc(thing):
            offences.append(f"{module.__name__}.{name}: no docstring")
    return offences


def _undocumented_class(module: str, cls: type[Any]) -> list[str]:
    own = vars(cls).get("__doc__") or ""
    # Dataclasses and named tuples write their signature there when nobody wrote anything.
    written = own and not own.startswith(f"{cls.__name__}(")
    offences = [] if written else [f"{module}.{cls.__name__}: no docstring"]
    for name, member in vars(cls).items():
        method = inspect.isroutine(member) or isinstance(member, _COMPUTED)
        public = not name.startswith("_") and getattr(member, "__module__", module) == module
        explained = any(getattr(vars(base).get(name), "__doc__", None) for base in cls.__mro__)
        if method and public and not explained:
            offences.append(f"{module}.{cls.__name__}.{name}: no docstring")
    return offences


# ------------------------------------------------------------------ size and style


def oversized(module: str, source: str) -> list[str]:
    """Find modules over 500 lines and functions over 70."""
    lines = len(source.splitlines())
    offences = [f"{module}: {lines} lines, over {MODULE_LINES}"] if lines > MODULE_LINES else []
    for node in ast.walk(_parsed(source)):
        if isinstance(node, _Function):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                offences.append(f"{module}:{node.lineno}: {node.name} has {length} lines")
    return offences


def silent_excepts(module: str, source: str) -> list[str]:
    """Find errors that vanish: bare excepts, empty handlers, everything suppressed."""
    offences = []
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                offences.append(f"{module}:{node.lineno}: a bare except")
            if all(_does_nothing(statement) for statement in node.body):
                offences.append(f"{module}:{node.lineno}: an except that says nothing")
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            names = {ast.unparse(argument).rpartition(".")[2] for argument in node.args}
            if names & {"Exception", "BaseException"}:
                offences.append(f"{module}:{node.lineno}: every exception suppressed")
    return offences


def _does_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def loud_comments(place: str, text: str) -> list[str]:
    """Find marks of unfinished work and paths of somebody's machine, in any text file."""
    offences = []
    for number, line in enumerate(text.splitlines(), 1):
        if _UNFINISHED.search(line):
            offences.append(f"{place}:{number}: unfinished: {line.strip()}")
        if _MACHINE_PATHS.search(line):
            offences.append(f"{place}:{number}: a path of one machine: {line.strip()}")
    return offences


def own_words(module: str, source: str) -> list[str]:
    """Find code that admits to not being there: ``NotImplementedError``."""
    return [
        f"{module}:{node.lineno}: NotImplementedError"
        for node in ast.walk(_parsed(source))
        if isinstance(node, ast.Name) and node.id == "NotImplemented" + "Error"
    ]


def sleeps(module: str, source: str) -> list[str]:
    """Find calls of any ``sleep`` but ``sleep(0)``, which only yields."""
    offences = []
    for node in ast.walk(_parsed(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        yields = len(node.args) == 1 and ast.unparse(node.args[0]) == "0"
        if name == "sleep" and not yields:
            offences.append(f"{module}:{node.lineno}: a test sleeps; wait for a condition")
    return offences


# ------------------------------------------------------------------ layout


def top_level_names(root: Path) -> list[str]:
    """List what the project keeps at its top: tracked by git, or, in an export, not ignored."""
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={root}", "ls-files", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    ) if (root / ".git").exists() else None  # fmt: skip
    if listing is not None and listing.returncode == 0:
        return sorted({name.partition("/")[0] for name in listing.stdout.split("\0") if name})
    ignored = [line.strip().rstrip("/") for line in (root / ".gitignore").read_text().split("\n")]
    return sorted(
        entry.name
        for entry in root.iterdir()
        if entry.name != ".git" and not any(fnmatch.fnmatch(entry.name, rule) for rule in ignored)
    )


def bare_top_level(names: Iterable[str]) -> list[str]:
    """Find what has no place at the top of the project."""
    return [f"{name} has no place at the top" for name in names if name not in _ALLOWED_TOP_LEVEL]
