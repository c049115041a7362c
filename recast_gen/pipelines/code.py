"""code: one small file a stage, the hash of the code that it runs, so that DVC reruns what an edit touches."""

from ..errors import plainly
from ..tasks.code import code_hash
from ..weights.files import atomic
from . import STAGES
from .folder import STORE

FOLDER = STORE / ".code"  # no recipe's


def run() -> None:
    """Writes ``weights_store/.code/<stage>`` for every stage."""
    with atomic(FOLDER) as fresh:
        fresh.mkdir()
        for stage in ("sections", *STAGES):
            (fresh / stage).write_text(f"{code_hash(f'pipelines.{stage}')}\n")


if __name__ == "__main__":
    with plainly():
        run()
