"""The command line: which commands there are, and how they end.

Exit status: 0 done, 1 nothing could be measured or a claim failed, 2 wrong usage, 3 unclear
(`verify`), 130 interrupted.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from objectives.process.client import ProcessError
from objectives.schema.environment import own_version
from search.export_command import export
from search.options.help_panels import CommandWithPanels
from search.options.settings_file import file_behind, takes_settings
from search.profile_command import profile
from search.replay_command import replay
from search.report_command import report
from search.run_command import run
from search.sensitivity_command import sensitivity
from search.show_commands import dashboard, show, support, table
from search.verify_command import verify
from studies.storage.database import STORAGE_FAILURES, StorageLostError, failure_text
from variants.program import INSTALLED, program
from variants.user_error import UserError

app = typer.Typer(
    help="Finds the attention configuration with the least memory and latency on this device.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# In the order of the list of commands, which has room for so many words at 80 columns.
COMMANDS: dict[Callable[..., None], str] = {
    run: "Search: measure configurations, print each workload's winners.",
    show: "Print the fronts and the verdict of a stored study.",
    sensitivity: "Say which axes drive memory and latency, and what to try.",
    report: "Write a study as one HTML file that opens without a network.",
    export: "Write the winners as JSON, which `variants.load` reads.",
    verify: "Measure an exported file's winners and defaults again.",
    profile: "Profile one configuration: operators, kernels, memory.",
    dashboard: "Serve optuna-dashboard on a study, live while a run goes on.",
    table: "Write all trials as CSV or Parquet.",
    support: "Print what a device can run, and why it cannot run the rest.",
    replay: "Score samplers on a recorded table, without a GPU.",
}
for command, summary in COMMANDS.items():
    app.command(cls=CommandWithPanels, short_help=summary)(takes_settings(command))

_COMPLETION = ("--install-completion", "--show-completion")
_MOST = 2000  # characters of an error

# typer carries click under one name or another; what both share is reached through this class.
_ClickUsageError: type[Exception] = typer.BadParameter.__bases__[0]


def print_version(asked: bool) -> None:
    """Print our version and those that results depend on the most, and end."""
    if asked:
        libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "optuna"))
        print(f"{INSTALLED} {own_version()} ({libraries}, Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def root(
    shown: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=print_version, help="Print versions."),
    ] = False,
) -> None:
    """Take what stands before a command."""


def main() -> int:
    """Run the command line. Returns the exit status."""
    try:
        arguments = sys.argv[1:] or ["--help"]
        # A shell completes the words of a command that is installed, whoever asks for it.
        completes = bool(arguments) and arguments[0].startswith(_COMPLETION)
        name = INSTALLED if completes else program()
        status = app(arguments, prog_name=name, standalone_mode=False)  # what `typer.Exit` carries
        sys.stdout.flush()  # here, where a full disk is a line and no traceback
    except _ClickUsageError as error:
        return _wrong(error)
    except UserError as error:
        return _wrong(error)
    except ProcessError as error:
        return _failed(f"the measuring process cannot be used: {error}")
    except STORAGE_FAILURES as error:
        kept = "; what was told before is kept, and the same command with --study resumes"
        if StorageLostError in (type(error), type(error.__cause__)):  # it says more itself
            kept = ""
        return _failed(f"the storage failed: {failure_text(error)}{kept}")
    except OSError as error:
        _drop_output()
        return _failed(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return status if isinstance(status, int) else 0


def _drop_output() -> None:
    """Let nothing that is still to be written fail again when the interpreter ends."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _failed(text: str) -> int:
    print(f"error: {_one_line(text)}", file=sys.stderr)
    return 1


def _wrong(error: Exception) -> int:
    formatted = getattr(error, "format_message", error.__str__)()
    if file := file_behind(error):
        formatted = f"--settings {file}: {formatted}"
    print(f"error: {_one_line(formatted)}", file=sys.stderr)
    return 2


def _one_line(text: str) -> str:
    """Return text as one line that any terminal can print, whatever input is quoted in it."""
    line = " ".join(text.split()).encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)[:_MOST]
