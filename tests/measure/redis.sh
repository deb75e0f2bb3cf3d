#!/usr/bin/env bash
# kvd's Redis door against one unreplicated redis-server that syncs every write, in one run:
#
#     tests/measure/redis.sh target/release [ROUNDS] [SECONDS-A-POINT]      (needs redis-server, redis-cli, redis-benchmark)
#
# Three durable kvd members and the Redis on one machine, redis-benchmark at the leader: SET and GET of 256-byte values,
# 100,000 keys, 50 connections, with and without pipelines of 32. The two take turns within each round, so that what the
# machine does meanwhile hits both; the table has the medians of the rounds, their range, and kvd's share of Redis.
set -euo pipefail
bin=$(realpath "${1:?usage: $0 DIRECTORY-OF-KVD [ROUNDS] [SECONDS]}")
rounds=${2:-5} seconds=${3:-6}
dir=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"

all=http://127.0.0.1:31379,http://127.0.0.1:32379,http://127.0.0.1:33379
for i in 1 2 3; do
    "$bin/kvd" --id $i --cluster $all --port 3${i}380 --listen-redis 127.0.0.1:3${i}381 2>$i.log & pids+=($!)
done
mkdir redis
redis-server --port 34381 --dir "$dir/redis" --appendonly yes --appendfsync always --save '' >redis.log 2>&1 & pids+=($!)

leader=
for _ in $(seq 300); do
    for i in 1 2 3; do
        [ "$(redis-cli -p 3${i}381 role 2>/dev/null | head -n 1)" = master ] && leader=3${i}381
    done
    [ -n "$leader" ] && redis-cli -p 34381 ping >/dev/null 2>&1 && break
    sleep 0.1
done
[ -n "$leader" ] || { tail -n 5 ./*.log; echo "no leader in 30 s" >&2; exit 1; }

# One point: requests a second of one command. A first short run says how many requests fill the time, and warms up.
point() { # PORT COMMAND PIPELINE
    local port=$1 command=$2 pipeline=$3 rate
    bench() { redis-benchmark -p "$port" -t "$command" -d 256 -r 100000 -c 50 -P "$pipeline" -n "$1" --csv | tail -n 1 | cut -d'"' -f4; }
    rate=$(bench $((10000 * pipeline)))
    bench "$(awk -v r="$rate" -v s="$seconds" 'BEGIN { printf "%d", r * s + 1 }')"
}

for round in $(seq "$rounds"); do
    for pipeline in 1 32; do
        for command in set get; do
            for who in kvd redis; do
                port=$leader; [ $who = redis ] && port=34381
                echo "$command $pipeline $who $(point "$port" $command $pipeline)" | tee -a points >&2
            done
        done
    done
    echo "round $round of $rounds" >&2
done

echo "| command | pipeline | kvd/s | redis-server/s | kvd to redis |"
echo "|---|---|---|---|---|"
for command in set get; do
    for pipeline in 1 32; do
        of() { # median (lowest to highest)
            grep "^$command $pipeline $1 " points | cut -d' ' -f4 | sort -n |
                awk '{ v[NR] = $1 } END { printf "%.0f (%.0f to %.0f)", v[int((NR + 1) / 2)], v[1], v[NR] }'
        }
        kvd=$(of kvd) redis=$(of redis)
        ratio=$(awk -v k="${kvd%% *}" -v r="${redis%% *}" 'BEGIN { printf "%.2f", k / r }')
        echo "| ${command^^} | $pipeline | $kvd | $redis | $ratio |"
    done
done
