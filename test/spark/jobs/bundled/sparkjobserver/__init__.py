"""A copy of the job API inside a job's binary, as the examples of Spark Job Server have one."""
