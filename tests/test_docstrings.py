"""Every public function says what it takes and what it gives."""

import inspect
import re

import pytest

import recast_gen as rg

NAMES = [name for name in rg.__all__ if name != "RecastError"]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_describes_all_its_parameters_and_what_it_returns(name):
    public = getattr(rg, name)
    text, signature = inspect.getdoc(public), inspect.signature(public)
    described = re.search(r"\nArgs:\n((?: +.*\n?|\n(?= ))*)", f"{text}\n")[1]
    assert set(signature.parameters) <= set(re.findall(r"\w+", described))
    given = signature.return_annotation
    assert inspect.isclass(public) or given in (None, "None") or "\nReturns:\n" in text
