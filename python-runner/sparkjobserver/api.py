"""What a Python job and its server say to each other.

A job is a class that is made without arguments and has `validate` and `run_job`. Deriving it from SparkJob is a
convention, not a condition: any class with these two methods will do.

    from sparkjobserver.api import SparkJob, build_problems

    class WordCount(SparkJob):
        def validate(self, context, runtime, config):
            if 'input.strings' not in config:
                return build_problems(['config input.strings not found'])
            return config.get('input.strings')

        def run_job(self, context, runtime, data):
            return dict(context.sparkContext.parallelize(data).countByValue())
"""


class SparkJob:
    """Base class of jobs. The server calls validate() and then, unless it found problems, run_job().

    A job may have an attribute `result_format` that says what the result is to be: 'json', 'csv', 'parquet' or 'arrow' (a
    stream of Arrow IPC). It may be set in run_job() too. What the job was submitted with (`result-format`) comes
    before it; without both the result is JSON.
    """

    def __init__(self):
        pass

    def validate(self, context, runtime, config):
        """Checks the config before anything runs.

        context: what the context's kind says: SparkSession, SparkContext, SQLContext or HiveContext.
        runtime: JobEnvironment.
        config: the config the job was submitted with, a pyhocon.ConfigTree.

        Returns a non-empty list of ValidationProblem to refuse to run; anything else is handed to run_job() as `data`.
        An exception fails the job.
        """
        raise NotImplementedError('Concrete implementations should override validate')

    def run_job(self, context, runtime, data):
        """Does the work.

        context, runtime: as for validate(). data: what validate() returned.

        Returns the result: None, bool, int, float, str, and lists and dicts of them, to any depth; sets, tuples, dates,
        Decimals, bytes and numpy values are converted. Or a table: a DataFrame of Spark or pandas, a table of pyarrow,
        which JSON has as an array of objects, one for each row, and which alone can be CSV, Parquet and Arrow. One of
        Spark is written while it comes, without collecting it. An exception fails the job.
        """
        raise NotImplementedError('Concrete implementations should override run_job')

    def build_context(self, gateway, jvmContext, sparkConf):
        """Makes the context of a job whose context factory is not one of the four known ones.

        gateway: the py4j gateway. jvmContext: the context on the JVM's side. sparkConf: its pyspark.SparkConf.

        Returns what validate() and run_job() get as `context`; None says that this kind is not supported.
        """
        return None


class ValidationProblem:
    """One reason why a job cannot run. problem: its text."""

    def __init__(self, problem):
        self.problem = problem


def build_problems(problems):
    """Makes a ValidationProblem of each text in the list `problems`; returns them as a list in the same order."""
    return [ValidationProblem(problem) for problem in problems]


class JobEnvironment:
    """What a job may know about where it runs.

    jobId: str, the job's id. namedObjects: NamedObjects or None. contextConfig: pyhocon.ConfigTree, the settings of
    the context.
    """

    def __init__(self, job_id, named_objects, context_config):
        self.jobId = job_id
        self.namedObjects = named_objects
        self.contextConfig = context_config


class NamedObject:
    """A value that outlives its job under a name.

    obj: the value. forceComputation: bool, compute it when it is stored, not when it is first used. storage_level:
    pyspark.StorageLevel to persist it with.
    """

    def __init__(self, obj, forceComputation, storage_level):
        self.obj = obj
        self.forceComputation = forceComputation
        self.storage_level = storage_level


class NamedObjects:
    """The named objects of a context, shared by its jobs. This base class only fixes the names of the operations."""

    def get(self, name):
        """Returns the NamedObject `name`, or None when there is none."""
        raise NotImplementedError('Concrete implementations should override get')

    def get_or_else_create(self, name, obj_gen):
        """Returns the NamedObject `name`; obj_gen, called without arguments, makes it when there is none."""
        raise NotImplementedError('Concrete implementations should override get_or_else_create')

    def update(self, name, obj_gen):
        """Replaces the NamedObject `name` by what obj_gen() returns, and returns that."""
        raise NotImplementedError('Concrete implementations should override update')

    def forget(self, name):
        """Drops the name `name`; the value stays as long as somebody refers to it."""
        raise NotImplementedError('Concrete implementations should override forget')

    def destroy(self, name):
        """Drops the name `name` and frees what its value holds (unpersist)."""
        raise NotImplementedError('Concrete implementations should override destroy')

    def get_names(self):
        """Returns the names in use, a list of str."""
        raise NotImplementedError('Concrete implementations should override get_names')
