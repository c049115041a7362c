"""Where images come from: a reader a kind of source, source -> raw images by part, and label -> class name.

A new source is a function here, its name in `READERS`, and in `Data.source` of `recast_gen.recipe.images`.
"""

from .arrays import digits, npz
from .files import folder, table
from .vision import torchvision

READERS = {"digits": digits, "npz": npz, "folder": folder, "csv": table, "torchvision": torchvision}
