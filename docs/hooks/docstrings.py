"""Docstrings as the reference's parser wants them: a blank line before each section, which this project leaves out."""

import re

import griffe


class BlankLines(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"\n(?=(Args|Returns|Raises):\n)", "\n\n", obj.docstring.value)
