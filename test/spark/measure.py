"""What processes and folders take: read from /proc, and from the JVM by jcmd."""
import glob
import os
import re
import shutil
import subprocess


def children(pid):
    """Pids of all descendants."""
    parents = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as f:
                text = f.read()
        except OSError:
            continue
        fields = text.rpartition(")")[2].split()
        if fields[0] not in "ZX":
            parents.setdefault(int(fields[1]), []).append(int(path.split("/")[2]))
    found, todo = [], [pid]
    while todo:
        more = parents.get(todo.pop(), [])
        found += more
        todo += more
    return found


def daemons(jvm):
    """Pids of the Python daemons of an executor or a local driver: its children that are Python."""
    return [pid for pid in children(jvm) if _name(pid).startswith("python") and parent(pid) == jvm]


def _stat(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read()
    except OSError:
        return ""


def _name(pid):
    return _stat(pid).partition("(")[2].rpartition(")")[0]


def parent(pid):
    fields = _stat(pid).rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def rss(pid):
    """Bytes; 0 when it has ended."""
    try:
        with open("/proc/%d/status" % pid) as f:
            return 1024 * int(re.search(r"^VmRSS:\s+(\d+)", f.read(), re.M)[1])
    except (OSError, TypeError):
        return 0


def command(pid):
    """The words of its command line."""
    try:
        with open("/proc/%d/cmdline" % pid, errors="replace") as f:
            return f.read().split("\0")
    except OSError:
        return []


def threads(pid):
    try:
        return len(os.listdir("/proc/%d/task" % pid))
    except OSError:
        return 0


def heap(pid):
    """Bytes that are alive in a JVM after a full collection, and (from, to) of where it has them."""
    ask_jvm(pid, "GC.run")
    said = ask_jvm(pid, "GC.heap_info")
    used = sum(int(n) for n in re.findall(r"(?:heap|generation)\s+total \d+K, used (\d+)K", said))
    ends = [int(n, 16) for n in re.findall(r"0x[0-9a-f]+", said)]
    return 1024 * used, (min(ends), max(ends))


def native(pid, but):
    """Bytes of memory that is no file's, outside of the addresses `but`: a JVM's for all but its heap."""
    total, counts = 0, False
    try:
        with open("/proc/%d/smaps" % pid) as f:
            for line in f:
                mapping = re.match(r"([0-9a-f]+)-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)", line)
                if mapping:
                    counts = "/" not in mapping[2] and not but[0] <= int(mapping[1], 16) < but[1]
                elif counts and line.startswith("Rss:"):
                    total += 1024 * int(line.split()[1])
    except OSError:
        pass
    return total


def ask_jvm(pid, *words):
    jcmd = shutil.which("jcmd") or os.path.join(os.path.dirname(os.path.realpath("/proc/%d/exe" % pid)), "jcmd")
    return subprocess.run([jcmd, str(pid), *words], check=True, stdout=subprocess.PIPE, timeout=120).stdout.decode()


def tree_size(path):
    """(files, bytes) below a folder."""
    files = size = 0
    for root, _, names in os.walk(path):
        for name in names:
            try:
                size += os.lstat(os.path.join(root, name)).st_size
                files += 1
            except OSError:
                continue
    return files, size
