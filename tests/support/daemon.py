"""A daemon of one's own for tests and the demo: temporary state, run directory and port; everything gone at the end."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent.parent


def build_dir():
    return pathlib.Path(os.environ.get("SILICA_BUILD", TOP / "build")).resolve()


class Daemon:
    """with Daemon() as d: ... d.url ...; extra options go to silicad as they are."""

    def __init__(self, *options, base=None, build=None):
        self.build = pathlib.Path(build or build_dir())
        self.options = list(options)
        self.base = pathlib.Path(base) if base else pathlib.Path(tempfile.mkdtemp(prefix="silica-test-", dir="/var/tmp"))
        self.keep_base = base is not None
        self.base.chmod(0o711)  # the daemon is not root: it has to get to its state directory
        self.process = None
        self.port = None
        self.log_path = self.base / "silicad.log"

    def start(self, timeout=30):
        """Starts silicad and returns once it says READY."""
        listen = f"127.0.0.1:{self.port or 0}"
        log = open(self.log_path, "ab")
        offset = log.seek(0, os.SEEK_END)
        self.process = subprocess.Popen([self.build / "silicad", "--listen", listen, "--state-dir", self.base / "state", "--run-dir",
                                         self.base / "run", *self.options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + timeout
        while True:
            text = self.log(offset)
            m = re.search(r"READY.*?127\.0\.0\.1:(\d+)", text)
            if m:
                self.port = int(m.group(1))
                return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise RuntimeError(f"silicad did not get ready (exit {self.process.returncode}):\n{text}")
            time.sleep(0.01)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def log(self, offset=0):
        try:
            return self.log_path.read_bytes()[offset:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    def cli(self, *args, check=True, input=None, timeout=120, text=True):
        """Runs `silica` against this daemon; returns the CompletedProcess."""
        p = subprocess.run([self.build / "silica", "--url", self.url, *map(str, args)], input=input, capture_output=True, text=text,
                           timeout=timeout, stdin=subprocess.DEVNULL if input is None else None)
        if check and p.returncode != 0:
            raise RuntimeError(f"silica {' '.join(map(str, args))}: exit {p.returncode}\n{p.stdout}\n{p.stderr}")
        return p

    def json(self, *args):
        return json.loads(self.cli("--json", *args).stdout)

    def image(self, recipe="python:3.11", name=None):
        """Builds (or takes from the cache) and imports a recipe's image."""
        self.cli("image", "build", recipe, *(["--name", name] if name else []), timeout=900)

    def server_pid(self):
        """The pid of the unprivileged daemon below the spawner."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            try:
                if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == "silicad":
                    return int(pid)
            except OSError:  # it has just ended
                pass
        raise RuntimeError("the spawner has no silicad child")

    def stop(self, timeout=30):
        """SIGTERM; returns the exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        code, self.process = self.process.returncode, None
        return code

    def close(self):
        code = self.stop()
        if not self.keep_base:
            shutil.rmtree(self.base, ignore_errors=True)
        return code

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc):
        if exc[0] is not None and os.environ.get("SILICA_SHOW_LOG"):
            print(self.log())
        code = self.close()
        if exc[0] is None and code != 0:
            raise RuntimeError(f"silicad ended with exit code {code}")
