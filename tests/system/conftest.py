"""Shared by the tests of a whole daemon. Every file has a daemon of its own kind; sandboxes are real, root is needed."""
import os
import pathlib
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "tests"))
from support import hostile  # noqa: E402


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("system")


@pytest.fixture(scope="session")
def give_images(work):
    """give_images(daemon): "busybox", and "probe": the same with the programs of tests/support/programs."""
    assert os.geteuid() == 0, "these tests need root: sandboxes are real"
    base = hostile.busybox_tar(work)
    programs = [hostile.Entry.file(n, hostile.compile_c(work, n)) for n in ("probe", "load")]
    tar = hostile.make_image(work, "probe-image", *programs)

    def give(daemon):
        for name, path in (("busybox", base), ("probe", tar)):
            daemon.cli("image", "import", name, path, "--config", str(base)[:-3] + "json")
        return daemon

    return give
