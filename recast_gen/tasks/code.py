"""The code that a module runs: itself and all of ours that it imports, found by reading it."""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def closure(module: str) -> list[Path]:
    """The files of this package that a module imports, at any depth and anywhere in a file; sorted, its own among them.

    Args:
        module: dotted, from this package's folder on, such as ``pipelines.train``.
    """
    left, seen = [PACKAGE.joinpath(*module.split(".")).with_suffix(".py")], set()
    while left:
        seen.add(path := left.pop())
        left += _imported(path) - seen
    return sorted(seen)


def code_hash(module: str) -> str:
    """SHA-256 (hexadecimal) of the names and contents of `closure`, the same in every folder and on every system."""
    sha = hashlib.sha256()
    for path in closure(module):
        sha.update(f"{path.relative_to(PACKAGE).as_posix()}\n{path.read_text(encoding='utf-8')}\0".encode())
    return sha.hexdigest()


@cache
def _imported(path: Path) -> set[Path]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            found |= {target.with_suffix(".py"), target / "__init__.py"}
            found |= {target / f"{alias.name}.py" for alias in node.names}
    return {file for file in found if file.is_file()}
