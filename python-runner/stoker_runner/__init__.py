"""The Python processes of a Spark context: zygote, keeper and workers (see ../PROTOCOL.md)."""

PROTOCOL = 1
