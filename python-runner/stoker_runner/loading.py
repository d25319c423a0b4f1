"""Job classes: putting their binaries on sys.path, importing and making them, calling them.

All of it runs in the worker's main thread, in a process that sees one binary set only, so modules of two versions
never meet.
"""

import difflib
import glob
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import sys
from typing import Any, List, NamedTuple

from pyhocon import ConfigTree

from sparkjobserver import api
from stoker_runner import failure
from stoker_runner.failure import JobError

# Modules that a binary's own copy does not replace once they are loaded: the runner and this process's link to the
# JVM are made of them, configs are objects of pyhocon, and extension modules cannot be loaded a second time.
_KEPT = {'stoker_runner', 'pyspark', 'py4j', 'pyhocon', 'pyparsing', 'numpy', 'pandas', 'pyarrow'}

# pyhocon spells a key with one of these in quotes, in the tree as in the path that finds it.
_QUOTED = frozenset('$}[]:=+#`^?!@*&.')


class Outcome(NamedTuple):
    """How a class job ended without failing: kind 'finished' (value: what run_job returned) or 'invalid' (problems:
    texts)."""
    kind: str
    value: Any
    problems: List[str]


def open_binaries(run):
    """Makes the binaries of a run importable: their folders come first on sys.path, in order.

    run: the `run` frame, or any dict with its `binaries`. Also sets PACKAGEPATH (the first archive) and puts the
    folders first in PYTHONPATH, for processes that the job starts. May be called again, with the same binaries, for
    every run: it changes only what is not as it should be. Modules that are already loaded from elsewhere and that a
    binary brings itself (such as a copy of `sparkjobserver`) are forgotten, so that the job imports its own.
    """
    binaries = [binary for binary in run['binaries'] if binary.get('unpacked')]
    roots = []
    for binary in binaries:
        folder = os.path.abspath(binary['unpacked'])
        # A wheel may keep what belongs into site-packages in NAME-VERSION.data/.
        roots += [folder, *sorted(glob.glob(os.path.join(glob.escape(folder), '*.data', '*lib')))]
    roots = list(dict.fromkeys(roots))
    if binaries:
        os.environ['PACKAGEPATH'] = binaries[0]['path']
        given = os.environ.get('PYTHONPATH', '').split(os.pathsep)
        os.environ['PYTHONPATH'] = os.pathsep.join(roots + [path for path in given if path and path not in roots])
    if sys.path[:len(roots)] != roots:
        sys.path[:] = roots + [path for path in sys.path if path not in roots]
        importlib.invalidate_caches()
    if failure.code_roots != roots:
        failure.code_roots[:] = roots
        _forget_shadowed(roots)


def _forget_shadowed(roots):
    """Removes modules from sys.modules that were loaded from elsewhere and that one of the folders brings."""
    inside = tuple(root + os.sep for root in roots)
    for found in pkgutil.iter_modules(roots):
        module = sys.modules.get(found.name)
        if module is None or found.name in _KEPT or found.name in sys.stdlib_module_names:
            continue
        if not (getattr(module, '__file__', None) or '').startswith(inside):
            for name in [name for name in sys.modules if name.partition('.')[0] == found.name]:
                del sys.modules[name]


def load_job(dotted):
    """Imports a job class by its dotted path and makes one: find_class() and make_job()."""
    return make_job(find_class(dotted), dotted)


def find_class(dotted):
    """Imports a job class, or what makes one, by its dotted path.

    Raises JobError CLASS_NOT_FOUND, IMPORT_FAILED, NOT_A_JOB; EXITED when the module calls sys.exit().
    KeyboardInterrupt passes.
    """
    module_name, dot, name = dotted.rpartition('.')
    if not dot:
        raise _not_found(f"'{dotted}' is not the path of a class: write package.module.Class", name, _top_modules())
    if not all(dotted.split('.')):
        raise _not_found(f"'{dotted}' is not the path of a class: a name between its dots is empty", name, ())
    module = _import(module_name)
    try:
        made_from = getattr(module, name)
    except AttributeError:
        raise _no_such_class(module, module_name, name) from None
    if not callable(made_from):
        raise JobError('NOT_A_JOB', f"'{dotted}' is not a class but {_kind(made_from)}")
    return made_from


def make_job(made_from, dotted):
    """Makes the job. Raises JobError NOT_A_JOB; USER_EXCEPTION when the constructor raises; EXITED when it calls
    sys.exit(). KeyboardInterrupt passes."""
    job = _make(made_from, dotted)
    missing = [method for method in ('validate', 'run_job') if not callable(getattr(job, method, None))]
    if missing:
        raise JobError('NOT_A_JOB', f"'{dotted}' is not a job: it has no method {' and no method '.join(missing)}")
    return job


def _import(name):
    """Imports the module of a job class."""
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except SystemExit as exc:
        raise failure.exited(exc, 'load') from exc
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name + '.').startswith(exc.name + '.') and not failure.has_user_frame(exc):
            raise _no_such_module(name, exc) from None
        raise _import_failed(name, exc) from exc
    except BaseException as exc:
        raise _import_failed(name, exc) from exc


def _import_failed(name, exc):
    return JobError('IMPORT_FAILED', f"module '{name}' cannot be imported: {failure.text_of(exc)}")


def _no_such_module(name, exc):
    """Makes the CLASS_NOT_FOUND of a job's module that does not exist."""
    parent = sys.modules.get(exc.name.rpartition('.')[0])
    if parent is None:
        return _not_found(f"there is no module '{exc.name}' in the job's binaries", exc.name, _top_modules())
    if not hasattr(parent, '__path__'):
        classes = _classes(parent)
        return _not_found(f"there is no module '{exc.name}': '{parent.__name__}' is a module, not a package",
                          exc.name.rpartition('.')[2], [f'{parent.__name__}.{each}' for each in classes])
    inside = [f'{parent.__name__}.{found.name}' for found in pkgutil.iter_modules(parent.__path__)]
    return _not_found(f"there is no module '{exc.name}'", exc.name, inside)


def _no_such_class(module, module_name, name):
    """Makes the CLASS_NOT_FOUND of a class that its module does not have."""
    path = f'{module_name}.{name}'
    if hasattr(module, '__path__') and importlib.util.find_spec(path) is not None:
        return JobError('CLASS_NOT_FOUND', f"'{path}' is a module: name a class in it, as in {path}.Class")
    return _not_found(f"module '{module_name}' has no class '{name}'", name, _classes(module))


def _not_found(message, wanted, found):
    """Makes a CLASS_NOT_FOUND that also says what is there, the nearest names first."""
    found = sorted(found)
    near = difflib.get_close_matches(wanted, found, n=3, cutoff=0.5)
    shown = (near + [name for name in found if name not in near])[:20]
    if not shown:
        return JobError('CLASS_NOT_FOUND', message)
    more = f' and {len(found) - len(shown)} more' if len(found) > len(shown) else ''
    return JobError('CLASS_NOT_FOUND', f"{message}; found: {', '.join(shown)}{more}")


def _top_modules():
    """Returns the names of the modules and packages that the binaries bring."""
    return [found.name for found in pkgutil.iter_modules(failure.code_roots)]


def _classes(module):
    """Returns the names of the classes that a module defines; when it defines none, of those it has."""
    names = [name for name, value in vars(module).items() if inspect.isclass(value) and not name.startswith('_')]
    return [name for name in names if getattr(module, name).__module__ == module.__name__] or names


def _kind(value):
    """Names what a value is, for messages."""
    return f'module {value.__name__}' if inspect.ismodule(value) else f'an object of class {type(value).__qualname__}'


def _make(made_from, dotted):
    """Calls a class without arguments. A function that returns a job serves as well, as in Spark Job Server."""
    try:
        return made_from()
    except KeyboardInterrupt:
        raise
    except SystemExit as exc:
        raise failure.exited(exc, 'load') from exc
    except BaseException as exc:
        if isinstance(exc, TypeError) and not failure.has_user_frame(exc):
            raise JobError('NOT_A_JOB', f"'{dotted}' cannot be made without arguments: {exc}") from exc
        raise JobError('USER_EXCEPTION', f"the constructor of '{dotted}' raised {failure.text_of(exc)}",
                       raised_by='constructor') from exc


def build_context(job, dotted, kind, gateway, jvm_context, spark_conf):
    """Has a job make its context, in a context of the user's own kind.

    Raises JobError NOT_A_JOB (exit code 2) when it has no build_context() or that returns None; USER_EXCEPTION when it
    raises; EXITED when it calls sys.exit(). KeyboardInterrupt passes.
    """
    try:
        context = getattr(job, 'build_context', lambda *_: None)(gateway, jvm_context, spark_conf)
    except KeyboardInterrupt:
        raise
    except SystemExit as exc:
        raise failure.exited(exc, 'load') from exc
    except BaseException as exc:
        raise JobError('USER_EXCEPTION', f"build_context() of '{dotted}' raised {failure.text_of(exc)}",
                       raised_by='constructor') from exc
    if context is None:
        raise JobError('NOT_A_JOB', f"Expected JavaSparkContext, SQLContext or HiveContext but received '{kind}': "
                       f"'{dotted}' has no build_context() for it, or it returned None", 2)
    return context


def run_class_job(job, context, runtime_factory, config_json_text):
    """Validates and runs a job.

    job: from load_job(). context: what the job gets as context. runtime_factory: called once, without arguments; makes
    the JobEnvironment. config_json_text: the job's config, JSON text of an object.

    Returns Outcome. Raises JobError: VALIDATE_EXCEPTION (exit code 3), USER_EXCEPTION (4), EXITED (what sys.exit() was
    given). KeyboardInterrupt passes.
    """
    config = config_tree(config_json_text)
    runtime = runtime_factory()
    data = _call(job.validate, (context, runtime, config), 'validate')
    if isinstance(data, list) and data and is_problem(data[0]):
        return Outcome('invalid', None, [str(getattr(each, 'problem', each)) for each in data])
    return Outcome('finished', _call(job.run_job, (context, runtime, data), 'run'), [])


def _call(method, arguments, phase):
    """Calls a method of a job and turns whatever it raises, KeyboardInterrupt apart, into a JobError."""
    try:
        return method(*arguments)
    except KeyboardInterrupt:
        raise
    except SystemExit as exc:
        raise failure.exited(exc, phase) from exc
    except BaseException as exc:
        code, exit_code, raised_by = failure.PHASES[phase]
        raise JobError(code, None, exit_code, raised_by=raised_by) from exc


def is_problem(value):
    """Tells whether a value is a ValidationProblem: ours, or one of a copy of `sparkjobserver` that a binary brings.

    An attribute `problem` alone does not make one: a Row or a config with a column or key of that name is data.
    """
    return isinstance(value, api.ValidationProblem) or (
        any(kind.__name__ == 'ValidationProblem' for kind in type(value).__mro__) and hasattr(value, 'problem'))


def config_tree(json_text):
    """Makes the pyhocon.ConfigTree of a JSON text (of an object; ValueError otherwise), as a job sees its config.

    Objects become ConfigTree, arrays lists. A key with a dot or another character that is special to pyhocon is kept
    in quotes: {"a.b": 1} is found as config['"a.b"']. Nothing is read as HOCON: strings stay what they are.
    """
    tree = _DECODER.decode(json_text)
    if not isinstance(tree, ConfigTree):
        raise ValueError('the config is not a JSON object')
    tree.root = True
    tree.history = {}
    return tree


def _tree(pairs):
    """Makes one ConfigTree of the pairs of a JSON object, whose values are made already."""
    tree = ConfigTree()
    for key, value in pairs:
        tree[key if _QUOTED.isdisjoint(key) else f'"{key}"'] = value
    return tree


_DECODER = json.JSONDecoder(object_pairs_hook=_tree)
