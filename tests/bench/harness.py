"""What the benchmark scripts share: temporary grids, mounts that always go away, measured commands, reports."""

import argparse
import contextlib
import functools
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 1 << 20
# No single command takes this many seconds unless something hangs.
PATIENCE = 3600
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
# Of the Python standard library what is installed or generated, and the link library and makefile for building against
# Python.
EXCLUDED = ("site-packages", "dist-packages", "__pycache__", "config-*")
# Seconds for the keys of all directories to be made ahead.
KEYS_WITHIN = 600


class Failure(Exception):
    """The run failed; the text is all that a reader needs."""


def parser(description):
    """The options that all scripts take."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/tahoefs",
                         help="the tahoefs to measure, built before (default: target/release/tahoefs)")
    options.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    options.add_argument("--scratch", type=Path, default=Path(os.environ.get("TMPDIR", "/var/tmp")),
                         help="where temporary files go: a real disk, with room (default: $TMPDIR, else /var/tmp)")
    options.add_argument("--verbose", action="store_true", help="show each command and what it says")
    return options


def keys_option(options):
    """The option of scripts that write many directories."""
    options.add_argument("--keys", action="store_true", help="wait before rsync until a key for each directory is ready")


def await_keys(bench, node, source):
    """Waits until a mount of this node directory has a key ready on the disk for each directory of `source`."""
    count, keys = sum(path.is_dir() for path in source.rglob("*")), node / "tahoefs/private/keys"
    bench.note(f"waiting for {count} keys")
    deadline = time.monotonic() + KEYS_WITHIN
    while not keys.is_dir() or sum(1 for _ in keys.iterdir()) < count:
        if time.monotonic() > deadline:
            raise Failure(f"no {count} keys after {KEYS_WITHIN} s")
        time.sleep(1)


def run_script(body, options):
    """Runs `body(bench)` and writes the report that it returns; whatever happens, all is cleaned up.

    Exits 1 with one message on a Failure, and when the report has an entry "failed", which says what is not as it must.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _: sys.exit(128 + caught))
    try:
        with Bench(options) as bench:
            report = body(bench)
            if options.json:
                report = {"machine": bench.machine(), **report}
                options.json.write_text(json.dumps(report, indent=2) + "\n")
            if "failed" in report:
                raise Failure(report["failed"])
    except Failure as failure:
        sys.exit(f"failed: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)


class Bench:
    """One run: a temporary directory and what stands in it, all of it undone at the end, however that comes."""

    def __init__(self, options):
        self.options = options
        self.load = os.getloadavg()[0]
        self.undo = contextlib.ExitStack()

    def __enter__(self):
        self.root = Path(tempfile.mkdtemp(prefix="tahoefs-bench-", dir=self.options.scratch)).resolve()
        self.undo.callback(self.remove_root)
        if self.load > os.cpu_count() / 2:
            self.note(f"the machine is busy (load {self.load:.1f}): these figures will be worth little")
        return self

    def __exit__(self, *_):
        # A second signal must not stop what the first one began.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.undo.close()

    @functools.cached_property
    def binary(self):
        """The program under test."""
        path = self.options.binary.resolve()
        if not os.access(path, os.X_OK):
            raise Failure(f"no program at {path}: build it (cargo build --release) or say --binary")
        return path

    def remove_root(self):
        """Deletes all temporary files, unless a mount among them would not go: what is behind it must not be emptied."""
        left = [where for where in mountpoints() if Path(where).is_relative_to(self.root)]
        if left:
            print(f"still mounted, so not removed: {' '.join(left)}", file=sys.stderr)
            return
        shutil.rmtree(self.root, ignore_errors=True)

    def directory(self, name):
        """A new empty directory."""
        path = self.root / name
        path.mkdir(parents=True)
        return path

    def note(self, text):
        """Says on standard error what is going on."""
        print(text, file=sys.stderr, flush=True)

    def run(self, command, *, env=None, stdin=b"", expected=(0,)):
        """Runs a command to its end and returns what it cost; any other exit code than the expected ones is a failure."""
        command = [str(word) for word in command]
        with tempfile.TemporaryFile(dir=self.root) as given, tempfile.TemporaryFile(dir=self.root) as out, \
                tempfile.TemporaryFile(dir=self.root) as err:
            given.write(stdin)
            given.seek(0)
            start = time.monotonic()
            child = subprocess.Popen(command, env=env, stdin=given, stdout=out, stderr=err)
            # Reaped here and not by Popen, because only wait4 tells what this one child used.
            previous = signal.signal(signal.SIGALRM, lambda *_: child.kill())
            signal.alarm(PATIENCE)
            try:
                _, status, usage = os.wait4(child.pid, 0)
            except BaseException:
                child.kill()
                raise
            finally:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, previous)
            wall = time.monotonic() - start
            child.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            done = Done(child.returncode, wall, usage, out.read(), err.read().decode(errors="replace"))
        if self.options.verbose:
            self.note(f"$ {' '.join(command)}\n{done.err}[{done.code}, {wall:.2f} s, {done.cpu:.2f} s of CPU]")
        if done.code not in expected:
            said = (done.err or done.out.decode(errors="replace")).strip()
            raise Failure(f"{' '.join(command)} exited {done.code} after {wall:.1f} s: {said[-2000:] or 'no word'}")
        return done

    def sync(self):
        """Waits until the scratch file system is on its disk; the seconds that took."""
        return self.run(["sync", "-f", self.root]).wall

    def cold(self):
        """Forgets all cached pages, names and attributes where that is allowed."""
        self.sync()
        if may_drop_caches():
            DROP_CACHES.write_text("3\n")

    def random_file(self, path, size, observe=None):
        """Writes `size` random bytes; `observe` is called with each piece."""
        with open(path, "wb") as out:
            left = size
            while left:
                piece = os.urandom(min(left, MIB))
                out.write(piece)
                if observe:
                    observe(piece)
                left -= len(piece)
        return path

    def machine(self):
        """What the figures depend on."""
        model = [line.split(":", 1)[1].strip() for line in lines("/proc/cpuinfo") if line.startswith("model name")]
        kind = subprocess.run(["stat", "-f", "-c", "%T", self.root], capture_output=True, text=True, check=False)
        return {
            "cpu": model[0] if model else platform.machine(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "scratch_file_system": kind.stdout.strip(),
            "caches_dropped": may_drop_caches(),
            "binary": str(self.options.binary),
            "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "load_before": self.load,
        }


class Done:
    """A command that ended: its exit code, what it said, and what it cost (`memory` is its peak, in bytes)."""

    def __init__(self, code, wall, usage, out, err):
        self.code, self.wall, self.out, self.err = code, wall, out, err
        self.user, self.system = usage.ru_utime, usage.ru_stime
        self.memory = usage.ru_maxrss * 1024

    @property
    def cpu(self):
        """CPU seconds, of the program and of the kernel for it."""
        return self.user + self.system


class Grid:
    """A node directory with an embedded grid, under a home of its own."""

    def __init__(self, bench, name, *init):
        self.bench = bench
        self.home = bench.directory(name)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("TAHOEFS_", "XDG_", "RUST_"))}
        self.env = {**kept, "HOME": str(self.home)}
        self.tahoefs("init", *init)

    def tahoefs(self, *words, **how):
        """Runs the product under this home."""
        return self.bench.run([self.bench.binary, *words], env=self.env, **how)

    def mount(self):
        """A mount of the grid's own root, not yet made."""
        return TahoefsMount(self)

    def versions(self):
        """The sequence number of each mutable file, directories among them, by storage index."""
        found = {}
        for path in (self.home / ".tahoefs/tahoefs/stores").glob("*/storage/shares/??/*/*"):
            with open(path, "rb") as share:
                head = share.read(477)
            if head.startswith(b"Tahoe mutable container"):
                found[path.parent.name] = max(found.get(path.parent.name, 0), int.from_bytes(head[469:477], "big"))
        return found

    def store_bytes(self):
        """What all stores take on the disk."""
        stores = self.home / ".tahoefs/tahoefs/stores"
        return sum(os.lstat(Path(where) / name).st_size for where, _, names in os.walk(stores) for name in names)


class Mount:
    """A folder that is mounted and unmounted again and again, and at the end is gone."""

    def __init__(self, bench, path):
        self.bench, self.path = bench, path
        bench.undo.callback(self.vanish)

    def up(self):
        """Mounts; the seconds until the folder answers."""
        start = time.monotonic()
        self.attach()
        if str(self.path) not in mountpoints():
            raise Failure(f"{self.path} is not mounted although the mount command succeeded")
        os.listdir(self.path)
        return time.monotonic() - start

    def down(self):
        """Unmounts; the seconds until all of it is on the disk below."""
        start = time.monotonic()
        self.detach()
        self.bench.sync()
        return time.monotonic() - start

    def vanish(self):
        """Unmounts by force if need be; for the end alone."""
        if str(self.path) in mountpoints():
            quietly(["umount", "-l", self.path] if os.geteuid() == 0 else ["fusermount3", "-uz", self.path])


class PlainDirectory(Mount):
    """No mount at all: a directory on the scratch disk, for comparison."""

    def __init__(self, bench, name):
        super().__init__(bench, bench.directory(name))

    def up(self):
        return 0.0

    def down(self):
        return self.bench.sync()

    def vanish(self):
        pass


class GocryptfsMount(Mount):
    """A gocryptfs file system on the scratch disk."""

    def __init__(self, bench, name):
        super().__init__(bench, bench.directory(f"{name}/mounted"))
        self.below = bench.directory(f"{name}/below")
        self.password = bench.root / name / "password"
        self.password.write_text("benchmark\n")
        # The cheapest password hash: what that costs has no place in the figures.
        bench.run(["gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", self.password, self.below])

    def attach(self):
        self.bench.run(["gocryptfs", "-q", "-passfile", self.password, self.below, self.path])

    def detach(self):
        unmounter = "fusermount3" if shutil.which("fusermount3") else "fusermount"
        self.bench.run([unmounter, "-u", self.path])


class TahoefsMount(Mount):
    """The product, on an embedded grid."""

    def __init__(self, grid):
        super().__init__(grid.bench, grid.bench.directory(grid.home.name + "-mounted"))
        self.grid, self.pid = grid, None

    def attach(self):
        self.grid.tahoefs("mount", self.path)
        self.pid = json.loads(self.grid.tahoefs("status", "--json", self.path).out)["pid"]

    def detach(self):
        self.grid.tahoefs("unmount", self.path)
        deadline = time.monotonic() + 30
        while self.alive():
            if time.monotonic() > deadline:
                raise Failure(f"the daemon {self.pid} still runs 30 s after unmount returned")
            time.sleep(0.02)
        self.pid = None

    def alive(self):
        """Whether the daemon runs; its id may by now be that of another program, which is not ours to touch."""
        try:
            return self.pid is not None and os.path.samefile(f"/proc/{self.pid}/exe", self.bench.binary)
        except OSError:
            return False

    def vanish(self):
        super().vanish()
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)


def quietly(command):
    """Runs a command whose failure changes nothing."""
    subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, timeout=60, check=False)


def mountpoints():
    """Where something is mounted."""
    def plain(text):
        return re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), text)
    return {plain(line.split(" ")[4]) for line in lines("/proc/self/mountinfo")}


@functools.cache
def may_drop_caches():
    """Whether the kernel lets us drop its caches, found by doing it once."""
    try:
        DROP_CACHES.write_text("1\n")
    except OSError:
        return False
    return True


def lines(path):
    """The lines of a small file; none if it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def median(values):
    """The median, which for two values is their mean."""
    return statistics.median(values)


def table(head, rows):
    """Prints columns: the first to the left, the others to the right."""
    rows = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print("  ".join(cells).rstrip(), flush=True)
