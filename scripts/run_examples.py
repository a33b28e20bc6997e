"""Run the example scripts and write what they show into docs/examples/.

    python -m scripts.run_examples                 # all of them
    python -m scripts.run_examples replay          # some of them

An example is a script in the percent format: `# %% [markdown]` starts a cell of text, `# %%` a cell of code. Editors
and Jupyter (through jupytext) open these files as notebooks. As in a notebook, a cell of code shows what it prints and
the value of its last line; a matplotlib figure is shown as a picture.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
EXAMPLES = ("quickstart", "own_model", "fit_and_diagnose", "replay")
PAGES = ROOT / "docs" / "examples"


class Cell(NamedTuple):
    """One cell of a script."""

    is_text: bool
    source: str


def main() -> None:
    """Run the examples named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"The examples to run. Known: {', '.join(EXAMPLES)}.")
    names = parser.parse_args().names or EXAMPLES
    (PAGES / "images").mkdir(parents=True, exist_ok=True)
    for name in names:
        if name not in EXAMPLES:
            parser.error(f"there is no example named {name!r}; known are {', '.join(EXAMPLES)}")
        page = PAGES / f"{name}.md"
        page.write_text(run(name, PAGES / "images"), encoding="utf-8")
        print(page.relative_to(ROOT))


def cells(source: str) -> list[Cell]:
    """The cells of a script in the percent format; text cells without their comment signs."""
    found = []
    for head, body in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", source, flags=re.MULTILINE):
        is_text = "[markdown]" in head
        text = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if is_text else body
        found.append(Cell(is_text, text.strip("\n")))
    return found


def run(name: str, images: Path) -> str:
    """Run an example and return its page. Figures are written into `images`.

    Raises:
        Exception: whatever the example raises.
    """
    mpl.rcParams.update({"svg.hashsalt": "dps_pyro", "font.size": 9})
    path = ROOT / "examples" / f"{name}.py"
    space: dict[str, Any] = {"__name__": "__main__", "__file__": str(path)}
    parts = [f"<!-- Written by `python -m scripts.run_examples {name}` from examples/{name}.py. Edit that file. -->"]
    for number, cell in enumerate(cells(path.read_text(encoding="utf-8"))):
        if cell.is_text:
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        printed, value = _execute(cell.source, str(path), space)
        if isinstance(value, Figure):
            picture = images / f"{name}-{number}.svg"
            value.savefig(picture, metadata={"Date": None})
            parts.append(f"![{_caption(value)}](images/{picture.name})")
        elif value is not None:
            printed += f"{value!r}\n"
        if printed:
            parts.append(f'```text title="Output"\n{printed.rstrip()}\n```')
    return "\n\n".join(parts) + "\n"


def _execute(source: str, path: str, space: dict[str, Any]) -> tuple[str, Any]:
    """What a cell of the repository's own example prints, and the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, path, "exec"), space)  # noqa: S102
        if last is not None:
            value = eval(compile(ast.Expression(last.value), path, "eval"), space)  # noqa: S307
    return printed.getvalue(), value


def _caption(figure: Figure) -> str:
    titles = [axes.get_title() or axes.get_ylabel() for axes in figure.axes]
    return "; ".join(title for title in titles if title) or "A figure"


if __name__ == "__main__":
    main()
