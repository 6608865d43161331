"""The house rules hold over the whole project, and each check is able to fail."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import crdtmem
from tests import tidy
from tests.capabilities import ROOT

SHIPPED = ("crdtmem", "gossip", "simulations")


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, source) of every module in ``folders`` that exist."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield tidy.module_name(path, ROOT), path.read_text(encoding="utf-8")


def offences(check: Callable[[str, str], list[str]], *folders: str) -> list[str]:
    return [offence for name, text in sources(*folders) for offence in check(name, text)]


@functools.cache
def everywhere() -> dict[Callable[[str, str], list[str]], list[str]]:
    """What every module is held to, by rule: one pass, for trees are slow to make."""
    rules = (tidy.oversized, tidy.silent_excepts, tidy.own_words)
    found: dict[Callable[[str, str], list[str]], list[str]] = {rule: [] for rule in rules}
    for name, text in sources(*SHIPPED, "tests"):
        for rule in rules:
            found[rule] += rule(name, text)
    return found


def hold(found: list[str]) -> None:
    """Show every offence, not the first: they are mended together."""
    assert not found, "\n" + "\n".join(found)


def test_the_checkout_is_what_is_tested() -> None:
    assert Path(crdtmem.__file__).parent == ROOT / "crdtmem"
    found = subprocess.run(
        [sys.executable, "-c", "import crdtmem; print(crdtmem.__file__)"],
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    assert Path(found.stdout.strip()).parent == ROOT / "crdtmem", "child processes run a copy"


# ------------------------------------------------------------------ the project


def test_pure_modules_do_not_touch_the_world() -> None:
    hold(offences(tidy.impure_imports, "crdtmem"))
    hold(offences(functools.partial(tidy.impure_imports, package="gossip"), "gossip"))


def test_simulated_worlds_depend_on_nothing_but_their_seed() -> None:
    hold(offences(tidy.unrepeatable, "simulations"))


def test_every_module_is_documented_and_lists_its_names() -> None:
    hold(offences(tidy.unlisted_names, *SHIPPED))


def test_every_public_name_exists_and_is_explained() -> None:
    found = []
    for name, _ in sources(*SHIPPED):
        if not name.endswith("__main__"):
            found += tidy.missing_documentation(importlib.import_module(name))
    hold(found)


def test_modules_and_functions_can_be_read_in_one_sitting() -> None:
    hold(everywhere()[tidy.oversized])


def test_no_error_vanishes() -> None:
    hold(everywhere()[tidy.silent_excepts])


def test_nothing_is_left_unfinished() -> None:
    hold(everywhere()[tidy.own_words])
    found = []
    for name in tidy.top_level_names(ROOT):
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".sh"} or name == ".ci":
                text = path.read_text(encoding="utf-8") if path.is_file() else ""
                found += tidy.loud_comments(str(path.relative_to(ROOT)), text)
    hold(found)


def test_tests_wait_for_conditions() -> None:
    found = offences(tidy.sleeps, "tests")
    hold([offence for offence in found if not offence.startswith("tests.waiting:")])


def test_the_top_level_stays_small() -> None:
    hold(tidy.bare_top_level(tidy.top_level_names(ROOT)))


def test_gossip_and_crdtmem_do_not_know_what_stands_above_them() -> None:
    found = []
    above = {"gossip": "crdtmem", "crdtmem": "simulations"}
    for folder, unknown in above.items():
        for name, text in sources(folder):
            if f"import {unknown}" in text or f"from {unknown}" in text or "from tests" in text:
                found.append(f"{name} imports {unknown} or tests")
    hold(found)


# ------------------------------------------------------------------ layers


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the import contracts of ``folder``'s pyproject.toml on the crdtmem that lies there."""
    run = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", run, "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_point_down_only() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "source", "contract"),
    [
        ("codec", "import crdtmem.errors\n", None),
        ("codec", "import crdtmem.replica\n", "Imports point down only"),
        ("replica", "def late() -> None:\n    import crdtmem.store\n", "Imports point down only"),
        ("client", "import crdtmem.engine\n", "Imports point down only"),
        ("errors", "import crdtmem.codec\n", "The words at the bottom"),
        ("clock", "import crdtmem.codec\n", "No two modules import each other"),
        ("unplaced", "", "Imports point down only"),
        ("codec", "import simulations\n", "Nothing in crdtmem knows of the simulator"),
        ("../gossip/wire", "import crdtmem.codec\n", "The mesh knows nothing of what it carries"),
        ("../gossip/wire", "import gossip.swim\n", "Within the mesh, imports point down only"),
        ("../gossip/unplaced", "", "Within the mesh, imports point down only"),
    ],
)
def test_the_contracts_break_on_a_planted_import(
    tmp_path: Path, module: str, source: str, contract: str | None
) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "crdtmem"
    package.mkdir()
    for other in ("gossip", "simulations"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "__init__.py").write_text("")
    (tmp_path / "gossip" / "swim.py").write_text("")
    for name in ("__init__", "errors", "entries", "clock", "causality", "batch", "table", "replica",
                 "engine", "store"):  # fmt: skip
        (package / f"{name}.py").write_text("")
    (package / "codec.py").write_text("import crdtmem.clock\n")
    (package / f"{module}.py").write_text(source)
    result = lint_imports(tmp_path)
    if contract is None:
        assert result.returncode == 0, result.stdout
    else:
        assert result.returncode == 1, result.stdout
        assert any(
            line.startswith(contract) and line.endswith("BROKEN")
            for line in result.stdout.splitlines()
        ), result.stdout


# ------------------------------------------------------------------ each check can fail


def planted(source: str) -> ModuleType:
    module = ModuleType("planted")
    exec(compile(source, "planted", "exec", dont_inherit=True), vars(module))
    return module


@pytest.mark.parametrize(
    "source",
    [
        "import time\n",
        "import os.path\n",
        "from random import Random\n",
        "def late():\n    import asyncio\n",
        "class Late:\n    def later(self):\n        from uuid import uuid4\n",
        "if True:\n    import socket\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import time\n",
        "import crdtmem.store.base\n",
        "from crdtmem import config\n",
        "def read(path):\n    return open(path)\n",
        "def stamp(datetime):\n    return datetime.now()\n",
    ],
)
def test_impurity_is_found(source: str) -> None:
    assert tidy.impure_imports("crdtmem.replica", source)


def test_purity_is_not_mistaken_for_impurity() -> None:
    source = (
        "from typing import TYPE_CHECKING\nimport timeit, math\nfrom crdtmem.stored import x\n"
        "if TYPE_CHECKING:\n    from random import Random\ndef f(now): return now + 1\n"
    )
    assert tidy.impure_imports("crdtmem.replica", source) == []
    assert tidy.impure_imports("crdtmem.store.files", "import os\n") == []
    assert tidy.impure_imports("crdtmem.store", "import os\n") == []
    assert tidy.impure_imports("gossip.driver", "import asyncio\n", package="gossip") == []
    assert tidy.impure_imports("gossip.config", "import time\n", package="gossip")


@pytest.mark.parametrize(
    "source",
    [
        "import time\n",
        "import random\n",
        "from random import choice\n",
        "from random import Random\nchance = Random()\n",
        "from simulations import campaign\n",
        "from crdtmem.runtime import Runtime\n",
        "order = sorted(items, key=lambda item: id(item))\n",
        "number = hash(name)\n",
        "for name in {'a', 'b'}:\n    print\n",
        "order = [name for name in set(names)]\n",
    ],
)
def test_what_cannot_be_repeated_is_found(source: str) -> None:
    assert tidy.unrepeatable("simulations.world", source)
    assert tidy.unrepeatable("simulations.campaign", source) == []


def test_what_a_world_may_use_is_not_mistaken() -> None:
    source = (
        "from random import Random\nfrom crdtmem.executor import Executor\nchance = Random(7)\n"
        "for name in sorted({'a', 'b'}):\n    chance.choice(name)\n"
    )
    assert tidy.unrepeatable("simulations.world", source) == []


@pytest.mark.parametrize(
    "source",
    [
        "__all__ = []\n",
        '"""Documented."""\n',
        '"""Documented."""\n__all__ = ["a"]\ndef a(): ...\ndef b(): ...\n',
        '"""Documented."""\n__all__: list[str] = []\nclass Public: ...\n',
    ],
)
def test_unlisted_names_are_found(source: str) -> None:
    assert tidy.unlisted_names("planted", source)


@pytest.mark.parametrize(
    "source",
    [
        "__all__ = ['absent']\n",
        "__all__ = ['bare']\ndef bare(): ...\n",
        "__all__ = ['Bare']\nclass Bare: ...\n",
        "__all__ = ['Bare']\nimport dataclasses as d\n@d.dataclass\nclass Bare:\n  a: int\n",
        "__all__ = ['Bare']\nfrom typing import NamedTuple\nclass Bare(NamedTuple):\n  a: int\n",
        "__all__ = ['Half']\nclass Half:\n  'Said.'\n  def method(self): ...\n",
        "__all__ = ['Half']\nclass Half:\n  'Said.'\n  @property\n  def value(self): ...\n",
        "__all__ = ['Half']\nclass Half:\n  'Said.'\n  @classmethod\n  def make(cls): ...\n",
    ],
)
def test_missing_documentation_is_found(source: str) -> None:
    assert tidy.missing_documentation(planted(source))


def test_a_docstring_may_be_inherited() -> None:
    source = (
        "__all__ = ['Base', 'Child']\n"
        "class Base:\n  'Said.'\n  def method(self): 'Said once.'\n"
        "class Child(Base):\n  'Said.'\n  def method(self): ...\n  def _private(self): ...\n"
    )
    assert tidy.missing_documentation(planted(source)) == []


def test_size_is_measured() -> None:
    long_function = "def long():\n" + "    x = 1\n" * 70
    assert tidy.oversized("planted", long_function)
    assert tidy.oversized("planted", "x = 1\n" * 501)
    assert tidy.oversized("planted", "x = 1\n" * 430 + long_function.replace("= 1\n", "= 1\n", 1))
    assert tidy.oversized("planted", "def fits():\n" + "    x = 1\n" * 69) == []


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    x\nexcept ValueError:\n    pass\n",
        "try:\n    x\nexcept ValueError:\n    ...\n",
        "try:\n    x\nexcept:\n    raise\n",
        "import contextlib\nwith contextlib.suppress(Exception):\n    x\n",
        "with suppress(builtins.BaseException):\n    x\n",
    ],
)
def test_silent_excepts_are_found(source: str) -> None:
    assert tidy.silent_excepts("planted", source)


def test_a_narrow_and_spoken_except_is_allowed() -> None:
    source = "try:\n    x\nexcept ValueError:\n    y = None\nwith suppress(KeyError):\n    z\n"
    assert tidy.silent_excepts("planted", source) == []


def test_unfinished_work_and_machine_paths_are_found() -> None:
    # Each word is put together here, or this file would offend against itself.
    assert tidy.loud_comments("planted", "# TO" + "DO: later\n")
    assert tidy.loud_comments("planted", "see FIX" + "ME\n")
    assert tidy.loud_comments("planted", "open('/ho" + "me/ann/x')\n")
    assert tidy.loud_comments("planted", "todos are a datatype of users; homework/x\n") == []
    assert tidy.own_words("planted", "def f():\n    raise NotImplementedError\n")
    assert tidy.own_words("planted", "def __eq__(a, b):\n    return NotImplemented\n") == []


@pytest.mark.parametrize(
    "source",
    ["time.sleep(1)", "sleep(0.1)", "await asyncio.sleep(delay)", "anyio.sleep(seconds=1)"],
)
def test_sleeps_are_found(source: str) -> None:
    assert tidy.sleeps("planted", f"async def f():\n    {source}\n")


def test_yielding_is_not_sleeping() -> None:
    assert tidy.sleeps("planted", "async def f():\n    await asyncio.sleep(0)\n") == []


def test_strays_at_the_top_are_found(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text(".venv/\n*.db\n")
    for name in ("notes.txt", "README.md", "memory.db"):
        (tmp_path / name).write_text("")
    (tmp_path / ".venv").mkdir()
    names = tidy.top_level_names(tmp_path)
    assert names == [".gitignore", "README.md", "notes.txt"]
    assert tidy.bare_top_level(names) == ["notes.txt has no place at the top"]
