//! Random commands, to a real redis-server and to kvd, and their replies compared.
//!
//! Needs `redis-server` (Debian's redis-server, version 7), so it runs when it is asked for: `.ci/run clients`, or
//! `cargo test -p kvd-tests --test redis_differential -- --ignored`. It prints its seed; `KVD_SEED=n` runs that one again.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking, its helpers too

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use kvd_tests::ports::Port;
use kvd_tests::resp::{Connection, Reply, request};
use kvd_tests::{Cluster, PATIENCE, wait_until};

const SEQUENCES: u64 = 60;
const COMMANDS: usize = 150;

struct Redis {
    port: Port,
    child: Child,
}

impl Redis {
    fn start(directory: &Path) -> Redis {
        let port = Port::reserve();
        let child = Command::new("redis-server")
            .args(["--port", &port.number().to_string(), "--save", "", "--appendonly", "no"])
            .current_dir(directory)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server runs: install Debian's redis-server");
        let redis = Redis { port, child };
        wait_until("redis-server answers", PATIENCE, || {
            let mut connection = Connection::open(redis.port.number()).ok()?;
            (connection.line("PING") == Reply::Simple("PONG".into())).then_some(())
        });
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.kill().expect("a child that was not waited for can be killed");
        self.child.wait().expect("a killed child can be waited for");
    }
}

/// splitmix64: enough to choose commands by.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn of<'t>(&mut self, from: &[&'t str]) -> &'t str {
        from[self.below(from.len())]
    }

    fn key(&mut self) -> &'static str {
        self.of(&["a", "b", "c", "key:1", "key:2", "k\r\n?", "[x]*"])
    }

    fn value(&mut self) -> &'static str {
        self.of(&[
            "",
            "0",
            "1",
            "-7",
            "9223372036854775807",
            "-9223372036854775808",
            "01",
            " 1",
            "abc",
            "\0\u{ff}",
        ])
    }

    fn number(&mut self) -> &'static str {
        self.of(&[
            "0",
            "1",
            "-1",
            "1000",
            "9223372036854775807",
            "-9223372036854775808",
            "x",
            "1.5",
            "+1",
            "",
        ])
    }

    /// A command, wrong now and then, of those whose replies must be the same.
    fn command(&mut self) -> Vec<&'static str> {
        let mut words = match self.below(30) {
            0..4 => vec!["GET", self.key()],
            4..8 => vec!["SET", self.key(), self.value()],
            8 => {
                vec!["SET", self.key(), self.value(), self.of(&["NX", "XX", "nx", "GET", "KEEPTTL", "what"])]
            }
            9 => vec![
                "SET",
                self.key(),
                self.value(),
                self.of(&["NX", "XX", "GET"]),
                self.of(&["GET", "NX", "XX"]),
            ],
            10 => vec!["SETNX", self.key(), self.value()],
            11 => vec!["DEL", self.key(), self.key()],
            12 => vec!["UNLINK", self.key()],
            13 => vec!["EXISTS", self.key(), self.key(), self.key()],
            14 => vec!["MGET", self.key(), self.key(), self.key()],
            15 => vec!["MSET", self.key(), self.value(), self.key(), self.value()],
            16 | 17 => vec![self.of(&["INCR", "DECR", "incr"]), self.key()],
            18 | 19 => vec![self.of(&["INCRBY", "DECRBY"]), self.key(), self.number()],
            20 => vec!["APPEND", self.key(), self.value()],
            21 => vec!["STRLEN", self.key()],
            22 => vec!["TYPE", self.key()],
            23 => vec!["DBSIZE"],
            24 => vec![
                "KEYS",
                self.of(&["*", "key:*", "?", "[a-b]", "[^a]", "\\[x\\]*", "k*[12]", "nothing", ""]),
            ],
            25 => vec![self.of(&["PING", "ECHO", "ping"]), self.value()],
            26 => vec!["SELECT", self.of(&["0", "99", "x", "-1"])],
            27 => vec![
                "SCAN",
                "0",
                self.of(&["MATCH", "COUNT", "match", "TYPE", "what"]),
                self.of(&["100", "0", "x", "string", "list", "*", "k*"]),
                "COUNT",
                "1000",
            ],
            28 => match self.below(6) {
                0 => vec!["FLUSHDB", self.of(&["SYNC", "ASYNC", "what"])],
                1 => vec!["FLUSHALL"],
                2 => vec!["CLIENT", self.of(&["GETNAME", "SETNAME", "what"])],
                3 => vec!["CLIENT", "SETNAME", self.of(&["me", "a b", ""])],
                4 => vec!["AUTH", self.of(&["default", "other"]), "x"],
                _ => vec!["CONFIG", "GET", self.of(&["save", "nothing", "appendonl"])],
            },
            _ => vec![self.of(&["NOSUCH", "GETT", "COMMAND", "\0"]), self.value(), "argument"],
        };
        match self.below(25) {
            0 => words.push("more"),
            1 => words.truncate((words.len() - 1).max(1)),
            _ => {}
        }
        words
    }
}

/// What is alike in both however keys are ordered.
fn comparable(words: &[&str], reply: Reply) -> Reply {
    let sort = |reply: &mut Reply| {
        if let Reply::Array(keys) = reply {
            keys.sort_by_key(Reply::text);
        }
    };
    let mut reply = reply;
    match words[0] {
        "KEYS" => sort(&mut reply),
        "SCAN" => {
            if let Reply::Array(parts) = &mut reply {
                parts.iter_mut().skip(1).for_each(sort);
            }
        }
        _ => {}
    }
    reply
}

/// Whether the two are meant to differ here; docs/redis.md says why.
fn differs_on_purpose(words: &[&str]) -> bool {
    match words[0] {
        // kvd tells of itself, and has fewer commands and parameters.
        "COMMAND" => true,
        "CONFIG" => words.get(2) == Some(&"save"),
        _ => false,
    }
}

#[test]
#[ignore = "needs redis-server; .ci/run clients runs it"]
fn replies_are_those_of_redis() {
    let cluster = Cluster::start(1);
    let redis = Redis::start(cluster.directory());
    let ports = [redis.port.number(), cluster.member(1).redis_port()];
    let seeds = match std::env::var("KVD_SEED") {
        Ok(seed) => vec![seed.parse().expect("KVD_SEED is a number")],
        Err(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
            (0..SEQUENCES).map(|i| now.wrapping_add(i)).collect()
        }
    };
    for seed in seeds {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut both = ports.map(|port| Connection::open(port).unwrap());
        let greeting = if random.below(2) == 0 { "HELLO 2" } else { "HELLO 3" };
        for connection in &mut both {
            assert_eq!(connection.line("FLUSHALL"), Reply::Simple("OK".into()));
            connection.line(greeting);
        }
        let mut left = COMMANDS;
        while left > 0 {
            let together = 1 + random.below(left.min(20));
            left -= together;
            let commands: Vec<Vec<&str>> = (0..together).map(|_| random.command()).collect();
            let sent: Vec<u8> = commands.iter().flat_map(|words| request(words)).collect();
            let [of_redis, of_kvd] = both.each_mut().map(|connection| {
                connection.send(&sent).unwrap();
                commands.iter().map(|words| comparable(words, connection.read().unwrap())).collect::<Vec<_>>()
            });
            for ((words, of_redis), of_kvd) in commands.iter().zip(of_redis).zip(of_kvd) {
                if !differs_on_purpose(words) {
                    assert_eq!(of_kvd, of_redis, "{words:?}; left kvd, right Redis; KVD_SEED={seed}");
                }
            }
        }
    }
}

#[test]
#[ignore = "needs redis-server; .ci/run clients runs it"]
fn what_is_no_request_is_answered_alike() {
    let cluster = Cluster::start(1);
    let redis = Redis::start(cluster.directory());
    let ports = [redis.port.number(), cluster.member(1).redis_port()];
    for bytes in [
        &b"*x\r\n"[..],
        b"*1\r\n:1\r\n",
        b"*1\r\n$-5\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$99999999999\r\n",
        b"get \"a\r\n",
        b"get \"a\"b\r\n",
        b"get 'a\r\n",
        &[b'x'; 70_000],
        &[&b"*"[..], &[b'1'; 70_000]].concat(),
        &[&b"*1\r\n$"[..], &[b'1'; 70_000]].concat(),
        b"echo \"\\x41\\n\\\"\" \r\nquit\r\n",
        b"echo 'a\\'b'\r\nquit\r\n",
        b"\r\n\r\n*0\r\n*-7\r\nping\nquit\n",
    ] {
        let [of_redis, of_kvd] = ports.map(|port| {
            let mut connection = Connection::open(port).unwrap();
            connection.send(bytes).unwrap();
            let mut replies = Vec::new();
            while let Ok(reply) = connection.read() {
                replies.push(reply);
            }
            replies
        });
        assert_eq!(of_kvd, of_redis, "{}", bytes[..bytes.len().min(40)].escape_ascii());
    }
}
