"""An extension of the reference's reader: the comment beside a field of a class is the field's description.

mkdocstrings reads the sources through Griffe, which takes a string below a field for its description. The fields of
NamedTuples and dataclasses are described by comments on their lines here; this extension shows them.
"""

from __future__ import annotations

import ast
import io
import tokenize
from typing import Any

import griffe

__all__ = ["FieldComments"]


class FieldComments(griffe.Extension):
    """Gives the fields of classes the comments beside them as docstrings, where they have none."""

    def on_attribute_instance(self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **_: Any) -> None:
        """Called by Griffe for each attribute that it reads."""
        if attr.docstring is not None or attr.parent is None or not attr.parent.is_class or attr.endlineno is None:
            return
        if not isinstance(node, ast.AnnAssign) or isinstance(attr.filepath, list):
            return
        text = comment(attr.filepath.read_text(encoding="utf-8"), attr.endlineno)
        if text:
            attr.docstring = griffe.Docstring(text, lineno=attr.endlineno, parent=attr)


def comment(source: str, line: int) -> str:
    """The comment at the end of a line, counted from 1, with the comment lines that continue it; empty without one."""
    found: dict[int, tuple[int, str]] = {}
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = token.start[1], token.string.lstrip("#").strip()
        elif token.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            code.add(token.start[0])
    if line not in found:
        return ""
    column, first = found[line]
    parts = [first]
    for below in range(line + 1, line + 10):
        if below in code or below not in found or found[below][0] != column:
            break
        parts.append(found[below][1])
    text = " ".join(parts)
    return text[:1].upper() + text[1:]
