#!/usr/bin/env python3
"""The tail of writes while a large state is written to a snapshot.

    cargo build --release
    tests/measure/snapshot_tail.py target/release [--state-mib 1024] [--minutes 5] [--dir DIR]

Three members on one disk are filled to the given state (4 KiB values). Then 64 clients write 256-byte values at the
leader in windows of four seconds, while the log grows by itself to the next snapshot of each member. A window counts as
"with" if some member was writing a snapshot in at least nine tenths of it, as "without" if none was in any of it;
others are left out. Printed: median and worst p99 of the windows of either kind.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

PEERS = ["http://127.0.0.1:12379", "http://127.0.0.1:22379", "http://127.0.0.1:32379"]
PORTS = [12380, 22380, 32380]
WINDOW = 4.0


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def metric(port, name):
    return next(float(line.split()[1]) for line in get(port, "/metrics").splitlines() if line.startswith(name + " "))


def leader():
    return next(port for port in PORTS if metric(port, "etcd_server_is_leader") == 1)


def bench(binaries, port, **flags):
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [f"{binaries}/kvctl", "bench", "put", "--endpoints", f"http://127.0.0.1:{port}", "--json", *words]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Watch(threading.Thread):
    """Looks ten times a second which members are writing a snapshot: their file has its temporary name."""

    def __init__(self, root):
        super().__init__(daemon=True)
        self.root, self.samples, self.done = root, [], False

    def run(self):
        while not self.done:
            self.samples.append(len({path.parent for path in self.root.glob("kvd-*/snap/*.tmp")}))
            time.sleep(0.1)


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("binaries")
    flags.add_argument("--state-mib", type=int, default=1024)
    flags.add_argument("--minutes", type=float, default=5)
    flags.add_argument("--dir", default=".")
    flags = flags.parse_args()
    binaries = pathlib.Path(flags.binaries).resolve()
    with tempfile.TemporaryDirectory(prefix="snapshot-tail-", dir=flags.dir) as root:
        root = pathlib.Path(root)
        members = []
        try:
            for number, port in enumerate(PORTS, 1):
                command = [binaries / "kvd", "--id", str(number), "--cluster", ",".join(PEERS), "--port", str(port)]
                members.append(subprocess.Popen(command, cwd=root, stderr=open(root / f"{number}.log", "w")))
            for port in PORTS:
                for _ in range(200):
                    try:
                        get(port, "/readyz")
                        break
                    except OSError:
                        time.sleep(0.05)
            measure(binaries, root, flags)
        finally:
            for member in members:
                member.terminate()
            for member in members:
                member.wait()


def measure(binaries, root, flags):
    keys = flags.state_mib * 256
    filled, seconds = 0, keys / 5000
    while filled < 3 * keys:  # 19 of 20 keys; one run, for each run writes the same keys in the same order
        filled = bench(binaries, leader(), clients=64, seconds=seconds, warmup=0, value_bytes=4096, keys=keys)["acknowledged"]
        print(f"filled with {filled} writes in {seconds:.0f} s", file=sys.stderr)
        seconds *= 2

    windows = {"with": [], "without": []}
    end = time.time() + 60 * flags.minutes
    while time.time() < end:
        watch = Watch(root)
        watch.start()
        report = bench(binaries, leader(), clients=64, seconds=WINDOW, warmup=0, value_bytes=256, keys=1000)
        watch.done = True
        watch.join()
        busy = sum(1 for n in watch.samples if n) / len(watch.samples)
        kind = "with" if busy >= 0.9 else "without" if busy == 0 else "left out"
        latency = report["latency_us"]
        print(f"{kind:9} members {max(watch.samples)} put/s {report['per_second']:.0f} p50 {latency['p50'] / 1000:.1f}"
              f" p99 {latency['p99'] / 1000:.1f} p99.9 {latency['p99_9'] / 1000:.1f} ms {report['errors'] or ''}",
              file=sys.stderr)
        if kind in windows:
            windows[kind].append(report)
    sizes = [max(path.stat().st_size for path in root.glob(f"kvd-{n}/snap/*.snap")) for n in (1, 2, 3)]
    print("newest snapshots, MiB:", *(size >> 20 for size in sizes))
    for kind, reports in windows.items():
        p99 = [report["latency_us"]["p99"] / 1000 for report in reports]
        rate = [report["per_second"] for report in reports]
        if reports:
            print(f"{kind:8} {len(reports)} windows: put/s median {statistics.median(rate):.0f},"
                  f" p99 median {statistics.median(p99):.1f} ms, worst {max(p99):.1f} ms")


if __name__ == "__main__":
    main()
