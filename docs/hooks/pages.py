"""Fills in what pages ask for while the site is built: a line ``{{ name argument ... }}`` calls a function here."""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # `benchmarks` and the other files here

import commands  # noqa: E402
import notebook  # noqa: E402
import recipe_table  # noqa: E402
import result_tables  # noqa: E402

MADE = {
    "commands": commands.markdown,
    "notebook": notebook.executed,
    "recipe": recipe_table.markdown,
    "printed": result_tables.printed,
    "results": result_tables.file,
}


def on_page_markdown(markdown: str, **_) -> str:
    """MkDocs calls this with the text of every page."""
    return re.sub(r"^\{\{ (\w+) ?(.*?) \}\}$", lambda found: MADE[found[1]](*found[2].split()), markdown, flags=re.M)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """MkDocs calls this before it reads pages: pictures of benchmarks belong to the site."""
    for path in (ROOT / "benchmarks/results").glob("*.svg"):
        files.append(File.generated(config, f"pictures/{path.name}", abs_src_path=str(path)))
