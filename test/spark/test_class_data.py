"""The class-data archive on real Spark: made once in the background, used by every later JVM, and never in the way.

One archive is made here, by a server whose folder it stays in; tests that need one to damage copy it.
"""
import glob
import json
import hashlib
import os
import shutil
import signal
import subprocess
import sys

import pytest
from server import COUNTS, ROOT, STRINGS, Background, Stoker, end, process, wait_until

MAKE = 900.0    # seconds: it has the lowest priority, and the machine may be busy
RUNNER = os.path.join(ROOT, "python-runner")


def server(folder, archives, **settings):
    return Stoker(folder, class_data_dir=archives, context_create_timeout="10min", **settings)


def maker(stoker):
    """The maker's Python process of a server, or None."""
    for found in stoker.processes():
        if b"stoker_runner.class_data" in command(found.pid):
            return found.pid
    return None


def makers_jvm(stoker):
    """The JVM that will write an archive when it ends, or None."""
    for found in stoker.processes():
        if b"-XX:ArchiveClassesAtExit" in b" ".join(command(found.pid)):
            return found.pid
    return None


def command(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as f:
            return f.read().split(b"\0")
    except OSError:
        return []


def jvm(stoker, context):
    """The pid of a context's JVM."""
    return next(p.pid for p in stoker.processes(context["id"]) if p.kind == "java")


def maps(pid, path):
    with open("/proc/%d/maps" % pid) as f:
        return path in f.read()


def archive(folder):
    """The path of the archive in a folder, or None."""
    found = glob.glob(os.path.join(folder, "*.jsa"))
    assert len(found) <= 1, found
    return found[0] if found else None


def complete(folder):
    return glob.glob(os.path.join(folder, "*.json"))


def log_of(stoker, context):
    with open(stoker.path("contexts", context["id"], "context.log"), errors="replace") as f:
        return f.read()


def whole_log(stoker):
    with open(stoker.log_path, errors="replace") as f:
        return f.read()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A server that has made an archive, with what was seen meanwhile."""
    folder = tmp_path_factory.mktemp("made")
    with server(folder, str(folder / "class-data")) as stoker:
        stoker.upload_jobs("jobs", "suite")
        stoker.folder_of_archives = str(folder / "class-data")
        stoker.seen = {}
        first = stoker.create_running("first")
        stoker.seen["first"] = "SharedArchiveFile" in str(command(jvm(stoker, first)))
        pid = wait_until(lambda: makers_jvm(stoker), "the maker's JVM")
        stoker.seen["priority"] = os.getpriority(os.PRIO_PROCESS, pid)
        stoker.seen["of the context"] = {pid, maker(stoker)} & {p.pid for p in stoker.processes(first["id"])}
        stoker.create_running("second")
        stoker.delete_context("second")
        stoker.delete_context("first")
        wait_until(lambda: "archive made" in whole_log(stoker), "the archive", MAKE)
        yield stoker


@pytest.fixture
def copied(made, tmp_path):
    """A folder with a copy of the archive and of the file that says what it is."""
    folder = str(tmp_path / "class-data")
    os.mkdir(folder)
    source = archive(made.folder_of_archives)
    for path in (source, source[:-4] + ".json"):
        shutil.copy(path, folder)
    os.chmod(archive(folder), 0o600)
    return folder


def say_it_is_right(path):
    """Makes the side file match what the archive is now."""
    with open(path, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    with open(path[:-4] + ".json") as f:
        said = json.load(f)
    said.update(size=os.path.getsize(path), sha256=digest)
    with open(path[:-4] + ".json", "w") as f:
        json.dump(said, f)


def test_it_is_made_once_in_the_background(made):
    log = whole_log(made)
    assert made.seen == {"first": False, "priority": 19, "of the context": set()}
    assert log.count("making an archive in the background") == 1, log
    assert log.count("archive made") == 1
    path = archive(made.folder_of_archives)
    with open(path[:-4] + ".json") as f:
        said = json.load(f)
    with open(path, "rb") as f:
        assert said["sha256"] == hashlib.file_digest(f, "sha256").hexdigest()
    assert said["size"] == os.path.getsize(path) > 50 << 20
    assert not glob.glob(os.path.join(made.folder_of_archives, "*.tmp"))


def test_a_later_context_uses_it(made):
    context = made.create_running("user", **{"spark.driver.extraJavaOptions": "-Dmine=1 -XX:TieredStopAtLevel=1"})
    pid, path = jvm(made, context), archive(made.folder_of_archives)
    assert maps(pid, path)
    words = command(pid)
    assert words.index(b"-XX:SharedArchiveFile=" + path.encode()) < words.index(b"-Dmine=1")
    assert b"-XX:TieredStopAtLevel=1" in words
    assert made.value("stoker_jobs.word_count.SessionCount", STRINGS, "user") == COUNTS
    assert "cds" not in log_of(made, context).lower()
    made.delete_context("user")
    assert whole_log(made).count("making an archive") == 1


@pytest.mark.parametrize("option", ["-Xshare:off", "-XX:SharedArchiveFile=/nowhere/of/mine.jsa"])
def test_who_has_plans_of_his_own_is_left_alone(made, option):
    context = made.create_running("own", **{"spark.driver.extraJavaOptions": option})
    assert [w for w in command(jvm(made, context)) if b"-Xshare" in w or b"SharedArchive" in w] == [option.encode()]
    made.delete_context("own")


def test_another_collector_gets_no_archive_of_this_one(made):
    context = made.create_running("serial", **{"spark.driver.extraJavaOptions": "-XX:+UseSerialGC"})
    assert not maps(jvm(made, context), archive(made.folder_of_archives))
    made.delete_context("serial")
    made.stop()         # with the maker that this has started
    assert made.processes() == []
    made.start()
    assert len(glob.glob(os.path.join(made.folder_of_archives, "*.jsa"))) == 1


def test_a_start_that_fails_by_its_settings_does_not_cost_the_archive(made):
    path = archive(made.folder_of_archives)
    reply = made.create("bad", **{"launcher.spark.driver.memory": "99999999999999g"})
    assert reply.status == 500 and "Invalid maximum heap size" in str(reply.body)
    reply = made.create("bad", **{"spark.master": "nonsense["})
    assert reply.status == 500 and "Master must either be" in str(reply.body)
    assert os.path.exists(path) and complete(made.folder_of_archives)


def flip(path, start, stop, step=64 << 10, length=64):
    """Inverts some bytes here and there."""
    with open(path, "r+b") as f:
        for offset in range(start, stop, step):
            f.seek(offset)
            block = f.read(length)
            f.seek(offset)
            f.write(bytes(255 - b for b in block))


def other_jdk(path):
    """The JVM's own name stands in the archive's first page."""
    with open(path, "r+b") as f:
        head = f.read(4096)
        assert b"OpenJDK" in head
        f.seek(0)
        f.write(head.replace(b"OpenJDK", b"OtherJD"))


def other_classes(path):
    """An archive of this JDK for another class path."""
    os.unlink(path)
    jar = glob.glob(os.path.join(os.path.dirname(pyspark()), "jars", "spark-launcher*.jar"))[0]
    subprocess.run(["java", "-XX:ArchiveClassesAtExit=" + path, "-Xlog:disable", "-cp", jar, "org.apache.spark.launcher.Main",
                    "none"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert os.path.exists(path)


def pyspark():
    import pyspark as package
    return package.__file__


# What is done to the archive; whether its side file is made to match; whether it must be gone afterwards.
DAMAGE = {
    "truncated": (lambda path: os.truncate(path, os.path.getsize(path) // 2), False, True),
    "flipped": (lambda path: flip(path, 64 << 20, (64 << 20) + 1, length=1), False, True),
    "emptied": (lambda path: os.truncate(path, 0), True, None),
    "truncated-and-signed": (lambda path: os.truncate(path, os.path.getsize(path) // 2 & ~4095), True, None),
    "flipped-and-signed": (lambda path: flip(path, 1 << 20, os.path.getsize(path) - (32 << 20)), True, None),
    "other-jdk": (other_jdk, True, None),
    "other-classes": (other_classes, True, None),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_bad_archive_fails_no_start(copied, tmp_path, name):
    damage, signed, gone = DAMAGE[name]
    path = archive(copied)
    damage(path)
    if signed:
        say_it_is_right(path)
    inode = os.stat(path).st_ino
    with server(tmp_path, copied) as stoker:
        stoker.upload_jobs("jobs", "suite")
        context = stoker.create_running("py")
        assert stoker.value("stoker_jobs.word_count.SessionCount", STRINGS) == COUNTS
        log = log_of(stoker, context)
        if gone:
            assert not os.path.exists(path) or os.stat(path).st_ino != inode
            assert ("tried again without" if signed else "is not what was written") in log
            assert not maps(jvm(stoker, context), path)
        elif os.path.exists(path):
            assert "[warning][cds" not in log and "[error][cds" not in log


def test_a_jvm_that_crashes_in_its_start_is_started_without(copied, tmp_path):
    with server(tmp_path, copied) as stoker:
        create = Background(stoker.create, "py")
        pid = wait_until(lambda: next((p.pid for p in stoker.processes() if p.kind == "java" and any(
            word.startswith(b"-XX:SharedArchiveFile=") for word in command(p.pid))), None), "the JVM", MAKE)
        os.kill(pid, signal.SIGSEGV)
        assert create.value().status == 200
        context = stoker.context("py")
        assert "tried again without" in log_of(stoker, context)
        assert archive(copied) is None and not complete(copied)
        assert not [w for w in command(jvm(stoker, context)) if b"SharedArchive" in w]


def test_a_jvm_that_crashes_with_it_has_it_read_again(copied, tmp_path):
    """Jobs can crash a JVM too: an archive that is what was written stays, but it is believed no more without a look."""
    with server(tmp_path, copied) as stoker:
        context = stoker.create_running("py")
        pid = jvm(stoker, context)
        assert maps(pid, archive(copied))
        assert glob.glob(os.path.join(copied, "*.checked"))
        os.kill(pid, signal.SIGSEGV)
        wait_until(lambda: stoker.context("py")["state"] == "KILLED", "end of the context")
        assert not glob.glob(os.path.join(copied, "*.checked"))
        context = stoker.create_running("again")
        assert maps(jvm(stoker, context), archive(copied))
        assert glob.glob(os.path.join(copied, "*.checked"))


def test_the_maker_ends_with_the_server(tmp_path):
    folder = str(tmp_path / "class-data")
    with server(tmp_path, folder) as stoker:
        for way in (stoker.stop, stoker.kill):
            stoker.create_running("py%s" % way.__name__)
            pid = wait_until(lambda: maker(stoker), "a maker")
            wait_until(lambda: makers_jvm(stoker), "the maker's JVM")
            way()
            wait_until(lambda: not process(pid), "the maker's end")
            wait_until(lambda: not makers_jvm(stoker), "its JVM's end")
            assert archive(folder) is None and not complete(folder)
            if way == stoker.stop:
                assert stoker.processes() == []
                assert not glob.glob(os.path.join(folder, "*.tmp"))
            stoker.start()
        assert "no archive could be made" not in whole_log(stoker)
        wait_until(lambda: maker(stoker), "a maker, for the context that has lived on")


def test_a_maker_whose_server_died_before_it_was_there(tmp_path):
    """kill -9 of the server while Python starts: then the maker has another parent, which lives for ever."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    made = subprocess.run([sys.executable, "-m", "stoker_runner.class_data", str(tmp_path), "{}", str(gone.pid)],
                          env=dict(os.environ, PYTHONPATH=RUNNER, PYTHONHASHSEED="0"), timeout=MAKE)
    assert made.returncode == 1 and os.listdir(tmp_path) == []


def test_off(tmp_path):
    with Stoker(tmp_path, class_data_archive=False, class_data_dir=str(tmp_path / "none")) as stoker:
        context = stoker.create_running("py")
        assert not [w for w in command(jvm(stoker, context)) if b"SharedArchive" in w]
        assert not os.path.exists(str(tmp_path / "none")) and maker(stoker) is None


def test_two_makers_exclude_each_other(tmp_path):
    """The first has come as far as its JVM when the second comes."""
    folder = str(tmp_path)
    words = [sys.executable, "-m", "stoker_runner.class_data", folder, "{}"]
    env = dict(os.environ, PYTHONPATH=RUNNER, PYTHONHASHSEED="0")
    first = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: glob.glob(os.path.join(folder, "*.tmp", "gateway-*")), "its JVM", MAKE)
        second = subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MAKE)
        assert second.returncode == 0 and "another process makes" in second.stderr
        assert first.poll() is None
        assert glob.glob(os.path.join(folder, "*.tmp", "gateway-*"))
    finally:
        first.terminate()
        first.communicate()
    assert [name.rpartition(".")[2] for name in os.listdir(folder)] == ["lock"]
    # one that was killed leaves its folder; the next one removes it
    key = os.listdir(folder)[0].rpartition(".")[0]
    os.mkdir(os.path.join(folder, key + ".tmp"))
    open(os.path.join(folder, key + ".tmp", "rest"), "w").close()
    third = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: glob.glob(os.path.join(folder, "*.tmp", "gateway-*")), "its JVM", MAKE)
        assert not os.path.exists(os.path.join(folder, key + ".tmp", "rest"))
    finally:
        end(third.pid)
        third.wait()


def test_why_none_could_be_made(tmp_path):
    """The JVM archives nothing for a class path with a folder in it that is not empty."""
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "some.properties").write_text("a=b\n")
    with server(tmp_path, str(tmp_path / "class-data")) as stoker:
        settings = {"launcher.spark.driver.extraClassPath": str(tmp_path / "classes")}
        stoker.create_running("first", **settings)
        line = wait_until(lambda: [l for l in whole_log(stoker).splitlines() if "no archive could be made" in l],
                          "the maker's failure", MAKE)
        assert len(line) == 1 and "wrote no archive" in line[0], line
        stoker.create_running("second", **settings)
        assert whole_log(stoker).count("making an archive") == 1
        assert archive(str(tmp_path / "class-data")) is None
