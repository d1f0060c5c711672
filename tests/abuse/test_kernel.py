"""B: namespaces, capabilities, the kernel's surface."""
import re
import socket

import pytest
from support import host as H

DENIED = {"EPERM", "ENOSYS"}
# Docker's default set: chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod audit_write setfcap
CAPS = sum(1 << n for n in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))


def all_denied(outcomes, allowed=()):
    assert outcomes
    got = {k: v for k, v in outcomes.items() if k not in allowed and v not in DENIED and not (k.startswith("setns ") and v == "EACCES")}
    assert not got, got


def caps(text):
    return {k: int(v, 16) for k, v in re.findall(r"^Cap(\w+):\s+(\w+)", text, re.M)}


# ---- B1, B2

def test_b1_capabilities_are_the_default_set_everywhere(client, box):
    main = caps(client.sh(box, "for p in /proc/[0-9]*; do [ $(cat $p/comm) = sleep ] && cat $p/status; done; true"))
    mine = caps(client.sh(box, "cat /proc/self/status"))
    tty = client.stream(box, "cat", "/proc/self/status", tty=True)
    tty.half_close()
    for found in (main, mine, caps(tty.result().text.replace("\r", ""))):
        assert found["Prm"] == found["Eff"] == found["Bnd"] == CAPS
        assert found["Inh"] == found["Amb"] == 0


def test_b1_a_file_capability_gives_nothing_more(client, probe, box):
    client.sh(box, "cp /probe /capable; cp /bin/busybox /capable-cat; chmod 755 /capable /capable-cat")
    assert probe("setcap", "/capable")["setcap"] == "ok"  # root of the namespace may write it
    probe("setcap", "/capable-cat")
    r = client.exec(box, "/capable", "namespaces")
    if r.code == 0:  # else: refused to execute at all
        all_denied(dict(line.rsplit(": ", 1) for line in r.text.splitlines()))
    r = client.exec(box, "/bin/busybox", "su", "-s", "/capable-cat", "nobody", "-c", "cat /proc/self/status")
    found = caps(r.text)
    for kind in ("Prm", "Eff", "Inh", "Amb", "Bnd"):
        assert found.get(kind, 0) & ~CAPS == 0, found


def test_b1_no_capability_comes_back_by_exec(client, box):
    """capset, exec, ambient: what is not in the bounding set stays away, as root and as somebody else."""
    text = client.sh(box, "su -s /bin/sh nobody -c 'cat /proc/self/status'")
    assert caps(text)["Prm"] == caps(text)["Eff"] == 0
    assert caps(text)["Bnd"] == CAPS


def test_b2_setuid_gains_nothing_beyond_the_namespaces_own_set(client, box):
    text = client.sh(box, "mkdir /s; cp /bin/busybox /s; chmod 4755 /s/busybox; su -s /bin/sh nobody -c '/s/busybox cat /proc/self/status'")
    assert caps(text)["Prm"] & ~CAPS == 0
    assert "Uid:\t65534\t" in text
    r = client.exec(box, "su", "-s", "/bin/sh", "nobody", "-c", "/setuid-probe namespaces")
    all_denied(dict(line.rsplit(": ", 1) for line in r.text.splitlines()), allowed=())


def test_b2_forbidding_escalation_holds_for_every_process(client):
    box = client.create(image="hostile", security={"allow_privilege_escalation": False})
    assert "NoNewPrivs:\t1" in client.sh(box, "cat /proc/self/status")
    out = client.sh(box, "su -s /bin/sh nobody -c '/setuid-probe id'", check=None)
    assert "euid: 0" not in out
    client.end(box)


# ---- B3 to B9

def test_b3_namespaces_and_mounts(probe):
    all_denied(probe("namespaces"))


def test_b3_mounts_as_somebody_else(client, box):
    r = client.exec(box, "su", "-s", "/bin/sh", "nobody", "-c", "/probe namespaces")
    all_denied(dict(line.rsplit(": ", 1) for line in r.text.splitlines()))


def test_b4_cgroups_are_out_of_reach(client, host, box, probe):
    assert client.sh(box, "ls -A /sys/fs/cgroup") == ""
    assert "cgroup" not in client.sh(box, "cat /proc/mounts").replace("/sys/fs/cgroup", "")
    assert client.exec(box, "sh", "-c", "mkdir /sys/fs/cgroup/x || echo 1 > /sys/fs/cgroup/cgroup.procs").code != 0
    assert client.exec(box, "mkdir", "/sys/fs/cgroup/x").code != 0
    assert client.exec(box, "mount", "-t", "cgroup", "-o", "rdma", "cgroup", "/tmp").code != 0
    # What a process can see of its own place begins at the sandbox: nothing of the host's tree.
    for line in client.sh(box, "cat /proc/self/cgroup /proc/1/cgroup").splitlines():
        assert "silica" not in line and "/.." not in line, line


def test_b5_host_wide_switches(client, box, probe):
    paths = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/kernel/panic",
             "/proc/sys/kernel/sysrq", "/proc/sys/kernel/randomize_va_space", "/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory",
             "/proc/sys/vm/drop_caches", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/all/route_localnet",
             "/proc/sys/kernel/shmmax", "/proc/sys/fs/mqueue/msg_max",
             "/proc/sys/fs/binfmt_misc/register", "/proc/sys/fs/suid_dumpable", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper",
             "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/module/printk/parameters/time", "/sys/power/state", "/proc/irq/0/smp_affinity",
             "/proc/bus/pci/devices", "/proc/fs/ext4", "/sys/class/net/lo/mtu", "/sys/kernel/profiling", "/proc/1/uid_map"]
    got = {k: v for k, v in probe("files", *paths).items() if k.startswith("write ") and v == "ok"}
    assert not got, got


def test_b6_b7_system_calls(probe):
    outcomes = probe("syscalls")
    all_denied(outcomes)
    for name, value in outcomes.items():
        if name.startswith(("unknown", "x32", "int80")):
            assert value == "ENOSYS", (name, value)


def test_b8_socket_families(probe):
    outcomes = probe("sockets")
    for name in ("unix", "tcp", "udp", "icmp dgram", "netlink route", "socketpair unix"):
        assert outcomes.pop(name) == "ok"
    assert outcomes.pop("tcp6") in ("ok", "EAFNOSUPPORT")
    for name, value in outcomes.items():
        assert value in ("EAFNOSUPPORT", "EPERM", "EACCES", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT"), (name, value)
    for name in ("raw icmp", "raw tcp", "raw raw", "raw icmp6"):
        assert outcomes[name] == "EPERM"


def test_b8_the_network_of_the_sandbox_cannot_be_configured(probe):
    all_denied(probe("netadmin"))


def test_b9_handles(probe):
    outcomes = probe("shocker")
    assert outcomes["open_by_handle_at"] in DENIED
    assert outcomes["open_by_handle_at root"] in DENIED


# ---- B10 to B13

def test_b10_device_nodes(probe):
    outcomes = probe("devices")
    assert outcomes.pop("open whiteout") not in ("ok",)
    all_denied(outcomes)


def test_b10_devices_that_exist_are_the_harmless_ones(client, box, probe):
    names = set(client.sh(box, "cd /dev; find . -type c -o -type b").split())
    assert {n for n in names if not n.startswith("./pts/")} == {"./null", "./zero", "./full", "./random", "./urandom", "./tty"}
    for name, value in probe("files", "/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/port", "/dev/fuse", "/dev/net/tun").items():
        assert value == "ENOENT" or (name.startswith("write") and value in ("EACCES", "EPERM")), (name, value)
    client.sh(box, "rm -f /dev/mem /dev/kmsg /dev/kvm /dev/port /dev/fuse", check=None)


def test_b11_terminal_injection(client, box):
    s = client.stream(box, "/probe", "tty", tty=True)
    s.half_close()
    outcomes = dict(line.rsplit(": ", 1) for line in s.result().text.replace("\r", "").splitlines())
    assert len(outcomes) == 6
    all_denied(outcomes)


def test_b12_kernel_secrets(client, box, probe):
    paths = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats", "/proc/kmsg", "/proc/vmallocinfo",
             "/proc/slabinfo", "/proc/kpagecount", "/proc/kpageflags", "/sys/kernel/debug/x", "/sys/kernel/security/lsm",
             "/sys/firmware/acpi", "/sys/kernel/vmcoreinfo", "/sys/kernel/notes", "/proc/1/stack"]
    for name, value in probe("files", *paths).items():
        if name in ("read /sys/kernel/vmcoreinfo", "read /sys/kernel/notes"):
            continue  # no secret: the address of a note, and the build id
        if name.startswith("write") and re.fullmatch(r"write /proc/(kcore|keys|timer_list|sched_debug|latency_stats)", name):
            continue  # /dev/null lies over it
        assert value != "ok", name
    for d in ("/proc/scsi", "/proc/acpi", "/sys/firmware", "/sys/devices/virtual/powercap"):
        assert client.sh(box, f"ls -A {d} 2>/dev/null", check=None) == "", d
    assert client.exec(box, "dmesg").code != 0
    # Addresses of kernel symbols are zeros.
    assert set(re.findall(r"^(\w+) ", client.sh(box, "head -20 /proc/kallsyms", check=None), re.M)) <= {"0" * 16}


def test_b13_nothing_of_the_host_is_visible(client, daemon, box):
    pids = [int(p) for p in client.sh(box, "ls /proc").split() if p.isdigit()]
    assert len(pids) < 8
    comms = set(client.sh(box, "cat /proc/[0-9]*/comm", check=None).split())
    assert comms <= {"silica-init", "sleep", "sh", "cat", "init"}, comms
    mounts = client.sh(box, "cat /proc/self/mountinfo /proc/mounts")
    for word in (str(daemon.base), "/var/", "/run/", "silica-slots", "/dev/vda", "/dev/loop"):
        assert word not in mounts, [line for line in mounts.splitlines() if word in line]
    inner, outer, count = client.sh(box, "cat /proc/self/uid_map").split()
    assert (inner, count) == ("0", "65536") and int(outer) >= 1_000_000_000
    assert client.sh(box, "cat /proc/self/gid_map").split() == [inner, outer, count]
    assert client.sh(box, "cat /proc/swaps; cat /proc/partitions", check=None).count("/") == 0


def test_b13_each_sandbox_has_a_range_and_namespaces_of_its_own(client, box, neighbour):
    a, b = (client.sh(x, "cat /proc/self/uid_map; ls -l /proc/self/ns | sed 's/.*ns.//'") for x in (box, neighbour))
    ranges = [int(t.split()[1]) for t in (a, b)]
    assert abs(ranges[0] - ranges[1]) >= 65536
    mine, theirs = (dict(re.findall(r"(\w+) -> \w+:\[(\d+)\]", x)) for x in (client.sh(box, "ls -l /proc/self/ns"), client.sh(neighbour, "ls -l /proc/self/ns")))
    own = dict(re.findall(r"(\w+) -> \w+:\[(\d+)\]", "".join(f"{k} -> {H.os.readlink(f'/proc/self/ns/{k}')}\n" for k in mine)))
    for kind in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"):
        assert mine[kind] != theirs[kind], kind
        assert mine[kind] != own[kind], kind


# ---- B14 to B17

def test_b14_abstract_sockets_of_the_host(probe):
    name = "silica-abuse-canary"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("\0" + name)
        s.listen(1)
        assert probe("abstract", name)["connect"] == "ECONNREFUSED"


def test_b14_no_ipc_across_sandboxes(client, box, probe):
    s = client.stream(box, "/probe", "ipc", "make")
    s.until(b"dev shm: ok\n")
    assert set(probe("ipc").values()) == {"ok"}  # the same sandbox sees it
    other = client.create(image="hostile")
    assert set(probe("ipc", in_box=other).values()) == {"ENOENT"}
    assert probe("abstract", "silica-abuse", in_box=other)["connect"] == "ECONNREFUSED"
    s.cancel()
    client.end(other)


@pytest.mark.parametrize("how", ["exec", "stdin", "tty", "main"])
def test_b15_no_descriptor_is_inherited(client, how):
    if how == "main":
        box = client.create(image="hostile", command="/probe", args=["fds"])
        client.wait(box)
        text = client.logs(box).decode()
    else:
        box = client.create(image="hostile")
        s = client.stream(box, "/probe", "fds", tty=how == "tty")
        if how == "stdin":
            s.stdin(b"x")
        s.half_close()
        text = s.result().text.replace("\r", "")
        client.end(box)
    assert text == "listed: ok\n"


def test_b16_pid_1_is_out_of_reach(client, box, probe):
    outcomes = probe("pid1")
    assert outcomes.pop("signals") == "sent"
    for name, value in outcomes.items():
        assert value in ("EPERM", "EACCES"), (name, value)
    assert client.sh(box, "echo alive") == "alive\n"
    assert client.sh(box, "cat /proc/1/status").split("State:\t")[1][0] in "SR"
    # Whatever socket it listens on has no name in here.
    names = [line.split()[7] for line in client.sh(box, "cat /proc/net/unix").splitlines()[1:] if len(line.split()) > 7]
    assert not names, names


def test_b16_not_by_another_user_either(client, box):
    r = client.exec(box, "su", "-s", "/bin/sh", "nobody", "-c", "/probe pid1")
    outcomes = dict(line.rsplit(": ", 1) for line in r.text.splitlines())
    assert outcomes.pop("signals") == "sent"
    assert set(outcomes.values()) <= {"EPERM", "EACCES"}, outcomes
    assert client.sh(box, "echo alive") == "alive\n"


def test_b17_the_filter_is_on_every_thread_of_every_path(client, box):
    stream = client.stream(box, "sh", "-c", "echo here; sleep 100", tty=True)
    stream.until(b"here")
    background = client.stream(box, "sleep", "100")
    background.ready()
    text = client.sh(box, "(sleep 5 &) ; for t in /proc/[0-9]*/task/[0-9]*; do cat $t/status; done; true")
    names = re.findall(r"^Name:\s+(\S+)", text, re.M)
    assert names.count("sleep") >= 4 and len(names) >= 6
    assert re.findall(r"^Seccomp:\s+(\d)", text, re.M) == ["2"] * len(names)
    # One of init's own more for everything that init starts, the same on each path.
    filters = list(zip(names, re.findall(r"^Seccomp_filters:\s+(\d+)", text, re.M)))
    assert {n for name, n in filters if name == "silica-init"} == {"1"}
    assert {n for name, n in filters if name != "silica-init"} == {"2"}, filters
    stream.cancel()
    background.cancel()


def test_core_dumps_reach_no_collector_of_the_host(client, box):
    assert "Max core file size" in client.sh(box, "cat /proc/self/limits")
    hard = re.search(r"Max core file size\s+(\d+)\s+(\d+)", client.sh(box, "cat /proc/self/limits"))
    assert int(hard.group(2)) <= 1


