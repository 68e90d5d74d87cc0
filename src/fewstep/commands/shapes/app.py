"""`fewstep shapes`: its commands."""

from __future__ import annotations

import typer

from fewstep.commands.shapes.exports import export_table
from fewstep.commands.shapes.students import student_table
from fewstep.commands.shapes.tables import chain, conditioning, decoder
from fewstep.commands.shapes.teacher import teacher_table

shapes_app = typer.Typer(help="Tables of the embedded world: teachers, students, exports.", no_args_is_help=True)
shapes_app.command("teacher")(teacher_table)
shapes_app.command("students")(student_table)
shapes_app.command("exports")(export_table)
shapes_app.command("conditioning")(conditioning)
shapes_app.command("chain")(chain)
shapes_app.command("decoder")(decoder)
