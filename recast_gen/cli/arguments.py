"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Bank = Annotated[Path, typer.Argument(help="A bank.zarr, or a packed bank.")]
Recipe = Annotated[Path, typer.Argument(help="A recipe, such as pipelines/digits.yaml.")]
Task = Annotated[Path, typer.Argument(help="A task file.")]
