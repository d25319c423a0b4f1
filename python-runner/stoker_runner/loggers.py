"""The configuration of the logging module, put back after a job.

Almost no job changes it, so this first looks for traces that a change leaves: a new handler is the last in logging's
list of all handlers; a new level, and logging.disable(), empty the cache of the root logger, where a mark is kept.
"""
import contextlib
import logging

_MARK = "stoker"
_NEW = logging.NOTSET, [], [], True, False      # the _state() of a logger that nobody has configured


class Loggers:
    @staticmethod
    def configured():
        """What differs from how a logger is made, to be compared."""
        states = {logger: _state(logger) for logger in _all()}
        return logging.root.manager.disable, {k: state for k, state in states.items() if state != _NEW}

    def note(self):
        root = logging.root
        self._newest = _newest()
        self._root_handlers = list(root.handlers)
        self._disable = root.manager.disable
        self._loggers = {logger: _state(logger) for logger in _all()}
        self._put_mark()

    @staticmethod
    def _put_mark():
        if hasattr(logging.root, "_cache"):
            logging.root._cache[_MARK] = True

    def restore(self):
        root = logging.root
        if _MARK in root._cache and _newest() is self._newest and root.handlers == self._root_handlers:
            return
        for logger in _all():
            wanted = self._loggers.get(logger)
            level, handlers, filters, propagate, disabled = wanted or _NEW
            new = [handler for handler in logger.handlers if handler not in handlers]
            logger.handlers[:], logger.filters[:] = handlers, filters
            logger.propagate, logger.disabled = propagate, disabled
            if logger.level != level:
                logger.setLevel(level)
            for handler in new:
                with contextlib.suppress(Exception):    # the job's own class, whatever it does
                    handler.close()
        logging.disable(self._disable)
        self._newest = _newest()
        self._put_mark()


def _newest():
    """The weak reference to the handler that was made last."""
    return logging._handlerList[-1] if logging._handlerList else None


def _all():
    return [logging.root, *(each for each in logging.root.manager.loggerDict.values()
                            if isinstance(each, logging.Logger))]


def _state(logger):
    return logger.level, list(logger.handlers), list(logger.filters), logger.propagate, logger.disabled
