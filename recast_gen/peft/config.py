"""What a RECAST adapter is: a bank, a resolution, and modules that are saved whole, as a head."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from peft import PeftConfig
from peft.utils import PeftType

from ..bank.bank import TemplateBank
from ..bank.saved import load_bank
from ..errors import AttachError
from ..model.resolution import Resolution
from ..weights.qkv import owner

NAME = "recast"
_known: WeakValueDictionary[str, TemplateBank] = WeakValueDictionary()  # by hash, all that configurations opened


def _added() -> PeftType:
    """RECAST among PEFT's methods, an enumeration that its registration does not extend."""
    if NAME.upper() not in PeftType.__members__:
        member = str.__new__(PeftType, NAME.upper())
        member._name_ = member._value_ = NAME.upper()
        setattr(PeftType, NAME.upper(), member)
        PeftType._member_map_[NAME.upper()] = PeftType._value2member_map_[NAME.upper()] = member
        PeftType._member_names_.append(NAME.upper())
    return PeftType(NAME.upper())


RECAST = _added()


@dataclass
class RecastConfig(PeftConfig):
    """PEFT's configuration of RECAST; the layers are those that the bank generates.

    Args:
        bank: a bank, or the path of one, which is what ``adapter_config.json`` keeps.  Of a bank without a path it
            keeps the hash alone: give a configuration of that bank in the process that loads the adapter.
        resolution: as `rg.attach` takes it.
        modules_to_save: PEFT's: modules that train whole, such as ``["head"]``.
        bank_hash: of the bank; written, and checked when the bank is opened.
    Raises:
        AttachError: no such bank, or another one, when it is opened.
    """

    bank: TemplateBank | str | Path | None = field(default=None, repr=False)
    resolution: Resolution = 1
    modules_to_save: list[str] | None = None
    bank_hash: str | None = None
    target_modules: Any = None  # PEFT's, filled in from the bank

    def __post_init__(self):
        super().__post_init__()
        self.peft_type, self.target_modules = RECAST, None
        if isinstance(self.resolution, list):  # pairs: PEFT sorts the keys of what it writes, and the last glob counts
            self.resolution = dict(self.resolution)
        self._opened = self.bank if isinstance(self.bank, TemplateBank) else None
        if self._opened is not None:
            self._check(self._opened)
        elif self.bank is not None:
            self.bank = str(self.bank)

    def __deepcopy__(self, memo: dict) -> "RecastConfig":
        return copy.copy(self)  # the bank is shared

    @property
    def opened(self) -> TemplateBank:
        """The bank itself."""
        if self._opened is None:
            found = load_bank(str(self.bank)) if self.bank is not None else _known.get(self.bank_hash or "")
            if found is None:
                raise AttachError(
                    f"The adapter belongs to bank {self.bank_hash}, which has no path: make RecastConfig(bank=...) of "
                    "it first, or pass that as config=."
                    if self.bank_hash
                    else "RecastConfig needs a bank: give what rg.mimic or rg.load_bank(PATH) returned, or its path."
                )
            self._check(found)
            self._opened = found
        return self._opened

    def _check(self, bank: TemplateBank) -> None:
        if self.bank_hash not in (None, bank.hash):
            raise AttachError(f"The adapter belongs to bank {self.bank_hash}, but this is bank {bank.hash}.")
        self.bank_hash = bank.hash
        _known[bank.hash] = bank

    @property
    def modules(self) -> set[str]:
        """The paths of the modules whose tensors the bank generates."""
        return {owner(name) for name in self.opened.layers}

    def to_dict(self) -> dict:
        """As JSON, for ``adapter_config.json``."""
        plain, size = asdict(replace(self, bank=None)), self.resolution
        plain["resolution"] = [list(pair) for pair in size.items()] if isinstance(size, Mapping) else size
        return plain | {"bank": self.bank if isinstance(self.bank, str) else None, "target_modules": None}
