"""The command line: which commands there are, and how they end.

Exit status: 0 done, 1 nothing could be measured or a claim failed, 2 wrong usage, 3 unclear
(`verify`), 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import typer

from objectives.process.client import ProcessError
from search.export_command import export
from search.profile_command import profile
from search.replay_command import replay
from search.report_command import report
from search.run_command import run
from search.sensitivity_command import sensitivity
from search.show_commands import dashboard, show, support, table
from search.verify_command import verify
from studies.storage.database import STORAGE_FAILURES, StorageLostError, failure_text
from variants.user_error import UserError

app = typer.Typer(
    help="Finds the attention configuration with the least memory and latency on this device.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    run,
    show,
    sensitivity,
    report,
    export,
    verify,
    profile,
    dashboard,
    table,
    support,
    replay,
):
    app.command()(command)

_MOST = 2000  # characters of an error

# typer carries click under one name or another; what both share is reached through this class.
_ClickUsageError: type[Exception] = typer.BadParameter.__bases__[0]


def main() -> int:
    """Run the command line. Returns the exit status."""
    try:
        arguments = sys.argv[1:] or ["--help"]
        status = app(arguments, standalone_mode=False)  # what `typer.Exit` carries
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
    print(f"error: {_one_line(formatted)}", file=sys.stderr)
    return 2


def _one_line(text: str) -> str:
    """Return text as one line that any terminal can print, whatever input is quoted in it."""
    line = " ".join(text.split()).encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)[:_MOST]
