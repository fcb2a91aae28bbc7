"""The `report` command: a study as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.options.choices import UsageError
from search.options.plugin_option import PluginOption
from search.options.shared_options import DEFAULT_STORAGE, Storage, StudyName, storage_words
from search.views.terminal import make_console
from studies.storage.artifacts import artifact_store, attach_file
from studies.storage.files import write_atomically
from studies.study.study import load_study, open_storage

console = make_console()


def report(
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")] = Path(
        "report.html"
    ),
    attached: Annotated[
        bool, typer.Option("--attach/--no-attach", help="Show it in the dashboard, too.")
    ] = True,
    plugin: PluginOption = None,
) -> None:
    """Write a study's report: one HTML file that opens without a network."""
    # These take seconds to import, which `search --help` need not wait for.
    from studies.report.page import render_report
    from studies.report.sensitivity_panel import sensitivity_panel
    from studies.sensitivity.assess import assess

    chosen = load_study(open_storage(storage, create=False), study)
    panels = [sensitivity_panel(assess(chosen))]
    text = render_report(chosen, panels, storage_words(storage))
    page = text.encode()
    try:
        write_atomically(output, text)
        if attached:
            attach_file(chosen, artifact_store(storage), "report.html", page, "text/html")
    except OSError as error:
        raise UsageError(
            f"--output must be a file that can be written, got {output}: {error.strerror}"
        ) from None
    console.print(
        f"wrote {output} ({len(page) / 1e6:.1f} MB; needs no network)",
        soft_wrap=True,
    )
