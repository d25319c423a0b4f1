"""Only what the module `bundled` uses, and a mark that tells the copy from the server's."""

COPY = True


class SparkJob:
    """As in the server's."""


class ValidationProblem:
    """As in the server's, but another class."""

    def __init__(self, problem):
        self.problem = problem
