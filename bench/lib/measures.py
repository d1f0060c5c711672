"""The measures: each returns rows of the table."""
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time

from lib import host, peers
from lib.table import median, percentile, row
from tests.support.daemon import Daemon
from tests.support.host import tag_of

IMAGE = "bench"
PAUSE = 20  # ms between creations whose latency is measured: pools are full again, as they are when one person works
PROGRAMS = ("true", "idle", "pour", "floor")


class Bench:
    """A daemon of its own with an image of four static programs."""

    def __init__(self, build, short, favour):
        self.build, self.short, self.favour = build, short, favour
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="silica-bench-", dir="/var/tmp"))
        self.base.chmod(0o711)
        self.daemon = self.run_dir = self.peers = self.stop_peers = None

    def __enter__(self):
        try:
            self.root = self.base / "root"
            for d in ("bin", "dev", "proc", "sys", "etc", "tmp"):
                (self.root / d).mkdir(parents=True)
            for f in ("resolv.conf", "hosts", "hostname"):  # as every image has them
                (self.root / "etc" / f).touch()
            for p in PROGRAMS:
                shutil.copy(self.build / "bench" / f"bench-{p}", self.root / "bin" / p)
            self.tar = self.base / "image.tar"
            subprocess.run(["tar", "-C", self.root, "--owner=0", "--group=0", "-cf", self.tar, "."], check=True)
            (self.base / "daemon").mkdir()
            # On a tmpfs, as /run is.
            self.run_dir = pathlib.Path(tempfile.mkdtemp(prefix="silica-bench-", dir="/dev/shm"))
            self.daemon = Daemon("--run-dir", self.run_dir, base=self.base / "daemon", build=self.build).start()
            self.daemon.cli("image", "import", IMAGE, self.tar)
            if self.favour:
                host.favour_session(self.daemon.server_pid())
                host.favour_cgroups(f"silica-{tag_of(self.run_dir)}")
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc):
        if self.stop_peers is not None:
            self.stop_peers()
        if self.daemon is not None:
            self.daemon.stop(120)
        shutil.rmtree(self.base, ignore_errors=True)
        if self.run_dir is not None:
            shutil.rmtree(self.run_dir, ignore_errors=True)

    # ---- what measures ----

    def client(self, *args):
        """Rows of words that bench-client printed."""
        p = subprocess.run([self.build / "bench/bench-client", str(self.daemon.port), *map(str, args)], stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=600)
        if p.returncode != 0:
            raise RuntimeError(f"bench-client {' '.join(map(str, args))}: {p.stderr.strip()}")
        return [line.split() for line in p.stdout.splitlines()]

    def times(self, *args):
        return [float(r[0]) / 1000 for r in self.client(*args)]

    def outside(self, peer):
        p = subprocess.run([self.build / "bench/bench-floor", str(peer.batch), str(PAUSE), *peer.argv], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                           timeout=600)
        if p.returncode != 0:
            raise RuntimeError(f"{peer.name}: {p.stderr.strip()}")
        return [float(line) / 1000 for line in p.stdout.split()]

    def keep(self, count):
        """COUNT sandboxes that stay, made one right after the other: their ids and the milliseconds each took."""
        rows = self.client("create", IMAGE, count, 0, "keep")
        return [r[3] for r in rows], [float(r[0]) / 1000 for r in rows]

    def delete(self, ids):
        for i in range(0, len(ids), 100):
            self.client("delete", *ids[i : i + 100])

    def find_peers(self):
        if self.peers is None:
            self.peers, self.stop_peers = peers.find(self.base / "peers", self.root, self.tar, self.short)
        return self.peers


def create(b):
    """From the request to main exec'd: as the server tells it, and as the client sees it."""
    inside, outside, ends = [], [], []
    b.client("create", IMAGE, 5, PAUSE)
    for _ in range(4 if b.short else 20):
        for r in b.client("create", IMAGE, 10, PAUSE):
            outside.append(float(r[0]) / 1000)
            inside.append(float(r[1]) / 1000)
            ends.append(float(r[3]) / 1000)
    return [
        row("create to main exec'd, engine, p50", median(inside), "ms", 2),
        row("create to main exec'd, engine, p99", percentile(inside, 99), "ms", 10),
        row("CreateSandbox to RUNNING, client, p50", median(outside), "ms", 2),
        row("CreateSandbox to RUNNING, client, p99", percentile(outside, 99), "ms", 10),
        row("DeleteSandbox to gone, client, p50", median(ends), "ms"),
    ]


def run(b):
    """create + true + result, against others."""
    found = b.find_peers()
    ours, direct, theirs = [], [], {p.name: [] for p in found}
    b.times("run", IMAGE, 3, PAUSE)
    for i in range(4 if b.short else 20):
        ours += b.times("once", IMAGE, 5, PAUSE)
        direct += b.times("run", IMAGE, 5, PAUSE)
        for p in found:
            theirs[p.name] += b.outside(p)
    ms = {name: median(t) for name, t in theirs.items()}
    rows = [row("create + exec of true + result, client, p50", median(ours), "ms", ms.get("bwrap"), note="target: bwrap, same run"),
            row("create with main true + its log + result, client, p50", median(direct), "ms", ms.get("bwrap"))]
    rows += [row(f"{name} true, p50", t, "ms") for name, t in ms.items()]
    engine = next((n for n in ("docker run", "podman run", "runc run", "crun run") if n in ms), None)
    if engine is not None:
        rows.append(row(f"{engine} / ours", ms[engine] / median(ours), "×", 40, below=False))
    return rows


def execs(b):
    """exec of true against vfork + execve + wait in the same sandbox."""
    ids, _ = b.keep(1)
    ours, floor, ratio = [], [], []
    b.times("exec", ids[0], 20)
    for _ in range(4 if b.short else 20):
        mine = b.times("exec", ids[0], 25)
        out = b.daemon.cli("exec", ids[0], "/bin/floor", 25, 0, "/bin/true").stdout
        least = [float(line) / 1000 for line in out.split()]
        ours += mine
        floor += least
        ratio.append(median(mine) - median(least))
    b.delete(ids)
    return [
        row("exec of true, client, p50", median(ours), "ms"),
        row("exec of true, client, p99", percentile(ours, 99), "ms"),
        row("vfork + execve + wait of true in that sandbox, p50", median(floor), "ms"),
        row("exec above that, median of batches", median(ratio) * 1000, "µs", 300, loose=20),
    ]


def pour(b):
    """Standard output of a process to a client that throws it away."""
    mib = 256 if b.short else 1024
    ids, _ = b.keep(1)
    pid = b.daemon.server_pid()
    b.client("pour", ids[0], 16)
    rates, growth = [], []
    for _ in range(1 if b.short else 5):
        before = host.status(pid, "VmRSS")
        pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark begins anew
        size, seconds = b.client("pour", ids[0], mib)[0]
        growth.append((host.status(pid, "VmHWM") - before) / 1024)
        if int(size) != mib << 20:
            raise RuntimeError(f"pour: {size} bytes came of {mib} MiB")
        rates.append(mib / float(seconds))
    b.delete(ids)
    return [
        row(f"{mib} MiB of stdout, best of {len(rates)}", max(rates), "MiB/s", 500, below=False, note=f"median {median(rates):.0f}"),
        row("growth of silicad meanwhile, largest", max(growth), "MiB", 8),
    ]


def used():
    m = host.meminfo()
    return m["MemTotal"] - m["MemAvailable"], m["Slab"] + m["KernelStack"] + m["PageTables"] + m["Percpu"]


def idle(b):
    """The daemon when nothing happens."""
    seconds = 2 if b.short else 10
    rows = []
    for count in (0, 10):
        ids = b.keep(count)[0] if count else []
        spawner, server = b.daemon.process.pid, b.daemon.server_pid()
        own = [p for p in host.tree(spawner) if "silica-init" not in host.read(f"/proc/{p}/cmdline")] if not count else own
        time.sleep(2)  # pools are filled and ended sandboxes put away
        before = {p: host.wakeups(p) for p in own}
        time.sleep(seconds)
        names = {p: host.wakeups(p) - before[p] for p in own}
        if count == 0:
            rows.append(row("idle silicad, resident", host.status(server, "VmRSS") / 1024, "MiB", 12,
                            note=f"spawner {host.status(spawner, 'VmRSS') / 1024:.1f} MiB"))
        rows.append(row(f"wake-ups in {seconds} s with {count} idle sandboxes", sum(names.values()), "", 0, loose=1,
                        note=", ".join(f"{host.read(f'/proc/{p}/comm').strip()} {n}" for p, n in names.items() if n)))
        b.delete(ids)
    return rows


def many(b):
    """A thousand that do nothing."""
    count = 50 if b.short else 1000
    spawner, server = b.daemon.process.pid, b.daemon.server_pid()
    first = [float(r[0]) / 1000 for r in b.client("create", IMAGE, 30, PAUSE)]
    time.sleep(2)
    rss = {p: host.pss(p) for p in (spawner, server)}
    before, kernel_before = used()
    ids, took = b.keep(count)
    time.sleep(2)
    after, kernel_after = used()
    grown = {p: host.pss(p) - rss[p] for p in rss}
    processes = sum(host.pss(p) for p in host.tree(spawner) if p not in rss) + sum(grown.values())
    late = [float(r[0]) / 1000 for r in b.client("create", IMAGE, 30, PAUSE)]
    full, _ = used()
    t0 = time.monotonic()
    b.delete(ids)
    seconds = time.monotonic() - t0
    time.sleep(3)
    empty, _ = used()
    kernel = kernel_after - kernel_before
    up, down = (after - before) / count / 1024, (full - empty) / count / 1024
    return [
        # Two ways to count, each blurred by what else the machine does: the larger one is judged.
        row(f"{count} idle sandboxes, host memory each", max((up + down) / 2, (kernel + processes) / count / 1024), "MiB", 1,
            note=f"by MemAvailable: filling {up:.2f}, emptying {down:.2f}"),
        row("  counted: slab, page tables, stacks, per-cpu", kernel / count, "KiB"),
        row("  counted: processes (proportional), daemons' growth", processes / count, "KiB",
            note=f"spawner {grown[spawner] / count:.1f}, silicad {grown[server] / count:.1f}"),
        row(f"create beside {count} / beside none, p50", median(late) / median(first), "×", 1.5, loose=10,
            note=f"{median(late):.2f} / {median(first):.2f} ms"),
        row(f"creates one after the other, {count}", count / (sum(took) / 1000), "1/s"),
        row(f"deletes one after the other, {count}", count / seconds, "1/s"),
    ]


MEASURES = {"create": create, "run": run, "exec": execs, "pour": pour, "idle": idle, "many": many}
