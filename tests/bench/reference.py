"""A grid of the reference implementation on loopback, and what its ways of doing things cost."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
from pathlib import Path

import harness

TICKS = os.sysconf("SC_CLK_TCK")
# Nodes take this many seconds to start at most, and to end.
START, STOP = 120, 20


def options(parser):
    """The option that scripts with a reference grid take."""
    parser.add_argument("--tahoe", default=os.environ.get("TAHOE", "tahoe"),
                        help="the reference's command (default: $TAHOE, else tahoe)")


def free_ports(count):
    """Ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class ReferenceGrid:
    """An introducer, storage servers and a client with a web API, all real nodes."""

    def __init__(self, bench, servers, needed, happy, total):
        self.bench = bench
        self.tahoe = shutil.which(bench.options.tahoe)
        if not self.tahoe:
            raise harness.Failure("there is no `tahoe`: pip install tahoe-lafs, or say --tahoe")
        self.root = bench.directory("reference")
        ports = free_ports(servers + 2)
        self.web_port = ports.pop()
        tub = lambda port: [f"--port=tcp:{port}:interface=127.0.0.1", f"--location=tcp:127.0.0.1:{port}"]
        self.introducer = self.create("introducer", "create-introducer", *tub(ports.pop()))
        self.servers = [self.create(f"server{i}", "create-node", "--webport=none", *tub(port))
                        for i, port in enumerate(ports)]
        self.client = self.create("client", "create-client", f"--webport=tcp:{self.web_port}:interface=127.0.0.1",
                                  f"--shares-needed={needed}", f"--shares-happy={happy}", f"--shares-total={total}")
        self.processes = {}
        bench.undo.callback(self.stop)
        self.run(self.introducer)
        furl = self.wait(lambda: (self.introducer / "private/introducer.furl").read_text().strip())
        for node in [*self.servers, self.client]:
            config = node / "tahoe.cfg"
            config.write_text(config.read_text().replace("reserved_space = 1G", "reserved_space = 0"))
            (node / "private").mkdir(exist_ok=True)
            (node / "private/introducers.yaml").write_text(f"introducers:\n  default:\n    furl: {furl}\n")
            self.run(node)
        self.wait(lambda: self.connected() == servers)

    def create(self, name, *words):
        node = self.root / name
        self.bench.run([self.tahoe, *words, node])
        return node

    def run(self, node):
        log = open(self.root / f"{node.name}.log", "ab")
        command = [self.tahoe, "run", "--allow-stdin-close", node]
        self.processes[node.name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self, condition):
        """The first value of `condition` that is true; missing files and refused connections are not yet."""
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            try:
                if value := condition():
                    return value
            except (OSError, ValueError, KeyError):
                pass
            time.sleep(0.2)
        raise harness.Failure("the reference's nodes do not start; try again with --verbose")

    def connected(self):
        """How many servers the client is connected to and has written down."""
        status = json.loads(self.web("GET", "/?t=json"))["servers"]
        up = sum(server["connection_status"].lower().startswith("connected") for server in status)
        cache = (self.client / "private/introducer_default_cache.yaml").read_text()
        return min(up, cache.count("anonymous-storage-NURLs"))

    def stop(self):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def server_cpu(self):
        """CPU seconds that all storage servers have used so far."""
        return sum(self.cpu_of(node.name) for node in self.servers)

    def serve_sftp(self, folder):
        """Starts the client anew with its SFTP frontend, and mounts that at `folder` by sshfs."""
        port, keys = free_ports(1)[0], self.root / "sftp"
        keys.mkdir()
        for name in ("host", "user"):
            self.bench.run(["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "", "-f", keys / name])
        root = json.loads(self.web("GET", "/uri/" + urllib.parse.quote(self.alias(), safe="") + "?t=json"))[1]["rw_uri"]
        (self.client / "private/accounts").write_text(f"user {(keys / 'user.pub').read_text().strip()} {root}\n")
        with open(self.client / "tahoe.cfg", "a", encoding="utf-8") as config:
            config.write(f"[sftpd]\nenabled = true\nport = tcp:{port}:interface=127.0.0.1\n"
                         f"host_pubkey_file = {keys / 'host.pub'}\nhost_privkey_file = {keys / 'host'}\n"
                         "accounts.file = private/accounts\n")
        process = self.processes.pop(self.client.name)
        process.terminate()
        process.wait(STOP)
        self.run(self.client)
        self.wait(lambda: self.connected() == len(self.servers))
        known = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
                 "-o", f"IdentityFile={keys / 'user'}", "-o", f"port={port}"]
        self.bench.run(["sshfs", "user@127.0.0.1:/", folder, *known])

    def alias(self):
        """The cap of the alias `tahoe:`."""
        aliases = (self.client / "private/aliases").read_text()
        return next(line.split(": ", 1)[1].strip() for line in aliases.splitlines() if line.startswith("tahoe: "))

    def cpu_of(self, name):
        fields = Path(f"/proc/{self.processes[name].pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def connect(self):
        """A connection to the web API that is used again and again."""
        return http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=harness.PATIENCE)

    def web(self, method, path, body=None, headers=None, over=None):
        """The body that the web API answers with."""
        connection = over or self.connect()
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status // 100 != 2:
            raise harness.Failure(f"the web API answered {answer.status} to {method}: {data[-500:]!r}")
        return data

    def cli(self, *words, **how):
        """Runs the reference's command line against its client node."""
        return self.bench.run([self.tahoe, "-d", self.client, *words], **how)


def quoted(cap):
    """A cap as a path of the web API."""
    return "/uri/" + urllib.parse.quote(cap, safe="")
