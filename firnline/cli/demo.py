"""``firn demo``: the guided first minute."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firnline.cli.options import FAILED, guarded

if TYPE_CHECKING:
    from firnline.cli.demo_story import Chapter
    from firnline.cli.runner import Runner

__all__ = ["demo"]


@click.command(short_help="The guided first minute, on sample data.")
@click.option(
    "--lake", "-l", type=click.Path(file_okay=False, path_type=Path), default=Path("demo-lake"), show_default=True
)
@click.option("--scale", type=click.FloatRange(0.001, 10), default=0.05, show_default=True, help="TPC-H scale factor.")
@guarded
def demo(lake: Path, scale: float) -> None:
    """Make a lake of sample data in Parquet, Delta and Iceberg, and query all three.

    The data (TPC-H) is generated on this machine, once; running the demo again uses it again.

    \b
    Examples:
      firn demo
      firn demo --lake /tmp/demo --scale 0.1
    """
    import firnline
    from firnline.cli.demo_data import make_data
    from firnline.cli.demo_story import chapters, registrations
    from firnline.cli.options import settings_for
    from firnline.cli.output import Style
    from firnline.cli.runner import Runner

    color = sys.stdout.isatty() and not settings_for(None).no_color
    click.echo(f"A lake in {lake}:")
    data = make_data(lake, scale, lambda step: click.echo(f"  making {step} …"))
    with firnline.connect(lake) as connection:
        for statement in registrations(data):
            connection.sql(statement)
        runner = Runner(connection, Style(color=color, fit=True, timing=True), sys.stdout.buffer)
        for number, chapter in enumerate(chapters(data), 1):
            if not _show(number, chapter, runner, color):
                sys.exit(FAILED)
    click.echo(_ending(lake, color))


def _show(number: int, chapter: Chapter, runner: Runner, color: bool) -> bool:
    from firnline.cli.script import Piece

    title = f"{number}. {chapter.title}"
    click.echo("\n" + (click.style(title, bold=True, fg="cyan") if color else title) + "\n")
    click.echo(_highlighted(chapter.sql, color) + "\n")
    return runner.run(Piece(chapter.sql))


def _highlighted(sql: str, color: bool) -> str:
    if not color:
        return sql
    from pygments import highlight
    from pygments.formatters import TerminalFormatter
    from pygments.lexers.sql import PostgresLexer

    text: str = highlight(sql, PostgresLexer(stripnl=False), TerminalFormatter())
    return text.rstrip("\n")


def _ending(lake: Path, color: bool) -> str:
    environment = Path(sys.prefix)
    prefix = f"{environment.name}/bin/" if (environment.parent / "uv.lock").is_file() else ""
    firn, python = f"{prefix}firn", f"{prefix}python"
    query = "SELECT count(*) AS n FROM orders"
    steps = {
        "The shell": f"{firn} sql --lake {lake}",
        "Serve it over HTTP": f"{firn} serve --lake {lake}",
        "then, with curl": f'curl -s http://127.0.0.1:8080/v1/sql --json \'{{"sql": "{query}"}}\'',
        "with Python": f'{python} -c \'import firnline; print(firnline.connect("http://127.0.0.1:8080").sql("{query}"))\'',
        "with the shell": f"{firn} sql --lake http://127.0.0.1:8080",
    }
    width = max(map(len, steps))
    title = click.style("Your turn", bold=True, fg="cyan") if color else "Your turn"
    return "\n".join(["", title, "", *(f"  {what:<{width}}  {how}" for what, how in steps.items())])
