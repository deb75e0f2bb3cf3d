"""Starting, watching and ending the systems that are compared: three members of kvd, three of etcd, one Redis.

Everything is on loopback, on ports that are free, in directories below one. Every process is ended by its id, whatever
happens, and the directories go with the `Site` that they belong to.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

TICK = os.sysconf("SC_CLK_TCK")


class Site:
    """A temporary directory, and the processes that work in it. To be used in a `with`."""

    def __init__(self, below, binaries):
        self.below, self.binaries = below, binaries
        self.processes, self.files, self.named = [], [], 0

    def __enter__(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="kvd-compare-", dir=self.below))
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave half of them behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.end(list(self.processes))
            for file in self.files:
                file.close()
            shutil.rmtree(self.root)
        finally:
            signal.signal(signal.SIGINT, before)

    def directory(self, name):
        self.named += 1
        path = self.root / f"{self.named}-{name}"
        path.mkdir()
        return path

    def spawn(self, command, log, stdout=None):
        """Starts a process in a session of its own (Ctrl-C is for this program, which then ends them in order)."""
        command = [str(word) for word in command]
        if shutil.which("setpriv"):  # so that they also end if this program is killed
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        file = open(log, "ab")
        self.files.append(file)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout or file, stderr=file,
                                   start_new_session=True)
        process.log = log
        self.processes.append(process)
        return process

    def end(self, processes):
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
            self.processes.remove(process)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def get(port, path, timeout=5):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=timeout) as answer:
        return answer.read().decode()


def until(condition, what, process=None, seconds=120):
    """Waits for a condition; fails loudly, with the end of the process's log."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process and process.poll() is not None or time.monotonic() > deadline:
            tail = pathlib.Path(process.log).read_text(errors="replace")[-2000:] if process else ""
            raise SystemExit(f"{what}: not within {seconds} s, or its process ended\n{tail}")
        time.sleep(0.005)


class Member:
    process, port, directory, command = None, None, None, None


class Cluster:
    """Three members. The subclass says with which command, and how they tell that they serve."""

    def __init__(self, site):
        self.site, self.members = site, []
        self.prepare(free_ports(3))
        for member in self.members:
            self.start(member)
        for member in self.members:
            until(lambda: self.serves(member), f"{self.name} at {member.port}", member.process)

    def start(self, member):
        member.process = self.site.spawn(member.command, member.directory.with_suffix(".log"))

    def end(self):
        self.site.end([member.process for member in self.members])
        for member in self.members:
            shutil.rmtree(member.directory, ignore_errors=True)

    def leader(self):
        """Both name it alike."""
        found = []
        def look():
            found[:] = [m for m in self.members if m.process.poll() is None and self.leads(m)]
            return len(found) == 1
        until(look, f"a leader of {self.name}")
        return found[0]

    def leads(self, member):
        try:
            return "\netcd_server_is_leader 1\n" in get(member.port, "/metrics")
        except OSError:
            return False

    def followers(self):
        leader = self.leader()
        return [member for member in self.members if member is not leader]

    def cpu_seconds(self):
        """Processor time of all members so far, user and system."""
        total = 0
        for member in self.members:
            after_name = pathlib.Path(f"/proc/{member.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(after_name[11]) + int(after_name[12])
        return total / TICK

    def resident_mib(self):
        """Resident memory of each member."""
        def of(member):
            status = pathlib.Path(f"/proc/{member.process.pid}/status").read_text()
            return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
        return [of(member) for member in self.members]


class Kvd(Cluster):
    name = "kvd"

    def prepare(self, ports):
        peers, redis = free_ports(3), free_ports(3)
        cluster = ",".join(f"http://127.0.0.1:{port}" for port in peers)
        binary = self.site.binaries / "kvd"
        self.speaks_redis = "--listen-redis" in subprocess.run([binary, "--help"], capture_output=True, text=True).stdout
        for number, port in enumerate(ports, 1):
            member = Member()
            member.port, member.redis, member.directory = port, redis[number - 1], self.site.directory(f"kvd-{number}")
            member.command = [binary, "--id", number, "--cluster", cluster, "--port", port, "--log", "warn",
                              "--data-dir", member.directory]
            if self.speaks_redis:
                member.command += ["--listen-redis", f"127.0.0.1:{member.redis}"]
            self.members.append(member)

    def serves(self, member):
        try:
            return get(member.port, "/readyz").startswith("ok")
        except OSError:
            return False

    def load(self, kind, member, **flags):
        return kvctl(self.site, kind, f"http://127.0.0.1:{member.port}", **flags)


class Etcd(Cluster):
    """Debian's etcd as it comes, with fsync."""
    name = "etcd"

    def prepare(self, ports):
        peers = free_ports(3)
        cluster = ",".join(f"m{n}=http://127.0.0.1:{port}" for n, port in enumerate(peers, 1))
        for number, (port, peer) in enumerate(zip(ports, peers), 1):
            member = Member()
            member.port, member.directory = port, self.site.directory(f"etcd-{number}")
            client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
            member.command = [
                "etcd", "--name", f"m{number}", "--data-dir", member.directory, "--logger", "zap", "--log-level", "warn",
                "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
                "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster, "--initial-cluster-state", "new",
            ]
            self.members.append(member)

    def serves(self, member):
        try:
            return json.loads(get(member.port, "/health"))["health"] == "true"
        except (OSError, ValueError):
            return False

    def load(self, kind, member, **flags):
        command = [self.site.binaries / "etcd_loop", kind, "--endpoints", f"127.0.0.1:{member.port}", *words(flags)]
        return run_json(command)


class Redis:
    """One Redis that answers after its append-only file is on the disk."""

    def __init__(self, site):
        self.site, (self.port,) = site, free_ports(1)
        self.directory = site.directory("redis")
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.directory, "--save", "",
                   "--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no"]
        self.process = site.spawn(command, self.directory.with_suffix(".log"))
        def answers():
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            except OSError:
                return False
        until(answers, "redis", self.process)

    def end(self):
        self.site.end([self.process])
        shutil.rmtree(self.directory, ignore_errors=True)


class NullServer:
    def __init__(self, site):
        self.site = site
        self.process = site.spawn([site.binaries / "null_server"], site.directory("null") / "log", subprocess.PIPE)
        self.address = self.process.stdout.readline().decode().strip()

    def load(self, kind, **flags):
        return kvctl(self.site, kind, f"http://{self.address}", **flags)

    def end(self):
        self.site.end([self.process])


def words(flags):
    return [str(word) for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]


def run_json(command):
    """Runs a load generator. Errors in its report are errors here: a figure with failed requests says nothing."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command}\n{done.stdout}{done.stderr}")
    report = json.loads(done.stdout)
    if report["errors"]:
        raise SystemExit(f"{command}\nhad errors: {report['errors']}")
    return report


def kvctl(site, kind, endpoint, **flags):
    return run_json([site.binaries / "kvctl", "bench", kind, "--endpoints", endpoint, "--json", *words(flags)])


def redis_benchmark(port, requests, pipeline):
    """SET of 256 bytes by 50 clients: requests a second."""
    command = ["redis-benchmark", "-h", "127.0.0.1", "-p", port, "-t", "set", "-d", 256, "-c", 50, "-P", pipeline,
               "-n", requests, "-r", 100_000, "--csv"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    line = next((line for line in done.stdout.splitlines() if line.startswith('"SET"')), None)
    if line is None:
        raise SystemExit(f"redis-benchmark at {port} printed no SET\n{done.stdout}{done.stderr}")
    return float(line.split(",")[1].strip('"'))
