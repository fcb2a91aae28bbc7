"""`python -m tests.variants.toy_axis`: what follows from an axis that flex alone has, as JSON.

A process of its own, since axes are put together when they are first imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from variants.axis import VariantAxis
from variants.backends import BACKENDS, flex
from variants.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    name: str
    summary: str
    rows: int


def _reasons(configuration: object, device: object) -> Iterator[str]:
    variant = configuration.variant  # type: ignore[attr-defined]
    if variant.tiles == "wide" and device.kind == "cpu":  # type: ignore[attr-defined]
        yield "tiles wide does not exist on cpu"


TILES = VariantAxis(
    name="tiles",
    summary="of the kernel",
    registry=Registry(
        "tiles",
        [
            Tile(name="usual", summary="as Inductor chooses them", rows=64),
            Tile(name="wide", summary="more rows", rows=128),
        ],
    ),
    searched=("usual",),
    rules={_reasons: ("tiles",)},
)


def main() -> None:
    # What an entry `axes=(TILES,)` in flex.py does.
    BACKENDS._entries["flex"] = replace(flex.FLEX, axes=(*flex.FLEX.axes, TILES))

    from search.options.choices import gather_choices
    from search.options.command_options import axis_option
    from search.views.support_listing import axes_markdown, other_cells
    from studies.results.labels import variant_label
    from studies.space.catalogue import catalogue_of
    from studies.space.defaults import DEFAULT_AXES
    from studies.space.space import fill_defaults, survey
    from variants.configuration import Configuration
    from variants.device import DEVICE_PROFILES
    from variants.support import unsupported_reasons
    from variants.variant import Variant
    from variants.workload import Workload

    def of(**choices: str) -> Configuration:
        return Configuration.of(
            Workload(), {"precision": "bf16", "cache": "static", "backend": "flex"} | choices
        )

    h100, cpu = DEVICE_PROFILES["h100"].device, DEVICE_PROFILES["cpu"].device
    stored = of().model_dump(mode="json")
    del stored["variant"]["tiles"]
    wide = of(tiles="wide").variant
    given = gather_choices({"tiles": "usual,wide", "backend": "flex,flash"})
    found = survey(fill_defaults(given, DEFAULT_AXES["cuda"]), h100)
    catalogue = catalogue_of(found)
    try:
        Configuration(
            workload=Workload(),
            variant=Variant.model_validate(of(backend="math").variant.choices | {"tiles": "wide"}),
        )
        refused = ""
    except ValueError as error:
        refused = str(error)
    facts = {
        "fields": list(Variant.model_fields),
        "schema": sorted(Variant.model_json_schema()["properties"]),
        "keys": [of().variant.key, wide.key, of(tiles="wide", backend="flash").variant.key],
        "read": Configuration.model_validate(stored) == of(),
        "again": Configuration.model_validate_json(of(tiles="wide").model_dump_json()).variant.key,
        "refused": refused,
        "labels": [variant_label(of().variant), variant_label(wide)],
        "rank": of().variant.rank < wide.rank,
        "entry": [TILES.of(wide).rows, TILES.of(of(backend="math").variant)],  # type: ignore[union-attr]
        "default": DEFAULT_AXES["cuda"]["tiles"],
        "reasons": [unsupported_reasons(of(tiles="wide"), device) for device in (h100, cpu)],
        "tried": sorted(
            {(v.backend, v.tiles) for v in found.possible[found.workloads[0].key]}, key=str
        ),
        "found": all(catalogue.find(catalogue.params(i)) == i for i in range(len(catalogue))),
        "help": axis_option("tiles").help,
        "docs": "## tiles\n\nof the kernel (of flex alone)\n" in axes_markdown(),
        "columns": sorted(
            {cell.column for cell in other_cells(h100, {}) if cell.row[0] == "tiles"}
        ),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
