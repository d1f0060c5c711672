"""What engine/env.h promises, in as few lines as it takes: dictionaries and one loop."""

NAME_MAX = 32 << 10
STRING_MAX = (128 << 10) - 1
TOTAL_MAX = 1 << 20
COUNT_MAX = 16384
LEVELS = ["system", "image", "sandbox", "session", "command"]
COMMAND = 4


class Refused(Exception):
    def __init__(self, kind, name):
        super().__init__(kind, name)
        self.kind, self.name = kind, name


def check_items(items):
    if len(items) > COUNT_MAX:
        raise Refused("invalid", items[COUNT_MAX][1])
    for op, name, value in items:
        if op == "skip":
            continue
        if op != "set":
            value = b""
        if not name or b"\0" in name or b"=" in name or b"\0" in value:
            raise Refused("invalid", name)
        if len(name) > NAME_MAX or len(name) + 1 + len(value) > STRING_MAX:
            raise Refused("invalid", name)


def put(level, items, secret):
    """LEVEL is name -> (value or None for unset, secret)."""
    level = dict(level)
    for op, name, value in items:
        if op == "set":
            level[name] = (value, secret)
        elif op == "unset":
            level[name] = (None, False)
        elif op == "reset":
            level.pop(name, None)
    return level


def flatten(levels):
    out = {}
    for level in levels:
        for name, (value, _) in level.items():
            if value is None:
                out.pop(name, None)
            else:
                out[name] = value
    return sorted(out.items())


def check_total(merged):
    if len(merged) > COUNT_MAX:
        raise Refused("invalid", merged[COUNT_MAX][0])
    if sum(len(n) + len(v) + 2 for n, v in merged) > TOTAL_MAX:
        raise Refused("invalid", max(merged, key=lambda nv: len(nv[0]) + len(nv[1]))[0])


class Model:
    def __init__(self):
        self.levels = [{} for _ in LEVELS]

    def apply(self, level, items, secret=False):
        check_items(items)
        changed = list(self.levels)
        changed[level] = put(self.levels[level], items, secret)
        if len(changed[level]) > COUNT_MAX:
            raise Refused("invalid", max(changed[level]))
        if any(op != "skip" for op, _, _ in items):
            check_total(flatten(changed))
        self.levels = changed

    def strings(self, level, strings):
        pairs = [s.partition(b"=") for s in strings]
        good = [("set", n, v) for n, eq, v in pairs if eq and n]
        self.apply(level, good)
        return len(strings) - len(good)

    def clear(self, level):
        self.levels[level] = {}

    def merge(self, items):
        check_items(items)
        merged = flatten(self.levels[:COMMAND] + [put(self.levels[COMMAND], items, False)])
        check_total(merged)
        return merged

    def lookup(self, name):
        return dict(flatten(self.levels)).get(name)

    def explain(self):
        rows = []
        for name in sorted(set().union(*self.levels)):
            said = [(l, *self.levels[l][name]) for l in reversed(range(len(LEVELS))) if name in self.levels[l]]
            show = lambda value, secret: None if value is None else "\u2022\u2022\u2022".encode() if secret else value
            rows.append((name, said[0][0], said[0][2], show(*said[0][1:]), [(l, show(v, s)) for l, v, s in said[1:]]))
        return rows

    def repack(self):
        """A record keeps everything but secrets."""
        self.levels = [{n: (v, s) for n, (v, s) in level.items() if not s} for level in self.levels]
