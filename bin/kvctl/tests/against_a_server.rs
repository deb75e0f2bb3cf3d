//! `kvctl` against a tiny server in this process, whose answers the test chooses.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use clap::Parser;
use kvctl::{Cli, Error};

/// What the server saw of a request: method and path, and the body.
type Seen = (String, Vec<u8>);

/// Answers a request with raw bytes; an empty answer closes the connection.
type Answer = dyn Fn(&Seen) -> Vec<u8> + Send + Sync;

/// A server with a thread for each connection, which lives as long as the test process.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    fn start(answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let answer: Arc<Answer> = Arc::new(answer);
        let (seen_by_threads, counter) = (Arc::clone(&seen), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counter.fetch_add(1, Ordering::SeqCst);
                let (seen, answer) = (Arc::clone(&seen_by_threads), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &*answer));
            }
        });
        Server { url, seen, connections }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Seen>>, answer: &Answer) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let request = (head.lines().next().unwrap().replace(" HTTP/1.1", ""), body);
        seen.lock().unwrap().push(request.clone());
        let bytes = answer(&request);
        if bytes.is_empty() || reader.get_mut().write_all(&bytes).is_err() {
            return;
        }
    }
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn no_content() -> Vec<u8> {
    b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()
}

fn kvctl(endpoints: &str, args: &[&str]) -> (Result<(), Error>, String) {
    let args = ["kvctl", "--endpoints", endpoints].into_iter().chain(args.iter().copied());
    let mut out = Vec::new();
    let result = kvctl::run(Cli::parse_from(args), &mut out);
    (result, String::from_utf8(out).unwrap())
}

fn bench(endpoints: &str, args: &[&str]) -> (Result<(), Error>, serde_json::Value) {
    let all = ["bench", "put", "--json", "--seconds", "0.5", "--warmup", "0.1"].iter().chain(args);
    let (result, out) = kvctl(endpoints, &all.copied().collect::<Vec<_>>());
    (result, serde_json::from_str(&out).unwrap())
}

/// A port at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn put_and_get_send_one_request_each() {
    let server = Server::start(|(line, _)| match line.starts_with("PUT") {
        true => no_content(),
        false => answer("200 OK", "a value"),
    });
    assert!(kvctl(&server.url, &["put", "a key", "a value"]).0.is_ok());
    let (result, out) = kvctl(&server.url, &["get", "a key"]);
    assert!(result.is_ok());
    assert_eq!(out, "a value");
    let wanted = [
        ("PUT /v1/kv/a%20key".to_owned(), b"a value".to_vec()),
        ("GET /v1/kv/a%20key".to_owned(), Vec::new()),
    ];
    assert_eq!(server.seen(), wanted);
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    let server = Server::start(|_| answer("413 Content Too Large", "value too large"));
    let error = kvctl(&server.url, &["put", "k", "v"]).0.unwrap_err();
    assert_eq!(error.to_string(), format!("{} answered 413: value too large", server.url));
}

#[test]
fn an_absent_key_is_an_error_of_its_own() {
    let server = Server::start(|_| answer("404 Not Found", ""));
    assert!(matches!(kvctl(&server.url, &["get", "k"]).0, Err(Error::NoSuchKey(key)) if key == "k"));
}

#[test]
fn an_endpoint_that_is_down_is_passed_over() {
    let server = Server::start(|_| no_content());
    let endpoints = format!("{},{}", nobody(), server.url);
    assert!(kvctl(&endpoints, &["put", "k", "v"]).0.is_ok());
    assert!(matches!(kvctl(&nobody(), &["put", "k", "v"]).0, Err(Error::Connect { .. })));
}

#[test]
fn a_request_without_an_answer_is_not_sent_again() {
    let server = Server::start(|_| Vec::new());
    let endpoints = format!("{0},{0}", server.url);
    assert!(matches!(kvctl(&endpoints, &["put", "k", "v"]).0, Err(Error::NoAnswer { .. })));
    assert_eq!(server.seen().len(), 1);
}

/// A member list with two members, as the leader, member 1, gives it.
fn two_members(leader: &str, follower: &str) -> String {
    serde_json::json!({
        "cluster_id": "0000000000000007",
        "leader": "1",
        "members": [
            {"id": "1", "peer_urls": ["http://a:1"], "client_urls": [leader], "role": "voter", "progress": null},
            {"id": "20", "peer_urls": ["http://b:1", "http://b:2"], "client_urls": [follower], "role": "learner",
             "progress": {"matched": 7, "active": true, "catch_up": {"round": 2, "target": 9, "ready": false}}},
        ],
        "removed": ["3", "4"],
    })
    .to_string()
}

#[test]
fn member_list_is_a_table_or_json() {
    let list = two_members("http://c:80", "ftp://d");
    let document = list.clone();
    let server = Server::start(move |_| answer("200 OK", &document));
    let (result, out) = kvctl(&server.url, &["member", "list"]);
    assert!(result.is_ok(), "{result:?}");
    let wanted = "\
ID  ROLE          PEER URLS              CLIENT URLS  PROGRESS
1   voter, leads  http://a:1             http://c:80
20  learner       http://b:1 http://b:2  ftp://d      has 7 of 9, round 2
removed: 3 4
";
    assert_eq!(out, wanted);
    let (_, out) = kvctl(&server.url, &["member", "list", "-w", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap().to_string(), list);
}

#[test]
fn member_list_asks_the_leader_how_far_the_others_are() {
    let leader = Server::start(|_| answer("200 OK", &two_members("", "")));
    let url = leader.url.clone();
    let follower = Server::start(move |_| {
        let mut list: serde_json::Value = serde_json::from_str(&two_members(&url, "")).unwrap();
        list["members"][1]["progress"] = serde_json::Value::Null;
        answer("200 OK", &list.to_string())
    });
    let (result, out) = kvctl(&follower.url, &["member", "list"]);
    assert!(result.is_ok() && out.contains("round 2"), "{out}");
    assert_eq!(leader.seen(), [("GET /v1/members".to_owned(), Vec::new())]);
}

#[test]
fn changes_are_one_request() {
    let server = Server::start(|(line, _)| match line.contains("leader") {
        true => answer("200 OK", r#"{"leader":"2"}"#),
        false => answer("200 OK", r#"{"outcome":"applied","index":12}"#),
    });
    for (args, path, body, said) in [
        (
            &["member", "add", "4=http://d:1,http://d:2", "5=http://e:1"][..],
            "POST /v1/members",
            r#"[{"change":"add","id":"4","peer_urls":["http://d:1","http://d:2"]},{"change":"add","id":"5","peer_urls":["http://e:1"]}]"#,
            "done, at index 12\n",
        ),
        (
            &["member", "remove", "18446744073709551615", "--force", "a & b"],
            "POST /v1/members?force=a%20%26%20b",
            r#"[{"change":"remove","id":"18446744073709551615"}]"#,
            "done, at index 12\n",
        ),
        (
            &["member", "promote", "4", "-w", "json"],
            "POST /v1/members",
            r#"[{"change":"promote","id":"4"}]"#,
            "{\"index\":12,\"outcome\":\"applied\"}\n",
        ),
        (
            &["member", "change", "--remove", "1", "--promote", "4", "--add", "6=http://f:1"],
            "POST /v1/members",
            r#"[{"change":"add","id":"6","peer_urls":["http://f:1"]},{"change":"promote","id":"4"},{"change":"remove","id":"1"}]"#,
            "done, at index 12\n",
        ),
        (&["leader", "transfer", "2"], "POST /v1/leader", r#"{"id":"2"}"#, "member 2 leads\n"),
        (&["leader", "transfer"], "POST /v1/leader", "", "member 2 leads\n"),
    ] {
        let (result, out) = kvctl(&server.url, args);
        assert!(result.is_ok(), "{args:?}: {result:?}");
        assert_eq!(out, said, "{args:?}");
        let (line, sent) = server.seen().pop().unwrap();
        assert_eq!((line.as_str(), std::str::from_utf8(&sent).unwrap()), (path, body), "{args:?}");
    }
}

#[test]
fn a_refusal_is_said_in_its_words_and_code() {
    let server = Server::start(|_| {
        answer("409 Conflict", r#"{"code":"last_voter","detail":"member 1 is the last voter","status":409}"#)
    });
    let (result, _) = kvctl(&server.url, &["member", "remove", "1"]);
    let error = result.unwrap_err().to_string();
    assert!(error.ends_with("answered 409 (last_voter): member 1 is the last voter"), "{error}");
    let strange = Server::start(|_| answer("200 OK", "ok"));
    assert!(matches!(kvctl(&strange.url, &["member", "list"]).0, Err(Error::NotUnderstood { .. })));
}

#[test]
fn status_has_a_line_for_each_member_of_the_list() {
    let list = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let follower = Server::start(|(line, _)| match line.as_str() {
        "GET /readyz" => answer("503 Service Unavailable", "no leader\n"),
        _ => answer(
            "200 OK",
            r#"{"id":"20","role":"follower","term":3,"commit":8,"applied":8,"revision":4,"keys":2}"#,
        ),
    });
    let document = list.clone();
    let leader = Server::start(move |(line, _)| match line.as_str() {
        "GET /readyz" => answer("200 OK", "ok"),
        "GET /v1/status" => answer(
            "200 OK",
            r#"{"id":"1","role":"leader","term":3,"commit":9,"applied":9,"revision":5,"keys":2}"#,
        ),
        _ => answer("200 OK", &document.lock().unwrap()),
    });
    *list.lock().unwrap() = two_members(&leader.url, &follower.url);
    let (result, out) = kvctl(&leader.url, &["status"]);
    assert!(matches!(result, Err(Error::NotReady(1))), "{result:?}");
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    let url = (leader.url.as_str(), follower.url.as_str());
    assert_eq!(lines[1], ["1", url.0, "leader", "3", "9", "9", "5", "2", "yes"]);
    assert_eq!(lines[2], ["20", url.1, "follower", "3", "8", "8", "4", "2", "no", "leader"]);
    let (_, out) = kvctl(&leader.url, &["status", "-w", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json[0]["ready"], &json[1]["reason"]), (&true.into(), &"no leader".into()));
}

#[test]
fn status_without_a_member_list_asks_the_endpoints() {
    let silent = nobody();
    let server = Server::start(|(line, _)| match line.as_str() {
        "GET /readyz" => answer("200 OK", "ok"),
        _ => answer("404 Not Found", "there is no such endpoint"),
    });
    let (result, out) = kvctl(&format!("{},{silent}", server.url), &["status"]);
    assert!(matches!(result, Err(Error::NotReady(1))));
    assert!(out.contains(&server.url) && out.contains(&format!("cannot connect to {silent}")), "{out}");
}

#[test]
fn bench_counts_acknowledged_writes_on_one_connection_a_client() {
    let server = Server::start(|_| no_content());
    let (result, json) = bench(&server.url, &["--clients", "4", "--value-bytes", "10", "--keys", "5"]);
    assert!(result.is_ok());
    let acknowledged = json["acknowledged"].as_u64().unwrap();
    let seen = server.seen();
    // The warm-up is sent and not counted; of the rest, at most one request a client is answered after the end.
    assert!(acknowledged > 0 && acknowledged < seen.len() as u64, "{acknowledged} of {}", seen.len());
    assert_eq!(server.connections.load(Ordering::SeqCst), 4);
    assert_eq!(json["errors"], serde_json::json!({}));
    assert!(json["latency_us"]["p50"].as_u64() <= json["latency_us"]["max"].as_u64());
    for (line, body) in seen {
        let number: u32 = line.strip_prefix("PUT /bench-").unwrap().parse().unwrap();
        assert!(number < 5 && body.len() == 10, "{line} {body:?}");
    }
}

#[test]
fn bench_spreads_its_clients_over_the_endpoints() {
    let servers = [Server::start(|_| no_content()), Server::start(|_| no_content())];
    let endpoints = format!("{},{}", servers[0].url, servers[1].url);
    assert!(bench(&endpoints, &["--clients", "6"]).0.is_ok());
    for server in servers {
        assert_eq!(server.connections.load(Ordering::SeqCst), 3);
    }
}

#[test]
fn bench_counts_nothing_but_2xx() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) % 3 {
        0 => no_content(),
        1 => answer("429 Too Many Requests", "overloaded"),
        _ => answer("503 Service Unavailable", "no leader"),
    });
    let (result, json) = bench(&server.url, &["--clients", "1"]);
    assert!(result.is_ok());
    let acknowledged = json["acknowledged"].as_u64().unwrap();
    for status in ["429", "503"] {
        let count = json["errors"][status].as_u64().unwrap();
        assert!(count.abs_diff(acknowledged) <= 1, "{json}");
    }
}

#[test]
fn bench_without_a_single_acknowledgement_fails() {
    let (result, json) = bench(&nobody(), &["--clients", "2"]);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("cannot connect"), "{error}");
    assert_eq!(json["acknowledged"], 0);
}

#[test]
fn bench_opens_a_lost_connection_again() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) % 2 {
        0 => no_content(),
        _ => Vec::new(),
    });
    let (result, json) = bench(&server.url, &["--clients", "1"]);
    assert!(result.is_ok());
    assert!(json["acknowledged"].as_u64().unwrap() >= 1, "{json}");
    assert!(server.connections.load(Ordering::SeqCst) >= 2);
}

/// A server that speaks as much of Redis's protocol as `bench` does; it counts its connections and what it was asked.
struct Redis {
    url: String,
    seen: Arc<Mutex<Vec<Vec<String>>>>,
    connections: Arc<AtomicUsize>,
}

impl Redis {
    /// Answers each command with raw bytes.
    fn start(answer: impl Fn(&[String]) -> &'static str + Send + Sync + 'static) -> Redis {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let answer = Arc::new(answer);
        let (seen_by_threads, counter) = (Arc::clone(&seen), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counter.fetch_add(1, Ordering::SeqCst);
                let (seen, answer) = (Arc::clone(&seen_by_threads), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.unwrap());
                    while let Some(command) = read_command(&mut reader) {
                        seen.lock().unwrap().push(command.clone());
                        if reader.get_mut().write_all(answer(&command).as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Redis { url, seen, connections }
    }
}

/// An array of strings; `None` once the client is gone.
fn read_command(reader: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&n| n > 0).map(|_| line.trim_end().to_owned())
    };
    let words = line()?.strip_prefix('*').unwrap().parse().unwrap();
    let mut command = Vec::new();
    for _ in 0..words {
        let mut length = String::new();
        reader.read_line(&mut length).ok()?;
        let mut word = vec![0; length.trim_end().strip_prefix('$').unwrap().parse::<usize>().unwrap() + 2];
        reader.read_exact(&mut word).ok()?;
        word.truncate(word.len() - 2);
        command.push(String::from_utf8_lossy(&word).into_owned());
    }
    Some(command)
}

fn load(endpoints: &str, line: &str) -> (Result<(), Error>, serde_json::Value) {
    let args: Vec<&str> = ["bench"].into_iter().chain(line.split_whitespace()).chain(["--json"]).collect();
    let (result, out) = kvctl(endpoints, &args);
    (result, serde_json::from_str(&out).unwrap())
}

#[test]
fn bench_speaks_redis_with_many_requests_in_flight() {
    let server = Redis::start(|command| match command[0].as_str() {
        "SET" => "+OK\r\n",
        "GET" => "$5\r\nvalue\r\n",
        _ => "-ERR unknown\r\n",
    });
    let (result, json) =
        load(&server.url, "mixed --clients 2 --pipeline 16 --keys 9 --seconds 0.5 --warmup 0");
    assert!(result.is_ok());
    assert_eq!(json["errors"], serde_json::json!({}));
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    let seen = server.seen.lock().unwrap();
    // All were answered in the end; those that were in flight at the end are not counted.
    let acknowledged = json["acknowledged"].as_u64().unwrap();
    assert!(acknowledged > 0 && (acknowledged..=acknowledged + 32).contains(&(seen.len() as u64)), "{json}");
    for kind in ["put", "get"] {
        assert!(json[kind]["acknowledged"].as_u64().unwrap() > 0, "{json}");
    }
    for command in &*seen {
        let number: u32 = command[1].strip_prefix("bench-").unwrap().parse().unwrap();
        assert!(number < 9, "{command:?}");
    }
}

#[test]
fn bench_begins_stale_reads_over_redis_with_readonly() {
    let server = Redis::start(|command| match command[0].as_str() {
        "READONLY" => "+OK\r\n",
        _ => "$-1\r\n",
    });
    let (result, json) = load(&server.url, "get --stale --clients 1 --seconds 0.2 --warmup 0");
    assert!(result.is_ok());
    assert_eq!(json["absent"], json["acknowledged"]);
    assert_eq!(server.seen.lock().unwrap()[0], ["READONLY"]);

    let refusing = Redis::start(|_| "-ERR unknown command\r\n");
    let (result, json) = load(&refusing.url, "get --stale --clients 1 --seconds 0.2 --warmup 0");
    assert!(result.is_err());
    assert!(
        json["errors"].as_object().unwrap().keys().all(|kind| kind.starts_with("cannot connect")),
        "{json}"
    );
}

#[test]
fn bench_fill_writes_each_key_once() {
    let server = Server::start(|_| no_content());
    let (result, json) = load(&server.url, "fill --keys 1000 --clients 7 --pipeline 3");
    assert!(result.is_ok());
    assert_eq!(json["acknowledged"], 1000);
    let mut paths: Vec<String> = server.seen().into_iter().map(|(line, _)| line).collect();
    paths.sort_unstable();
    let wanted: Vec<String> = (0..1000).map(|number| format!("PUT /bench-{number:010}")).collect();
    assert_eq!(paths, wanted);
}

/// The server stalls once for a second. A closed loop of one client sees one slow answer; on a schedule, all that
/// should have been sent in that second waited, and the percentiles must say so.
#[test]
fn an_open_loop_counts_from_when_a_request_was_due() {
    const STALL: std::time::Duration = std::time::Duration::from_secs(1);
    let stalling = || {
        let turn = AtomicUsize::new(0);
        Server::start(move |_| {
            if turn.fetch_add(1, Ordering::SeqCst) == 50 {
                std::thread::sleep(STALL);
            }
            no_content()
        })
    };
    let flags = "put --clients 1 --seconds 2 --warmup 0";
    let (_, closed) = load(&stalling().url, flags);
    assert!(closed["latency_us"]["p99"].as_u64().unwrap() < 500_000, "{closed}");
    let (_, open) = load(&stalling().url, &format!("{flags} --rate 200"));
    // 200 of 400 arrivals are due within the second.
    assert!(open["latency_us"]["p90"].as_u64().unwrap() > 500_000, "{open}");
    let sent = open["acknowledged"].as_u64().unwrap();
    let left = open["errors"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>();
    assert_eq!(sent + left, 400, "{open}");
}

#[test]
fn an_open_loop_says_what_it_could_not_send() {
    let server = Server::start(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        no_content()
    });
    // One client gets at most a hundred answers a second.
    let (_, json) = load(&server.url, "put --clients 1 --rate 1000 --seconds 1 --warmup 0");
    let left = json["errors"]["never sent: no client had room"].as_u64().unwrap();
    assert!(left >= 850, "{json}");
    assert_eq!(json["acknowledged"].as_u64().unwrap() + left, 1000);
}

#[test]
fn requests_lost_with_a_connection_are_errors() {
    let turn = AtomicUsize::new(0);
    let server = Redis::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => "!no type of RESP2\r\n",
        _ => "+OK\r\n",
    });
    let (result, json) = load(&server.url, "put --clients 1 --pipeline 8 --seconds 1 --warmup 0");
    assert!(result.is_ok());
    let errors = json["errors"].as_object().unwrap();
    assert!(errors.keys().any(|kind| kind.contains("type of RESP")), "{json}");
    assert_eq!(errors.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), 8, "{json}");
}

#[test]
fn commands_of_one_request_refuse_a_redis_endpoint() {
    let error = kvctl("redis://127.0.0.1:1", &["get", "k"]).0.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("speaks HTTP"), "{error}");
}

#[test]
fn bench_fill_gives_up_without_answers() {
    let server = Server::start(|(line, _)| match line.ends_with('0') {
        true => no_content(),
        false => Vec::new(),
    });
    let (result, json) = load(&server.url, "fill --keys 20 --clients 1");
    assert!(result.is_ok());
    // Each key was tried once: it is not known what became of those without an answer.
    assert_eq!((&json["acknowledged"], server.seen().len()), (&2.into(), 20));

    let (result, json) = load(&nobody(), "fill --keys 20 --clients 2");
    assert!(result.unwrap_err().to_string().contains("cannot connect"));
    assert!(json["errors"].as_object().unwrap().contains_key("no answer within 10 s"), "{json}");
}

/// A server that closes after each answer, as it may, is slow enough without a pause.
#[test]
fn bench_reconnects_at_once_where_the_server_closes_in_order() {
    let server = Server::start(|_| b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_vec());
    let (result, json) = load(&server.url, "fill --keys 400 --clients 1");
    assert!(result.is_ok());
    assert_eq!((&json["acknowledged"], &json["errors"]), (&400.into(), &serde_json::json!({})));
    // With 50 ms before each connection it would be 20 s.
    assert!(json["seconds"].as_f64().unwrap() < 15.0, "{json}");
}
