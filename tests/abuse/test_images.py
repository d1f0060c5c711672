"""A: what a hostile image could redirect while its sandbox is set up."""
import json

import pytest
from support.client import pb
from support.hostile import Entry, make_image

PATH_ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


@pytest.fixture
def load_image(daemon, work):
    """load_image(name, entries..., without=[...], config={...}): imports it and returns the name."""
    names = set()

    def load(name, *entries, without=(), config=None):
        tar = make_image(work, name, *entries, without=without)
        path = work / f"{name}.config.json"
        path.write_text(json.dumps({"env": PATH_ENV, "cmd": ["sh"], **(config or {})}))
        daemon.cli("image", "import", name, tar, "--config", path)
        names.add(name)
        return name

    yield load
    for name in names:
        daemon.cli("image", "rm", name)


def is_whole(client, box):
    """/dev, /proc and /sys are what they must be, whatever the image said."""
    mounts = {line.split()[4]: line.split(" - ")[1].split()[0] for line in client.sh(box, "/bin/busybox cat /proc/self/mountinfo").splitlines()}
    assert mounts["/proc"] == "proc" and mounts["/sys"] == "sysfs" and mounts["/dev"] == "tmpfs" and mounts["/dev/pts"] == "devpts", mounts
    text = client.sh(box, "/bin/busybox stat -c '%n %F %t:%T' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /proc /sys /dev")
    assert "/dev/null character special file 1:3" in text
    assert text.count("character special file") == 6 and text.count("directory") == 3
    assert client.sh(box, "/bin/busybox stat -c %F /etc/resolv.conf /etc/hosts /etc/hostname").split("\n")[:3] == ["regular file"] * 3 or \
        set(client.sh(box, "/bin/busybox stat -c %F /etc/resolv.conf /etc/hosts /etc/hostname").split("\n")) <= {"regular file", "regular empty file", ""}


@pytest.mark.timeout(90)
def test_a1_the_runtimes_program_cannot_be_overwritten(client, daemon, box, load_image):
    before = (daemon.build / "silica-init").read_bytes()
    client.write(box, "/evil", b"#!/proc/self/exe\n")
    client.write(box, "/evil2", b"#!/proc/1/exe\n")
    client.sh(box, "chmod 755 /evil /evil2")
    race = client.stream(box, "/probe", "exe-race", "5", half_close=True)
    race.ready()
    for i in range(150):
        r = client.exec(box, ("/evil", "/evil2", "/bin/true")[i % 3])
        assert r.code == 0 or i % 3 != 2
    r = race.result()
    outcome = dict(line.split(": ") for line in r.text.splitlines())
    assert outcome["written"] == "0"
    assert int(outcome["tried"]) > 100
    assert (daemon.build / "silica-init").read_bytes() == before
    # As the image's entrypoint, with a loader variable that points into the image.
    name = load_image("evil-entrypoint", Entry.file("evil", b"#!/proc/self/exe\n"), config={"entrypoint": ["/evil"], "env": [*PATH_ENV, "LD_PRELOAD=/evil.so"]})
    other = client.create(image=name, command="", args=())
    status = client.wait(other)
    assert status.state in (pb.STATE_FAILED, pb.STATE_COMPLETED)
    assert client.sh(client.create(), "echo ok") == "ok\n"


@pytest.mark.parametrize("workdir", ["/proc/self/fd/3", "/proc/self/fd/5", "/proc/self/fd/7", "/proc/self/fd/8", "/proc/self/fd/9", "/proc/1/fd/4",
                                     "/proc/1/cwd", "/proc/1/root", "/proc/self/cwd/../../.."])
def test_a2_a_working_directory_in_proc_leads_nowhere(client, daemon, load_image, workdir):
    canary = str(daemon.base / "canary")
    script = f"pwd; ls -di .; cat ../../../../../../../..{canary}; cat ..{canary}; ls; true"
    name = load_image("workdir", config={"workdir": workdir})
    for kwargs in ({"image": name}, {"cwd": workdir}):
        box = client.create(command="sh", args=["-c", script], **kwargs)
        status = client.wait(box)
        text = client.logs(box).decode(errors="replace")
        assert "nobody in a sandbox" not in text
        assert "silicad" not in text and "/work" not in text
        assert status.state == pb.STATE_COMPLETED or workdir in status.state_reason or "directory" in status.state_reason, status


LINKS = {
    "dev-is-a-link-to-proc": [Entry.link("dev", "/proc")],
    "dev-is-a-link-to-etc": [Entry.link("dev", "etc")],
    "dev-is-a-link-upward": [Entry.link("dev", "../../../../../../../tmp")],
    "dev-is-a-file": [Entry.file("dev", b"x")],
    "dev-null-is-a-link-to-procfs": [Entry.dir("dev"), Entry.link("dev/null", "/proc/sys/kernel/core_pattern")],
    "dev-null-is-a-link-to-the-host": [Entry.dir("dev"), Entry.link("dev/null", "/../../../../etc/passwd")],
    "dev-pts-is-a-link": [Entry.dir("dev"), Entry.link("dev/pts", "/proc/self/fd"), Entry.link("dev/ptmx", "/proc/sysrq-trigger"),
                          Entry.link("dev/console", "/proc/sys/kernel/core_pattern"), Entry.link("dev/tty", "/proc/sys/kernel/core_pattern")],
    "dev-pts-0-is-a-link": [Entry.dir("dev"), Entry.dir("dev/pts"), Entry.link("dev/pts/0", "/proc/sys/kernel/core_pattern")],
    "dev-shm-is-a-link": [Entry.dir("dev"), Entry.link("dev/shm", "/proc"), Entry.link("dev/mqueue", "/sys")],
    "proc-is-a-link": [Entry.link("proc", "/tmp/proc"), Entry.dir("tmp/proc", mode=0o777)],
    "proc-is-a-link-to-dev": [Entry.link("proc", "dev")],
    "proc-is-a-file": [Entry.file("proc", b"")],
    "proc-has-things-in-it": [Entry.dir("proc"), Entry.link("proc/self", "/etc"), Entry.link("proc/sys", "/tmp"), Entry.file("proc/keys", b"x")],
    "sys-is-a-link": [Entry.link("sys", "/proc/sys")],
    "sys-is-a-link-upward": [Entry.link("sys", "../../../sys")],
    "proc-and-sys-and-dev-are-each-other": [Entry.link("proc", "sys"), Entry.link("sys", "dev"), Entry.link("dev", "proc")],
    "resolv-conf-is-a-link-to-procfs": [Entry.link("etc/resolv.conf", "/proc/sys/kernel/core_pattern"), Entry.link("etc/hosts", "/proc/self/oom_score_adj"),
                                        Entry.link("etc/hostname", "/proc/1/attr/current")],
    "resolv-conf-is-a-link-upward": [Entry.link("etc/resolv.conf", "../../../../../../etc/resolv.conf"), Entry.link("etc/hosts", "/proc/1/root/etc/hosts")],
    "resolv-conf-is-a-directory": [Entry.dir("etc/resolv.conf"), Entry.dir("etc/hosts")],
    "etc-is-a-link-within": [Entry.link("etc", "tmp/etc"), Entry.dir("tmp/etc", mode=0o755)],
    "etc-is-a-link-to-proc": [Entry.link("etc", "/proc")],
    "etc-is-a-link-upward": [Entry.link("etc", "../../../../../../../../etc")],
    "etc-is-a-loop": [Entry.link("etc", "etc")],
    "nothing-but-a-program": [],
}


@pytest.mark.parametrize("name", LINKS)
def test_a3_to_a6_a8_links_in_the_image_redirect_nothing(client, load_image, name):
    without = ("dev", "proc", "sys", "etc", "tmp", "run", "var") if name == "nothing-but-a-program" else ()
    image = load_image(name, *LINKS[name], without=without)
    box = client.create(image=image)
    status = client.get(box)
    if name == "etc-is-a-link-to-proc":
        # The one that is refused: /etc/passwd, by which users are looked up, must be the image's own.
        assert status.state == pb.STATE_FAILED and "/etc/passwd" in status.state_reason
        return
    assert status.state == pb.STATE_RUNNING, status.state_reason
    is_whole(client, box)
    s = client.stream(box, "tty", tty=True)
    s.half_close()
    assert s.result().text.strip() == "/dev/pts/0"
    client.sh(box, "echo x > /dev/null; ls -l /proc/keys")


USERS = ["0:0:0", "-1", "4294967295", "4294967294", "4294967296", "65536", "99999999999999999999", "0x0", "1e3", " 0", "0 ", "+0", ":", "root:", ":root", ":0",
         "root:root:root", "no-such-user", "root:no-such-group", "röot", "０", "root\n", "../etc/passwd", "root:x:0:0", "r" * 300]


@pytest.mark.parametrize("user", USERS)
def test_a10_odd_user_strings_never_become_root_by_mistake(client, load_image, user):
    image = load_image("user", config={"user": user})
    box = client.create(image=image, command="sh", args=["-c", "id -u; id -g; sleep 100"])
    status = client.get(box)
    if status.state == pb.STATE_RUNNING:
        # Accepted: then it must be one of the well-formed ones, and mean what it says.
        assert user in ("root:", ":root", ":0"), client.logs(box)
    else:
        assert status.state == pb.STATE_FAILED
        assert status.state_reason and "\n" not in status.state_reason
        assert "user" in status.state_reason.lower() or "group" in status.state_reason.lower(), status.state_reason


@pytest.mark.parametrize("user,expected", [("nobody", "65534 65534"), ("65534", "65534 65534"), ("1234", "1234 0"), ("1234:99", "1234 99"), ("root:nogroup", "0 65534"),
                                           ("65535:65535", "65535 65535")])
def test_a10_well_formed_user_strings(client, load_image, user, expected):
    image = load_image("user", config={"user": user})
    box = client.create(image=image, command="sh", args=["-c", "echo $(id -u) $(id -g)"])
    client.wait(box)
    assert client.logs(box).decode().strip() == expected, client.get(box)


def test_a10_a_hostile_passwd_file(client, load_image):
    """Fields that overflow, lines without end, a FIFO in its place: init's reader takes it or leaves it."""
    for name, entry in {
        "passwd-overflow": Entry.file("etc/passwd", b"a:x:4294967296:0::/:\nb:x:-1:0::/:\nc:x:0x0:0::/:\n" + b"d" * 200000 + b":x:1:1::/:\n"),
        "passwd-fifo": Entry("etc/passwd", b"6"),
        "passwd-link": Entry.link("etc/passwd", "/proc/self/fd/3"),
        "passwd-is-zero": Entry.link("etc/passwd", "/dev/zero"),
    }.items():
        for user in ("a", "b", "c", "root"):
            image = load_image(name, entry, config={"user": user})
            box = client.create(image=image, command="id", args=["-u"])
            status = client.wait(box)
            if status.state == pb.STATE_COMPLETED:
                assert user == "root" or client.logs(box).strip() not in (b"0", b"65535", b"4294967295")
            else:
                assert status.state_reason
            client.end(box)


