"""What a worker speaks through: the descriptors of its frames, and its standard streams."""

import io
import os
import struct
import sys
import threading

INPUT, OUTPUT = 3, 4
HEAD = struct.Struct("<IB")


class Channel:
    """The two descriptors. A forked child has none: it must never read or write a frame."""

    def __init__(self):
        self.forked = False
        # A frame is written in several parts, and threads of user code warn when they like.
        self._lock = threading.Lock()
        self._writer = None
        # It reads what is large straight into the bytes that it gives.
        self.input = io.BufferedReader(io.FileIO(INPUT, "r", closefd=False), 1 << 16)
        for descriptor in (INPUT, OUTPUT):
            os.set_inheritable(descriptor, False)
        os.register_at_fork(after_in_child=self._close)

    def _close(self):
        if not self.forked:
            self.forked = True
            os.close(INPUT)
            os.close(OUTPUT)

    def end_if_forked(self):
        """Ends a child that user code forked and that came back from it."""
        if self.forked:
            os._exit(0)

    def receive(self):
        """The next frame's kind and the size of its body, which is to be read."""
        size, kind = HEAD.unpack(self.read(HEAD.size))
        return chr(kind), size

    def may_go_on(self):
        """After a `p` or a `w`: the agent has read what was printed, and says whether it wants the other
        elements back."""
        kind, _ = self.receive()
        if kind not in "GS":
            leave()
        return kind == "G"

    def read(self, size):
        """So many bytes; ends the process when the agent is gone."""
        self.end_if_forked()
        data = self.input.read(size)
        if len(data) < size:
            leave()
        return data

    def send(self, kind, *parts):
        self.end_if_forked()
        size = sum(map(len, parts))
        head = HEAD.pack(size, ord(kind))
        # What is large is not copied behind what is small.
        few = len(parts) <= 8 and size > 1 << 16
        with self._lock:
            self._writer = threading.get_ident()
            for part in (head, *parts) if few else (b"".join((head, *parts)),):
                rest = memoryview(part)
                while rest:
                    rest = rest[os.write(OUTPUT, rest) :]
            self._writer = None

    def is_in_use(self):
        """Whether this thread is writing a frame, in the middle of which a finalizer or the handler of a signal runs."""
        return self._writer == threading.get_ident()


def leave():
    """Ends the process, without running what user code has left to be run at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    os._exit(0)


class Bytes(io.BufferedWriter):
    """The binary side of a stream that notices writes, and that it is closed."""

    def write(self, data):
        if not self.streams.dirty:
            self.streams.begin()
        return super().write(data)

    def close(self):
        self.streams.dirty = True
        super().close()

    def detach(self):
        self.streams.dirty = True
        return super().detach()


class Text(io.TextIOWrapper):
    """A stream that notices writes, and the loss of its binary side."""

    def write(self, text):
        if not self.streams.dirty:
            self.streams.begin()
        return super().write(text)

    def detach(self):
        self.streams.dirty = True
        return super().detach()

    def reconfigure(self, **settings):
        self.streams.changed = True
        super().reconfigure(**settings)


class Streams:
    """Standard output and error."""

    def __init__(self):
        # Whether something was written or closed since this was last set to False.
        self.dirty = False
        # Whether user code has set one to another encoding or the like.
        self.changed = False
        # User code may close descriptor 1 or 2; from these they are opened again.
        self._spare = {1: os.dup(1), 2: os.dup(2)}
        self._pipes = {1: file_behind(1), 2: file_behind(2)}
        self._make()

    def restore(self):
        """Makes them what they were, whatever user code did to them."""
        self.mend()
        try:
            # What is left was printed behind all elements, and is not the next job's.
            self.stdout.flush()
            self.stderr.flush()
            as_made = self._are_as_made()
        except (OSError, ValueError):
            as_made = False
        if not as_made:
            self._make()

    def _are_as_made(self):
        """Whether nothing was done to them, so that what stands for them can stay."""
        if self.changed or self.dirty or self.replaced():
            return False
        if sys.__stdout__ is not self.stdout or sys.__stderr__ is not self.stderr:
            return False
        # Nothing was hung onto them, and none is closed.
        texts = self.stdout, self.stderr
        return all(len(text.__dict__) == 1 == len(text.buffer.__dict__) and not text.closed for text in texts)

    def _make(self):
        self.changed = self.dirty = False
        self.stdout = sys.stdout = sys.__stdout__ = self._open(1)
        self.stderr = sys.stderr = sys.__stderr__ = self._open(2)

    def mend(self):
        """Makes descriptors 1 and 2 what they were."""
        for descriptor, pipe in self._pipes.items():
            if file_behind(descriptor) != pipe:
                self._reopen(descriptor)

    def begin(self):
        """Before an element's first write: an earlier one may have closed what it writes to. What
        the element itself has put in its place stays there."""
        self.dirty = True
        for descriptor in self._pipes:
            if file_behind(descriptor) is None:
                self._reopen(descriptor)

    def _reopen(self, descriptor):
        # User code may have closed the spare one too. Then the agent sees that the pipe is closed.
        spare = self._spare[descriptor]
        if file_behind(spare) == self._pipes[descriptor]:
            os.dup2(spare, descriptor)

    def _open(self, descriptor):
        # Descriptors stay open when the stream is closed.
        data = Bytes(io.FileIO(descriptor, "w", closefd=False))
        text = Text(data, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        data.streams = text.streams = self
        return text

    def replaced(self):
        """Whether user code has put something else in their place."""
        return sys.stdout is not self.stdout or sys.stderr is not self.stderr

    def settle(self):
        """After an element that wrote something: all of it is with the agent afterwards."""
        try:
            self.mend()
            if self.replaced():
                self.restore()
            self.stdout.flush()
            self.stderr.flush()
        except (OSError, ValueError):
            # Closed, for one.
            self._make()
        # Flushing is writing.
        self.dirty = False


def file_behind(descriptor):
    """Which file a descriptor stands for; None when it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
