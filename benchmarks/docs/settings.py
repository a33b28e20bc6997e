"""Write docs/trainer/settings.md from the configuration: `python -m benchmarks.docs.settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from dps_pyro.trainers.config.sections import SECTIONS

PAGE = Path(__file__).parents[2] / "docs" / "trainer" / "settings.md"

HEAD = """# Settings

Every setting of `dps-pyro train`, in the sections that the YAML file and `--help` have. On the command line an option
has its name alone, with dashes: `--learning-rate 1e-4`. In the file it stands in its section:

```yaml
task:
  steps: 200
update:
  learning_rate: 1e-4
```

Files without sections, one `name: value` per line, are read as well. In Python, `TrainConfig.flat(steps=200)` takes the
names alone, and `TrainConfig(task=TaskSection(steps=200))` the sections. This page is written by
`python -m benchmarks.docs.settings`.
"""

SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def bounds(part: Any) -> list[str]:
    """The bounds and choices in a type or in a field's metadata, at any depth."""
    if isinstance(part, FieldInfo):
        return [text for inner in [*part.metadata, part.annotation] for text in bounds(inner)]
    found = [f"{sign} {getattr(part, name)}" for name, sign in SIGNS.items() if getattr(part, name, None) is not None]
    if found:
        return found
    pieces = [*get_args(part), *getattr(part, "__metadata__", ())]
    if pieces and all(isinstance(piece, str) for piece in pieces):
        return [", ".join(f"`{piece}`" for piece in pieces)]
    return list(dict.fromkeys(text for piece in pieces for text in bounds(piece)))


def default(field: FieldInfo) -> str:
    """The default as YAML has it; nothing where it is left to the task, the model or the machine."""
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value)}`" if isinstance(value, tuple) else f"`{value}`"


def page() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for key, section in SECTIONS.items():
        parts += [
            f"\n## {key}\n\n{section.__doc__}\n\n| Setting | Default | Meaning | Values |\n| --- | --- | --- | --- |\n"
        ]
        for name, field in section.model_fields.items():
            meaning = (field.description or "").replace("|", "\\|").replace("<number>", "`<number>`")
            parts.append(f"| `{name}` | {default(field)} | {meaning} | {'; '.join(bounds(field))} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
