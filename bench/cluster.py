"""A server and two agents for a measurement, and a client that keeps one connection."""

import hashlib
import http.client
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import tempfile
import threading
import time

from database import Postgres
from far import Far
from started import Started

PATIENCE = 60


class Cluster(Started):
    """A server and agents, each of `slots` slots, in a temporary folder; they are `delay` seconds apart.

    The agents carry `labels`, such as `pool=bench`; `settings` are further flags of the server. It keeps its jobs
    in SQLite, or in a PostgreSQL of its own.
    """

    def __init__(self, farrow, slots, agents=("one", "two"), delay=0, labels=(), settings=(), on_postgres=False):
        self.farrow = os.path.abspath(farrow)
        self.slots = slots
        self.agents = agents
        self.delay = delay
        self.labels = labels
        self.settings = settings
        self.database = Postgres() if on_postgres else None
        self.far = self.folder = None
        self.processes = []

    def start(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="farrow-bench-"))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FARROW_")}
        self.environment["FARROW_TOKEN"] = secrets.token_hex(32)
        settings = list(self.settings)
        if self.database:
            self.database.__enter__()
            settings += ["--database-url", self.database.url]
        self.server = self.spawn("server", "--listen", "127.0.0.1:0", "--data", str(self.folder / "data"), "--json",
                                 *settings)
        # The server prints this line once it answers.
        place = json.loads(self.server.stdout.readline() or fail(self.log_of("server")))
        self.address = place["url"].removeprefix("http://")
        self.client = Client(self.address, self.environment["FARROW_TOKEN"])
        if self.delay:
            self.far = Far(self.address, self.delay).__enter__()
        for name in self.agents:
            self.agent = self.spawn("agent", "--server", self.far.url if self.far else place["url"], "--name",
                                    name, "--slots", str(self.slots), "--scratch", str(self.folder / f"scratch-{name}"),
                                    *(part for label in self.labels for part in ("--label", label)),
                                    log=f"agent-{name}")
        wait_until(self.agents_are_there, "the agents to register")

    def spawn(self, *arguments, log=None):
        with open(self.folder / f"{log or arguments[0]}.log", "wb") as errors:
            process = subprocess.Popen([self.farrow, *arguments], env=self.environment,
                                       stdout=subprocess.PIPE, stderr=errors, text=True)
        self.processes.append(process)
        return process

    def agents_are_there(self):
        live = sum(agent["state"] == "live" for agent in self.client.get("/v1/agents")["items"])
        return live == len(self.agents)

    def log_of(self, name):
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def stop(self):
        # The agents first: they hand back what they hold while the server is still there.
        for process in self.processes[1:] + self.processes[:1]:
            end(process)
        if self.far:
            self.far.__exit__()
        if self.database:
            self.database.stop()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def map(self, **job):
        """Submits a job and returns its value, decoded, and the seconds from submission to that."""
        began = time.perf_counter()
        value = self.client.map(job)
        return value, time.perf_counter() - began

    def warm_up(self, runtime, **options):
        """Has each worker started: every slot holds an element at once."""
        function = {"r": "function(.x) Sys.sleep(1)", "python": "import time\nlambda x: time.sleep(1)"}[runtime]
        elements = list(range(len(self.agents) * self.slots))
        self.map(runtime=runtime, function=function, elements=elements, options=options)


class Client:
    """The HTTP API over one connection that is kept."""

    def __init__(self, address, token):
        self.connection = http.client.HTTPConnection(address, timeout=2 * PATIENCE)
        self.headers = {"Authorization": f"Bearer {token}"}

    def submit(self, job):
        status, body = self.request("POST", "/v1/jobs", json.dumps(job))
        return json.loads(body)["id"] if status == 202 else fail(body)

    def map(self, job):
        """The value of a job, in the answer to its submission if it is there in time."""
        status, body = self.request("POST", "/v1/jobs?wait=30", json.dumps(job))
        if status == 202:
            return self.value(json.loads(body)["id"])
        return json.loads(body) if status == 200 else fail(body)

    def value(self, job):
        while True:
            status, body = self.request("GET", f"/v1/jobs/{job}/value?wait=30")
            if status == 200:
                return json.loads(body)
            if status != 202:
                fail(body)

    def count_value(self, job):
        """The bytes of the value, which is read and not kept."""
        while True:
            self.connection.request("GET", f"/v1/jobs/{job}/value?wait=30", headers=self.headers)
            response = self.connection.getresponse()
            if response.status == 200:
                return sum(map(len, iter(lambda: response.read(1 << 20), b"")))
            body = response.read()
            if response.status != 202:
                fail(body)

    def put(self, blob):
        """Uploads a blob and gives the name by which jobs refer to it."""
        name = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        self.connection.request("PUT", f"/v1/blobs/{name}", blob, self.headers)
        response = self.connection.getresponse()
        answer = response.read()
        return name if 200 <= response.status < 300 else fail(answer)

    def post(self, path, body):
        status, answer = self.request("POST", path, json.dumps(body))
        return json.loads(answer) if 200 <= status < 300 else fail(answer)

    def outcomes(self, job):
        status, body = self.request("GET", f"/v1/jobs/{job}/outcomes")
        return [json.loads(line) for line in body.splitlines()] if status == 200 else fail(body)

    def get(self, path):
        status, body = self.request("GET", path)
        return json.loads(body) if status == 200 else fail(body)

    def request(self, method, path, body=None):
        headers = self.headers | ({"Content-Type": "application/json"} if body else {})
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        return response.status, response.read()


class MemoryWatch:
    """Samples how much memory of a process is resident, before, during and after a block."""

    def __init__(self, process):
        self.pid = process.pid
        self.samples = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def __enter__(self):
        self.before = resident(self.pid)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.after = resident(self.pid)

    def sample(self):
        while not self.over.wait(0.05):
            self.samples.append(resident(self.pid))

    def figures(self):
        return {"before": self.before, "most": max([self.before, self.after, *self.samples]), "after": self.after}


def end(process):
    """Asks a process to end, and ends it if it does not."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def resident(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            fail(f"gave up waiting for {what}")
        time.sleep(0.05)


def fail(what):
    raise SystemExit(f"bench: {what.decode() if isinstance(what, bytes) else what}")
