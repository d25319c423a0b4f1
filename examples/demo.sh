#!/usr/bin/env bash
# What `make demo` shows once everything is built: a context, an upload, a job with and without waiting for its result.
# The server is left running. May be run again.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

port=${PORT:-8090}
url=http://127.0.0.1:$port
state=build/state
log=build/demo.log
context=demo

fail() {
    echo >&2
    printf '%s\n' "$@" >&2
    exit 1
}

show_log() {
    echo >&2
    echo "The last lines of $log:" >&2
    tail -n 20 "$log" >&2 || true
}

# ---- the server

start_server() {
    local pid

    echo "starting stokerd on $url, with its log in $log and everything else in $state"
    # In a session of its own: neither Ctrl-C here nor the end of this terminal ends it.
    setsid build/stokerd --state-dir "$state" --listen "127.0.0.1:$port" > "$log" 2>&1 < /dev/null &
    pid=$!
    for _ in $(seq 1 300); do
        if grep -q "^listening on " "$log"; then
            return
        fi
        if ! kill -0 "$pid" 2> /dev/null; then
            break
        fi
        sleep 0.1
    done
    show_log
    fail "stokerd did not start."
}

pid=$(.ci/stop-server --show "$state")
if [ -n "$pid" ]; then
    if ! curl -fsS -o /dev/null --max-time 5 "$url/healthz" 2> /dev/null; then
        fail "A server of this folder runs already, as process $pid, but it does not answer on port $port." \
            "It was probably started with another port: name that one (make demo PORT=...), or end it first (make stop)."
    fi
    echo "stokerd runs already, as process $pid: using it. To run what was built just now, 'make stop' first."
elif (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then
    fail "Port $port is taken by another program. Choose another one:" "    make demo PORT=8091"
else
    start_server
fi

# ---- requests

# request METHOD PATH [curl arguments]: shows the command line, sends it, shows the answer and leaves it in $answer. Fails on
# anything but 2xx.
request() {
    local method=$1 path=$2 argument code
    shift 2

    printf '\n$ curl'
    [ "$method" = GET ] || [ "$method" = POST ] || printf ' -X %s' "$method"
    for argument; do
        case $argument in
        *[!a-zA-Z0-9@:./=_-]* | '') printf " '%s'" "$argument" ;;
        *) printf ' %s' "$argument" ;;
        esac
    done
    case $path in
    *[\&?]*) printf " '%s'\n" "$url$path" ;;
    *) printf ' %s\n' "$url$path" ;;
    esac

    answer=$(curl -sS --max-time 300 -X "$method" "$@" -w '\n%{http_code}' "$url$path") || {
        show_log
        fail "The server did not answer."
    }
    code=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    printf '%s\n' "$answer"
    case $code in
    2??) ;;
    *)
        show_log
        fail "The server answered $code to $method $path; the answer stands above."
        ;;
    esac
}

# field NAME: a member of the JSON object in $answer.
field() {
    printf '%s' "$answer" | build/venv/bin/python -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1], ""))' "$1"
}

echo
echo "==== A context: one Spark application that stays up"
if curl -fsS "$url/contexts" | grep -q "\"$context\""; then
    echo
    echo "The context '$context' is up since an earlier run."
else
    echo "(starts a JVM: a few seconds)"
    request POST "/contexts/$context?num-cpu-cores=2" -d ''
fi

echo
echo "==== The word-count example, packed as an egg"
echo
echo "\$ python3 examples/pack.py examples/wordcount build/wordcount.egg"
build/venv/bin/python examples/pack.py examples/wordcount build/wordcount.egg
request POST /binaries/wordcount -H 'Content-Type: application/python-egg' --data-binary @build/wordcount.egg

job="/jobs?appName=wordcount&classPath=jobs.WordCount&context=$context"
words='input.strings = [one, two, two, three, three, three]'

echo
echo "==== A job, waiting for its result"
request POST "$job&sync=true&timeout=60" -d "$words"
if [ "$(field status)" = ERROR ]; then
    show_log
    fail "The job failed; the answer above says why."
fi

echo
echo "==== A job, asking for its result later"
request POST "$job" -d "$words"
id=$(field jobId)
[ -n "$id" ] || fail "The answer has no jobId."
for _ in $(seq 1 600); do
    case $(answer=$(curl -fsS "$url/jobs/$id") && field status) in
    STARTED | RUNNING | RESTARTING) sleep 0.1 ;;
    *) break ;;
    esac
done
request GET "/jobs/$id"
if [ "$(field status)" != FINISHED ]; then
    show_log
    fail "The job did not finish; the answer above says why."
fi

cat << END

That was it. The server is left running, with its context warm. Go on with

    curl $url/jobs                                 all jobs
    curl -d 'input.strings = [a, b, a]' '$url$job&sync=true'
    curl -X DELETE $url/contexts/$context          end the context

README.md says how to write a job of your own. The server's log is $log.

To stop it:   make stop
END
