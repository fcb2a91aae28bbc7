"""What is found out about this machine, against what PyTorch finds out."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch._inductor.config
from torch._inductor.cpp_builder import cpp_compiler_search
from torch._inductor.exc import InvalidCxxCompiler

from variants.detect import _has_cpp_compiler, detect_device


@pytest.mark.parametrize("compiler", [None, "c++", "no-such-compiler", "false"])
def test_a_compiler_is_found_where_inductor_finds_one(
    monkeypatch: pytest.MonkeyPatch, compiler: str | None
) -> None:
    if compiler is None:
        if "CXX" in os.environ:
            pytest.skip("CXX is set, as it was when Inductor was imported")
        searched = torch._inductor.config.cpp.cxx[-1]
    else:
        monkeypatch.setenv("CXX", compiler)
        searched = compiler
    try:
        expected = bool(cpp_compiler_search((None, searched)))  # type: ignore[arg-type]
    except InvalidCxxCompiler:
        expected = False
    assert _has_cpp_compiler() is expected


def test_quantizations_are_tried_unless_it_is_known_which_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def fail(name: str, device: object) -> str:
        tried.append(name)
        return "no kernel"

    monkeypatch.setattr("variants.detect.dry_run", fail)
    known = {"int8_dynamic": "no such instruction"}
    assert detect_device("cpu", known).failed_quantizations == known
    assert detect_device("cpu", {}).failed_quantizations == {}
    assert tried == []
    assert detect_device("cpu").failed_quantizations == dict.fromkeys(tried, "no kernel")
    assert tried


def test_detecting_imports_no_compiler_where_nothing_needs_one() -> None:
    program = (
        "import sys\n"
        "sys.modules['torchao'] = None\n"
        "import variants.detect\n"
        "variants.detect._version = lambda name: None\n"
        "variants.detect.detect_device('cpu')\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
