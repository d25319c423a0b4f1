"""What a process takes: figures from /proc."""
import os


def of(pid):
    """{"memory": KiB resident, "descriptors", "threads"} of a process."""
    with open("/proc/%d/status" % pid) as f:
        fields = dict(line.split(":", 1) for line in f)
    return {"memory": int(fields["VmRSS"].split()[0]), "threads": int(fields["Threads"]),
            "descriptors": len(os.listdir("/proc/%d/fd" % pid))}


def start_time(pid):
    """Field 22 of /proc/<pid>/stat, which tells a process from a later one with its pid; None when it is gone."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            fields = f.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
