"""YAML from users: plain values only, and no more of them than the text has."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["dump_yaml", "load_yaml"]


class _Loader(yaml.SafeLoader):
    """The safe loader without aliases. A few lines of nested aliases stand for billions of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"expected values, got the alias *{event.anchor}: write its value out", event.start_mark
            )
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def load_yaml(text: str, what: str) -> Any:
    """The value of a YAML document.

    Args:
        text: the document.
        what: names it in the error: a file, or a setting.

    Raises:
        ValueError: it is not YAML, uses aliases, or is nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = "brackets that are nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{what}: expected YAML, got {' '.join(reason.split())}") from error


def dump_yaml(value: Any) -> str:
    """A YAML document that `load_yaml` reads.

    Raises:
        yaml.YAMLError: the value holds something that YAML does not.
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    return text
