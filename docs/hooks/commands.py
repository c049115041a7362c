"""Every command of `recast`, from its own help."""

import click
import typer

from recast_gen.cli import app


def markdown() -> str:
    return "\n".join(_sections(typer.main.get_command(app), "recast"))


def _sections(command: click.Command, name: str):
    if subcommands := getattr(command, "commands", {}):
        for word, below in sorted(subcommands.items()):
            yield from _sections(below, f"{name} {word}")
        return
    about, _, example = command.help.partition("Example: ")
    yield f"## {name}\n\n{about.strip()}\n"
    if example:
        yield f"```bash\n{example.strip()}\n```\n"
    yield "| | default | |\n|---|---|---|"
    for given in command.params:
        words = given.metavar or given.name.upper() if given.param_type_name == "argument" else ", ".join(given.opts)
        default = "required" if given.required else "none" if given.default is None else f"`{given.default}`"
        yield f"| `{words}` | {default} | {given.help or ''} |"
    yield ""
