"""Parts of stoke that the tests with a server (test/http/test_stoke*.py) do not reach: cuts at every byte, long lists, words."""
import http.server
import json
import os
import stat
import threading
import zipfile

import click
import pytest

from stoke import cli, commands_run, follow, render
from stoke import client as client_module
from stoke.app import App
from stoke.client import Client, Cut, Patience
from stoke.commands_jobs import jobs
from stoke.errors import Refused, Unreachable, clean
from stoke.streams import Events, Log
from stoke.terminal import Terminal
from stoker_runner import shipping


class Server(http.server.ThreadingHTTPServer):
    """Answers with what the function answer(path, headers) gives: (status, headers, body, how much of the body it sends)."""
    daemon_threads = True

    def __init__(self, answer):
        super().__init__(('127.0.0.1', 0), Handler)
        self.answer, self.asked = answer, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return 'http://127.0.0.1:%d' % self.server_port


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        self.do_GET()

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        status, headers, body, sent = self.server.answer(self.path, self.headers)
        self.send_response(status)
        for name, value in dict({'Content-Length': len(body)}, **headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """A function that makes a Server, to which a client comes back at once."""
    monkeypatch.setattr(client_module, 'RETRY_FIRST_S', 0.001)
    made = []

    def make(answer):
        made.append(Server(answer))
        return made[-1]

    yield make
    for server in made:
        server.shutdown()
        server.server_close()


def patient(seconds=30):
    return Patience(seconds, lambda text: None)


RAW = {'stdout': b'one\n\nlong piece' + b'the rest\nlast', 'stderr': b'oh\nno end'}
LABELLED = b'out| one\nout| \nerr| oh\nout+ long piece\nout| the rest\nerr+ no end\nout+ last\n'


def labelled_from(out, err):
    """LABELLED behind so many bytes of the two streams, as the server would send it."""
    at, lines = {'out': 0, 'err': 0}, b''
    for line in LABELLED.splitlines():
        name, text = line[:3].decode(), line[5:] + (b'\n' if line[3:4] == b'|' else b'')
        if at[name] >= {'out': out, 'err': err}[name]:
            lines += line + b'\n'
        at[name] += len(text)
    return lines


def test_a_log_that_is_cut_anywhere(serve):
    """However much of it comes before each cut, every byte comes once."""
    for cut in range(1, len(LABELLED), 3):
        def answer(path, headers, cut=cut):
            at = (0, 0)
            if 'offset=' in path:
                at = tuple(int(n) for n in path.partition('offset=')[2].partition('&')[0].split('%2C'))
            body = labelled_from(*at)
            return 200, {'Stoker-Log-From': '%d,%d' % at}, body, max(cut, 20)

        log = Log.of_job(Client(serve(answer).url), 'j', patient())
        found = {'stdout': b'', 'stderr': b''}
        for stream, data in log.pieces():
            found[stream] += data
        assert found == RAW, cut


def test_pieces_that_are_cut_within_a_character(capsys):
    """With --json each stream has its own characters, whatever the other one writes between their bytes."""
    out, err = 'aä€😀'.encode(), 'ß'.encode() + b'\xff' + '€'.encode()[:2]
    pieces = [piece for n in range(len(out)) for piece in (('stdout', out[n:n + 1]), ('stderr', err[n:n + 1]))]
    follow.write_log(Terminal(as_json=True), pieces)
    found = {'stdout': '', 'stderr': ''}
    for line in map(json.loads, capsys.readouterr().out.splitlines()):
        assert line['type'] == 'log' and line['text']
        found[line['stream']] += line['text']
    assert found == {'stdout': 'aä€😀', 'stderr': 'ß\ufffd\ufffd'}


def test_a_result_that_is_cut(serve):
    """It goes on where it was cut; when the server knows no ranges, what came before is left out."""
    whole = bytes(range(256)) * 40
    for ranges in (True, False):
        def answer(path, headers):
            begin = int((headers['Range'] or 'bytes=0-')[6:-1]) if ranges else 0
            cut = 3000 if len(server.asked) < 3 else len(whole)
            sent = cut if ranges else cut * len(server.asked)
            return 206 if begin else 200, {'Content-Type': 'application/json'}, whole[begin:], sent

        server, app = serve(answer), App()
        app.url = server.url
        assert b''.join(piece for _, piece in follow.download(app, '/x')) == whole
        assert [headers.get('Range') for _, headers in server.asked] == [None, 'bytes=3000-', 'bytes=6000-']


@pytest.mark.parametrize('media, body, shown', [('application/json', b'{"a":1}', b'{"a":1}\n'), ('text/csv', b'a\r\n1\r\n', b'a\r\n1\r\n')])
def test_results_of_other_forms(serve, capsysbinary, media, body, shown):
    """They go out as they are; a line end is put behind JSON only. With --json, what is no JSON is base64."""
    app = App()
    app.url = serve(lambda path, headers: (200, {'Content-Type': media}, body, 99)).url
    follow.save_result(app, 'j')
    assert capsysbinary.readouterr().out == shown
    app.json = True
    app.terminal.as_json = True
    follow.save_result(app, 'j')
    line = json.loads(capsysbinary.readouterr().out)
    assert line == {'type': 'result', 'job': 'j', **({'result': {'a': 1}} if media == follow.JSON else
                                                     {'media_type': media, 'base64': 'YQ0KMQ0K'})}


def test_a_binary_result_stays_off_the_terminal(serve, capsys, monkeypatch):
    app = App()
    app.url = serve(lambda path, headers: (200, {'Content-Type': 'application/vnd.apache.parquet'}, b'PAR1', 99)).url
    monkeypatch.setattr(Terminal, 'is_tty', lambda terminal, stream: True)
    follow.save_result(app, 'j')
    out, err = capsys.readouterr()
    assert out == '' and "no text (application/vnd.apache.parquet): put it into a file with 'stoke result -o'" in err


HIDDEN = '\x7f\x80\x85\x9b31m\x9f\u061c\u200e\u200f\u202a\u202e\u2066\u2069'


def test_json_on_a_terminal(serve, capsysbinary, monkeypatch):
    """What would steer the terminal is escaped, also where a piece ends within a character; elsewhere it is as it is."""
    value = {'ä\n': HIDDEN + '\x1b\u2029\xa0😀'}
    body = json.dumps(value, ensure_ascii=False).replace(': ', ':\r\n').encode()
    app = App()
    app.url = serve(lambda path, headers: (200, {'Content-Type': follow.JSON}, body, len(body))).url
    monkeypatch.setattr(client_module, 'PIECE', 1)
    follow.save_result(app, 'j')
    assert capsysbinary.readouterr().out == body + b'\n'
    monkeypatch.setattr(Terminal, 'is_tty', lambda terminal, stream: True)
    follow.save_result(app, 'j')
    shown = capsysbinary.readouterr().out.decode()
    assert json.loads(shown) == value and not set(shown) & set(HIDDEN.replace('31m', '')) and '\u2029\xa0😀' in shown
    assert '\\u007f\\u0080\\u0085\\u009b31m' in shown and shown.endswith('}\n')


def test_text_of_others():
    assert clean('a\tb\n\x1b[ä' + HIDDEN) == 'a\tb\n?[ä????31m????????'


def test_a_file_is_there_when_it_is_whole(serve, tmp_path):
    """A download that fails leaves the old file, and nothing beside it; one that does not keeps the file's mode."""
    def answer(path, headers):
        status, sent = answers.pop(0)
        return status, {'Content-Type': follow.JSON}, b'{"a": 1}', sent

    app, file, link = App(), tmp_path / 'result', tmp_path / 'link'
    app.url, app.quiet = serve(answer).url, True
    link.symlink_to(file)
    for old in ([], ['result']):
        for name in old:
            (tmp_path / name).write_text('old')
        for answers in ([(404, 8)], [(200, 4), (404, 8)]):
            with pytest.raises(click.ClickException):
                follow.save_result(app, 'j', str(link))
            assert answers == [] and sorted(os.listdir(tmp_path)) == ['link', *old]
    assert file.read_text() == 'old'
    file.unlink()
    answers += [(200, 8)] * 2
    for name, mode in ((str(file), 0o666 & ~umask()), (str(link), 0o640)):
        follow.save_result(app, 'j', name)
        assert file.read_text() == '{"a": 1}' and stat.S_IMODE(file.stat().st_mode) == mode
        file.chmod(0o640)
    assert link.is_symlink() and sorted(os.listdir(tmp_path)) == ['link', 'result']


def umask():
    found = os.umask(0)
    os.umask(found)
    return found


def test_a_result_to_what_is_no_file(serve, tmp_path):
    """A pipe, a device, what is open already: it is written to, not replaced."""
    pipe, app, found = tmp_path / 'pipe', App(), []
    app.url, app.quiet = serve(lambda path, headers: (200, {'Content-Type': follow.JSON}, b'{"a": 1}', 99)).url, True
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()), daemon=True)
    reader.start()
    follow.save_result(app, 'j', str(pipe))
    reader.join(20)
    assert found == ['{"a": 1}'] and os.listdir(tmp_path) == ['pipe'] and stat.S_ISFIFO(pipe.stat().st_mode)
    ends = os.pipe()
    with open(ends[0], 'rb') as unnamed, open(ends[1], 'wb') as other, open(tmp_path / 'out', 'w+b') as out:
        follow.save_result(app, 'j', '/dev/fd/%d' % other.fileno())
        assert unnamed.read1() == b'{"a": 1}'
        follow.save_result(app, 'j', '/dev/fd/%d' % out.fileno())
        assert out.read() == b'{"a": 1}'


def test_events_that_are_cut_anywhere(serve):
    stream = b'retry: 1000\n\n:\nid: 3\n\n' + b''.join(
        b'id: %d\nevent: e\ndata: {"id":%d}\n\n' % (n, n) for n in range(4, 9))

    def answer(path, headers):
        last = int(headers['Last-Event-ID'] or 3)
        rest = b''.join(block + b'\n\n' for block in stream.split(b'\n\n')[:-1]
                        if b'data' not in block or int(block[4:5]) > last)
        return 200, {'Content-Length': '9999'}, rest, 22 + 7 * len(server.asked)

    server = serve(answer)
    events, found = Events(Client(server.url), patient(), since=3).follow(), []
    while len(found) < 5:
        event = next(events)
        found += [event['id']] if event else []
    assert found == [4, 5, 6, 7, 8] and len(server.asked) > 3


def test_patience_ends(serve):
    """What will not pass is not asked again; what may pass is, until the time is over."""
    status = [503]

    def answer(path, headers):
        return status[0], {}, b'{"error": {"code": "LIMIT", "message": "too many"}}', 99

    server, said = serve(answer), []
    client = Client(server.url)
    with pytest.raises(Refused):
        Patience(0.5, said.append).ask(client.get, '/x')
    assert len(server.asked) > 1 and len(said) == 1
    status[0], asked = 404, len(server.asked)
    with pytest.raises(Refused) as refused:
        patient().ask(client.get, '/x')
    assert refused.value.status == 404 and len(server.asked) == asked + 1


def test_an_answer_that_is_not_whole(serve):
    client = Client(serve(lambda path, headers: (200, {}, b'{"a": 1}', 4)).url)
    with pytest.raises(Cut):
        client.get('/x')


def test_a_job_is_sent_again_as_the_same_job(serve):
    """When the answer does not come: with the key that was chosen, or one that stoke has chosen."""
    for key in (None, 'mine'):
        def answer(path, headers):
            return 202, {}, b'{"id": "j"}', 3 if len(server.asked) < 3 else 99

        server, app = serve(answer), App()
        app.url, app.quiet = server.url, True
        assert commands_run.submit(app, {}, key) == {'id': 'j'}
        keys = [headers['Idempotency-Key'] for _, headers in server.asked]
        assert len(keys) == 3 and len(set(keys)) == 1 and keys[0] and (key is None or keys[0] == key)


def test_a_server_that_was_never_heard_of():
    """Is not asked for again: its address may be wrong."""
    with pytest.raises(Unreachable):
        Patience(30, pytest.fail, known=False).ask(Client('http://127.0.0.1:1').get, '/x')


def test_lists_of_many_pages():
    """The pages may be short, even empty, before the last one."""
    class Pages:
        asked = []

        def json(self, method, path, query):
            self.asked.append((query['cursor'], query['limit']))
            return {None: {'jobs': [1, 2], 'next': 'a'}, 'a': {'jobs': [], 'next': 'b'}, 'b': {'jobs': [3], 'next': None}}[
                query['cursor']]

    assert list(jobs(Pages(), 0, {})) == [1, 2, 3] and Pages.asked == [(None, 1000), ('a', 1000), ('b', 1000)]
    del Pages.asked[:]
    assert list(jobs(Pages(), 2, {})) == [1, 2] and Pages.asked == [(None, 2)]


def every_command(group, *names):
    for name, command in group.commands.items():
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, *names, name)


@pytest.mark.parametrize('names, command', list(every_command(cli.stoke)), ids=lambda v: '-'.join(v) if isinstance(v, tuple) else '')
def test_every_command_takes_what_all_take(names, command):
    """--json and --server; it has a help, as have its options."""
    options = {option for parameter in command.params for option in parameter.opts}
    assert {'--json', '--server'} <= options
    assert command.help and all(p.help for p in command.params if isinstance(p, click.Option)), names


def bar(capsys, **fields):
    job = {'state': 'RUNNING', 'position': None, 'started_at': None, 'ended_at': None, **fields}
    Terminal().say(render.job_bar(job))
    return capsys.readouterr().err.split(None, 1)[1].rstrip()


@pytest.mark.parametrize('event, text', [
    ({'type': 'job.progress', 'time': '2026-01-31T12:00:00.000Z', 'job': 'j', 'context': 'c',
      'progress': {'tasks': {'total': 8, 'done': 2}}},
     '2026-01-31 12:00:00  job.progress    j c  2/8 tasks'),
    ({'id': 9, 'type': 'gap', 'after': 3, 'next': 10, 'reason': 'removed'},
     ' ' * 21 + 'gap             events 4 to 9 are not there (removed)'),
    ({'type': 'binary.added', 'time': '2026-01-31T12:00:00.000Z', 'name': 'b\x1b', 'version': 3},
     '2026-01-31 12:00:00  binary.added    b? version 3'),
])
def test_events_in_words(event, text):
    assert render.event(event).plain == text


def test_the_bar_of_a_job(capsys):
    progress = {'tasks': {'total': 8, 'done': 2, 'active': 4, 'failed': 1}, 'more': []}
    assert bar(capsys) == 'RUNNING'
    assert bar(capsys, progress=None) == bar(capsys, progress={}) == bar(capsys, progress={'tasks': {'total': 0}}) == 'RUNNING'
    shown = bar(capsys, progress=progress)
    assert shown == 'RUNNING ' + '\u2501' * 7 + '\u2500' * 23 + ' 2/8 tasks 4 running 1 failed'
    assert bar(capsys, progress=dict(progress, stages={'total': 5, 'done': 4})).endswith(' 2/8 tasks 4/5 stages 4 running 1 failed')
    assert bar(capsys, state='QUEUED', position=3) == 'QUEUED 3 before it'
    assert render.progress_text({'progress': progress}) == '2/8 tasks' and render.progress_text({}) == ''


@pytest.mark.parametrize('value, text', [
    (0, '0.0 s'), (59.94, '59.9 s'), (60, '1 min 00 s'), (3599.4, '59 min 59 s'), (7380, '2 h 03 min')])
def test_durations(value, text):
    assert render.seconds(value) == text


@pytest.mark.parametrize('n, text', [(0, '0 B'), (1023, '1023 B'), (1536, '1.5 KiB'), (1 << 30, '1.0 GiB')])
def test_sizes(n, text):
    assert render.size(n) == text


def test_it_is_not_sent_to_executors(tmp_path):
    """What executors get of this folder is what jobs need."""
    with zipfile.ZipFile(shipping.Shipping('s', [], [], str(tmp_path))._runner_zip()) as sent:
        assert {name.partition('/')[0] for name in sent.namelist()} == {'stoker_runner', 'sparkjobserver'}
