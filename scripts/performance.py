"""Makes the tables and plots of docs/performance.md out of what scripts/measure has measured.

    performance.py collect <criterion's folder>    prints the times of a run as JSON
    performance.py write <folder of results>       fills in docs/performance.md and docs/*.svg

A table stands between `<!-- name -->` and `<!-- end -->`. A benchmark's time is that of its fastest sample. Times are
compared within a run; of several runs, the median of the ratios is given, and their range where it shows.
"""

import json
import math
import pathlib
import re
import statistics
import sys

FLAVORS = ("current_thread", "multi_thread_2")
BASE = "TaskTracker"
DOCUMENT = pathlib.Path("docs/performance.md")


def collect(folder):
    """The fastest of the samples of each benchmark: the one that other work on the machine has disturbed least."""
    fastest = {}
    for file in pathlib.Path(folder).glob("**/new/benchmark.json"):
        names = json.loads(file.read_text())
        sample = json.loads(file.with_name("sample.json").read_text())
        tasks = (names["throughput"] or {"Elements": 1})["Elements"]
        time = min(time / count for time, count in zip(sample["times"], sample["iters"]))
        fastest.setdefault(names["group_id"], {})[names["function_id"]] = time / tasks
    json.dump(fastest, sys.stdout, indent=1)


class Runs:
    """The times, in nanoseconds a task, of some runs of the micro-benchmarks."""

    def __init__(self, folder, step):
        self.runs = [json.loads(file.read_text()) for file in sorted(folder.glob(f"{step}-*.json"))]

    def ratios(self, one, other):
        return [run[one[0]][one[1]] / run[other[0]][other[1]] for run in self.runs]

    def ratio(self, group, peer, base=BASE):
        return spread(self.ratios((group, peer), (group, base)))

    def across(self, one, other):
        return spread(self.ratios(one, other))

    def middle(self, group, peer, base=BASE):
        return statistics.median(self.ratios((group, peer), (group, base)))

    def nanoseconds(self, group, peer):
        return spread([run[group][peer] for run in self.runs], digits=0)


def spread(values, digits=2):
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def spawn(core):
    peers = [("`TaskTracker::spawn`", BASE), ("**`TaskRegistry::spawn`** of a future", "postlude"),
             ("**`TaskRegistry::spawn`** of a task with a name", "postlude_named"),
             ("*the floor*: listed, abortable, guarded, counted and timed, and no more", "floor"),
             ("`TaskTracker::spawn`, with three readings of the clock", "timed"),
             ("`tokio::spawn`, awaited", "tokio_spawn"), ("`JoinSet`", "JoinSet"),
             ("a mutex and a hash map", "by_hand"), ("`TaskTracker`, with tokio-metrics", "tokio_metrics"),
             ("`FuturesUnordered`", "FuturesUnordered"), ("boxed futures, awaited in place", "in_place")]
    rows = [[name] + [core.ratio(f"spawn/{flavor}", peer) for flavor in FLAVORS] for name, peer in peers]
    rows.append(["`TaskTracker::spawn`, in ns"] + [core.nanoseconds(f"spawn/{flavor}", BASE) for flavor in FLAVORS])
    return table(["a task", *FLAVORS], rows)


def sets(core):
    rows = []
    for size in (1, 4, 16, 256):
        groups = [f"set_of_{size}/{flavor}" for flavor in FLAVORS]
        rows.append([f"**a set of {size}**"] + [core.ratio(group, "postlude") for group in groups])
        rows.append([f"*the floor*: {size} listed, guarded, counted and timed, and no more"]
                    + [core.ratio(group, "floor") for group in groups])
        rows.append([f"{size} boxed in one spawn, with two readings of the clock each"]
                    + [core.ratio(group, "timed") for group in groups])
        rows.append([f"{size} boxed in one spawn"] + [core.ratio(group, "rows_in_TaskTracker") for group in groups])
    rows.append(["a set without tasks, in ns"] + [core.nanoseconds(f"set_of_0/{f}", "postlude") for f in FLAVORS])
    return table(["a task, against a `TaskTracker::spawn`", *FLAVORS], rows)


def add(core):
    group = "add/current_thread"
    rows = [["**`TaskSet::add`**", core.ratio(group, "postlude", "boxed_push"), core.nanoseconds(group, "postlude")],
            ["a push of a boxed future", "1.00", core.nanoseconds(group, "boxed_push")]]
    return table(["the add alone", "ratio", "ns"], rows)


def logging(core):
    peers = (("`TaskTracker::spawn`", BASE), ("**`TaskRegistry::spawn`** of a future", "postlude"),
             ("**`TaskRegistry::spawn`** of a task with a name", "postlude_named"))
    rows = [[name, *(core.across((f"logging/{flavor}", peer), (f"spawn/{flavor}", peer)) for flavor in FLAVORS),
             core.across((f"logging_json/{FLAVORS[0]}", peer), (f"spawn/{FLAVORS[0]}", peer))] for name, peer in peers]
    spans = [core.across((f"logging/{flavor}", "spans_at_info"), (f"spawn/{flavor}", "postlude_named"))
             for flavor in FLAVORS]
    json_spans = core.across((f"logging_json/{FLAVORS[0]}", "spans_at_info"), (f"spawn/{FLAVORS[0]}", "postlude_named"))
    rows.append(["the same with `span_level(Level::INFO)`", *spans, json_spans])
    return table(["at INFO, against no subscriber", *FLAVORS, f"JSON, {FLAVORS[0]}"], rows)


def service(core):
    rows = [["`TaskTracker`, `Semaphore`, `timeout` and `tracing::error!`, by hand", *("1.00" for _ in FLAVORS)],
            ["**`TaskRegistry::spawn`** with a name, a limit and a time limit",
             *(core.ratio(f"service/{flavor}", "postlude", "by_hand") for flavor in FLAVORS)],
            ["by hand, in ns", *(core.nanoseconds(f"service/{flavor}", "by_hand") for flavor in FLAVORS)]]
    return table(["a task of a service that logs at INFO", *FLAVORS], rows)


def policies(core):
    names = list(core.runs[0][f"policies/{FLAVORS[0]}"])
    names.sort(key=lambda name: core.middle(f"policies/{FLAVORS[0]}", name, "none"))
    rows = [[f"`{name}`" if name != "none" else name]
            + [core.ratio(f"policies/{flavor}", name, "none") for flavor in FLAVORS] for name in names]
    return table(["a spawned task with", *FLAVORS], rows)


def profile(core):
    peers = [("`TaskTracker::spawn`", BASE), ("`TaskTracker`, with tokio-metrics", "tokio_metrics"),
             ("**`TaskRegistry::spawn`**", "postlude"), ("**the same with a profile**", "postlude_profile")]
    groups = [f"profile_{polls}/{flavor}" for polls in (1, 10) for flavor in FLAVORS]
    rows = [[name] + [core.ratio(group, peer) for group in groups] for name, peer in peers]
    rows.append(["`TaskTracker::spawn`, in ns"] + [core.nanoseconds(group, BASE) for group in groups])
    heads = [f"{polls}, {flavor}" for polls in ("1 poll", "10 polls") for flavor in FLAVORS]
    return table(["a task", *heads], rows)


def threads(core):
    peers = [("**`TaskSet::add`, then `clear`**", "postlude_add_and_clear"), ("**`TaskRegistry::spawn`**", "postlude"),
             ("`TaskTracker::spawn`", BASE)]
    rows = [[name, core.across(("threads_2", peer), ("threads_1", peer))] for name, peer in peers]
    return table(["", "two threads at once, against one"], rows)


LIVE = (1_000, 10_000, 100_000, 1_000_000)


def live(core):
    peers = [("**`TaskRegistry::spawn`**", "postlude"), ("**a set of 4**", "postlude_sets_of_4"),
             ("`TaskTracker::spawn`", BASE)]
    group = "live_{}/current_thread"
    rows = [[name] + [core.across((group.format(count), peer), (group.format(LIVE[0]), peer)) for count in LIVE[1:]]
            for name, peer in peers]
    return table(["a task, against one with 1,000 live", *(f"{count:,} live" for count in LIVE[1:])], rows)


def layer(runs):
    group, bare = "request", {"1 bare spawn": "1 task", "4 bare spawns": "4 tasks"}
    names = ["no layer", "a layer that does nothing", "the floor", "layer, no task"]
    for base, tasks in bare.items():
        names += [base, *(f"the {floor}floor, {tasks}" for floor in ("", "watching ", "keeping ", "waiting ")),
                  f"layer, {tasks}"]
    rows = []
    for name in names:
        base = next((base for base, tasks in bare.items() if name.endswith(tasks)), None)
        rows.append([name, runs.ratio(group, name, "no layer"), runs.ratio(group, name, base) if base else "",
                     runs.nanoseconds(group, name)])
    return table(["a request", "against no layer", "against bare spawns", "ns"], rows)


def floors(core, request, http):
    """What postlude costs, beside the least that the same promises can cost. `http` is what benches/http.sh printed."""
    rows = []
    for name, group in (("a spawned task", "spawn"), *((f"a set of {size}", f"set_of_{size}") for size in (1, 4, 16))):
        rows += [[f"{name}, {flavor}", "`TaskTracker::spawn`"]
                 + [core.ratio(f"{group}/{flavor}", peer) for peer in ("postlude", "floor")] for flavor in FLAVORS]
    for name, base, ours, least in (
            ("no task", "no layer", "layer, no task", "the floor"),
            ("1 task", "1 bare spawn", "layer, 1 task", "the floor, 1 task"),
            ("1 task, when the bytes have left", "1 bare spawn", "layer, 1 task", "the watching floor, 1 task"),
            ("1 task, kept", "1 bare spawn", "layer, 1 task", "the keeping floor, 1 task"),
            ("1 task, kept, with all waits", "1 bare spawn", "layer, 1 task", "the waiting floor, 1 task")):
        rows.append([f"a request in process, {name}", base]
                    + [request.ratio("request", peer, base) for peer in (ours, least)])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in http.splitlines()]
    # Those of the second table: a variant, what it is compared to, requests/s, CPU, and two more.
    served = {(line[0], line[1]): line[3] for line in lines if len(line) == 6}
    for name, base, ours, least in (
            ("no task", "no_layer", "layer_unused", "floor"),
            ("1 task", "spawn_1", "layer_1", "floor_1"),
            ("1 task, when the bytes have left", "spawn_1", "layer_1", "watching_1"),
            ("1 task, kept", "spawn_1", "layer_1", "keeping_1"),
            ("1 task, kept, with all waits", "spawn_1", "layer_1", "waiting_1")):
        if (ours, base) in served and (least, base) in served:
            rows.append([f"CPU of a request over loopback, {name}", f"`{base}`", served[ours, base], served[least, base]])
    return table(["", "against", "postlude", "the floor"], rows)


def goals(core, results):
    """What was to be reached, what is, and what the least code with the same promises reaches."""
    def read(name):
        file = results / f"{name}.md"
        lines = file.read_text().splitlines() if file.exists() else []
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    def figure(text):
        """The first number of a cell, with its range."""
        found = re.search(r"\d+\.\d+(?: \(\d+\.\d+ to \d+\.\d+\))?", text)
        return found[0] if found else ""

    rows = []

    def row(what, goal, ours, least="", is_least=False):
        reached = float(ours.split()[0].replace(",", "")) if ours else None
        if reached is not None:
            is_met = reached >= goal if is_least else reached <= goal
            words = "at least" if is_least else "at most"
            rows.append([what, f"{words} {goal:,}", ours, least, "yes" if is_met else "no"])

    for name, group, limits in (("a spawned task", "spawn", (2.4, 2.4)), ("a set of 1", "set_of_1", (2.3, 2.2)),
                                ("a set of 4", "set_of_4", (1.0, 1.0)), ("a set of 16", "set_of_16", (0.7, 0.7))):
        for flavor, limit in zip(FLAVORS, limits):
            row(f"{name}, against a `TaskTracker::spawn`, {flavor}", limit,
                core.ratio(f"{group}/{flavor}", "postlude"), core.ratio(f"{group}/{flavor}", "floor"))
    for flavor in FLAVORS:
        row(f"a task with a name at `INFO`, against no subscriber, {flavor}", 1.3,
            core.across((f"logging/{flavor}", "postlude_named"), (f"spawn/{flavor}", "postlude_named")))
        for policy, limit in (("max_concurrent_never_met", 1.1), ("limit_of_its_name_never_met", 1.1),
                              ("timeout", 1.5)):
            if policy in core.runs[0][f"policies/{flavor}"]:
                row(f"a task with `{policy}`, against one with a name, {flavor}", limit,
                    core.ratio(f"policies/{flavor}", policy, "named"))
    by_hand = [line for line in read("instructions") if line[0].startswith("a set of 4, drained by hand")]
    for line in by_hand:
        row("a set drained by hand, against its last handle, in instructions", 1.03, line[3])
    served = {(line[0], line[1]): figure(line[2]) for line in read("http") if len(line) == 6}
    for variant, base, limit, floor in (("layer_unused", "no_layer", 0.96, "floor"),
                                        ("layer_1", "spawn_1", 0.88, "waiting_1")):
        row(f"requests/s of `{variant}`, against `{base}`", limit, served.get((variant, base), ""),
            served.get((floor, base), ""), is_least=True)
    worst = {line[0]: [cell.split(", ")[-1] for cell in line[1:]] for line in read("worst") if len(line) == 6}
    control = worst.get("the control: a box")
    for call, times in worst.items():
        if control and call.startswith("**"):
            above = max(int(time) - max(int(box) for box in control) for time in times if time)
            row(f"{call}: the worst call above the worst of the control, in µs", 200, str(max(above, 0)))
    shutdown = ""
    for line in read("worst"):
        if line[0].startswith("a shutdown of"):
            shutdown = line[0]
        elif shutdown and line[-1].isdigit():
            row(f"{shutdown}, {line[0]}, beyond its grace, in ms", 1_000, line[1])
    for line in read("memory"):
        if line[0].startswith("each name in a shard"):
            row("bytes of a name in a shard", 2_048, line[1])
    return table(["", "goal", "is", "the floor", "reached"], rows)


def plot(title, x_label, y_label, ticks, series):
    """An SVG with a logarithmic x axis and a y axis from zero; each series is a name and its points."""
    width, height, left, top, right, bottom = 640, 360, 60, 40, 190, 50
    low, high = math.log(ticks[0]), math.log(ticks[-1])
    most = max(y for _, points in series for _, y in points) * 1.1
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10) if most / step <= 7)

    def place(x, y):
        across = left + (math.log(x) - low) / (high - low) * (width - left - right)
        return across, height - bottom - y / most * (height - top - bottom)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
             f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>',
             f'<text x="{left}" y="22" font-size="14">{title}</text>']
    for number in range(int(most / step) + 1):
        _, y = place(ticks[0], number * step)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - right}" y2="{y:.1f}" stroke="#ddd"/>'
                     f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{number * step:g}</text>')
    for tick in ticks:
        x, _ = place(tick, 0)
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{tick:,}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text x="{middle}" y="{height - 10}" text-anchor="middle">{x_label}</text>'
                 f'<text transform="translate(16 {(top + height - bottom) / 2}) rotate(-90)" '
                 f'text-anchor="middle">{y_label}</text>')
    colors = ("#c33", "#36c", "#999", "#393", "#c90")
    ends = sorted((place(*points[-1])[1], index) for index, (_, points) in enumerate(series))
    heights, lowest = {}, top
    for y, index in ends:
        heights[index] = lowest = max(y, lowest)
        lowest += 14
    for index, (name, points) in enumerate(series):
        color = colors[index % len(colors)]
        places = [place(x, y) for x, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places)
        parts.append(f'<text x="{width - right + 10}" y="{heights[index] + 4:.1f}" fill="{color}">{name}</text>')
    return "\n".join(parts) + "\n</svg>\n"


def plot_sets(core):
    sizes = (1, 4, 16, 256)
    group = "set_of_{}/{}"

    def points(peer, flavor):
        return [(size, core.middle(group.format(size, flavor), peer)) for size in sizes]

    series = [(f"set, {flavor}", points("postlude", flavor)) for flavor in FLAVORS]
    series.append(("TaskTracker::spawn", [(size, 1.0) for size in sizes]))
    series.append((f"the floor, {FLAVORS[0]}", points("floor", FLAVORS[0])))
    series.append(("boxed, one spawn", points("rows_in_TaskTracker", FLAVORS[0])))
    return plot("Cost of a task, by the size of its set", "tasks in the set", "of a TaskTracker::spawn", sizes, series)


def plot_live(core):
    group = "live_{}/current_thread"
    series = [(name, [(count, statistics.median([run[group.format(count)][peer] for run in core.runs]))
                      for count in LIVE])
              for name, peer in (("TaskRegistry::spawn", "postlude"), ("set of 4", "postlude_sets_of_4"),
                                 ("TaskTracker::spawn", BASE))]
    most = max(y for _, points in series for _, y in points)
    scaled = [(name, [(x, y / most) for x, y in points]) for name, points in series]
    return plot("Cost of a task, by how many are live", "live tasks", "of the dearest", LIVE, scaled)


def write(folder):
    folder = pathlib.Path(folder)
    text = DOCUMENT.read_text()

    def fill(name, content):
        nonlocal text
        between = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
        text, found = re.subn(between, lambda mark: f"{mark[1]}{content.strip()}\n{mark[2]}", text, flags=re.DOTALL)
        if found != 1:
            sys.exit(f"{DOCUMENT} has {found} places for `{name}`")

    core, request = Runs(folder, "core"), Runs(folder, "layer")
    if core.runs:
        for make in (spawn, sets, add, logging, service, policies, profile, threads, live):
            fill(make.__name__.replace("_", " "), make(core))
        (DOCUMENT.parent / "cost-by-set-size.svg").write_text(plot_sets(core))
        (DOCUMENT.parent / "cost-by-live-tasks.svg").write_text(plot_live(core))
    if request.runs:
        fill("layer", layer(request))
    if core.runs and request.runs:
        http = folder / "http.md"
        fill("floors", floors(core, request, http.read_text() if http.exists() else ""))
        fill("goals", goals(core, folder))
    for step in ("memory", "worst", "instructions", "http"):
        file = folder / f"{step}.md"
        if file.exists():
            fill(step, file.read_text())
    for step in ("core", "layer", "http"):
        file = folder / f"{step}.machine"
        if file.exists():
            fill(f"machine of {step}", file.read_text())
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    {"collect": collect, "write": write}[sys.argv[1]](sys.argv[2])
