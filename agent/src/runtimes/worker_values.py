"""What a worker says: values as JSON, and errors as the protocol has them."""

import json
import json.encoder
import os
import pickle
import traceback

MOST_CALLS = 50
OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))


def failure(kind, message, calls=(), fatal=False):
    """An error as the protocol has it."""
    error = {"type": kind, "message": message}
    if calls:
        error["traceback"] = list(calls)
    if fatal:
        error["fatal"] = True
    return error


def told(document):
    """An error or a condition as the agent reads it: UTF-8. What is none, as in names of files that are not UTF-8, becomes
    `?`: without a word of the user's the agent would take the worker for broken."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")


class Refusal(Exception):
    """What these scripts themselves have to say, as the protocol has it."""

    def __init__(self, error):
        super().__init__(error)
        self.error = error


def describe(exception, fatal=False):
    """An exception that user code raised."""
    if type(exception) is Refusal:
        return exception.error
    try:
        message = str(exception)
    except BaseException:
        message = "its __str__() failed"
    try:
        calls = user_calls(exception)
    except BaseException:
        calls = []
    return failure(type(exception).__name__, message, calls, fatal)


def user_calls(exception):
    """The stack below these scripts, innermost call last, at most MOST_CALLS of it."""
    frames = traceback.extract_tb(exception.__traceback__)
    while frames and os.path.dirname(frames[0].filename) == OWN_FOLDER:
        del frames[0]
    calls = [text.strip() for text in traceback.format_list(frames)]
    if len(calls) > MOST_CALLS:
        dropped = len(calls) - MOST_CALLS + 1
        calls[20 : 20 + dropped] = ["... %d calls ..." % dropped]
    return calls


def syntax_error(error, part):
    message = "line %s, column %s of the %s: %s" % (error.lineno, error.offset, part, error.msg)
    if error.text:
        message += "\n" + error.text.rstrip("\n")
        message += "\n" + " " * ((error.offset or 1) - 1) + "^"
    return failure("SyntaxError", message, fatal=True)


def from_numpy(value):
    """numpy's scalars and arrays are what `tolist` makes of them."""
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        refuse_times(value)
        plain = value.tolist()
        if type(plain) is not type(value):
            return plain
    raise TypeError("a value of class `%s` is not JSON" % class_name(value))


def from_numpy_scalar(value):
    """As Python has it, if it is one of numpy's scalars."""
    if type(value).__module__.partition(".")[0] == "numpy" and getattr(value, "shape", None) == ():
        refuse_times(value)
        return value.tolist()
    return value


def refuse_times(value):
    """`tolist` makes dates of some of numpy's times, and of others numbers: of nanoseconds, which pandas has."""
    dtype = getattr(value, "dtype", None)
    if getattr(dtype, "kind", "") in ("m", "M"):
        raise TypeError("a value of numpy's type `%s` is not JSON" % dtype)


class Mismatch(Exception):
    """A value is not what the job says its values are."""


class Values:
    """How a job's values become bytes: `write` does it, or raises what `refusal` then tells."""

    def __init__(self, request):
        self.is_call = request["is_call"]
        self.encoding = request["encoding"]
        write = {"json": write_json, "pickle": write_pickle, "bytes": write_bytes}[self.encoding]
        self.write = write
        if request["variant"] == "walk":
            nothing = b"" if self.encoding == "bytes" else write(None)
            self.write = lambda value: nothing
        elif request["type"] != "list":
            as_one = {"chr": as_chr, "dbl": as_dbl, "int": as_int, "lgl": as_lgl}[request["type"]]
            self.write = lambda value: write(as_one(value))

    def refusal(self, value, error, index):
        """Why a value cannot be written, as the protocol has it."""
        if type(error) is Mismatch:
            about = "" if self.is_call else "element %d: " % index
            message = "%sthe value must be %s, is %s" % (about, error, one_of(value))
            return failure("TypeMismatch", message)
        if self.encoding == "json":
            return untranslatable(value, error)
        message = "the value cannot be written as %s: %s: %s"
        message %= self.encoding, class_name(error), error
        return failure("Untranslatable", message)


def write_pickle(value):
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def write_bytes(value):
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise Mismatch("bytes, with the encoding bytes")
    return bytes(value)


def as_chr(value):
    value = from_numpy_scalar(value)
    if not isinstance(value, str):
        raise Mismatch("one chr (a str)")
    return value


def as_dbl(value):
    value = from_numpy_scalar(value)
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            double = float(value)
        except OverflowError:
            raise Mismatch("one dbl (a float)") from None
        if double != value:
            raise Mismatch("one dbl (a float), without a loss")
        return double
    if not isinstance(value, float):
        raise Mismatch("one dbl (a float)")
    return value


def as_int(value):
    value = from_numpy_scalar(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Mismatch("one int")
    return value


def as_lgl(value):
    value = from_numpy_scalar(value)
    if not isinstance(value, bool):
        raise Mismatch("one lgl (a bool)")
    return value


def one_of(value):
    """What a value is, in words: `a list of length 2`."""
    if value is None:
        return "None"
    name = class_name(value)
    text = ("an " if name[0] in "aeiou" else "a ") + name
    if isinstance(value, (list, tuple, dict, set, frozenset, bytes, bytearray)):
        text += " of length %d" % len(value)
    return text


def class_name(value):
    kind = type(value)
    prefix = "" if kind.__module__ in ("builtins", "__main__") else kind.__module__ + "."
    return prefix + kind.__qualname__


def make_encoder():
    """A function from a value to its JSON, in bytes. It is made once, because `json.dumps` makes an
    encoder a call, which takes longer than a small value does."""
    encoder = json.JSONEncoder(
        default=from_numpy, allow_nan=False, ensure_ascii=False, separators=(",", ":")
    )

    def slowly(value):
        return encoder.encode(value).encode()

    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return slowly
    try:
        chunks = make(
            None,
            from_numpy,
            json.encoder.encode_basestring,
            None,
            ":",
            ",",
            False,
            False,
            False,
        )
        if "".join(chunks({"a": [1, None, "b"]}, 0)) != '{"a":[1,null,"b"]}':
            return slowly
    except Exception:
        return slowly

    def quickly(value):
        # The smallest values are the most: an encoder takes three times as long for them.
        return b"%d" % value if type(value) is int else "".join(chunks(value, 0)).encode()

    return quickly


write_json = make_encoder()


def untranslatable(value, error):
    """Says where in a value that which is not JSON stands."""
    where, what = "", None
    try:
        where, what = find_untranslatable(value, "", 0)
    except RecursionError:
        what = "it is nested too deeply, or contains itself"
    message = "the value%s cannot be said in JSON: %s; return something else, or submit with the "
    message += "encoding `pickle`"
    message %= " at `%s`" % where if where else "", what or error
    return failure("Untranslatable", message)


def find_untranslatable(value, path, depth):
    if depth > 200:
        raise RecursionError
    if isinstance(value, dict):
        for key, item in value.items():
            if key is not None and not isinstance(key, (str, int, float)):
                return path, "its key %.50r is of class `%s`" % (key, class_name(key))
            found = find_untranslatable(item, "%s[%.50r]" % (path, key), depth + 1)
            if found[1]:
                return found
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            found = find_untranslatable(item, "%s[%d]" % (path, index), depth + 1)
            if found[1]:
                return found
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return path, "it is %r" % float(value)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return path, "it is no Unicode text (%s)" % error.reason
    elif not (value is None or isinstance(value, int)):
        try:
            return find_untranslatable(from_numpy(value), path, depth + 1)
        except TypeError as error:
            return path, str(error)
    return path, None
