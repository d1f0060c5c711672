"""Rows of results: what, measured, target, whether it was met."""
import statistics


def percentile(samples, p):
    s = sorted(samples)
    return s[min(len(s) - 1, int(len(s) * p / 100))]


def median(samples):
    return statistics.median(samples)


def row(what, value, unit, target=None, below=True, loose=10.0, note=""):
    """TARGET: the value has to be at most that (BELOW) or at least that. LOOSE: the factor that --short allows on top."""
    met = far = None
    if target is not None:
        met = value <= target if below else value >= target
        far = value <= target * loose if below else value >= target / loose
    return {"what": what, "value": round(value, 3), "unit": unit, "target": target, "below": below, "met": met, "loose": far, "note": note}


def number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"


def show(rows, short):
    for r in rows:
        target = "" if r["target"] is None else ("≤ " if r["below"] else "≥ ") + number(r["target"])
        verdict = {None: "", True: "yes", False: "NO"}[r["met"]]
        print(f"{r['what']:<58} {number(r['value']):>9} {r['unit']:<6} {target:>9}  {verdict:<3} {r['note']}".rstrip(), flush=True)
