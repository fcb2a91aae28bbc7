"""The exported document as text: short, and a line for each configuration."""

from __future__ import annotations

import json

from studies.export.document import Export

_DIGITS = 9
# Left out where they are None, 0 or empty, which is what reading takes them for.
_UNSAID = {
    *("conditions", "roofline", "kernels", "yardstick_ms", "host_speed"),
    *("gradients_mib", "saved_mib", "seconds", "ties", "front", "finals"),
}
_OPEN = 4  # levels of the JSON that are laid out over lines: a configuration has one


def document_text(document: Export, *, full: bool = False) -> str:
    """Return the document as JSON; numbers in `_DIGITS` digits, unless it is a full one."""
    content = document.model_dump(mode="json")
    return _lines(content if full else _rounded(content), _OPEN) + "\n"


def _rounded(value: object) -> object:
    """Return JSON of a few bytes less: more digits than anything is known to are left out."""
    if isinstance(value, dict):
        return {
            key: _rounded(each) for key, each in value.items() if not (key in _UNSAID and not each)
        }
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _lines(value: object, levels: int, indent: str = "") -> str:
    """Return JSON whose outer levels are laid out over lines."""
    inner = indent + "  "
    if levels and isinstance(value, dict) and value:
        parts = [f"{json.dumps(k)}: {_lines(v, levels - 1, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}}}"
    if levels and isinstance(value, list) and value:
        parts = [_lines(each, levels - 1, inner) for each in value]
        return "[\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}]"
    return json.dumps(value, separators=(",", ":"))
