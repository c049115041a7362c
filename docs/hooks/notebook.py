"""A program of ``# %%`` cells as a page: its text, its code, and what each cell prints."""

import contextlib
import io
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]


def executed(name: str) -> str:
    """Runs docs/NAME cell by cell and returns Markdown; an error in a cell ends the build."""
    pages, space = [], {"__name__": "__main__"}
    for kind, cell in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", (FOLDER / name).read_text(), re.M | re.S):
        if kind:
            pages.append(re.sub(r"^# ?", "", cell, flags=re.M))
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(cell, name, "exec"), space)
        pages.append(f"```python\n{cell.strip()}\n```\n")
        if printed.getvalue():
            pages.append(f"```text\n{printed.getvalue()}```\n")
    return "\n".join(pages)
