#!/usr/bin/env python3
"""Many simulated agents in one process, parked in long-polls: each waits for work that it cannot do.

They speak as agents do (`protocol/src/agent.rs`): each holds a request for work of 30 seconds on a
connection of its own, and sends a heartbeat three times a lease, as agents do that have none. The
first request is shorter by chance: agents that came at different times do not ask again all at once,
and what they cost while nothing runs can then be told from what a map costs. The heartbeats, which
real agents have held for that long, are answered at once and share connections: so one process can
have ten thousand of them with the open files that systems allow. Prints a line once all wait, and ends
with its standard input, or with an answer that is none of the protocol's. Takes the token from
FARROW_TOKEN.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import sys
import uuid

# Connections that the heartbeats share.
BEATING = 32
# Agents that come at the same time.
COMING = 64
# Seconds that a request for work waits.
WAIT = 30


class Answers(asyncio.Protocol):
    """A connection on which one request at a time is sent and answered."""

    def connection_made(self, transport):
        self.transport = transport
        self.read = b""
        self.answered = None

    def data_received(self, data):
        self.read += data
        head, found, body = self.read.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        if len(body) >= int(length or 0):
            self.read = b""
            self.answered.set_result((int(head[9:12]), body))

    def connection_lost(self, error):
        if self.answered and not self.answered.done():
            self.answered.set_exception(error or ConnectionResetError("the server has closed a connection"))

    async def ask(self, request):
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        status, body = await self.answered
        if status != 200:
            raise SystemExit(f"parked agents: {request[:80]!r} was answered {status}: {body[:500]!r}")
        return body


class Park:
    """Agents at a server, which differ from those that are to have work by a label."""

    def __init__(self, address, token):
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.head = f"HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        self.coming = asyncio.Semaphore(COMING)
        self.n_waiting = 0
        self.all_wait = asyncio.Event()

    async def run(self, n_agents):
        agents = [str(uuid.uuid4()) for _ in range(n_agents)]
        self.n_agents = n_agents
        beating = [self.beat(agents[first::BEATING]) for first in range(min(BEATING, n_agents))]
        await asyncio.gather(self.tell(), *map(self.wait_for_work, agents), *beating)

    async def tell(self):
        await self.all_wait.wait()
        print(json.dumps({"agents": self.n_agents}), flush=True)

    def connection(self):
        return asyncio.get_running_loop().create_connection(Answers, self.host, self.port)

    def request(self, path, body):
        text = json.dumps(body)
        return f"POST {path} {self.head}Content-Length: {len(text)}\r\n\r\n{text}".encode()

    async def wait_for_work(self, agent):
        async with self.coming:
            _, connection = await self.connection()
            registered = await connection.ask(self.request("/v1/agents", {
                "id": agent, "name": f"parked-{agent[:8]}", "protocol": 2, "version": "0", "slots": 2,
                "physical_cores": 2, "logical_cores": 2, "memory": 1 << 33, "runtimes": {"python": "3"},
                "labels": {"pool": "parked"},
            }))
            self.lease_seconds = json.loads(registered)["lease_seconds"]
        wait = random.uniform(0, WAIT)
        self.n_waiting += 1
        if self.n_waiting == self.n_agents:
            self.all_wait.set()
        while True:
            given = await connection.ask(self.request(
                f"/v1/agents/{agent}/lease", {"free": 2, "ahead": 2, "held": [], "known_jobs": [], "wait": wait}))
            wait = WAIT
            if b'"leases":[]' not in given:
                raise SystemExit(f"parked agents: work was given to one: {given[:500]!r}")

    async def beat(self, agents):
        _, connection = await self.connection()
        beats = [self.request(f"/v1/agents/{agent}/heartbeat", {"held": [], "draining": False, "wait": 0})
                 for agent in agents]
        await self.all_wait.wait()
        loop = asyncio.get_running_loop()
        pause = min(10, self.lease_seconds / 3) / len(agents)
        due = loop.time()
        while True:
            for beat in beats:
                await connection.ask(beat)
                due += pause
                await asyncio.sleep(due - loop.time())


async def run(options):
    park = asyncio.create_task(Park(options.address, os.environ["FARROW_TOKEN"]).run(options.agents))
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.read))
    await asyncio.wait([park, ended], return_when=asyncio.FIRST_COMPLETED)
    if park.done():
        # Only an error ends it.
        print(park.exception(), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="where the server is, such as 127.0.0.1:3277")
    parser.add_argument("agents", type=int, help="how many")
    allow_many_connections()
    asyncio.run(run(parser.parse_args()))


def allow_many_connections():
    """As many open files as the system lets this process, and those that it starts, have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


if __name__ == "__main__":
    main()
