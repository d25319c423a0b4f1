"""Tells of each import of a module that is not loaded yet, before and after it.

An import statement calls importlib._bootstrap._find_and_load() for these only, importlib.import_module() always.
"""
import importlib._bootstrap as bootstrap
import sys
import threading


def watch(begin, end):
    """begin(): what end(name, that, loaded) is given after the import; loaded: False when it has failed. In the thread
    that imports. What a module imports while it is imported itself is part of that."""
    find_and_load = bootstrap._find_and_load
    inside = threading.local()

    def watching(name, import_):
        if name in sys.modules or getattr(inside, "an_import", False):
            return find_and_load(name, import_)
        inside.an_import, loaded = True, False
        try:
            before = begin()
            try:
                module = find_and_load(name, import_)
                loaded = True
            finally:
                end(name, before, loaded)
        finally:
            inside.an_import = False
        return module
    # Frames of this file are left out of tracebacks, as the interpreter does with those of importlib itself.
    watching.__code__ = watching.__code__.replace(co_filename=find_and_load.__code__.co_filename)
    bootstrap._find_and_load = watching
