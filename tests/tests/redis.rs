//! The Redis door of real members.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use kvd_tests::resp::{Reply, request};
use kvd_tests::{Cluster, PATIENCE, wait_until};

fn ok() -> Reply {
    Reply::Simple("OK".into())
}

fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.into())
}

#[test]
fn any_member_takes_a_write_and_all_doors_see_it() {
    let cluster = Cluster::start(3);
    for (at, member) in cluster.members().iter().enumerate() {
        let value = format!("value {at}");
        assert_eq!(member.redis().call(&["SET", "key", &value]), ok());
        for other in cluster.members() {
            assert_eq!(other.redis().line("GET key"), bulk(&value));
            assert_eq!(other.get("key"), Some(value.clone().into_bytes()));
        }
        member.put("key", "by HTTP");
        assert_eq!(cluster.members()[(at + 1) % 3].redis().line("GET key"), bulk("by HTTP"));
    }
    let roles: Vec<String> = cluster
        .members()
        .iter()
        .map(|member| match member.redis().line("ROLE") {
            Reply::Array(parts) => parts[0].text(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(roles.iter().filter(|role| *role == "master").count(), 1, "{roles:?}");
}

#[test]
fn a_pipeline_is_answered_in_its_order_at_every_member() {
    let cluster = Cluster::start(3);
    for member in cluster.members() {
        let mut connection = member.redis();
        let mut sent = Vec::new();
        let mut expected = vec![ok()];
        sent.extend(request(&["FLUSHDB"]));
        for i in 1..=200i64 {
            sent.extend(request(&["INCR", "n"]));
            expected.push(Reply::Integer(i));
            if i % 7 == 0 {
                sent.extend(request(&["GET", "n"]));
                expected.push(bulk(&i.to_string()));
            }
            if i % 31 == 0 {
                sent.extend(request(&["SET", "n", &(i * 10).to_string(), "GET"]));
                expected.push(bulk(&i.to_string()));
                sent.extend(request(&["SET", "n", &i.to_string()]));
                expected.push(ok());
            }
        }
        connection.send(&sent).unwrap();
        let found: Vec<Reply> = expected.iter().map(|_| connection.read().unwrap()).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn without_a_majority_nothing_is_done_and_that_is_said() {
    let mut cluster = Cluster::start(3);
    cluster.member(1).redis().line("SET key value");
    cluster.member_mut(2).kill();
    cluster.member_mut(3).kill();
    let mut alone = cluster.member(1).redis();
    wait_until("member 1 knows of no leader", PATIENCE, || {
        alone.line("INFO kvd").text().contains("leader_id:0\r\n").then_some(())
    });
    for line in ["SET key other", "GET key", "SET key other GET"] {
        let Reply::Error(words) = alone.line(line) else { panic!("{line} succeeded without a majority") };
        assert!(words.starts_with("TRYAGAIN ") && words.contains("nothing was done"), "{line}: {words}");
    }
    assert_eq!(alone.line("READONLY"), ok());
    assert_eq!(alone.line("GET key"), bulk("value"), "stale, and at once");
    cluster.member_mut(2).start();
    assert_eq!(alone.line("READWRITE"), ok());
    assert_eq!(alone.line("GET key"), bulk("value"));
}

#[test]
fn hostile_bytes_take_no_memory() {
    let cluster = Cluster::start(1);
    let member = cluster.member(1);
    // Buffers that every connection has, and what the allocator keeps.
    member.redis().line("SET key value");
    let before = member.resident_bytes();
    let mut open = Vec::new();
    for round in 0..50 {
        for bytes in [
            &b"*1000000000\r\n"[..],
            b"*131072\r\n$2097152\r\n",
            b"*1\r\n$99999999999\r\n",
            b"*-1\r\n",
            &[b'x'; 1 << 20],
            &b"*1\r\n".repeat(10_000),
        ] {
            let mut stream = TcpStream::connect(("127.0.0.1", member.redis_port())).unwrap();
            // It may be closed before all of it is written; that is one of the answers.
            let _ = stream.write_all(bytes);
            open.push(stream);
        }
        assert_eq!(member.redis().line("PING"), Reply::Simple("PONG".into()), "round {round}");
    }
    let grown = member.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes for {} connections", open.len());
    for mut stream in open {
        stream.shutdown(std::net::Shutdown::Write).unwrap_or_default();
        let mut answer = Vec::new();
        // What was closed with bytes unread is a reset, which ends the reading, too.
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"-ERR Protocol error: "),
            "{}",
            answer.escape_ascii()
        );
    }
}

#[test]
fn the_redis_crate_works() {
    let cluster = Cluster::start(3);
    let port = cluster.member(2).redis_port();
    for protocol in ["", "?protocol=resp3"] {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/{protocol}")).unwrap();
        let mut connection = client.get_connection().unwrap();
        let run = |command: &mut redis::Cmd, connection: &mut redis::Connection| {
            command.query::<redis::Value>(connection).unwrap()
        };
        run(redis::cmd("FLUSHDB").arg("SYNC"), &mut connection);
        run(redis::cmd("SET").arg("key").arg(&b"a\xff\0b"[..]), &mut connection);
        let value: Vec<u8> = redis::cmd("GET").arg("key").query(&mut connection).unwrap();
        assert_eq!(value, b"a\xff\0b");
        let absent: Option<String> = redis::cmd("GET").arg("absent").query(&mut connection).unwrap();
        assert_eq!(absent, None);
        let (first, second, all): (i64, i64, Vec<Option<String>>) = redis::pipe()
            .cmd("INCR")
            .arg("n")
            .cmd("INCRBY")
            .arg("n")
            .arg(41)
            .cmd("MGET")
            .arg("n")
            .arg("absent")
            .query(&mut connection)
            .unwrap();
        assert_eq!((first, second, all), (1, 42, vec![Some("42".into()), None]));
        let error = redis::cmd("INCR").arg("key").query::<i64>(&mut connection).unwrap_err();
        assert_eq!(error.code(), Some("ERR"));
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        assert_eq!(keys, ["key", "n"]);
    }
}
