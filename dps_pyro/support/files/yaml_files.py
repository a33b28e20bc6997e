"""YAML from users: plain values only, and not many more of them than the text has."""

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


class _SharedLoader(yaml.SafeLoader):
    """The safe loader with aliases for values that hold no alias themselves: they cannot be nested."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open: list[str] = []  # anchors of the values that are being read
        self._nested: set[str] = set()  # anchors of values that hold an alias

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self._nested or event.anchor in self._open:
                place: Any = event.start_mark
                raise yaml.composer.ComposerError(
                    None, None, f"expected aliases that are not nested, got *{event.anchor}", place
                )
            self._nested.update(self._open)
            return super().compose_node(parent, index)
        anchor = getattr(event, "anchor", None)
        if anchor is None:
            return super().compose_node(parent, index)
        self._open.append(anchor)
        try:
            return super().compose_node(parent, index)
        finally:
            self._open.pop()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def load_yaml(text: str, what: str, *, shared: bool = False) -> Any:
    """The value of a YAML document.

    Args:
        text: the document.
        what: names it in the error: a file, or a setting.
        shared: allow aliases such as ``<<: *ours``, for values that hold no alias themselves.

    Raises:
        ValueError: it is not YAML, uses aliases (nested ones, if `shared`), or is nested too deeply.
    """
    try:
        return yaml.load(text, _SharedLoader if shared else _Loader)  # noqa: S506 - a safe loader
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
