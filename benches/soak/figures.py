"""What the samples of a soak say: whether something grows, a picture, and a row of a table.

In go samples (time, process, value) and marks; out come a slope with its confidence interval, and
texts. Nothing is measured here.
"""
import datetime, math, os, subprocess

Z95 = 1.96
LAG = 30


def slope(samples, warm):
    """Per hour: slope, half of its 95 % interval, and mean; `None` where there is too little.

    By least squares with a level of its own for each process, without its first `warm` seconds (or
    a quarter of what it had). Neighbours in time are alike: the interval is Newey and West's.
    """
    begin = {}
    for at, pid, _ in samples:
        begin.setdefault(pid, at)
    end = {pid: at for at, pid, _ in samples}
    kept = [(at, pid, value) for at, pid, value in samples
            if at - begin[pid] >= min(warm, (end[pid] - begin[pid]) / 4)]
    groups = {}
    for at, pid, value in kept:
        groups.setdefault(pid, []).append((at, value))
    points = []
    for group in groups.values():
        if len(group) < 10:
            continue
        x = sum(at for at, _ in group) / len(group)
        y = sum(value for _, value in group) / len(group)
        points += [(at - x, value - y) for at, value in group]
    square = sum(x * x for x, _ in points)
    if len(points) < 60 or not square:
        return None
    found = sum(x * y for x, y in points) / square
    scores = [x * (y - found * x) for x, y in points]
    total = sum(it * it for it in scores)
    for lag in range(1, min(LAG, len(scores))):
        weight = 1 - lag / LAG
        total += 2 * weight * sum(a * b for a, b in zip(scores, scores[lag:]))
    half = Z95 * math.sqrt(max(total, 0)) / square
    mean = sum(value for _, _, value in kept) / len(kept)
    return found * 3600, half * 3600, mean


def version(ringway):
    text = subprocess.run([ringway, "--version"], capture_output=True, text=True).stdout
    return text.strip() or "?"


def row(soak, rss, fds, peak, rests, unexplained, seconds):
    """A row of the table in docs/benchmarks/soak.md."""
    def shown(found, unit):
        if not found:
            return "too short to say"
        return f"{found[0]:+.1f} ± {found[1]:.1f}{unit}/h around {found[2]:.0f}{unit}"

    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(soak.done.items()))
    marks = [what.split()[0] for _, what in soak.marks]
    limit = f"{peak / (1 << 20):.0f} MiB" if peak else "no cgroup"
    return ("| date | minutes | load | done | reloads, upgrades, restarts | errors: unexplained, explained "
            "| RSS | descriptors, at rest | peak of the cgroup |\n"
            "|---|---|---|---|---|---|---|---|---|\n"
            f"| {datetime.date.today()} | {seconds / 60:.0f} | {soak.options.share:.0%} of the most: "
            f"{soak.rates[0]} and {soak.rates[1]}/s | {counts} "
            f"| {marks.count('reload')}, {marks.count('upgrade')}, {marks.count('restart')} "
            f"| {len(unexplained)}, {len(soak.errors) - len(unexplained)} | {shown(rss, ' KiB')} "
            f"| {shown(fds, '')}, {rests[3]} | {limit} |")


COLOURS = {"reload": "#bbb", "upgrade": "#c33", "restart": "#36c", "load": "#000"}


def plot(path, samples, marks):
    """RSS and descriptors over time, with a line for each thing that was done."""
    width, height, left = 900, 200, 70
    end = max(samples[-1][0], 1)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + left + 20} 520" '
             'font-family="sans-serif" font-size="12">',
             '<rect width="100%" height="100%" fill="#fff"/>']
    charts = [("RSS of the youngest process, MiB", [it[2] / 1024 for it in samples]),
              ("descriptors of it", [it[3] for it in samples])]
    for index, (title, values) in enumerate(charts):
        top = 30 + index * (height + 45)
        most = max(values) * 1.1 or 1
        parts.append(f'<text x="{left}" y="{top - 8}">{title}</text>')
        for at, what in marks:
            x = left + at / end * width
            parts.append(f'<path d="M{x:.1f} {top}V{top + height}" '
                         f'stroke="{COLOURS[what.split()[0]]}" stroke-width=".5"/>')
        for step in range(5):
            y = top + height - step * height / 4
            parts.append(f'<path d="M{left} {y}h{width}" stroke="#ddd"/>'
                         f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">'
                         f'{most * step / 4:.0f}</text>')
        points = " ".join(f"{left + it[0] / end * width:.1f},{top + height - value / most * height:.1f}"
                          for it, value in zip(samples, values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="#184" stroke-width="1.5"/>')
    parts.append(f'<text x="{left}" y="512">{end / 60:.0f} minutes; grey: reloads, blue: restarts of '
                 'origins, red: upgrades</text></svg>')
    with open(path, "w") as file:
        file.write("\n".join(parts) + "\n")
