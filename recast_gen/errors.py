"""Every error a user can meet: each says what, where, what was expected and what to do."""

import errno
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path


class RecastError(Exception):
    """Base of all errors of recast_gen."""


class RecipeError(RecastError):
    """A recipe says something it may not say."""


class SourceError(RecastError):
    """Weights cannot be read, or are not what they should be."""


class FamilyError(RecastError):
    """A family, glob or group count does not fit the network."""


class StoreError(RecastError):
    """A file on disk is missing, foreign, truncated or damaged."""


class FitError(RecastError):
    """A fit cannot be done as asked."""


class AttachError(RecastError):
    """A bank and a model do not go together."""


class TaskError(RecastError):
    """A task file does not go with the bank or model."""


class FoldError(TaskError):
    """A task's adapter adds layers, so that no plain weights hold it."""


class ExportError(RecastError):
    """A model or task has no form in another format, or lost too much in it."""


class DataError(RecastError):
    """A dataset is missing, empty or not what the task says."""


MOST = 1000  # files of a folder that are looked at


def nearest(word: str, words) -> str:
    """`` Did you mean 'x'?`` for the word closest to `word` in any case, or nothing when none is close."""
    known = {str(each).casefold(): str(each) for each in words}
    close = get_close_matches(str(word).casefold(), known, n=1, cutoff=0.5)
    return f" Did you mean {known[close[0]]!r}?" if close else ""


def nearest_path(path: str | Path) -> str:
    """The same for a path that does not exist, of what lies in its folder; what follows a dot does not count alone."""
    path = Path(path)
    if not path.parent.exists():
        return nearest_path(path.parent)
    with suppress(OSError):
        stems = {entry.name: entry.name.partition(".")[0] for entry in islice(os.scandir(path.parent), MOST)}
        alike = get_close_matches(path.name.partition(".")[0], stems.values(), n=len(stems) or 1, cutoff=0.6)
        if close := get_close_matches(path.name, [name for name in stems if stems[name] in alike], n=1):
            return f" Did you mean {str(path.parent / close[0])!r}?"
    return ""


def listing(words, most: int = 12) -> str:
    """Comma-separated `words`, cut after `most` of them with a count of the rest."""
    words = list(words)
    rest = f", and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(map(str, words[:most])) + rest if words else "none"


def repeated(words) -> list[str]:
    """The `words` that come more than once, in their order."""
    return [word for word, count in Counter(map(str, words)).items() if count > 1]


def check_choice(word: str, value, known, error: type[RecastError]) -> None:
    """Raises `error`, which calls the value a `word`, unless it is one of the `known`."""
    if value not in known:
        raise error(f"No {word} {value!r}.{nearest(value, known)} There are: {', '.join(known)}.")


def check_count(word: str, value, error: type[RecastError]) -> None:
    """Raises `error`, which calls the value `word`, unless it is a whole number of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise error(f"{word}={value!r}: expected a whole number of 1 or more.")


DRAWS = ("posterior", "prior")  # what is drawn from


def check_draws(temperature: float, source: str, error: type[RecastError]) -> None:
    """Raises `error` unless a temperature is 0 or more and finite, and a source one of `DRAWS`."""
    if not 0 <= temperature < float("inf"):
        raise error(f"temperature={temperature}: give 0 or more.")
    check_choice("source", source, DRAWS, error)


@contextmanager
def takes_images(what: str, error: type[RecastError], remedy: str) -> Iterator[None]:
    """Raises `error` for what a model raises, in the block, at images that are not as it wants them."""
    try:
        yield
    except (RuntimeError, AssertionError, ValueError) as found:
        raise error(f"The model takes no images of {what} ({found}): {remedy}") from found


EXTRAS = {
    "torch timm einops lightning sklearn scipy PIL": "train", "optuna": "study", "dvc ruamel matplotlib": "pipeline",
    "onnx onnxscript onnxruntime": "onnx", "peft": "peft", "psycopg": "postgres", "grpc google": "grpc",
    "distributed dask": "cluster",
}  # fmt: skip
EXTRA = {module: extra for modules, extra in EXTRAS.items() for module in modules.split()}  # module -> its extra


# what to do about an error of the system
REMEDIES = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space, or write to another disk")
REMEDIES |= dict.fromkeys((errno.EACCES, errno.EPERM), "Change the permissions, or give another path")
REMEDIES |= {
    errno.EROFS: "Give a path that can be written",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or write to another disk",
    errno.ENAMETOOLONG: "Give a shorter name",
    errno.ENOTDIR: "A file is where a folder should be: remove it, or give another path",
    errno.EEXIST: "A file is where a folder should be: remove it, or give another path",
    errno.ENOENT: "Give a path that exists",
    errno.EIO: "The disk is failing: read or write another one",
    errno.EMFILE: "Raise the limit on open files (ulimit -n)",
}


@contextmanager
def plainly(debug: bool = False) -> Iterator[None]:
    """At a command's door: an error of ours or of the system, or a package that is not installed, is one message and
    exit status 1.

    Ctrl+C is exit status 130, as shells expect.  debug, or RECAST_DEBUG=1: errors pass as they are, with their traces.
    """
    debug = debug or os.environ.get("RECAST_DEBUG", "0") not in ("", "0")
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except RecastError as error:
        if debug:
            raise
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # whoever read our output has left
        raise
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror or error}. {REMEDIES.get(error.errno or 0, 'See --debug')}.")
    except ModuleNotFoundError as error:
        if debug:
            raise
        extra = EXTRA.get((error.name or "").partition(".")[0], "all")
        sys.exit(
            f"error: {error.name} is not installed: pip install 'recast-gen[{extra}]', in a clone: "
            f"pip install -e '.[{extra}]'"
        )
