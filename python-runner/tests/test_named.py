"""Named objects without a JVM: time-outs, names, whose files are needed. test/spark/test_named_objects.py has the rest."""
import pytest

from sparkjobserver import api
from stoker_runner import jvm, named, needs, objects
from stoker_runner.named import JvmNamedObjects
from stoker_runner.needs import Needs


@pytest.mark.parametrize('text, seconds', [
    (None, 60), (90, 90), (1.5, 1.5), ('90', 90), ('90 s', 90), ('90s', 90), ('500ms', 0.5), ('2 min', 120), ('2m', 120),
    ('3 minutes', 180), ('1 hour', 3600), ('10 seconds', 10), ('0', 0)])
def test_the_contexts_time_out(text, seconds):
    settings = {} if text is None else {named.TIMEOUT_SETTING: text}
    assert JvmNamedObjects(None, settings)._timeout() == seconds


@pytest.mark.parametrize('text', ['soon', '', '-1', '5 parsecs', 'ms', 's5', [1]])
def test_what_is_no_time_out(text):
    with pytest.raises(ValueError, match='named-object-creation-timeout is no time'):
        JvmNamedObjects(None, {named.TIMEOUT_SETTING: text})._timeout()


@pytest.mark.parametrize('name', ['a', 'a/b', ' ', '...', 'ä' * 127, 'x' * 255, '100%', '\u2603'])
def test_names(name):
    named._check_name(name)


@pytest.mark.parametrize('name', ['', '.', '..', 'a\nb', 'a\0', '\x7f', '\x85', 'x' * 256, 'ä' * 128, '\ud800'])
def test_what_is_no_name(name):
    with pytest.raises(ValueError, match='the name of a named object must'):
        named._check_name(name)


def test_named_objects_of_other_copies_of_the_api():
    class NamedObject:
        def __init__(self, obj):
            self.obj = obj

    class Derived(NamedObject):
        pass

    class Other:
        obj = 1

    assert named._is_named(api.NamedObject(1, True, None)) and named._is_named(NamedObject(1)) and named._is_named(Derived(1))
    assert not named._is_named(Other()) and not named._is_named(NamedObject)


def test_storage_levels_have_pysparks_names():
    level = objects.StorageLevel
    assert [objects.level_name(each) for each in (level.MEMORY_ONLY, level.MEMORY_AND_DISK_DESER, level.DISK_ONLY, None)] == [
        'MEMORY_ONLY', 'MEMORY_AND_DISK_DESER', 'DISK_ONLY', None]
    assert objects.level_name(level(False, True, False, True, 7)) == 'Memory Deserialized 7x Replicated'


@pytest.fixture
def maps(monkeypatch):
    maps = {jvm.KEPT: Map(), jvm.BORROWED: Map()}
    monkeypatch.setattr(jvm, 'shared_map', lambda _, key: maps[key])
    return maps


class Map(dict):
    def put(self, key, value):
        self[key] = value


def test_whose_files_are_needed(maps):
    mine = Needs(None, 'w-1')
    assert mine.of_new() == {'w-1'}
    mine.keep()
    assert maps[jvm.KEPT] == {'w-1': 'w-1'}
    assert mine.borrow({'w-2', 'w-3'}) and not mine.borrow({'w-3', 'w-1'})
    assert maps[jvm.BORROWED] == {'w-1': 'w-2 w-3'}
    assert mine.of_new() == {'w-1', 'w-2', 'w-3'}
    mine.keep()
    assert maps[jvm.KEPT] == {'w-1': 'w-1 w-2 w-3'}
    assert not mine.borrow(set())


def test_what_java_prints_of_a_map():
    assert needs.parse('{w-1=w-1 w-2, w-3=w-4}') == {'w-1', 'w-2', 'w-3', 'w-4'}
    assert needs.parse('{}') == needs.parse('') == needs.parse(None) == set()
    assert needs.parse(needs.text({'w-2', 'w-1'})) == {'w-1', 'w-2'}
