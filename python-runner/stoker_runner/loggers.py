"""The configuration of the logging module, put back after a job.

Almost no job changes it, so this first compares all of it with what was noted: a quarter of a microsecond for each logger,
of which there are four before a binary set brings its own.
"""
import contextlib
import logging
import operator

_FIELDS = "level", "handlers", "filters", "propagate", "disabled"
_NEW = logging.NOTSET, [], [], True, False      # of a logger that nobody has configured
_fields = operator.attrgetter(*_FIELDS)


class Loggers:
    @staticmethod
    def configured():
        """What differs from how a logger is made, to be compared."""
        states = zip(_all(), _states(_all()))
        return logging.root.manager.disable, {logger: state for logger, state in states if state != _NEW}

    def note(self):
        self._disable = logging.root.manager.disable
        self._note_all()
        self._noted = dict(zip(self._loggers, self._states))

    def _note_all(self):
        self._names = list(logging.root.manager.loggerDict.values())
        self._loggers = _all()
        self._states = _states(self._loggers)

    def restore(self):
        manager = logging.root.manager
        if (list(map(_fields, self._loggers)) == self._states and list(manager.loggerDict.values()) == self._names and
                manager.disable == self._disable):
            return
        kept = [logging.lastResort, *(each for _, handlers, *_ in self._noted.values() for each in handlers)]
        for logger in _all():
            new = [handler for handler in logger.handlers if handler not in kept]
            for name, wanted in zip(_FIELDS, self._noted.get(logger) or _NEW):
                if getattr(logger, name) != wanted:
                    setattr(logger, name, list(wanted) if isinstance(wanted, list) else wanted)
            for handler in new:
                with contextlib.suppress(Exception):    # the job's own class, whatever it does
                    handler.close()
        logging.disable(self._disable)      # forgets what loggers have found out from the levels
        self._note_all()


def _all():
    return [logging.root, *(each for each in logging.root.manager.loggerDict.values()
                            if isinstance(each, logging.Logger))]


def _states(loggers):
    """[_FIELDS] of each, to be kept: the lists are copies."""
    return [(level, list(handlers), list(filters), *rest) for level, handlers, filters, *rest in map(_fields, loggers)]
