"""Random scripts of operations against src/engine/env*.c (through env-driver) and against the model: they must agree.

usage: env_test.py DRIVER [SEED [CASES]]
"""
import random
import subprocess
import sys

import env_model
from env_model import LEVELS, Model, Refused

# Few names, close to each other, so that levels meet; '=' sorts between digits and letters, which the order must ignore.
NAMES = [b"A", b"A1", b"AA", b"AB", b"B", b"B-", b"PATH", b"a", b"_", b"\xc3\xa4", b"x" * 100, b"A.b", b"A B"]
BAD_NAMES = [b"", b"A=B", b"=", b"A\0", b"\0", b"x" * (env_model.NAME_MAX + 1)]
VALUES = [b"", b"1", b"two words", b"a=b", b"\xff\xfe", b"\n", "ä".encode(), b"x" * 300]
BATCH = 4  # operations sent at once; their lines stay far below the size of a pipe
OPS = ["set"] * 6 + ["unset"] * 2 + ["reset"] * 2 + ["skip"]


def hexed(data):
    """@N stands for N letters v: large values without large scripts."""
    return f"@{len(data)}" if len(data) > 2000 and not data.strip(b"v") else data.hex()


def items_text(items):
    return " ".join(f"{op}:{hexed(name)}:{hexed(value)}" for op, name, value in items)


class Driver:
    def __init__(self, path):
        self.p = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *lines):
        """Answers to LINES, asked at once: a round trip costs more than the work. They must fit a pipe."""
        self.p.stdin.write("".join(line.rstrip() + "\n" for line in lines))
        self.p.stdin.flush()
        answers = [self.p.stdout.readline().rstrip("\n").split(" ") for _ in lines]
        return answers if len(lines) > 1 else answers[0]


def random_items(r, big):
    items = []
    for _ in range(r.choice([0, 1, 1, 2, 3, 8])):
        name = r.choice(BAD_NAMES) if r.random() < 0.01 else r.choice(NAMES)
        value = r.choice(VALUES)
        if r.random() < 0.005:
            value = b"a\0b"
        if big and r.random() < 0.5:
            value = b"v" * r.choice([100000, env_model.STRING_MAX - len(name) - 1, env_model.STRING_MAX - len(name), 200000])
        items.append((r.choice(OPS), name, value))
    return items


def quoted(name):
    return "".join(chr(c) if 0x20 <= c < 0x7F and chr(c) not in "'\\" else f"\\x{c:02x}" for c in name[:48])


def outcome(call):
    try:
        return call(), None
    except Refused as e:
        return None, e


def check(script, got, refused, want):
    """GOT is the driver's answer, REFUSED or WANT the model's."""
    if refused is None:
        assert got == want, (script, got[:50], want[:50])
        return
    message = bytes.fromhex(got[2]).decode() if len(got) > 2 else ""
    assert got[:2] == ["err", refused.kind], (script, got, refused)
    assert (f"'{quoted(refused.name)}" in message) if refused.name else ("empty name" in message), (message, refused)
    assert len(message) < 480 and message.isprintable(), message


def value_text(value):
    return "-" if value is None else "=" + value.hex()


def step(r, model, big):
    """One operation: its line, and what the model says about it."""
    what = r.choice(["apply"] * 6 + ["strings", "clear", "merge", "merge", "merge", "lookup", "explain", "repack", "clone"])
    level = r.randrange(len(LEVELS)) if r.random() < 0.3 else r.randrange(len(LEVELS) - 1)
    items = random_items(r, big)
    if what == "apply":
        secret = r.random() < 0.2
        line = f"apply {level} {int(secret)} {items_text(items)}"
        _, refused = outcome(lambda: model.apply(level, items, secret))
        want = ["ok"]
    elif what == "strings":
        strings = [r.choice(NAMES + [b""]) + r.choice([b"=", b"", b"=="]) + r.choice(VALUES[:6]) for _ in range(r.randrange(4))]
        line = f"strings {level} " + " ".join("." + s.hex() for s in strings)
        skipped, refused = outcome(lambda: model.strings(level, strings))
        want = ["ok", str(skipped)]
    elif what == "clear":
        line, refused, want = f"clear {level}", None, ["ok"]
        model.clear(level)
    elif what == "merge":
        line = "merge " + items_text(items)
        merged, refused = outcome(lambda: model.merge(items))
        want = ["ok"] + [(n + b"=" + v).hex() for n, v in merged or []]
    elif what == "lookup":
        name = r.choice(NAMES)
        line, refused = "lookup " + name.hex(), None
        want = ["ok", value_text(model.lookup(name))]
    elif what == "explain":
        line, refused, want = "explain", None, ["ok"]
        for name, lv, secret, value, shadowed in model.explain():
            row = [name.hex(), str(lv), str(int(secret)), value_text(value)] + [f"{l}{value_text(v)}" for l, v in shadowed]
            want.append(",".join(row))
    elif what == "repack":
        line, refused, want = "repack", None, ["ok"]
        model.repack()
    else:
        line, refused, want = "clone", None, ["ok"]
    return line, refused, want


def limits(driver):
    """The limits that random scripts do not reach: the number of variables, given, at a level and merged."""
    for count, level in [(env_model.COUNT_MAX, 0), (env_model.COUNT_MAX + 1, 0)]:
        model = Model()
        driver.ask("new")
        items = [("set", b"N%05d" % i, b"") for i in range(count)]
        _, refused = outcome(lambda: model.apply(level, items))
        check(["many"], driver.ask(f"apply {level} 0 {items_text(items)}"), refused, ["ok"])
        more = [("set", b"another", b"1")]
        for lv in (level, 1):
            _, refused = outcome(lambda: model.apply(lv, more))
            check(["one more"], driver.ask(f"apply {lv} 0 {items_text(more)}"), refused, ["ok"])
        merged, refused = outcome(lambda: model.merge(more))
        check(["merge one more"], driver.ask("merge " + items_text(more)), refused,
              ["ok"] + [(n + b"=" + v).hex() for n, v in merged or []])


def main():
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 20261120
    cases = int(sys.argv[3]) if len(sys.argv) > 3 else 4000
    r = random.Random(seed)
    driver = Driver(sys.argv[1])
    steps = 0
    limits(driver)
    for case in range(cases):
        model, script = Model(), [f"seed {seed} case {case}"]
        assert driver.ask("new") == ["ok"]
        big = case % 100 == 99
        for _ in range(r.randrange(1, 6)):
            batch = [step(r, model, big) for _ in range(BATCH)]
            script += [line[:300] for line, _, _ in batch]
            for got, (_, refused, want) in zip(driver.ask(*(line for line, _, _ in batch)), batch):
                check(script, got, refused, want)
            steps += BATCH
    driver.p.stdin.close()
    assert driver.p.wait() == 0, "the driver failed"
    print(f"{cases} cases, {steps} steps agree (seed {seed})")


main()
