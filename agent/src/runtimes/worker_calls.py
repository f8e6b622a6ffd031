"""How a worker reads what a job brings, and calls its function with it."""

import functools
import hashlib
import importlib
import json
import pickle
import random
import struct

from worker_values import Refusal, class_name, failure, one_of

MARK = 1 << 31
# As in `inspect`, which takes long to import.
CO_COROUTINE = 0x80


def take_json(body):
    """A JSON text behind its length, and what follows it."""
    (size,) = struct.unpack_from("<I", body)
    return json.loads(body[4 : 4 + size]), memoryview(body)[4 + size :]


def receive_job(channel):
    """The body of a job's frame: a JSON text behind its length, and the bytes of each constant that it
    describes, which may be large: they are read one by one and not copied. Of those in files, none."""
    (size,) = struct.unpack("<I", channel.read(4))
    request = json.loads(channel.read(size))
    blobs = [channel.read(size) for described in request["constants"] for _, _, size, _ in described]
    return request, blobs


def read_constants(request, blobs):
    """The arguments and the globals of a job: for each their names, encodings, sizes and files, and the
    bytes of them all, one after the other."""
    constants = []
    blobs.reverse()
    for field, described in zip(("args", "globals"), request["constants"]):
        values = {}
        for name, encoding, _, path in described:
            data = blobs.pop()
            try:
                values[name] = read_value(data, encoding) if path is None else read_file(path, encoding)
            except Exception as error:
                message = "`%s.%s` cannot be read as %s: %s" % (field, name, encoding, error)
                raise Refusal(failure("Untranslatable", message, fatal=True)) from None
        constants.append(values)
    return constants


def read_value(data, encoding):
    if encoding == "pickle":
        return pickle.loads(data)
    return data if encoding == "bytes" else json.loads(data)


def read_file(path, encoding):
    with open(path, "rb") as file:
        return pickle.load(file) if encoding == "pickle" else file.read()


def read_lengths(body):
    (count,) = struct.unpack_from("<I", body)
    return struct.unpack_from("<%dI" % count, body, 4)


class Unreadable:
    """An element that cannot be read. It is an error of its own when its turn comes."""

    def __init__(self, error):
        self.error = error


def awaited(function):
    """The function; one that is `async` is run to its end, in a loop of its own."""
    code = getattr(function, "__code__", None)
    if not getattr(code, "co_flags", 0) & CO_COROUTINE:
        return function
    run = importlib.import_module("asyncio").run
    return lambda *args, **kwargs: run(function(*args, **kwargs))


class Caller:
    """Calls a job's function with elements. `function` is what the job's text gives; of a call it
    runs that text. Elements that need more than their value come with notes: their index, and the
    keys of `imap`."""

    def __init__(self, function, args, request, names):
        self.function = function
        self.args = args
        self.variant = request["variant"]
        self.encoding = request["encoding"]
        self.is_call = request["is_call"]
        self.has_notes = request["notes"]
        self.index = None
        self.seed = request["seed"]
        self.names = names
        self.seed_sequence = None
        if self.seed is not None:
            self._find_numpy()
        self.plain = self._plain()

    def _plain(self):
        """The function of one argument for elements that are as JSON has them."""
        if self.is_call:
            return self._run_call
        if self.variant == "pmap":
            return self._spread
        return functools.partial(self.function, **self.args) if self.args else self.function

    def frame(self, body):
        """The elements of a frame, and the function to call with each."""
        notes = None
        if self.has_notes:
            notes, body = take_json(body)
        body = memoryview(body)
        (count,) = struct.unpack_from("<I", body)
        elements = None
        if self.encoding == "json" or not any(length & MARK for length in read_lengths(body)):
            try:
                elements = json.loads(bytes(body[4 + 4 * count :]))
            except (ValueError, RecursionError):
                pass
            if elements is not None and notes is None:
                return elements, self.plain
        if elements is None:
            elements = list(self._one_by_one(body))
        return list(zip(elements, notes or [None] * count)), self._step

    def _one_by_one(self, body):
        lengths = read_lengths(body)
        at = 5 + 4 * len(lengths)
        for length in lengths:
            encoding = self.encoding if length & MARK else "json"
            length &= ~MARK
            data = bytes(body[at : at + length])
            at += length + 1
            try:
                yield read_value(data, encoding)
            except Exception as error:
                yield Unreadable(unreadable(error, encoding))

    def _step(self, item):
        element, note = item
        if type(element) is Unreadable:
            raise element.error
        keys = ()
        if note is not None:
            self.index, keys = note
            if self.seed is not None:
                self._seed_element()
        if self.variant == "imap" and not self.is_call:
            return self.function(element, *keys, **self.args)
        return self.plain(element)

    def _spread(self, element):
        """The items of an element as arguments."""
        if isinstance(element, (list, tuple)):
            return self.function(*element, **self.args)
        if isinstance(element, dict):
            return self.function(**element, **self.args)
        message = "element %d: pmap needs an array or an object, whose items are the arguments; "
        message = message % self.index + "this is " + one_of(element)
        raise Refusal(failure("TypeMismatch", message))

    def _run_call(self, _):
        """A function is called with the arguments of the job; anything else is the value."""
        value = self.function()
        return awaited(value)(**self.args) if callable(value) else value

    def _find_numpy(self):
        self.names["farrow_seed"] = None
        try:
            self.numpy_random = importlib.import_module("numpy.random")
            self.seed_sequence = self.numpy_random.SeedSequence
        except Exception:
            pass

    def _seed_element(self):
        """Random numbers follow from the job's seed and the element's index alone."""
        digest = hashlib.sha256(b"%d:%d" % (self.seed, self.index)).digest()
        random.seed(int.from_bytes(digest, "big"))
        if self.seed_sequence is not None:
            # numpy takes no negative ones.
            sequence = self.seed_sequence(self.seed % (1 << 64), spawn_key=(self.index,))
            self.numpy_random.set_state(self.numpy_random.MT19937(sequence).state)
            self.names["farrow_seed"] = sequence


def unreadable(error, encoding):
    if encoding == "json":
        return error.with_traceback(None)
    message = "the element cannot be read as %s: %s: %s" % (encoding, class_name(error), error)
    return Refusal(failure("Untranslatable", message))
