"""Hostile images and programs: what a tar can hold, and static C programs for what no shell can do."""
import io
import os
import pathlib
import subprocess
import tarfile

from support.daemon import TOP

SOURCES = pathlib.Path(__file__).resolve().parent / "programs"


def compile_c(directory, name):
    """NAME.c of tests/support/programs as a static program; the bytes."""
    out = pathlib.Path(directory) / name
    subprocess.run(["musl-gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", out, SOURCES / f"{name}.c"], check=True)
    return out.read_bytes()


def busybox_tar(directory):
    out = pathlib.Path(directory) / "busybox.tar"
    if not out.exists():
        subprocess.run([TOP / "tools/build-image", "busybox", out], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return out


class Entry:
    """One member of an image: Entry.file, Entry.link, Entry.dir."""

    def __init__(self, path, type, data=b"", mode=0o755, target="", uid=0, gid=0, xattrs=None):
        self.info = tarfile.TarInfo(path)
        self.info.type, self.info.mode, self.info.linkname, self.info.uid, self.info.gid = type, mode, target, uid, gid
        self.info.size = len(data)
        self.info.pax_headers = {f"SCHILY.xattr.{k}": v for k, v in (xattrs or {}).items()}
        self.data = data

    @classmethod
    def file(cls, path, data=b"", **kwargs):
        return cls(path, tarfile.REGTYPE, data, **kwargs)

    @classmethod
    def link(cls, path, target):
        return cls(path, tarfile.SYMTYPE, target=target)

    @classmethod
    def dir(cls, path, **kwargs):
        return cls(path, tarfile.DIRTYPE, **kwargs)


def make_image(directory, name, *entries, without=(), base=None):
    """A tar of busybox plus ENTRIES; members of WITHOUT (and below) are left out of the base. Returns the path."""
    out = pathlib.Path(directory) / f"{name}.tar"
    replaced = {e.info.name.strip("/") for e in entries} | {w.strip("/") for w in without}

    def dropped(path):
        path = path.removeprefix("./").strip("/")
        return any(path == r or path.startswith(r + "/") for r in replaced)

    with tarfile.open(base or busybox_tar(directory)) as src, tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as dst:
        for member in src:
            if not dropped(member.name):
                dst.addfile(member, src.extractfile(member) if member.isreg() else None)
        for e in entries:
            dst.addfile(e.info, io.BytesIO(e.data))
    return out


def host_pid_of(tag, box, name):
    """The host's pid of a process called NAME in BOX."""
    from support import host

    for pid in host.cgroup_procs(tag, box):
        if host.comm(pid) == name:
            return pid
    raise AssertionError(f"no process '{name}' in {box}")


__all__ = ["Entry", "busybox_tar", "compile_c", "host_pid_of", "make_image", "os"]
