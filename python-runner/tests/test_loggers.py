"""loggers.py: what a job changes in loggers that are known, and in those that it makes."""
import logging

import pytest

from stoker_runner.loggers import Loggers


class OfAJob(logging.Filter):
    pass


@pytest.fixture
def logger():
    """A logger as a binary may have it: with a handler and a filter of its own."""
    made = logging.Logger("known")
    logging.root.manager.loggerDict["known"] = made
    made.addHandler(logging.NullHandler())
    made.addFilter(logging.Filter())
    yield made
    for name in ("known", "of_a_job"):
        logging.root.manager.loggerDict.pop(name, None)


CHANGES = {
    "level": lambda log: log.setLevel(7),
    "level, without its method": lambda log: setattr(log, "level", 7),
    "handler": lambda log: log.addHandler(logging.StreamHandler()),
    "handler of another": lambda log: log.addHandler(logging.lastResort),
    "no handler": lambda log: log.handlers.clear(),
    "handlers replaced": lambda log: setattr(log, "handlers", []),
    "filter": lambda log: log.addFilter(OfAJob()),
    "no filter": lambda log: log.filters.clear(),
    "propagate": lambda log: setattr(log, "propagate", False),
    "disabled": lambda log: setattr(log, "disabled", True),
}


def state(log):
    return log.level, list(log.handlers), list(log.filters), log.propagate, log.disabled


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("of", ["known", "root", "of_a_job"])
def test_a_change_is_put_back_whatever_else_was_changed(logger, change, of):
    loggers = Loggers()
    loggers.note()
    for _ in range(2):
        changed = {"known": logger, "root": logging.root}.get(of) or logging.getLogger(of)
        before = state(changed)
        CHANGES[change](changed)
        if of == "known":       # which has something of everything
            assert state(changed) != before
        loggers.restore()
        assert state(changed) == before


def test_logging_that_is_disabled_as_a_whole_goes_on(logger):
    loggers = Loggers()
    loggers.note()
    logging.disable(logging.CRITICAL)
    assert not logger.isEnabledFor(logging.ERROR)
    loggers.restore()
    assert logger.isEnabledFor(logging.ERROR)


def test_what_is_noted_anew_stays(logger):
    loggers = Loggers()
    loggers.note()
    logger.propagate = False
    loggers.note()
    loggers.restore()
    assert logger.propagate is False
