"""farrow's Python worker: runs elements for an agent. Python 3.8 or later, no package.

Frames come in on descriptor 3 and go out on descriptor 4 (agent/src/frame.rs); standard output and
error are the user's. The user's text runs as the module `__main__`, so that what it defines can be
pickled for processes that it starts itself; this script is then reachable by nobody.
"""

import ast
import faulthandler
import functools
import gc
import importlib
import linecache
import os
import struct
import sys
import time
import types
import warnings

# Processes that user code spawns import this script under another name; it must do nothing there.
if __name__ == "__main__":
    from worker_calls import Caller, awaited, read_constants, receive_job
    from worker_io import Channel, Streams, leave
    from worker_reset import NewProcess
    from worker_values import Refusal, Values, class_name, describe, failure, syntax_error, told

    # As for `python -c`: modules are found in the working directory, not beside this script.
    sys.path[0] = ""
    for part in ("worker_calls", "worker_io", "worker_reset", "worker_values"):
        del sys.modules[part]

ERROR_BIT = 1 << 31
# Outcomes that are finished wait for others at most so many seconds, and for the element that runs then;
# those of so few elements for none.
FLUSH_AFTER = 0.005
FEW = 8
# After elements that took so many seconds together, the agent may want those behind them back.
SLOW = 0.01
MOST_CONDITIONS = 100


# ---- The job ---------------------------------------------------------------------------------


class Main(types.ModuleType):
    """The module `__main__` of a job. Processes that user code spawns (multiprocessing) read it from a
    file, which is written when somebody asks where it is: few jobs spawn any."""

    __slots__ = ("_source", "_path", "is_written")

    def __init__(self, source, path):
        super().__init__("__main__")
        self._source, self._path, self.is_written = source, path, False
        self.__dict__["__file__"] = path

    @property
    def __file__(self):
        path = self.__dict__.get("__file__")
        if path is None or not (path != self._path or self.is_written or self._write()):
            raise AttributeError("__file__")
        return path

    @__file__.setter
    def __file__(self, path):
        self.__dict__["__file__"] = path

    def _write(self):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            file = os.open(self._path, flags, 0o666)
            try:
                rest = memoryview(self._source.encode())
                while rest:
                    rest = rest[os.write(file, rest) :]
            finally:
                os.close(file)
        except OSError:
            return False
        self.is_written = True
        return True


class Job:
    """A job that is set up: its function, and what is to be taken back after it."""

    def __init__(self, request, worker):
        self.wants_conditions = request["conditions"]
        self.request = request
        self.caller = None
        self.values = None
        self.position = None
        self.signalled = 0
        self.worker = worker
        self.module = Main(request["function"], worker.job_file)
        sys.modules["__main__"] = self.module
        self._filters = warnings.catch_warnings()
        self._filters.__enter__()
        # Every element's warnings are its own: by default only the first of a place is shown.
        warnings.defaultaction = "always"
        warnings.showwarning = self._show_warning

    def set_up(self, blobs):
        """Loads all that the elements need. Gives None, or why that cannot be done."""
        request = self.request
        cores = str(request["cores"])
        # Most often it has been started with them.
        os.environ.update((name, cores) for name in request["core_variables"] if os.environ.get(name) != cores)
        names = self.module.__dict__
        try:
            for package in request["packages"]:
                try:
                    importlib.import_module(package)
                except ModuleNotFoundError as error:
                    return missing_package(package, error)
                top = package.partition(".")[0]
                names[top] = sys.modules[top]
            args, variables = read_constants(request, blobs)
            names.update(variables)
            if request["setup"]:
                show_lines(request["setup"], "setup")
                exec(compile_part(request["setup"], "setup"), names)
            show_lines(request["function"], "function")
            parse_function(request["function"])
            # What a call is made of runs as its element.
            last_value = functools.partial(self._last_value, request["function"])
            function = last_value if request["is_call"] else last_value()
            if not callable(function):
                return no_function(function)
            if not request["is_call"]:
                function = awaited(function)
            self.caller = Caller(function, args, request, names)
            self.values = Values(request)
        except BaseException as error:
            return describe(error, fatal=True)
        return None

    def _last_value(self, source):
        """Runs the text. The value of its last expression, or else its last `def`."""
        names = self.module.__dict__
        body, expression, definition = compile_function(source)
        exec(body, names)
        return names.get(definition) if expression is None else eval(expression, names)

    def _show_warning(self, message, category, filename, lineno, file=None, line=None):
        channel, position = self.worker.channel, self.position
        if channel.forked or channel.is_in_use() or position is None or file is not None:
            text = warnings.formatwarning(message, category, filename, lineno, line)
            (file or sys.stderr).write(text)
            return
        if not self.wants_conditions:
            return
        self.signalled += 1
        if self.signalled <= MOST_CONDITIONS:
            self._send_condition(position, category.__name__, str(message))

    def _send_condition(self, position, kind, message):
        condition = {"position": position, "kind": kind, "message": message}
        self.worker.channel.send("c", told(condition))

    def settle_conditions(self):
        """At the end of an element: says how many of its conditions were dropped."""
        dropped = self.signalled - MOST_CONDITIONS
        if dropped > 0:
            self._send_condition(self.position, "note", "%d more warnings were dropped" % dropped)
        self.signalled = 0

    def forget(self):
        """Takes back what it did to the interpreter."""
        self._filters.__exit__(None, None, None)
        warnings.defaultaction = "default"
        if self.module.is_written:
            try:
                os.remove(self.worker.job_file)
            except OSError:
                pass


def show_lines(source, part):
    """Lets tracebacks find the lines of a text of the job, in `linecache`."""
    name = "<%s>" % part
    # Each with its end, as from a file: without it, marks in tracebacks stand a column off.
    lines = [line + "\n" for line in source.splitlines()]
    linecache.cache[name] = (len(source), None, lines, name)


# Texts are kept as they were parsed and compiled, because many jobs in a row have the same one.
@functools.lru_cache(maxsize=16)
def parse_function(source):
    """The syntax tree of the function's text."""
    return compile_part(source, "function", ast.PyCF_ONLY_AST)


@functools.lru_cache(maxsize=16)
def compile_function(source):
    """The function's text in code: all of it but an expression at its end; that expression, or None; and
    the name of its last `def`, or None."""
    body = parse_function(source).body
    expression = None
    if body and isinstance(body[-1], ast.Expr):
        last = ast.Expression(body[-1].value)
        expression = compile(last, "<function>", "eval", dont_inherit=True)
        body = body[:-1]
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef)
    defined = [part.name for part in body if isinstance(part, definitions)]
    code = compile(ast.Module(body, []), "<function>", "exec", dont_inherit=True)
    return code, expression, defined[-1] if defined else None


def compile_part(source, part, flags=0):
    """Compiles a text of the job."""
    try:
        return compile(source, "<%s>" % part, "exec", flags, dont_inherit=True)
    except SyntaxError as error:
        raise Refusal(syntax_error(error, part)) from None
    except ValueError as error:
        raise Refusal(failure("SyntaxError", "the %s: %s" % (part, error), fatal=True)) from None


def missing_package(package, error):
    message = "there is no package called `%s` on this agent" % package
    if error.name and error.name != package:
        message = "importing `%s` failed: %s" % (package, error)
    message += "; install it there, for example with: %s -m pip install %s" % (
        os.path.basename(sys.executable or "python3"),
        (error.name or package).partition(".")[0],
    )
    return failure(type(error).__name__, message, fatal=True)


def no_function(value):
    message = (
        "`function` must end with an expression whose value can be called, such as "
        "`lambda x: x + 1`, or define a function"
    )
    if value is not None:
        message += "; its last expression is of class `%s`" % class_name(value)
    return failure("NotAFunction", message, fatal=True)


# ---- Elements --------------------------------------------------------------------------------


class Outcomes:
    """Finished outcomes that have not been sent yet."""

    def __init__(self, channel):
        self.channel = channel
        self.lengths = []
        self.texts = []

    def add_error(self, error):
        text = told(error)
        self.lengths.append(len(text) | ERROR_BIT)
        self.texts.append(text)

    def send(self, kind):
        count = len(self.texts)
        head = struct.pack("<%dI" % (count + 1), count, *self.lengths)
        self.channel.send(kind, head, *self.texts)
        self.lengths.clear()
        self.texts.clear()


def run(job, body, worker):
    """Runs the elements of a frame and sends their outcomes, in batches while they are quick."""
    outcomes = Outcomes(worker.channel)
    streams, channel = worker.streams, worker.channel
    write, clock = job.values.write, time.monotonic
    lengths, texts = outcomes.lengths, outcomes.texts
    elements, call = job.caller.frame(body)
    del body
    last, replaced = len(elements) - 1, streams.replaced
    patience = -1 if last < FEW else FLUSH_AFTER
    streams.mend()
    streams.dirty = False
    sent_at = clock()
    for job.position, element in enumerate(elements):
        try:
            value = call(element)
        except BaseException as error:
            channel.end_if_forked()
            outcomes.add_error(describe(error))
        else:
            try:
                text = write(value)
                if len(text) >= ERROR_BIT:
                    raise OverflowError("it is larger than 2 GiB")
            except Exception as error:
                outcomes.add_error(job.values.refusal(value, error, job.caller.index))
            else:
                lengths.append(len(text))
                texts.append(text)
        if channel.forked:
            channel.end_if_forked()
        printed = streams.dirty or replaced()
        took = clock() - sent_at
        if printed or job.signalled or took > patience:
            if printed:
                streams.settle()
            job.settle_conditions()
            waits = (printed or took > SLOW) and job.position < last
            # Warnings of threads that run on are no element's now.
            job.position = None
            outcomes.send("p" if printed else "w" if waits else "o")
            if waits and not channel.may_go_on():
                break
            sent_at = clock()
    job.position = None
    if texts:
        outcomes.send("o")


# ---- The worker ------------------------------------------------------------------------------


class Worker:
    """The loop over frames."""

    def __init__(self):
        self.channel = Channel()
        self.streams = Streams()
        self.job = None
        # Where the agent clears up after a worker that was killed.
        folder = os.environ.get("TMPDIR") or os.path.dirname(os.path.abspath(__file__))
        self.job_file = os.path.join(folder, "farrow-job-%d.py" % os.getpid())
        sys.argv = ["farrow"]
        self.new = NewProcess(self.streams)

    def serve(self):
        version = "%d.%d.%d" % sys.version_info[:3]
        self.channel.send("h", told({"version": version}))
        while True:
            kind, size = self.channel.receive()
            if kind == "J":
                self._prepare(*receive_job(self.channel))
            elif kind == "E":
                run(self.job, self.channel.read(size), self)
            elif kind == "R":
                to_rest = self.channel.read(size)
                self._reset()
                # Only a worker that is to rest takes the time, some milliseconds.
                if to_rest:
                    gc.collect()
                self.channel.send("r")
            else:
                leave()

    def _prepare(self, request, blobs):
        self._reset()
        self.job = Job(request, self)
        problem = self.job.set_up(blobs)
        self.channel.end_if_forked()
        if self.streams.dirty or self.streams.replaced():
            self.streams.settle()
        self.channel.send("j", b"" if problem is None else told(problem))

    def _reset(self):
        """Leaves the worker as a new process would be, or ends it where it cannot."""
        if self.job is None:
            return
        try:
            self.job.forget()
            self.job = None
            self.new.restore()
        except BaseException:
            leave()


if __name__ == "__main__":
    faulthandler.enable()
    Worker().serve()
