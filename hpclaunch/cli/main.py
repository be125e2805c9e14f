"""The ``hpclaunch`` command: a table of subcommands, each loaded when it is used."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from typing import Any

import click

from hpclaunch import __version__, file_errors
from hpclaunch.errors import HPCLaunchError, UserError

#: Subcommand -> "module:name"; what each does is its own docstring.
COMMANDS = {
    "adapt": "hpclaunch.cli.adapt:adapt",
    "clean": "hpclaunch.cli.cluster:clean",
    "config": "hpclaunch.cli.config:config",
    "doctor": "hpclaunch.cli.doctor:doctor",
    "down": "hpclaunch.cli.cluster:down",
    "jobs": "hpclaunch.cli.cluster:jobs",
    "logs": "hpclaunch.cli.cluster:logs",
    "mpi": "hpclaunch.cli.mpi:mpi",
    "ps": "hpclaunch.cli.cluster:ps",
    "run": "hpclaunch.cli.mpi:run",
    "scale": "hpclaunch.cli.cluster:scale",
    "script": "hpclaunch.cli.script:script",
    "up": "hpclaunch.cli.cluster:up",
    "why": "hpclaunch.cli.cluster:why",
}
#: Those that look at the user's clusters; the others have other things to do.
_ABOUT_CLUSTERS = {"adapt", "clean", "down", "jobs", "logs", "ps", "scale", "up", "why"}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, 1)
            ctx.fail(f"No such command {args[0]!r}" + (f"; did you mean {close[0]!r}?" if close else "."))
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hpclaunch")
def cli() -> None:
    """Run Python functions on the batch cluster that you have an account on."""


@cli.result_callback()
@click.pass_context
def _after(ctx: click.Context, *args: Any, **options: Any) -> None:
    """Remove what has died with its owner, once a command about clusters has done its work."""
    if ctx.invoked_subcommand in _ABOUT_CLUSTERS:
        from hpclaunch.cli.leftovers import remove_leftovers

        remove_leftovers()


def main() -> None:
    """Run the command line. Errors are one message and an exit code: 2 the user's, 1 any other's.

    With ``HPCLAUNCH_DEBUG=1`` the whole traceback is shown.
    """
    warnings.showwarning = _show_warning
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("HPCLAUNCH_DEBUG", "0") not in ("", "0"):
            raise
        click.echo(f"hpclaunch: {_in_words(error)}", err=True)
        sys.exit(2 if isinstance(error, UserError) else 1)


def _in_words(error: Exception) -> str:
    if isinstance(error, HPCLaunchError):
        return str(error)
    if isinstance(error, OSError) and file_errors.advice(error):
        return file_errors.told(error)
    what = f"{type(error).__name__}: {error}"
    return (
        f"{what}\n  This should not happen. HPCLAUNCH_DEBUG=1 shows where it did; please report it with that text."
    )


def _show_warning(message: Any, *args: Any, **kwargs: Any) -> None:
    click.echo(f"hpclaunch: note: {message}", err=True)
