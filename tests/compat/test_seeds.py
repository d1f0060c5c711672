"""The documents' samples as printed, through the same runner as `make demo`."""
import importlib.machinery
import importlib.util
import pathlib
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
loader = importlib.machinery.SourceFileLoader("demo_run", str(TOP / "tests/demo/run"))
demo = importlib.util.module_from_spec(importlib.util.spec_from_loader("demo_run", loader))
loader.exec_module(demo)


@pytest.mark.parametrize("name", sorted(p.name for p in demo.SAMPLES.glob("*.py")))
def test_sample(daemon, name, tmp_path):
    assert demo.run_sample(sys.executable, demo.SAMPLES / name, daemon, tmp_path)
