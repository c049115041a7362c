"""What a model card says."""

import json

from ..bank.bank import TemplateBank
from ..weights.networks import published


def metrics(found: dict) -> str:
    """Numbers by name in one table cell."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()
    )


def front(about: dict, library: str, tags: list[str]) -> str:
    """A model card's YAML front matter; JSON strings are YAML strings."""
    lines = [f"library_name: {library}", f"license: {json.dumps(about.get('licence', 'unknown'))}"]
    lines += [f"base_model: {json.dumps(about['base_model'])}"] if "base_model" in about else []
    return "\n".join(["---", *lines, "pipeline_tag: image-classification", f"tags: {json.dumps(tags)}", "---", "", ""])


def origin(bank: TemplateBank, about: dict) -> str:
    """Base, its licence and who says so, and the bank's hash; about: `networks.published`, or the user's word."""
    licence = about.get("licence")
    stated = ", as timm states it for that name" if licence == published(bank.backbone).get("licence") else ""
    return (
        f"- Base: {about.get('base_model') or bank.backbone.get('timm_model') or 'a network of its author'}\n"
        f"- Licence of the base: {licence + stated if licence else 'not known; ask who published it'}\n"
        f"- Bank: `{bank.hash}`\n"
    )
