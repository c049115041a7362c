"""Every key of a recipe as a table: kinds and defaults from the pydantic models, meanings from the comments beside."""

import ast
import importlib
import inspect
import io
import json
import logging
import tokenize

from pydantic import BaseModel

RECIPE = "recast_gen.recipe"
log = logging.getLogger("mkdocs.hooks.recipes")


def markdown(place: str) -> str:
    """place: ``module.Class`` in recast_gen.recipe."""
    module, _, name = place.partition(".")
    section = getattr(importlib.import_module(f"{RECIPE}.{module}"), name)
    about = meanings(section)
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key, schema in section.model_json_schema()["properties"].items():
        if not about.get(key):
            log.warning("%s.%s has no comment that says what it means", place, key)
        default = "required" if section.model_fields[key].is_required() else _default(schema.get("default"))
        rows.append(f"| `{key}` | {kind(schema)} | {default} | {about.get(key, '').replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def meanings(section: type[BaseModel]) -> dict[str, str]:
    """Key -> the comment on its line, or else on the lines right above it; what a section inherits included."""
    found = {}
    for base in reversed([base for base in section.__mro__ if base.__module__.startswith(RECIPE)]):
        source = inspect.getsource(base)
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
        for node in ast.parse(source).body[0].body:
            if isinstance(node, ast.AnnAssign):
                here, above = comments.get(node.end_lineno), []
                line = node.lineno - 1
                while not here and line in comments and not comments[line].line.split("#")[0].strip():
                    above.insert(0, comments[line])
                    line -= 1
                said = " ".join(token.string.removeprefix("#").strip() for token in ([here] if here else above))
                if said:
                    found[node.target.id] = said
    return found


def kind(schema: dict) -> str:
    """What a key takes, in words, from its JSON schema."""
    if choices := schema.get("anyOf"):
        return " or ".join(kind(choice) for choice in choices if choice.get("type") != "null")
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"a section, see [{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    match schema.get("type"):
        case "boolean":
            return "`true`, `false`"
        case "array":
            return f"a list of {kind(schema['items'])}"
        case "object":
            return "a mapping"
        case "string":
            return "text"
        case "integer" | "number" as number:
            word = "an integer" if number == "integer" else "a number"
            limits = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
            return " ".join([word, *(f"{limits[limit]} {schema[limit]}" for limit in limits if limit in schema)])
    return "see its meaning"


def _default(value) -> str:
    if value is None:
        return "none"
    return "its own" if isinstance(value, dict) and len(value) > 3 else f"`{json.dumps(value)}`"
