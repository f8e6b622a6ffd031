"""A way to the server on which every byte takes its time: for what is measured from far away."""

import asyncio
import threading


class Far:
    """Forwards connections to `address`; what is sent arrives `delay` seconds later, in each direction.

    Connections themselves are made at once: of a far server's first answer a real way would take one
    delay more.
    """

    def __init__(self, address, delay):
        self.to = address.rsplit(":", 1)
        self.delay = delay
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self.connect, "127.0.0.1", 0))
        self.url = "http://127.0.0.1:{}".format(self.server.sockets[0].getsockname()[1])
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self.close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def close(self):
        self.server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def connect(self, reader, writer):
        try:
            there, back = await asyncio.open_connection(*self.to)
            await asyncio.gather(self.carry(reader, back), self.carry(there, writer))
        except asyncio.CancelledError:
            # What is cut off at the end is not worth a word.
            return

    async def carry(self, reader, writer):
        on_the_way = asyncio.Queue()
        delivery = asyncio.create_task(self.deliver(on_the_way, writer))
        while True:
            try:
                data = await reader.read(1 << 16)
            except OSError:
                data = b""
            on_the_way.put_nowait((self.loop.time() + self.delay, data))
            if not data:
                break
        await delivery

    async def deliver(self, on_the_way, writer):
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(max(0, due - self.loop.time()))
            try:
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()
            except OSError:
                return
