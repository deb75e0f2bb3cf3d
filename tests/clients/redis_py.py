"""redis-py against a member: redis_py.py PORT. Strings, pipelines, scans over a pool, errors, both protocols."""

import sys

import redis

port = int(sys.argv[1])
for protocol in (2, 3):
    client = redis.Redis(port=port, protocol=protocol, client_name="kvd-test", socket_timeout=20)
    assert client.ping()
    assert client.flushdb()
    assert client.set("key", b"a\xff\0b")
    assert client.get("key") == b"a\xff\0b"
    assert client.get("absent") is None
    assert client.set("key", "x", nx=True) is None
    assert client.set("key", "x", xx=True, get=True) == b"a\xff\0b"
    assert client.mset({"a": 1, "b": 2}) and client.mget("a", "absent", "b") == [b"1", None, b"2"]
    assert client.incr("n") == 1 and client.decr("n", 5) == -4
    assert client.append("key", "yz") == 3 and client.strlen("key") == 3
    assert client.exists("a", "a", "absent") == 2 and client.delete("a", "b", "absent") == 2
    assert client.client_getname() in ("kvd-test", b"kvd-test") and client.client_id() > 0
    assert client.config_get("save") == {"save": ""}
    assert client.info("replication")["role"] in ("master", "slave")
    assert client.command_count() > 30

    with client.pipeline(transaction=False) as pipe:
        for i in range(5000):
            pipe.set(f"p:{i}", i)
        pipe.get("p:4999")
        replies = pipe.execute()
    assert replies[-1] == b"4999" and all(replies[:-1])
    assert client.dbsize() == 5002
    assert sorted(client.scan_iter("p:*", count=100)) == sorted(f"p:{i}".encode() for i in range(5000))
    assert len(client.keys("p:12*")) == 111

    for command, error in (
        (("INCR", "key"), "value is not an integer or out of range"),
        (("GET",), "wrong number of arguments for 'get' command"),
        (("SET", "k", "v", "EX", "5"), "the option EX is not supported yet: keys do not expire"),
    ):
        try:
            client.execute_command(*command)
            raise AssertionError(f"{command} succeeded")
        except redis.ResponseError as found:
            assert str(found) == error, found
    client.close()
