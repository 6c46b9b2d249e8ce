"""Loads the variants of a server in turns, and prints requests/s, the processor's time a request takes the server,
and latencies, as ratios. Run by benches/http.sh.

In each round every variant is loaded once, one after the other, so that whatever else the machine does meets them
all. A ratio is made within a round, of a variant and what it is compared to; of the rounds, the median and the
spread are given: the middle half, from the first quartile to the third. Where that covers 1.00, there is no
difference to speak of, and the table says so.
"""

import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request

ROUNDS = int(os.environ.get("ROUNDS", "9"))
SECONDS = os.environ.get("SECONDS_EACH", "2")
CONNECTIONS = "32"
# Only these, if it is set: names with spaces between them.
VARIANTS = os.environ.get("VARIANTS", "").split()

STARLETTE = """
from starlette.applications import Starlette
from starlette.background import BackgroundTasks
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def work():
    pass

async def hello(request):
    count = int(request.path_params["count"])
    if count == 0:
        return PlainTextResponse("Hello, World!")
    tasks = BackgroundTasks()
    for _ in range(count):
        tasks.add_task(work)
    return PlainTextResponse("Hello, World!", background=tasks)

app = Starlette(routes=[Route("/{count:int}", hello)])
"""

# What is compared to what.
PAIRS = [
    ("layer_unused", "no_layer"),
    ("floor", "no_layer"),
    ("layer_unused", "floor"),
    ("layer_1", "spawn_1"),
    ("layer_4", "spawn_4"),
    ("floor_1", "spawn_1"),
    ("floor_4", "spawn_4"),
    ("watching_1", "spawn_1"),
    ("watching_4", "spawn_4"),
    ("keeping_1", "spawn_1"),
    ("keeping_4", "spawn_4"),
    ("waiting_1", "spawn_1"),
    ("waiting_4", "spawn_4"),
    ("layer_1", "floor_1"),
    ("layer_4", "floor_4"),
    ("layer_1", "watching_1"),
    ("layer_4", "watching_4"),
    ("layer_1", "waiting_1"),
    ("layer_4", "waiting_4"),
    ("layer_1", "no_layer"),
    ("layer_4", "no_layer"),
    ("spawn_1", "no_layer"),
    ("spawn_4", "no_layer"),
    ("starlette_1", "starlette_0"),
    ("starlette_4", "starlette_0"),
    ("starlette_0", "no_layer"),
]


def main():
    axum = subprocess.Popen([sys.argv[1], "serve"], stdout=subprocess.PIPE, text=True)
    folder = os.path.dirname(os.path.abspath(sys.argv[2]))
    with open(os.path.join(folder, "background.py"), "w") as file:
        file.write(STARLETTE)
    uvicorn = subprocess.Popen(
        [sys.argv[2], "background:app", "--app-dir", folder, "--port", "0", "--loop", "uvloop", "--http", "httptools",
         "--no-access-log"],
        stderr=subprocess.PIPE, text=True,
    )
    try:
        measure(addresses(axum, uvicorn), {True: uvicorn.pid, False: axum.pid})
    finally:
        axum.kill()
        uvicorn.kill()


def addresses(axum, uvicorn):
    variants = {}
    for line in iter(axum.stdout.readline, "\n"):
        name, port = line.split()
        variants[name] = f"http://127.0.0.1:{port}/"
    for line in uvicorn.stderr:
        port = re.search(r"running on http://127.0.0.1:(\d+)", line)
        if port:
            break
    for count in (0, 1, 4):
        variants[f"starlette_{count}"] = f"http://127.0.0.1:{port.group(1)}/{count}"
    for url in variants.values():
        wait_until_it_answers(url)
    return {name: url for name, url in variants.items() if not VARIANTS or name in VARIANTS}


def wait_until_it_answers(url):
    for _ in range(100):
        try:
            urllib.request.urlopen(url).read()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{url} does not answer")


def measure(variants, pids):
    rounds = []
    for number in range(ROUNDS + 1):
        # The first round warms up, and every other round goes backwards, so that nobody always has the same neighbour.
        order = list(variants) if number % 2 else list(reversed(variants))
        results = {name: load(variants[name], pids[name.startswith("starlette")]) for name in order}
        if number:
            rounds.append(results)
        print(f"round {number} of {ROUNDS}", file=sys.stderr)
    print("| variant | requests/s | CPU in µs | p50 in µs | p99 in µs |\n|---|---|---|---|---|")
    for name in variants:
        values = [statistics.median(results[name][column] for results in rounds) for column in range(4)]
        print(f"| {name} | {values[0]:.0f} | {values[1]:.2f} | {values[2]:.0f} | {values[3]:.0f} |")
    print("\n| variant | against | requests/s | CPU | p50 | p99 |\n|---|---|---|---|---|---|")
    for name, base in PAIRS:
        if name not in variants or base not in variants:
            continue
        ratios = [ratio([results[name][column] / results[base][column] for results in rounds]) for column in range(4)]
        print(f"| {name} | {base} | " + " | ".join(ratios) + " |")


def ratio(values):
    # A single round has no spread.
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    spread = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    return f"no difference: {spread}" if low <= 1.0 <= high else spread


def load(url, pid):
    before = processor_time(pid)
    output = subprocess.run(
        ["wrk", "--threads", "1", "--connections", CONNECTIONS, "--duration", SECONDS + "s", "--latency", url],
        capture_output=True, text=True, check=True,
    ).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"{url} answers with errors:\n{output}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output).group(1))
    requests = int(re.search(r"(\d+) requests in", output).group(1))
    spent = (processor_time(pid) - before) / requests * 1e6
    return rate, spent, microseconds(output, "50%"), microseconds(output, "99%")


def processor_time(pid):
    """The seconds that a process has spent on a processor, its own and the system's for it."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def microseconds(output, quantile):
    value, unit = re.search(rf"{quantile}\s+([\d.]+)(us|ms|s)\b", output).groups()
    return float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


if __name__ == "__main__":
    main()
