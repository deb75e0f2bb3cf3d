#!/usr/bin/env bash
# Clients that people use, against three members:  tests/clients/run.sh PATH/TO/kvd
#
# redis-cli and redis-benchmark (Debian's redis-tools), redis-py (from PyPI, into a virtual environment) and ioredis (from npm); the
# two are installed into a directory that is removed at the end. Exits with 0 if all of them work.
set -euo pipefail
kvd=$(realpath "${1:?usage: $0 PATH/TO/kvd}")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$(mktemp -d)
pids=()
trap 'kill -9 "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
fail() { echo "FAILED: $*"; tail -n 5 ./*.log; exit 1; }

all=http://127.0.0.1:21379,http://127.0.0.1:22379,http://127.0.0.1:23379
for i in 1 2 3; do
    "$kvd" --id $i --cluster $all --port 2${i}380 --listen-redis 127.0.0.1:2${i}381 >$i.log 2>&1 & pids+=($!)
done
for i in 1 2 3; do
    for n in $(seq 300); do
        curl -sf -m 2 "http://127.0.0.1:2${i}380/readyz" >/dev/null && break
        [ "$n" = 300 ] && fail "member $i is not ready"
        sleep 0.1
    done
done

echo "--- redis-cli"
r() { redis-cli -p 22381 "$@"; }
want() { local got; got=$(r "${@:2}"); [ "$got" = "$1" ] || fail "redis-cli ${*:2}: '$got', not '$1'"; }
want OK set key value
want value get key
want '"value"' --no-raw get key
want value -3 get key
want OK mset a 1 b 2 c 3
want 4 dbsize
[ "$(r --scan --pattern '?' | sort | tr '\n' ' ')" = "a b c " ] || fail "redis-cli --scan"
[ "$(r --bigkeys | grep -c 'strings with')" = 1 ] || fail "redis-cli --bigkeys"
[ "$(seq 1000 | sed 's/.*/SET pipe:& v/' | r --pipe | tail -n 1)" = "errors: 0, replies: 1000" ] || fail "redis-cli --pipe"
[ "$(printf 'get key\ninfo server\ncommand docs get\nquit\n' | r | head -n 1)" = value ] || fail "redis-cli with commands on its input"

echo "--- redis-benchmark"
for pipeline in 1 32; do
    redis-benchmark -p 21381 -t ping,set,get,incr,mset -d 256 -r 1000 -c 50 -P $pipeline -n 5000 --csv >benchmark.csv 2>benchmark.err ||
        fail "redis-benchmark -P $pipeline: $(cat benchmark.err)"
    [ "$(grep -c '^"' benchmark.csv)" -ge 6 ] || fail "redis-benchmark -P $pipeline says: $(cat benchmark.csv)"
    ! grep -i 'err' benchmark.err || fail "redis-benchmark -P $pipeline"
done

echo "--- redis-py"
python3 -m venv venv >/dev/null && venv/bin/pip install -q --disable-pip-version-check 'redis>=5,<8' || fail "redis-py cannot be installed"
timeout 60 venv/bin/python "$here/redis_py.py" 23381 || fail "redis-py"

echo "--- ioredis"
npm install --silent --no-audit --no-fund --prefix "$dir" ioredis@5 >npm.log 2>&1 || fail "ioredis cannot be installed"
NODE_PATH="$dir/node_modules" timeout 60 node "$here/ioredis.js" 21381 || fail "ioredis"
echo "4 clients passed"
