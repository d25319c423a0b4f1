"""A job's config from a file, standard input and -c KEY=VALUE: the object that is sent."""
import json
import re

from .errors import Wrong


def read(path, assignments):
    """path: a file, "-" for standard input, or None. assignments: texts KEY=VALUE, put over it. Raises Wrong."""
    config = parse(*_text(path)) if path else {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not all(key.split(".")):
            raise Wrong("-c takes KEY=VALUE, such as -c input.path=/data, not '%s'" % assignment)
        _put(config, key.split("."), value_of(value), assignment)
    return config


def settings(assignments):
    """Of a context: KEY=VALUE, the keys as they are."""
    pairs = [assignment.partition("=") for assignment in assignments]
    for key, equals, value in pairs:
        if not key or not equals:
            raise Wrong("-o takes KEY=VALUE, such as -o num-cpu-cores=2, not '%s'" % (key + equals + value))
    return {key: value_of(value) for key, _, value in pairs}


def value_of(text):
    """What is JSON is taken as such (3, true, ["a"]), what is not as text."""
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text


def parse(text, name):
    """JSON, or else HOCON. name: of the file, for the message."""
    try:
        config = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        config = _hocon(text, name, error)
    if not isinstance(config, dict):
        raise Wrong("%s must hold an object, {...}" % name)
    return config


def _no_constant(name):
    raise ValueError("%s is no JSON" % name)


def _hocon(text, name, json_error):
    if name.endswith(".json"):
        raise Wrong("%s is no JSON: %s" % (name, json_error))
    try:
        import pyhocon
    except ImportError:
        raise Wrong("%s is no JSON (%s), and to read HOCON pyhocon must be installed" % (name, json_error)) from None
    try:
        config = pyhocon.ConfigFactory.parse_string(text, resolve=True).as_plain_ordered_dict()
    except Exception as error:      # those of pyhocon and pyparsing have no class in common, and tell their whole grammar
        place = re.search(r"line:\d+, col:\d+", str(error))
        reason = place[0] if place else str(error).partition("\n")[0][:200]
        raise Wrong("%s is neither JSON (%s) nor HOCON (%s)" % (name, json_error, reason)) from None
    _check(config, name)
    return config


def _check(value, name, path=""):
    """What pyhocon makes of a text like 10 s cannot be sent."""
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            _check(each, name, "%s.%s" % (path, key) if path else str(key))
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise Wrong("%s: the value of %s is taken for a time; put it in quotes" % (name, path))


def _text(path):
    source, name = (0, "standard input") if path == "-" else (path, path)
    try:
        with open(source, encoding="utf-8", closefd=source != 0) as file:
            return file.read(), name
    except (OSError, UnicodeError) as error:
        raise Wrong("%s cannot be read: %s" % (name, getattr(error, "strerror", None) or error)) from None


def _put(config, keys, value, assignment):
    for key in keys[:-1]:
        config = config.setdefault(key, {})
        if not isinstance(config, dict):
            raise Wrong("-c %s: '%s' has a value already, so nothing can be put into it" % (assignment, key))
    config[keys[-1]] = value
