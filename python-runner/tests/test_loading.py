"""loading: what a job class is, what its config looks like, how its calls end."""

import os
import sys

import pyhocon
import pytest

from sparkjobserver import api
from stoker_runner import failure, loading

JOB = '''
    class Job:
        def validate(self, context, runtime, config):
            return config.get('x', None)

        def run_job(self, context, runtime, data):
            return [context, runtime, data]
'''


def refused(dotted):
    """Returns the JobError of loading `dotted`."""
    with pytest.raises(failure.JobError) as caught:
        loading.load_job(dotted)
    return caught.value


class Scripted:
    """A job whose two methods call what they are given."""

    def __init__(self, validate=lambda *_: None, run_job=lambda *_: None):
        self.validate = validate
        self.run_job = run_job


def run(job, config='{}'):
    return loading.run_class_job(job, 'context', lambda: 'runtime', config)


def raiser(exc):
    def method(*_):
        raise exc
    return method


# open_binaries

def test_binaries_come_first_in_order(binaries):
    folders = binaries({'one.py': ''}, {'two.py': ''})
    assert sys.path[:2] == folders
    assert os.environ['PACKAGEPATH'] == '/store/0.egg'
    assert os.environ['PYTHONPATH'].split(os.pathsep)[:2] == folders
    assert failure.code_roots == folders


def test_opening_again_changes_nothing_and_repairs_what_a_job_changed(binaries):
    binaries({'one.py': ''})
    path, pythonpath = list(sys.path), os.environ['PYTHONPATH']
    again = {'binaries': [{'path': '/store/0.egg', 'unpacked': path[0]}]}
    loading.open_binaries(again)
    assert sys.path == path and os.environ['PYTHONPATH'] == pythonpath
    sys.path.insert(0, '/elsewhere')
    del os.environ['PACKAGEPATH']
    loading.open_binaries(again)
    assert sys.path == [path[0], '/elsewhere', *path[1:]]
    assert os.environ['PACKAGEPATH'] == '/store/0.egg'


def test_no_binaries_and_jars_without_a_folder_are_fine(monkeypatch):
    monkeypatch.delenv('PACKAGEPATH', raising=False)
    path = list(sys.path)
    loading.open_binaries({'binaries': []})
    loading.open_binaries({'binaries': [{'path': '/store/x.jar', 'unpacked': None}]})
    assert sys.path == path and 'PACKAGEPATH' not in os.environ


def test_first_binary_wins(binaries):
    binaries({'stoker_t_app.py': 'V = 1'}, {'stoker_t_app.py': 'V = 2'})
    import stoker_t_app
    assert stoker_t_app.V == 1


def test_wheel_layout(binaries):
    binaries({'stoker_t_wheel/__init__.py': JOB,
              'w-1.dist-info/METADATA': 'Metadata-Version: 2.1\nName: w\nVersion: 1\n',
              'w-1.data/purelib/stoker_t_pure.py': JOB, 'w-1.data/scripts/x.py': ''})
    assert loading.load_job('stoker_t_wheel.Job')
    assert loading.load_job('stoker_t_pure.Job')
    from importlib import metadata
    assert metadata.version('w') == '1'


def test_a_bundled_sparkjobserver_is_the_one_the_job_imports(binaries):
    binaries({'sparkjobserver/__init__.py': '',
              'sparkjobserver/api.py': '''
                  class ValidationProblem:
                      def __init__(self, problem):
                          self.problem = problem
              ''',
              'stoker_t_jobs.py': '''
                  from sparkjobserver import api
                  class Job:
                      def validate(self, *_):
                          return [api.ValidationProblem('own copy')]
                      def run_job(self, *_):
                          raise AssertionError
              '''})
    job = loading.load_job('stoker_t_jobs.Job')
    assert sys.modules['stoker_t_jobs'].api is not api
    assert run(job) == loading.Outcome('invalid', None, ['own copy'])


def test_modules_the_runner_is_made_of_are_not_replaced(binaries):
    binaries({'pyhocon/__init__.py': '', 'json/__init__.py': '', 'stoker_runner/__init__.py': ''})
    assert sys.modules['pyhocon'] is pyhocon
    import json
    assert json.loads('1') == 1
    assert sys.modules['stoker_runner.loading'] is loading


# load_job

def test_job_is_made_by_its_dotted_path(binaries):
    binaries({'stoker_t/__init__.py': '', 'stoker_t/deep/__init__.py': JOB})
    assert type(loading.load_job('stoker_t.deep.Job')).__name__ == 'Job'


def test_function_that_returns_a_job_serves(binaries):
    binaries({'stoker_t.py': JOB + '''
    def make():
        return Job()
    '''})
    assert type(loading.load_job('stoker_t.make')).__name__ == 'Job'


@pytest.mark.parametrize('dotted,message', [
    ('Job', "'Job' is not the path of a class: write package.module.Class; found: stoker_t, stoker_t_single"),
    ('stoker_t.', "'stoker_t.' is not the path of a class: a name between its dots is empty"),
    ('stoker_t..Job', "'stoker_t..Job' is not the path of a class: a name between its dots is empty"),
    ('.stoker_t.Job', "'.stoker_t.Job' is not the path of a class: a name between its dots is empty"),
    ('stokr_t.Job', "there is no module 'stokr_t' in the job's binaries; found: stoker_t, stoker_t_single"),
    ('stoker_t.wrod.Job', "there is no module 'stoker_t.wrod'; found: stoker_t.word, stoker_t.other"),
    ('stoker_t.word.Jbo', "module 'stoker_t.word' has no class 'Jbo'; found: Job"),
    ('stoker_t.word', "'stoker_t.word' is a module: name a class in it, as in stoker_t.word.Class"),
    ('stoker_t_single.Job.Job', "there is no module 'stoker_t_single.Job': 'stoker_t_single' is a module, not a "
                                "package; found: stoker_t_single.Job"),
])
def test_class_not_found(binaries, dotted, message):
    binaries({'stoker_t/__init__.py': '',
              'stoker_t/word.py': JOB + '    import enum\n    from json import JSONDecoder\n',
              'stoker_t/other.py': '', 'stoker_t_single.py': JOB})
    error = refused(dotted)
    assert (error.code, error.exit_code, error.message) == ('CLASS_NOT_FOUND', 1, message)
    assert error.__cause__ is None


def test_import_failed_for_a_module_that_the_job_imports(binaries):
    binaries({'stoker_t/__init__.py': '', 'stoker_t/word.py': 'import os\nimport stoker_t.missing\n'})
    error = refused('stoker_t.word.Job')
    assert error.code == 'IMPORT_FAILED' and error.exit_code == 1
    assert error.message == ("module 'stoker_t.word' cannot be imported: "
                             "ModuleNotFoundError: No module named 'stoker_t.missing'")
    described = failure.describe(error, 'load')
    assert (described['file'], described['line']) == ('stoker_t/word.py', 2)
    assert described['source'] == 'import stoker_t.missing'


def test_import_failed_when_the_package_imports_the_missing_module_of_the_job_itself(binaries):
    binaries({'stoker_t/__init__.py': 'import stoker_t.word'})
    assert refused('stoker_t.word.Job').code == 'IMPORT_FAILED'


def test_import_failed_for_a_syntax_error(binaries):
    binaries({'stoker_t.py': 'x = 1\ndef f(:\n'})
    error = refused('stoker_t.Job')
    assert error.code == 'IMPORT_FAILED'
    described = failure.describe(error, 'load')
    assert (described['class'], described['file'], described['line'], described['source']) == (
        'SyntaxError', 'stoker_t.py', 2, 'def f(:')


def test_import_failed_when_the_module_raises(binaries):
    binaries({'stoker_t.py': 'raise GeneratorExit("x")'})
    assert refused('stoker_t.Job').message == "module 'stoker_t' cannot be imported: GeneratorExit: x"


def test_exit_while_importing(binaries):
    binaries({'stoker_t.py': 'import sys; sys.exit(7)'})
    error = refused('stoker_t.Job')
    assert (error.code, error.exit_code) == ('EXITED', 7)
    assert error.message == 'the job called sys.exit(7) while it was loaded'


def test_keyboard_interrupt_passes(binaries):
    binaries({'stoker_t.py': 'raise KeyboardInterrupt'})
    with pytest.raises(KeyboardInterrupt):
        loading.load_job('stoker_t.Job')


@pytest.mark.parametrize('name,message', [
    ('VALUE', "'stoker_t.VALUE' is not a class but an object of class int"),
    ('os', "'stoker_t.os' is not a class but module os"),
    ('Half', "'stoker_t.Half' is not a job: it has no method run_job"),
    ('Empty', "'stoker_t.Empty' is not a job: it has no method validate and no method run_job"),
    ('Data', "'stoker_t.Data' is not a job: it has no method run_job"),
    ('Needs', "'stoker_t.Needs' cannot be made without arguments: "
              "Needs.__init__() missing 1 required positional argument: 'x'"),
])
def test_not_a_job(binaries, name, message):
    binaries({'stoker_t.py': '''
        import os
        VALUE = 1
        class Empty: pass
        class Half:
            def validate(self, *_): pass
        class Data(Half):
            run_job = 5
        class Needs:
            def __init__(self, x): pass
    '''})
    error = refused(f'stoker_t.{name}')
    assert (error.code, error.exit_code, error.message) == ('NOT_A_JOB', 1, message)


def test_constructor_that_raises(binaries):
    binaries({'stoker_t.py': '''
        class Job:
            def __init__(self):
                int(None)
    '''})
    error = refused('stoker_t.Job')
    assert (error.code, error.exit_code) == ('USER_EXCEPTION', 1)
    assert error.message.startswith("the constructor of 'stoker_t.Job' raised TypeError: int() argument must be")


# build_context

def build(job):
    return loading.build_context(job, 'm.Job', 'custom', 'gateway', 'jvm', 'conf')


def test_a_job_builds_its_context():
    job = api.SparkJob()
    job.build_context = lambda *given: given
    assert build(job) == ('gateway', 'jvm', 'conf')
    job.build_context = lambda *_: 0
    assert build(job) == 0


@pytest.mark.parametrize('job', [api.SparkJob(), Scripted()], ids=['none', 'no method'])
def test_a_job_that_builds_no_context(job):
    with pytest.raises(failure.JobError) as caught:
        build(job)
    assert (caught.value.code, caught.value.exit_code) == ('NOT_A_JOB', 2)
    assert caught.value.message.startswith("Expected JavaSparkContext, SQLContext or HiveContext but received 'custom'")


def test_build_context_that_raises():
    job = api.SparkJob()
    job.build_context = raiser(ValueError('no'))
    with pytest.raises(failure.JobError) as caught:
        build(job)
    assert (caught.value.code, caught.value.exit_code) == ('USER_EXCEPTION', 1)
    assert caught.value.message == "build_context() of 'm.Job' raised ValueError: no"
    job.build_context = lambda *_: sys.exit(7)
    with pytest.raises(failure.JobError) as caught:
        build(job)
    assert (caught.value.code, caught.value.exit_code) == ('EXITED', 7)
    job.build_context = raiser(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        build(job)


# config_tree

def test_config_is_a_tree_of_config_trees():
    config = loading.config_tree('{"a":{"b":[{"c":1},2,[]],"z":null},"s":"10 s","f":1.0,"t":true}')
    assert type(config) is type(config['a']) is type(config['a.b'][0]) is pyhocon.ConfigTree
    assert type(config.get('a.b')) is list
    assert config['a.b'][0]['c'] == 1
    assert config['a.z'] is None and 'a.z' in config and 'a.y' not in config
    assert (config['s'], config['t'], config.get_string('t')) == ('10 s', True, 'true')
    assert type(config['f']) is float
    assert list(config) == ['a', 's', 'f', 't']
    with pytest.raises(pyhocon.exceptions.ConfigMissingException) as caught:
        config['input.strings']
    assert 'No configuration setting found for key input' in str(caught.value)


@pytest.mark.parametrize('text', [
    '{}', '{"a.b":1}', '{"a":{"b.c":{"d":[1,{"e.f":2},null]}},"x y":1,"k-x":4}', '{"a.b":1,"a":{"b":2}}',
    '{"a$b":1,"a}b":2}',
    '{"a[b]":1,"c:d":2,"e=f":3,"g+h":4}', '{"a#b":1,"c`d":2,"e^f":3,"g?h":4}', '{"a!b":1,"c@d":2,"e*f":3,"g&h":4}',
    '{"a{b":1,"c,d":2,"e/f":3,"é":4}', '{"n":5,"f":1e3,"i":"5","z":null,"l":[[],[1],null]}'])
def test_config_equals_what_pyhocon_reads(text):
    ours, theirs = loading.config_tree(text), pyhocon.ConfigFactory.parse_string(text)
    assert ours == theirs and list(ours) == list(theirs)
    assert ours.root is theirs.root is True


def test_quoted_keys():
    config = loading.config_tree('{"a.b":1,"a":{"b":2}}')
    assert (config['"a.b"'], config['a.b']) == (1, 2)


def test_config_can_be_used_like_any_tree():
    config = loading.config_tree('{"a":{"b":1}}')
    config.put('a.c', 2)
    assert config.with_fallback(pyhocon.ConfigFactory.from_dict({'d': 3})).as_plain_ordered_dict() == {
        'a': {'b': 1, 'c': 2}, 'd': 3}


@pytest.mark.parametrize('text', ['[]', '1', 'null', '{'])
def test_config_must_be_an_object(text):
    with pytest.raises(ValueError):
        loading.config_tree(text)


# run_class_job

def test_both_methods_get_context_and_runtime():
    seen = []
    job = Scripted(lambda *given: seen.append(given) or 'data', lambda *given: seen.append(given) or 'result')
    assert run(job, '{"x":1}') == loading.Outcome('finished', 'result', [])
    assert seen == [('context', 'runtime', {'x': 1}), ('context', 'runtime', 'data')]


class Named:
    problem = 'a column of this name'


@pytest.mark.parametrize('data', [None, '', {}, [], [None], [Named()], [1, api.ValidationProblem('p')], 0,
                                  tuple(api.build_problems(['p'])), api.ValidationProblem('p')])
def test_data_that_is_not_a_list_of_problems_is_handed_on(data):
    outcome = run(Scripted(lambda *_: data, lambda context, runtime, given: given))
    assert outcome.kind == 'finished' and outcome.value is data


def test_problems():
    class Derived(api.ValidationProblem):
        pass

    never = raiser(AssertionError())
    assert run(Scripted(lambda *_: api.build_problems(['a', 'b']), never)) == ('invalid', None, ['a', 'b'])
    assert run(Scripted(lambda *_: [Derived(5), 'loose']), ) == ('invalid', None, ['5', 'loose'])


@pytest.mark.parametrize('exc', [ValueError('x'), GeneratorExit(), BaseException('y')])
def test_failures_say_where(exc):
    for job, code, exit_code in ((Scripted(raiser(exc)), 'VALIDATE_EXCEPTION', 3),
                                 (Scripted(run_job=raiser(exc)), 'USER_EXCEPTION', 4)):
        with pytest.raises(failure.JobError) as caught:
            run(job)
        assert (caught.value.code, caught.value.exit_code, caught.value.__cause__) == (code, exit_code, exc)


@pytest.mark.parametrize('given,status,message', [
    (3, 3, 'the job called sys.exit(3)'), (None, 0, 'the job called sys.exit()'),
    (True, 1, 'the job called sys.exit(1)'),
    ('no', 1, "the job called sys.exit('no')"), (10**30, 2**31 - 1, f'the job called sys.exit({10**30})')])
def test_exit(given, status, message):
    with pytest.raises(failure.JobError) as caught:
        run(Scripted(run_job=lambda *_: sys.exit(given)))
    assert (caught.value.code, caught.value.exit_code, caught.value.message) == ('EXITED', status, message)
    with pytest.raises(failure.JobError) as caught:
        run(Scripted(lambda *_: sys.exit(given)))
    assert caught.value.message == f'{message} in validate()'


def test_keyboard_interrupt_is_left_alone():
    interrupt = KeyboardInterrupt()
    for job in (Scripted(raiser(interrupt)), Scripted(run_job=raiser(interrupt))):
        with pytest.raises(KeyboardInterrupt) as caught:
            run(job)
        assert caught.value is interrupt
