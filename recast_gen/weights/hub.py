"""Where a network's name leads: timm's own, a repository of the hub, a folder of timm's; nothing else downloads."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError, listing, nearest, nearest_path
from .described import beside

if TYPE_CHECKING:
    from torch import nn

REPOSITORY = ("hf-hub:", "hf_hub:")
FOLDER = "local-dir:"
FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Origin:
    """A name as timm takes it, pinned to a commit, and what to store: the architecture's name and arguments, which make
    the network again without the hub, and ``hub``: the ``id`` and ``commit`` of its weights, and their ``licence``."""

    name: str
    overlay: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def is_timms(name: str) -> bool:
    """Whether a name is timm's to resolve, and not ``package.module:callable``."""
    return ":" not in name or name.startswith((*REPOSITORY, FOLDER))


def origin(name: str, kwargs: dict[str, Any], weights: bool, revision: str | None = None) -> Origin:
    """Resolves a name of timm's.

    weights: whether its weights are wanted too, which are then pinned.  revision: a branch, tag or commit of the hub.
    Raises SourceError for names that lead nowhere, and where the hub refuses or cannot be reached.
    """
    import timm

    prefix, _, place = name.partition(":")
    if name.startswith(FOLDER):
        folder = Path(place).absolute()
        return Origin(f"{FOLDER}{folder}", about=_of_folder(name, folder, kwargs))
    if name.startswith(REPOSITORY):
        place, _, pinned = place.partition("@")
        with _said(name):
            folder = _cached(place, revision or pinned or None, ["config.json"])
        about = _of_folder(name, folder, kwargs)
        about |= {"hub": {"id": place, "commit": folder.name}} if weights else {}
        return Origin(f"{prefix}:{place}@{folder.name}", about=about)
    if not timm.is_model(name):
        if Path(name).exists():
            raise SourceError(f"{name} is a path, and no name of timm's: give it as `model.checkpoint`.")
        near = nearest_path(name) or nearest(name, timm.list_models()) or " All names: timm.list_models()."
        raise SourceError(f"timm has no model {name!r}, and no file or folder is called so.{near}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that this model has not
        known = [other for other in timm.list_pretrained() if other.startswith(f"{name.partition('.')[0]}.")]
        raise SourceError(f"timm has no weights {name!r}.{nearest(name, known)} There are: {listing(known)}.") from None
    about = {"timm_model": name, "timm_kwargs": kwargs}
    if not (weights and config and config.hf_hub_id):
        if revision is not None:
            raise SourceError(f"revision={revision!r} is of the hub, and {name!r} has no weights there: leave it out.")
        return Origin(name, about=about)
    with _said(name):
        commit = _cached(config.hf_hub_id, revision, [FILES[0], config.hf_hub_filename or FILES[1]]).name
    about["hub"] = {"id": config.hf_hub_id, "commit": commit, "licence": config.license}
    return Origin(name, {"hf_hub_id": f"{config.hf_hub_id}@{commit}"}, about)


def _of_folder(name: str, folder: Path, kwargs: dict[str, Any]) -> dict[str, Any]:
    about = beside(folder)
    if not about:
        raise SourceError(
            f"{name!r} is no repository or folder of timm's, with a config.json that names an `architecture`: download "
            "what it is, and give it as `model.checkpoint: PATH`."
        )
    return about | {"timm_kwargs": about["timm_kwargs"] | kwargs}


def _cached(place: str, revision: str | None, files: list[str]) -> Path:
    """The folder of a repository at a revision in the hub's cache, called by its commit, with the first of some files
    that the repository has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    *others, last = files
    for file in others:
        try:
            return Path(hf_hub_download(place, file, revision=revision)).parent
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(place, last, revision=revision)).parent


@contextmanager
def _said(name: str) -> Iterator[None]:
    """Raises SourceError, in a user's words, for what the hub and timm raise."""
    from huggingface_hub import constants, errors

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry; the error says it once
    place = name.partition(":")[2].partition("@")[0] or name
    instead = "give a checkpoint file as `model.checkpoint: PATH`"
    try:
        yield
    except errors.GatedRepoError as error:
        terms = f"{constants.ENDPOINT}/{place}"
        raise SourceError(f"{name!r} is gated: accept its terms at {terms}, and log in (`hf auth login`).") from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"{name!r} has no such revision: give a branch, tag or commit of it.") from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(f"The hub has no {name!r}, or it is private: check the name, or `hf auth login`.") from error
    except errors.LocalEntryNotFoundError as error:
        raise SourceError(
            f"The weights of {name!r} are not in the cache, and the hub cannot be reached: connect, or {instead}."
        ) from error
    except errors.EntryNotFoundError as error:
        raise SourceError(f"{name!r} has no config.json and weights as timm writes them: {instead}.") from error
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise SourceError(f"The weights of {name!r} could not be had ({found}): try again, or {instead}.") from error


def download(found: Origin, kwargs: dict[str, Any]) -> "nn.Module":
    """The network of an origin, made by timm, with its weights."""
    import timm

    with _said(found.name):
        return timm.create_model(found.name, pretrained=True, pretrained_cfg_overlay=found.overlay or None, **kwargs)
