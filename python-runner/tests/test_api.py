"""sparkjobserver.api: the names and members that existing jobs use."""

import pytest

from sparkjobserver import api


def test_public_classes_have_exactly_the_upstream_members():
    def members(kind):
        return sorted(name for name in vars(kind) if not name.startswith('_'))

    assert members(api.SparkJob) == ['build_context', 'run_job', 'validate']
    assert members(api.NamedObjects) == ['destroy', 'forget', 'get', 'get_names', 'get_or_else_create', 'update']
    assert members(api.ValidationProblem) == members(api.JobEnvironment) == members(api.NamedObject) == []


def test_spark_job_must_be_completed():
    job = api.SparkJob()
    with pytest.raises(NotImplementedError):
        job.validate(None, None, None)
    with pytest.raises(NotImplementedError):
        job.run_job(None, None, None)
    assert job.build_context(None, None, None) is None


def test_build_problems_keeps_order():
    assert [problem.problem for problem in api.build_problems(['b', 'a'])] == ['b', 'a']
    assert api.build_problems([]) == []
    assert type(api.build_problems(['b'])[0]) is api.ValidationProblem


def test_environment_and_named_object_attributes():
    environment = api.JobEnvironment('j', None, {'a': 1})
    assert vars(environment) == {'jobId': 'j', 'namedObjects': None, 'contextConfig': {'a': 1}}
    assert vars(api.NamedObject(1, True, 'DISK')) == {'obj': 1, 'forceComputation': True, 'storage_level': 'DISK'}


@pytest.mark.parametrize('name,arguments', [('get', 1), ('get_or_else_create', 2), ('update', 2), ('forget', 1),
                                            ('destroy', 1), ('get_names', 0)])
def test_named_objects_base_implements_nothing(name, arguments):
    with pytest.raises(NotImplementedError):
        getattr(api.NamedObjects(), name)(*['x'] * arguments)
