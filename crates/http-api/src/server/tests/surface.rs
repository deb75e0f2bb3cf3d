//! What each request is answered, over real sockets.

use super::*;

#[tokio::test]
async fn the_table_row_by_row() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let long = format!("/{}", "k".repeat(4097));
    let peer = "http://127.0.0.1:2";
    for (method, path, body, status, part) in [
        ("GET", "/foo", "", 404, "no such key"),
        ("PUT", "/foo", "bar", 204, ""),
        ("GET", "/foo", "", 200, "bar"),
        ("GET", "/foo?consistency=stale", "", 200, "bar"),
        ("GET", "/foo?consistency=linearizable", "", 200, "bar"),
        ("GET", "/foo?consistency=maybe", "", 400, "linearizable"),
        ("PUT", "/foo?x=y", "", 204, ""),
        ("GET", "/f%6fo", "", 200, ""),
        ("PUT", "/", "x", 400, "key is empty"),
        ("GET", "/", "", 400, "key is empty"),
        ("PUT", "/%zz", "x", 400, "hexadecimal"),
        ("PUT", &long, "x", 413, "4097 bytes and may have at most 4096"),
        ("GET", &long, "", 413, "4097 bytes"),
        ("PUT", &long[..4097], "x", 204, ""),
        ("PUT", &long[..4096], "x", 204, ""),
        ("POST", "/2", peer, 204, ""),
        ("POST", "/2", "http://127.0.0.1:2\n", 204, ""),
        ("POST", "/2", "http://127.0.0.1:3", 409, "127.0.0.1:2"),
        ("POST", "/x", peer, 400, "member id"),
        ("POST", "/", peer, 400, "member id"),
        ("POST", "/0", peer, 400, "bad"),
        ("POST", "/7", "no url", 400, "bad"),
        ("POST", "/7", "", 400, "bad"),
        ("POST", "/9", peer, 410, "removed"),
        ("DELETE", "/2", "", 204, ""),
        ("DELETE", "/5", "", 404, "unknown"),
        ("DELETE", "/9", "", 410, "removed"),
        ("DELETE", "/0", "", 400, "begin at 1"),
        ("DELETE", "/foo", "", 400, "member id"),
        ("DELETE", "/1", "", 409, "voter"),
        ("PATCH", "/foo", "", 405, "PUT, GET, POST, DELETE"),
        ("OPTIONS", "/foo", "", 405, "PUT, GET, POST, DELETE"),
        ("PUT", "/v1", "x", 400, "reserved"),
        ("PUT", "/v1/foo", "x", 400, "reserved"),
        ("PUT", "/metrics", "x", 400, "/v1/kv/metrics"),
        ("PUT", "/%75i/x", "x", 400, "reserved"),
        ("GET", "/ui", "", 404, "/v1/kv/"),
        ("GET", "/v3/kv", "", 404, "/v1/kv/"),
        ("GET", "/health/x", "", 404, "/v1/kv/"),
        ("DELETE", "/health", "", 405, "GET"),
        ("PUT", "/healthy", "x", 204, ""),
    ] {
        let reply = once(&server, method, path, body).await;
        let case = format!("{method} {path} {body}: {reply:?}");
        assert_eq!(reply.status, status, "{case}");
        assert!(reply.text().to_lowercase().contains(&part.to_lowercase()), "{case}");
        if reply.status >= 400 {
            assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"), "{case}");
            assert!(reply.text().ends_with('\n') && reply.text().lines().count() == 1, "{case}");
        }
        assert_eq!(reply.header("allow").is_some(), status == 405, "{case}");
    }
    let reply = once(&server, "PATCH", "/foo", "").await;
    assert_eq!(reply.header("allow"), Some("PUT, GET, POST, DELETE"));
    server.shutdown().await;
}

#[tokio::test]
async fn reads_are_linearizable_unless_they_say_otherwise() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    for (query, age) in [("", None), ("?consistency=stale", Some("250")), ("?consistency=linearizable", None)]
    {
        let reply = once(&server, "GET", &format!("/k{query}"), "").await;
        assert_eq!(reply.header("kvd-staleness-ms"), age);
    }
    let how = [Consistency::Linearizable, Consistency::Stale, Consistency::Linearizable];
    assert_eq!(door.state().reads, how);
}

#[tokio::test]
async fn a_failure_of_the_store_has_its_status_and_its_words() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    for (error, status, retry) in [
        (Error::Overloaded, 429, true),
        (Error::NoSpace, 507, true),
        (Error::NoLeader, 503, true),
        (Error::Stopped, 503, true),
        (Error::Removed, 503, true),
        (Error::Unknown { reason: "the leader changed" }, 504, false),
        (Error::BadResponse, 500, false),
    ] {
        let words = format!("{error}\n");
        door.state().fail = Some(error);
        for (method, path) in [("PUT", "/k"), ("GET", "/k"), ("POST", "/2"), ("DELETE", "/2")] {
            let reply = once(&server, method, path, "http://a:1").await;
            assert_eq!((reply.status, reply.text()), (status, words.as_str()), "{method} {path}");
            assert_eq!(reply.header("retry-after"), retry.then_some("1"));
        }
    }
}

#[tokio::test]
async fn values_are_bytes_and_keys_are_bytes() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let value = b"a\xff\0b\r\n";
    assert_eq!(once(&server, "PUT", "/%ff%00/x", value).await.status, 204);
    assert_eq!(door.state().store.get(b"\xff\0/x").unwrap().value, &value[..]);
    let reply = once(&server, "GET", "/%FF%00/x", "").await;
    assert_eq!(
        (reply.body.as_slice(), reply.header("content-type")),
        (&value[..], Some("application/octet-stream"))
    );
}

#[tokio::test]
async fn a_value_may_be_as_long_as_the_limit_and_no_longer() {
    const LIMIT: usize = 3 << 19;
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let big = vec![0xab; LIMIT + 1];
    for (len, status) in [(0, 204), (LIMIT - 1, 204), (LIMIT, 204), (LIMIT + 1, 413)] {
        let reply = once(&server, "PUT", "/with-length", &big[..len]).await;
        assert_eq!(reply.status, status, "{len}: {}", reply.text());

        let mut client = Client::connect(&server).await;
        client.send("PUT /chunked HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for chunk in big[..len].chunks(100_000) {
            client.send(format!("{:x}\r\n", chunk.len())).await;
            client.send(chunk).await;
            client.send("\r\n").await;
        }
        client.send("0\r\n\r\n").await;
        let reply = client.reply().await.unwrap();
        assert_eq!(reply.status, status, "{len} chunked: {}", reply.text());

        let stored = |key: &[u8]| door.state().store.get(key).unwrap().value.len();
        assert_eq!((stored(b"with-length"), stored(b"chunked")), (len.min(LIMIT), len.min(LIMIT)));
    }
    let reply = once(&server, "GET", "/chunked", "").await;
    assert!(reply.body == big[..LIMIT]);
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_before_it_sends() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let mut client = Client::connect(&server).await;
    client
        .send("PUT /k HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1572865\r\n\r\n")
        .await;
    let reply = client.reply().await.unwrap();
    assert_eq!(reply.status, 413);
    assert!(client.reply().await.is_none(), "the connection is of no more use");

    let mut client = Client::connect(&server).await;
    client.send("PUT /k HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    assert_eq!(client.reply().await.unwrap().status, 100);
    client.send("ok").await;
    assert_eq!(client.reply().await.unwrap().status, 204);
}

#[tokio::test]
async fn a_length_that_nobody_would_send_is_refused_at_once() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let mut client = Client::connect(&server).await;
    client.send("PUT /k HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551613\r\n\r\n").await;
    assert_eq!(client.reply().await.unwrap().status, 413);
}

#[tokio::test]
async fn a_peer_url_is_bounded() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    for (len, status) in [(1023, 204), (1024, 204), (1025, 413)] {
        let url = format!("http://{}", "a".repeat(len - 7));
        assert_eq!(once(&server, "POST", &format!("/{len}"), url).await.status, status, "{len}");
    }
    assert_eq!(once(&server, "POST", "/2", b"http://\xff").await.status, 400);
}

#[tokio::test]
async fn bodies_that_are_gathered_share_a_budget() {
    let door = Fake::new();
    let server = open(&door, Options { body_bytes: 100_000, ..Options::default() }).await;
    let begin = |len: usize| format!("PUT /k HTTP/1.1\r\nhost: x\r\ncontent-length: {len}\r\n\r\nx");
    let mut slow = Client::connect(&server).await;
    slow.send(begin(60_000)).await;
    assert_eq!(once(&server, "PUT", "/small", "a frame").await.status, 204);
    // The first request is known to be under way only by what it does to others.
    loop {
        let mut other = Client::connect(&server).await;
        other.send(begin(40_001)).await;
        other.send(vec![0; 40_000]).await;
        if other.reply().await.unwrap().status == 429 {
            break;
        }
    }
    assert_eq!(once(&server, "PUT", "/exact", vec![0; 40_000]).await.status, 204);
    drop(slow);
    loop {
        if once(&server, "PUT", "/whole", vec![0; 100_000]).await.status == 204 {
            break;
        }
    }
}

#[tokio::test]
async fn requests_follow_each_other_on_a_connection_also_pipelined() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let mut client = Client::connect(&server).await;
    for i in 0..3 {
        assert_eq!(client.request("PUT", "/k", format!("{i}")).await.status, 204);
        assert_eq!(client.request("GET", "/k", "").await.text(), format!("{i}"));
    }
    client.send("GET /k HTTP/1.1\r\nhost: x\r\n\r\nGET /none HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(client.reply().await.unwrap().status, 200);
    assert_eq!(client.reply().await.unwrap().status, 404);
    // HEAD is one of the other methods, and its answer has no body.
    client.send("HEAD /k HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut bytes = vec![0; 30];
    client.stream.read_exact(&mut bytes).await.unwrap();
    assert!(bytes.starts_with(b"HTTP/1.1 405"));
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let head = |len: usize| {
        let (start, end) = ("GET /k HTTP/1.1\r\nhost: x\r\nx: ", "\r\n\r\n");
        format!("{start}{}{end}", "y".repeat(len - start.len() - end.len()))
    };
    for (len, status) in [(32_767, 404), (32_768, 404), (32_769, 431), (100_000, 431)] {
        let mut client = Client::connect(&server).await;
        client.send(head(len)).await;
        assert_eq!(client.reply().await.unwrap().status, status, "{len}");
    }
    let mut client = Client::connect(&server).await;
    client.send("this is not HTTP\r\n\r\n").await;
    assert_eq!(client.reply().await.unwrap().status, 400);
}

#[tokio::test]
async fn keys_of_every_shape_are_under_v1() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let put = once(&server, "PUT", "/v1/kv/v1/kv/x", "one").await;
    assert_eq!((put.status, put.header("kvd-revision"), put.header("etag")), (204, Some("2"), Some("\"2\"")));
    assert_eq!(once(&server, "PUT", "/v1/kv/metrics", "two").await.header("etag"), Some("\"3\""));
    let get = once(&server, "GET", "/v1/kv/v1/kv/x?consistency=stale", "").await;
    assert_eq!(
        (get.text(), get.header("kvd-revision"), get.header("etag")),
        ("one", Some("3"), Some("\"2\""))
    );
    assert_eq!(door.state().store.get(b"metrics").unwrap().value, "two");
    let gone = once(&server, "DELETE", "/v1/kv/metrics", "").await;
    assert_eq!((gone.status, gone.header("kvd-revision")), (204, Some("4")));
    let gone = once(&server, "DELETE", "/v1/kv/metrics", "").await;
    assert_eq!((gone.status, gone.header("kvd-revision")), (404, Some("4")));
    let none = once(&server, "GET", "/v1/kv/metrics", "").await;
    assert_eq!((none.status, none.header("kvd-revision"), none.header("etag")), (404, Some("4"), None));
    for (method, path, status) in [
        ("GET", "/v1/kv/", 400),
        ("GET", "/v1/kv", 404),
        ("PATCH", "/v1/kv/x", 405),
        ("GET", "/v1/kv/x?consistency=no", 400),
        ("PUT", "/v1/kv/x?ttl=30s", 501),
        ("GET", "/v1/kv/x?rev=1", 501),
    ] {
        assert_eq!(once(&server, method, path, "").await.status, status, "{method} {path}");
    }
    let mut client = Client::connect(&server).await;
    client.send("PUT /v1/kv/x HTTP/1.1\r\nhost: x\r\nif-match: \"1\"\r\ncontent-length: 0\r\n\r\n").await;
    let reply = client.reply().await.unwrap();
    assert_eq!(reply.status, 501);
    assert!(reply.text().contains("the header if-match is not supported yet"), "{reply:?}");
}

#[tokio::test]
async fn health_and_the_like() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let health = once(&server, "GET", "/health", "").await;
    assert_eq!((health.status, health.text()), (200, r#"{"health":"true","reason":""}"#));
    let version = once(&server, "GET", "/version", "").await;
    assert_eq!(version.text(), format!(r#"{{"kvd":"{}","raft":"0.7"}}"#, env!("CARGO_PKG_VERSION")));
    assert_eq!(version.header("content-type"), Some("application/json"));
    let metrics = once(&server, "GET", "/metrics", "").await;
    assert_eq!(metrics.text(), "up 1\n# EOF\n");
    let kind = metrics.header("content-type");
    assert_eq!(kind, Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert_eq!(once(&server, "GET", "/livez", "").await.text(), "ok\n");

    door.state().status.leader = None;
    let health = once(&server, "GET", "/health", "").await;
    assert_eq!((health.status, health.text()), (503, r#"{"health":"false","reason":"RAFT NO LEADER"}"#));
    for (error, status) in [(Error::NoLeader, 200), (Error::Overloaded, 200), (Error::Stopped, 503)] {
        door.state().fail = Some(error);
        assert_eq!(once(&server, "GET", "/livez", "").await.status, status);
        assert_eq!(once(&server, "GET", "/readyz", "").await.status, 503);
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_does_not_turn_is_not_alive() {
    let door = Fake::new();
    door.state().stuck = true;
    let connections = Connections::new(door.clone(), Extras::default(), Options::default());
    let answer = crate::operations::handle(&connections.shared, "livez").await;
    assert_eq!(answer.status().as_u16(), 503);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_member_is_alive_within_a_fifth_of_a_second_and_not_ready_within_a_second() {
    let door = Fake::new();
    door.state().lost = true;
    let connections = Connections::new(door.clone(), Extras::default(), Options::default());
    for (path, status, limit) in [("livez", 200, 200), ("readyz", 503, 1000)] {
        let asked = tokio::time::Instant::now();
        let answer = crate::operations::handle(&connections.shared, path).await;
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert!(asked.elapsed() <= Duration::from_millis(limit), "{path} after {:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn ready_is_who_read_linearizably_of_late() {
    let door = Fake::new();
    let connections = Connections::new(door.clone(), Extras::default(), Options::default());
    let shared = &connections.shared;
    let ready = async || crate::operations::handle(shared, "readyz").await.status().as_u16();
    connections.sweep(100);
    door.state().fail = Some(Error::NoLeader);
    assert_eq!(ready().await, 503, "never read");
    door.state().fail = None;
    assert_eq!(ready().await, 200);
    assert_eq!(door.state().confirms, 2);
    door.state().fail = Some(Error::NoLeader);
    for (second, status, confirms) in [(104, 200, 2), (105, 200, 2), (106, 503, 3)] {
        connections.sweep(second);
        assert_eq!((ready().await, door.state().confirms), (status, confirms), "{second}");
    }
    shared.confirmed();
    assert_eq!(ready().await, 200, "a read of a client counts");
    door.state().status.member = false;
    assert_eq!(ready().await, 503);
    door.state().status.member = true;
    shared.draining.store(true, Relaxed);
    assert_eq!(ready().await, 503);
}
