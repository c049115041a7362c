"""Where images come from: a reader a kind of source, source -> raw images by part, and label -> class name."""

from .arrays import digits, npz
from .files import folder, table
from .vision import torchvision

READERS = {"digits": digits, "npz": npz, "folder": folder, "csv": table, "torchvision": torchvision}
