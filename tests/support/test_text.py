"""Text, YAML and terminals: what comes from outside is kept and shown as it is, in bounds."""

from __future__ import annotations

import io
import pickle
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from dps_pyro.cli import main
from dps_pyro.support.console import plain_console
from dps_pyro.support.files.yaml_files import dump_yaml, load_yaml
from dps_pyro.support.locks import Lock
from dps_pyro.support.text import clean
from dps_pyro.trainers.config.config_file import load_config


@given(st.text(st.characters(codec=None), max_size=60), st.integers(4, 40))
def test_cleaned_text_can_be_written_and_is_one_short_line(text: str, longest: int) -> None:
    line = clean(text, longest)
    line.encode("utf-8")
    assert len(line) <= longest
    assert len(line.splitlines()) <= 1
    assert clean(line) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [("a\n b\t c", "a b c"), ("\ud800x", "?x"), ("\x1b[31mred", "[31mred"), ("größer ≥ 5", "größer ≥ 5")],
)
def test_what_is_kept_of_a_text(text: str, line: str) -> None:
    assert clean(text) == line


def test_square_brackets_and_colons_are_printed_as_they_are() -> None:
    text = "runs/[bold]x[/bold]/:smile:"
    file = io.StringIO()
    console = plain_console(file=file, width=100)
    table = Table("file")
    table.add_row(text)
    console.print(text)
    console.print(table)
    assert file.getvalue().count(text) == 2


NESTED = "a: &a [x, x]\n" + "\n".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 9)}]" for level in range(12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NESTED, r"got the alias \*a: write its value out"),
        ("steps: &n 3\nbatch_size: *n", r"got the alias \*n"),
        ("[" * 5_000, "nested too deeply"),
        ("a: [1", "expected YAML"),
        ("a: !!python/object:os.system x", "expected YAML"),
        ("when: 2020-99-99", "expected YAML"),
    ],
)
def test_yaml_that_unfolds_without_end_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(ValueError, match=said) as caught:
        load_config(tmp_path / "config.yaml")
    assert str(tmp_path / "config.yaml") in str(caught.value)
    assert time.process_time() - start < 20


def test_shared_values_may_have_aliases_that_are_not_nested() -> None:
    plan = "a: &a {x: 1, y: [2]}\nb: {<<: *a, x: 3}\nc: *a\n"
    assert load_yaml(plan, "plan", shared=True) == {
        "a": {"x": 1, "y": [2]},
        "b": {"x": 3, "y": [2]},
        "c": {"x": 1, "y": [2]},
    }
    nested = "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    for text, said in (
        (nested, "not nested, got \\*b"),
        ("a: &a [*a]", "not nested, got \\*a"),
        ("[" * 5_000, "nested too deeply"),
    ):
        with pytest.raises(ValueError, match=said):
            load_yaml(text, "plan", shared=True)


def test_a_bench_plan_with_nested_aliases_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "[bold]plan.yaml"
    rows = "".join(f"  {chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9))
    plan.write_text(f"shared:\n  a: &a [1, 1]\n{rows}seeds: *j\narms: {{u: {{}}}}\ntestbeds: {{t: {{}}}}\n")
    assert main(["bench", str(plan), "--out", str(tmp_path / "out")]) == 2
    assert f"{plan}: expected YAML, got expected aliases that are not nested" in capsys.readouterr().err


def test_yaml_is_written_without_aliases() -> None:
    shared = [1, 2]
    value = {"one": shared, "two": shared, "three": {"deep": [shared]}}
    assert load_yaml(dump_yaml(value), "it") == value


def test_a_lock_may_be_copied_while_it_is_held() -> None:
    lock = Lock()
    with lock, lock, pickle.loads(pickle.dumps(lock)):
        pass
