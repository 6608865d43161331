"""Everything that the README shows is run, and the runner is able to fail."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.capabilities import ROOT, needs
from tests.readme import SET_UP_LINES, ReadmeFailure, blocks, commands, run_readme

README = ROOT / "README.md"


# ------------------------------------------------------------------ the project's own


@pytest.mark.timeout(240)
def test_every_command_and_snippet_runs(tmp_path: Path) -> None:
    needs("readme", "crdtmem", "curl")
    assert run_readme(README.read_text(encoding="utf-8"), tmp_path) > 0


def test_the_two_lines_that_do_everything_are_shown_and_run_in_ci() -> None:
    needs("readme")
    shown = [
        command.text
        for block in blocks(README.read_text(encoding="utf-8"))
        if block.language in {"bash", "console"}
        for command in commands(block)
    ]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for line in SET_UP_LINES:
        assert line in shown, f"README.md does not show: {line}"
        assert line in script, f".ci/run does not run: {line}"


def test_the_package_page_shows_the_readme() -> None:
    needs("readme")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project.get("readme") == "README.md", "pyproject.toml does not name README.md"


# ------------------------------------------------------------------ the runner


def test_blocks_run_in_order_in_one_folder(tmp_path: Path) -> None:
    text = """
Prose, and a fence within a list:

  ```bash
  # a comment
  echo one > order.txt
  echo two \\
    >> order.txt
  ```
```toml file=made.toml
key = 1
```
```python
import pathlib, tomllib
assert pathlib.Path("order.txt").read_text() == "one\\ntwo\\n"
assert tomllib.loads(pathlib.Path("made.toml").read_text()) == {"key": 1}
```
```console
$ cat order.txt
one
...
$ echo '{"converged": true, "lost": 0, "all": []}'
{"converged": false, "lost": 7, "all": ["something"]}
$ .venv/bin/python -c 'print(1)'
```
```text
this is not run
```
"""
    assert run_readme(text, tmp_path) == 6


def test_the_set_up_lines_are_left_to_ci(tmp_path: Path) -> None:
    text = "```bash\n" + "\n".join(SET_UP_LINES) + "\n```\n"
    assert run_readme(text, tmp_path) == 0


BACKGROUND = """
```bash background
python serve.py &
```
```console
$ cat serving.txt
yes
```
"""
SERVE = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path("stopped.txt").touch(), sys.exit({status})))
pathlib.Path("serving.txt").write_text("yes\\n")
print("ready", flush=True)
signal.pause()
"""


def test_a_background_command_is_awaited_and_stopped(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(SERVE.format(status=0))
    assert run_readme(BACKGROUND, tmp_path) == 2
    assert (tmp_path / "stopped.txt").exists()


def test_a_background_command_must_stop_well(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(SERVE.format(status=3))
    with pytest.raises(ReadmeFailure, match="status 3 when told to stop"):
        run_readme(BACKGROUND, tmp_path)


def test_a_background_command_is_stopped_when_another_fails(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(SERVE.format(status=0))
    with pytest.raises(ReadmeFailure, match="'false' left"):
        run_readme(BACKGROUND + "```bash\nfalse\n```\n", tmp_path)
    assert (tmp_path / "stopped.txt").exists()


def test_a_background_command_that_dies_is_reported(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text("raise SystemExit('no port')")
    with pytest.raises(ReadmeFailure, match="status 1 instead of running on\nno port"):
        run_readme(BACKGROUND, tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```bash\nfalse\n```", "line 2: 'false' left with status 1"),
        ("```bash\nfalse | true\n```", "status 1"),
        ("```bash\nno-such-program\n```", "status 127"),
        ("```python\n1 / 0\n```", "ZeroDivisionError"),
        ("```console\n$ echo two\nthree\n```", "printed\ntwo"),
        ('```console\n$ echo {}\n{"a": 1}\n```', "has keys"),
        ('```console\n$ echo \'{"a": "1"}\'\n{"a": 1}\n```', "shown as 1"),
        ("```console\n$ echo '[{}]'\n[3]\n```", "shown as 3"),
        ("```console\n$ echo no\n{}\n```", "no JSON"),
        ("```console\noutput of nothing\n```", "before the first"),
        ("```pyhton\n1\n```", "unknown kind 'pyhton'"),
        ("```\n1\n```", "unknown kind ''"),
        ("```bash backgruond\ntrue\n```", "backgruond"),
        ("```python background\n1\n```", "background"),
        ("```bash\ntrue\n", "never closed"),
    ],
)
def test_what_is_not_so_is_found(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ReadmeFailure) as caught:
        run_readme(text, tmp_path)
    assert reason in str(caught.value)
