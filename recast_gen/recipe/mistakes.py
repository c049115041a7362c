"""What is wrong with a recipe, in a user's words."""

import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from ..errors import listing, nearest
from .fields import Section

EXPECTED = {  # pydantic's kind of mistake -> what was expected
    "model_type": "expected keys with values; leave it out where it has none",
    "dict_type": "expected keys with values",
    "list_type": "expected a list, as [1, 2]",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected a word",
    "string_pattern_mismatch": "expected letters a to z, digits, _ and - alone",
}
# in the place of a mistake: one of several kinds of value that a key takes, as pydantic calls it
_KIND = re.compile(r"(int|float|str|bool)|(constrained|function|list|dict|literal|nullable|union|chain)\b.*[-\[].*")


def explained(error: ValidationError, content: Any, recipe: type[Section]) -> list[str]:
    """A line for each key that is wrong.

    Args:
        error: pydantic's.
        content: what the recipe says.
        recipe: its topmost section.
    """
    said: dict[tuple[Any, ...], dict[str, None]] = {}
    for problem in error.errors():
        key = problem["loc"]
        cut = next((at for at, step in enumerate(key) if isinstance(step, str) and _KIND.fullmatch(step)), len(key))
        said.setdefault(key[:cut], {})[_said(problem, recipe)] = None
    lines = []
    for key, messages in said.items():
        found = _at(content, key)
        shown = "" if found is None or isinstance(found, dict) and len(key) < 2 else f" (found {found!r:.60})"
        lines.append(f"{'.'.join(map(str, key)) or 'recipe'}: {'; or '.join(messages)}{shown}")
    return lines


def _said(problem: Mapping[str, Any], recipe: type[Section]) -> str:
    if problem["type"] == "extra_forbidden":
        *path, key = problem["loc"]
        keys = _keys(path, recipe)
        return f"unknown key.{nearest(key, keys) or ' Keys here: ' + listing(keys, 30) + '.'}"
    if problem["type"] == "literal_error":
        choices = re.findall("'([^']*)'", expected := problem["ctx"]["expected"])
        return f"expected {expected}.{nearest(problem['input'], choices)}"
    return EXPECTED.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")


def _at(content: Any, key: tuple[Any, ...]) -> Any:
    """The value at a place, None where there is none."""
    for step in key:
        try:
            content = content[step]
        except (KeyError, IndexError, TypeError):
            return None
    return content


def _keys(path: Iterable[Any], section: type[Section]) -> list[str]:
    """The keys that a recipe may have at `path`."""
    for step in path:
        if isinstance(step, str) and step in section.model_fields:
            section = _section(section.model_fields[step].annotation) or section
    return list(section.model_fields)


def _section(annotation: Any) -> type[Section] | None:
    if inspect.isclass(annotation) and not typing.get_args(annotation) and issubclass(annotation, Section):
        return annotation
    return next((found for inner in typing.get_args(annotation) if (found := _section(inner))), None)
