"""The rows of the table: each a function that measures, in rounds that alternate between the sides.

A row gives a `Result`: one number a round for kvd and for what it is compared with. What is compared is the median.
"""

import concurrent.futures
import contextlib
import dataclasses
import http.client
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

import systems

KEYS = 100_000
VALUE = 256


@dataclasses.dataclass
class Row:
    """What a row is about. `floor` and `goal` are for the ratio of kvd to the other, or else absolute."""
    name: str
    title: str
    unit: str
    other: str
    floor: float
    goal: float
    measure: object = None
    lower_is_better: bool = False
    absolute: bool = False
    long: bool = False


@dataclasses.dataclass
class Result:
    kvd: list
    other: list
    note: str = ""


ROWS = {}


def row(name, title, unit, other, floor, goal, **more):
    def register(function):
        ROWS[name] = Row(name, title, unit, other, floor, goal, function, **more)
        return function
    return register


class Bench:
    """What the rows share: the flags, and clusters that are started when they are first wanted."""

    def __init__(self, site, flags):
        self.site, self.flags, self.running = site, flags, {}

    def shared(self, kind):
        if kind not in self.running:
            self.running[kind] = kind(self.site)
        return self.running[kind]

    @contextlib.contextmanager
    def fresh(self, kind):
        """A system of its own; those that are shared are ended first, so that nothing else runs."""
        self.end_shared()
        system = kind(self.site)
        try:
            yield system
        finally:
            system.end()

    def end_shared(self):
        while self.running:
            self.running.popitem()[1].end()

    def alternate(self, *sides):
        """Each side once, not counted, and then in turn for the rounds: a list of numbers for each side."""
        for side in sides:
            side()
        found = [[] for _ in sides]
        for number in range(self.flags.rounds):
            # Who goes first changes, so that nobody always follows the other's work on the disk.
            order = list(range(len(sides)))[:: -1 if number % 2 else 1]
            for place in order:
                found[place].append(sides[place]())
            print("   ", *(f"{values[-1]:12,.2f}" for values in found), file=sys.stderr, flush=True)
        return Result(*found)

    def scaled(self, size):
        return max(1, int(size * self.flags.scale))

    def timing(self):
        return {"seconds": self.flags.seconds, "warmup": self.flags.warmup}


def per_second(report):
    return report["per_second"]


def p50_ms(report):
    return report["latency_us"]["p50"] / 1000


def against_etcd(bench, kind, figure, clients, pick=lambda cluster: cluster.leader()):
    kvd, etcd = bench.shared(systems.Kvd), bench.shared(systems.Etcd)
    def side(cluster):
        flags = {"clients": clients, "keys": KEYS, **bench.timing()}
        return lambda: figure(cluster.load(kind, pick(cluster), **flags))
    if kind == "get":
        for cluster in (kvd, etcd):
            if not getattr(cluster, "filled", False):
                cluster.load("fill", cluster.leader(), clients=64, keys=KEYS, value_bytes=VALUE)
                cluster.filled = True
    return bench.alternate(side(kvd), side(etcd))


@row("put1", "PUT, 1 client, p50", "ms", "etcd", 0.45, 0.25, lower_is_better=True)
def put1(bench):
    return against_etcd(bench, "put", p50_ms, 1)


@row("put64", "PUT, 64 clients", "/s", "etcd", 4.5, 7)
def put64(bench):
    return against_etcd(bench, "put", per_second, 64)


@row("put256", "PUT, 256 clients", "/s", "etcd", 4, 6)
def put256(bench):
    return against_etcd(bench, "put", per_second, 256)


@row("get64-leader", "linearizable GET, 64 clients, leader", "/s", "etcd", 5, 7)
def get64_leader(bench):
    return against_etcd(bench, "get", per_second, 64)


@row("get64-follower", "linearizable GET, 64 clients, follower", "/s", "etcd", 4.5, 6)
def get64_follower(bench):
    return against_etcd(bench, "get", per_second, 64, lambda cluster: cluster.followers()[0])


def against_redis(bench, pipeline):
    kvd, redis = bench.shared(systems.Kvd), bench.shared(systems.Redis)
    if not kvd.speaks_redis:
        raise NotMeasured("this kvd has no --listen-redis")
    def side(port):
        requests = 2000 * pipeline  # then as many as take about as long as every other point
        def measure():
            nonlocal requests
            rate = systems.redis_benchmark(port(), requests, pipeline)
            requests = max(2000, int(rate * (bench.flags.seconds + bench.flags.warmup)))
            return rate
        return measure
    return bench.alternate(side(lambda: kvd.leader().redis), side(lambda: redis.port))


@row("redis-pipelined", "redis-benchmark SET -c 50 -P 32", "/s", "one Redis, appendfsync always", 0.7, 1.1)
def redis_pipelined(bench):
    return against_redis(bench, 32)


@row("redis-plain", "redis-benchmark SET -c 50", "/s", "one Redis, appendfsync always", 0.6, 0.9)
def redis_plain(bench):
    return against_redis(bench, 1)


@row("null", "PUT, 64 clients", "/s", "a hyper server that does nothing", 0.33, 0.5)
def null(bench):
    kvd, server = bench.shared(systems.Kvd), bench.shared(systems.NullServer)
    flags = {"clients": 64, "keys": KEYS, **bench.timing()}
    return bench.alternate(lambda: per_second(kvd.load("put", kvd.leader(), **flags)),
                           lambda: per_second(server.load("put", **flags)))


@row("cpu", "CPU time a PUT, all members, 64 clients", "µs", "etcd", 0.25, 0.15, lower_is_better=True)
def cpu(bench):
    kvd, etcd = bench.shared(systems.Kvd), bench.shared(systems.Etcd)
    def side(cluster):
        def measure():
            leader, before = cluster.leader(), cluster.cpu_seconds()
            # Without a warm-up: its PUTs would cost time and not be counted.
            report = cluster.load("put", leader, clients=64, keys=KEYS, seconds=bench.flags.seconds, warmup=0)
            return (cluster.cpu_seconds() - before) / report["acknowledged"] * 1e6
        return measure
    return bench.alternate(side(kvd), side(etcd))


@row("memory", "resident memory a member, 170,000 keys", "MiB", "etcd", 0.5, 0.3, lower_is_better=True, long=True)
def memory(bench):
    found = {systems.Kvd: [], systems.Etcd: []}
    for _ in range(bench.flags.rounds):
        for kind, values in found.items():
            with bench.fresh(kind) as cluster:
                cluster.load("fill", cluster.leader(), clients=64, keys=bench.scaled(170_000), value_bytes=VALUE)
                values.append(statistics.mean(cluster.resident_mib()))
        print("   ", *(f"{values[-1]:12,.1f}" for values in found.values()), file=sys.stderr, flush=True)
    return Result(*found.values(), note="mean of the three members, right after one PUT of each key")


def acknowledged_put(port, deadline):
    """Tries to write until it is acknowledged: the instant at which it was."""
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("PUT", "/probe", body=b"x")
            if connection.getresponse().status == 204:
                return time.monotonic()
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.002)
    raise SystemExit(f"no write was acknowledged at {port}")


@row("failover", "time without service after kill -9 of the leader", "ms", "", 1700, 1550,
     lower_is_better=True, absolute=True, long=True)
def failover(bench):
    """From the kill to the first acknowledgement of a write that was sent after it, at whichever survivor comes first."""
    gaps = []
    with bench.fresh(systems.Kvd) as kvd, concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number in range(bench.flags.kills):
            leader = kvd.leader()
            survivors = [member for member in kvd.members if member is not leader]
            killed = time.monotonic()
            leader.process.send_signal(signal.SIGKILL)
            probes = [pool.submit(acknowledged_put, member.port, killed + 60) for member in survivors]
            gaps.append((min(probe.result() for probe in probes) - killed) * 1000)
            print(f"    kill {number + 1}: {gaps[-1]:,.0f} ms", file=sys.stderr, flush=True)
            leader.process.wait()
            kvd.site.processes.remove(leader.process)
            kvd.start(leader)
            until_ready(kvd)  # or the next kill would take the majority
    note = f"median of {len(gaps)}, worst {max(gaps):,.0f} ms; election time-out 1 s (randomized up to 2 s), ticks of 100 ms"
    return Result(gaps, [], note)


def until_ready(cluster):
    for member in cluster.members:
        systems.until(lambda: cluster.serves(member), f"{cluster.name} at {member.port}", member.process)


@row("restart", "restart of a member with 1,000,000 keys until it serves", "ms", "", 1500, 700,
     lower_is_better=True, absolute=True, long=True)
def restart(bench):
    """From the start of the process to the first linearizable read that it answers."""
    times = []
    with bench.fresh(systems.Kvd) as kvd:
        kvd.load("fill", kvd.leader(), clients=64, keys=bench.scaled(1_000_000), value_bytes=VALUE)
        for number in range(bench.flags.rounds):
            member = kvd.followers()[number % 2]
            kvd.site.end([member.process])
            begun = time.monotonic()
            kvd.start(member)
            def answers():
                try:
                    return len(systems.get(member.port, f"/bench-{number:010}")) > 0
                except (OSError, UnicodeDecodeError) as error:
                    return isinstance(error, UnicodeDecodeError)  # a value, which is no text
            systems.until(answers, "the restarted member", member.process)
            times.append((time.monotonic() - begun) * 1000)
            print(f"    {times[-1]:,.0f} ms", file=sys.stderr, flush=True)
    return Result(times, [], f"a follower, ended by SIGTERM; files in the page cache; median of {len(times)}")


def two_clusters(bench, grow, keys_of_grown):
    """PUT throughput of a cluster that `grow` has changed, against one that is empty, both running."""
    with bench.fresh(systems.Kvd) as grown:
        grow(grown)
        empty = systems.Kvd(bench.site)
        try:
            def side(cluster, keys):
                return lambda: per_second(cluster.load("put", cluster.leader(), clients=64, keys=keys, **bench.timing()))
            return bench.alternate(side(grown, keys_of_grown), side(empty, KEYS))
        finally:
            empty.end()


@row("keys5m", "PUT, 64 clients, 5,000,000 keys present", "/s", "an empty store", 0.85, 0.95, long=True)
def keys5m(bench):
    keys = bench.scaled(5_000_000)
    def grow(kvd):
        kvd.load("fill", kvd.leader(), clients=256, keys=keys, value_bytes=VALUE)
    result = two_clusters(bench, grow, keys)
    result.note = f"{keys:,} keys of {VALUE} bytes, all of them written again at random"
    return result


@row("log10g", "PUT, 64 clients, after 10 GB of log", "/s", "an empty store", 0.85, 0.95, long=True)
def log10g(bench):
    wanted, value = bench.scaled(10**10), 32 << 10
    def grow(kvd):
        written = 0
        while written < wanted:
            report = kvd.load("put", kvd.leader(), clients=16, keys=1000, value_bytes=value, seconds=10, warmup=0)
            written += report["acknowledged"] * value
            print(f"    {written / 1e9:.1f} GB of log", file=sys.stderr, flush=True)
    result = two_clusters(bench, grow, KEYS)
    result.note = f"{wanted / 1e9:g} GB in values of 32 KiB to 1000 keys went through the log first"
    return result


@row("snapshot1g", "p99 of PUT while a 1 GiB state is snapshotted", "ms", "without a snapshot", 3, 1.5,
     lower_is_better=True, long=True)
def snapshot1g(bench):
    """tests/measure/snapshot_tail.py, with its medians over windows instead of rounds."""
    bench.end_shared()
    script = pathlib.Path(__file__).resolve().parent.parent / "measure" / "snapshot_tail.py"
    command = [sys.executable, script, bench.site.binaries, "--dir", bench.site.root, "--minutes",
               bench.flags.snapshot_minutes, "--state-mib", bench.scaled(1024)]
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True,
                             start_new_session=True)  # so that it gets the one signal that is sent below
    try:
        out = child.communicate()[0]
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)  # it ends its members itself
            child.wait()
    if child.returncode != 0:
        raise SystemExit("snapshot_tail.py failed")
    p99 = {}
    for line in out.splitlines():
        if match := re.match(r"(with|without) +(\d+) windows: .* p99 median ([\d.]+) ms, worst ([\d.]+)", line):
            p99[match[1]] = (float(match[3]), f"{match[2]} windows {match[1]}, worst p99 {match[4]} ms")
    if len(p99) != 2:
        raise NotMeasured("too short: no window of either kind; raise --snapshot-minutes")
    (kvd, note), (other, other_note) = p99["with"], p99["without"]
    return Result([kvd], [other], f"{note}; {other_note}; the floor is 3x or 20 ms more")


class NotMeasured(Exception):
    """A row cannot be measured here, and why."""
