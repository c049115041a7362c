"""RECAST as a tuner of Hugging Face's PEFT: `RecastConfig` for `peft.get_peft_model`, and task files both ways.

Importing this registers it with PEFT, which has to be installed (the extra ``peft``).
"""

from .config import RecastConfig
from .tasks import add_task, write_task
from .tuner import RecastModel

__all__ = ["RecastConfig", "RecastModel", "add_task", "write_task"]
