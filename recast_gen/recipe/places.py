"""Paths in a recipe: beside the recipe, in its repository, or where the command runs."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import RecipeError, listing
from .fields import LOCAL, PLACE, Section

ROOT = (".git", ".dvc", "dvc.yaml")  # one of them is in a repository's topmost folder


def looked_in(recipe_path: Path) -> list[Path]:
    """The folders that a relative path of a recipe may mean; the first that has it is meant."""
    here, above = Path().absolute(), recipe_path.absolute().parents
    roots = [folder for folder in above if any((folder / sign).exists() for sign in ROOT)]
    found: dict[Path, Path] = {}
    for folder in (recipe_path.parent, *roots[:1], here):
        found.setdefault(folder.absolute(), Path() if folder.absolute() == here else folder)
    return list(found.values())


def settle(recipe: Section, recipe_path: Path) -> None:
    """Replaces every relative path of a recipe by where it was found; one that is nowhere stays as it is."""
    folders = looked_in(recipe_path)

    def found(text: str) -> str:
        mark = LOCAL * text.startswith(LOCAL)
        places = (folder / Path(text.removeprefix(mark)).expanduser() for folder in folders)
        return next((mark + str(place) for place in places if place.exists()), text)

    for _, section, name, texts in _paths(recipe):
        settled = [found(text) for text in texts]
        setattr(section, name, settled if isinstance(getattr(section, name), list) else settled[0])


def refuse_lost(recipe: Section, recipe_path: Path, sections: Iterable[str]) -> None:
    """Raises RecipeError for paths in these sections that are nowhere, and says where they were looked for."""
    lost = [
        f"{key}: {text}"
        for key, section, _, texts in _paths(recipe)
        for text in texts
        if key.partition(".")[0] in sections and getattr(section, "source", None) != "torchvision"  # downloads to it
        and not Path(text.removeprefix(LOCAL)).exists()
    ]  # fmt: skip
    if lost:
        folders = listing(folder.absolute() for folder in looked_in(recipe_path))
        raise RecipeError(
            f"{recipe_path} names what does not exist: {listing(lost)}. A path is looked for in the recipe's folder, "
            f"its repository, and the current folder: {folders}."
        )


def _paths(section: Section, key: str = "") -> Iterator[tuple[str, Section, str, list[str]]]:
    """Dotted key, section, name and texts of everything that is a path."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if PLACE in field.metadata:
            texts = value if isinstance(value, list) else [value] if value else []
            if texts := [text for text in texts if name != "name" or text.startswith(LOCAL)]:
                yield key + name, section, name, texts
        for index, inner in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(inner, Section):
                place = f"{name}.{index}" if isinstance(value, list) else name
                yield from _paths(inner, f"{key}{place}.")
