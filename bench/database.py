"""A PostgreSQL for a measurement: in a temporary folder, on the loopback interface, flushing what is committed."""

import glob
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import time

from started import Started

PATIENCE = 60
# The postmaster refuses to run as root; Debian's package makes this user.
USER = "postgres"


class Missing(Exception):
    """What is not installed."""


class Postgres(Started):
    """A cluster with one empty database, whose address is `url`."""

    def __init__(self):
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[-2]))
        programs = found[-1] if found else os.path.dirname(shutil.which("initdb") or "")
        if not programs:
            raise Missing("PostgreSQL")
        self.programs = pathlib.Path(programs)
        self.folder = self.process = None

    def start(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="farrow-bench-pg-"))
        self.identity = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam(USER)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data = str(self.folder / "data")
        self.run("initdb", "--no-sync", "--no-instructions", "--auth=trust", "--encoding=UTF8", "--locale=C",
                 "--username=farrow", f"--pgdata={data}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [self.programs / "postgres", "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1",
             "-c", f"unix_socket_directories={self.folder}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder, **self.identity)
        ends = time.monotonic() + PATIENCE
        reach = ["-h", "127.0.0.1", "-p", str(port), "-U", "farrow"]
        while subprocess.run([self.programs / "pg_isready", *reach], stdout=subprocess.DEVNULL, check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > ends:
                raise SystemExit("bench: PostgreSQL does not start")
            time.sleep(0.05)
        self.run("createdb", *reach, "farrow")
        self.url = f"postgres://farrow@127.0.0.1:{port}/farrow"

    def run(self, program, *arguments):
        subprocess.run([self.programs / program, *arguments], stdout=subprocess.DEVNULL, cwd=self.folder, check=True,
                       **self.identity)

    def stop(self):
        if self.process:
            # A fast shutdown: sessions that are left are ended.
            self.process.send_signal(2)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
