from __future__ import annotations

from pathlib import Path

import pytest

from tests.recorded_tables import write_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "table.csv")
