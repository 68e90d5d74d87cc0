"""`fewstep recipes`: the recipes that ship with fewstep, to look at and to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewstep.distill.packaged import about_recipe, copy_recipe, packaged_names, packaged_recipe

recipes_app = typer.Typer(help="List, show and copy the recipes that ship with fewstep.", no_args_is_help=True)


def _names(begun: str) -> list[str]:
    """For a shell's completion."""
    return [name for name in packaged_names() if name.startswith(begun)]


Name = Annotated[str, typer.Argument(metavar="NAME", help="As `fewstep recipes list` shows it.", autocompletion=_names)]


@recipes_app.command("list")
def list_recipes() -> None:
    """List the packaged recipes, which `fewstep run NAME` runs."""
    from rich.table import Table

    from fewstep.commands.tables import print_table

    table = Table("recipe", "what it does")
    table.columns[0].no_wrap = True
    for name in packaged_names():
        table.add_row(name, about_recipe(name))
    print_table(table)


@recipes_app.command("show")
def show(name: Name) -> None:
    """Print a packaged recipe as it is, with its comments."""
    typer.echo(packaged_recipe(name).read_text("utf-8"), nl=False)


@recipes_app.command("copy")
def copy(
    name: Name,
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder to copy it to; created if it is missing.")
    ] = Path("."),
) -> None:
    """Copy a packaged recipe to DIR/NAME.yaml, to edit and run with `fewstep run DIR/NAME.yaml`.

    schema.json is copied with it, so that editors check and complete settings.
    """
    typer.echo(str(copy_recipe(name, folder.expanduser())))
