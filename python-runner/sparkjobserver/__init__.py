"""The API that Python jobs for Spark Job Server are written against; see sparkjobserver.api."""
