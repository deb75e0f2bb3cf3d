//! Members of different versions: what understands each other works together, what does not is refused with the reason.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use raft::eraftpb::MessageType::MsgHeartbeat;
use support::raw::{FakePeer, Raw, exchange, frame, headers};
use support::*;

/// The headers of a member that speaks the versions from `oldest` to `newest`.
fn speaking(oldest: u64, newest: u64, from: u64, to: u64) -> Vec<(&'static str, String)> {
    let mut all = headers(from, to);
    for (name, value) in &mut all {
        match *name {
            "Kvd-Min-Version" => *value = oldest.to_string(),
            "Kvd-Version" => *value = newest.to_string(),
            _ => {}
        }
    }
    all
}

#[tokio::test]
async fn a_newer_member_that_still_speaks_our_version_is_served() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let mut newer = speaking(1, 9, 2, 1);
    // It sends headers that this version has never heard of.
    newer.push(("Kvd-Colour", "blue".to_owned()));
    let mut stream = Raw::connect(node.address()).await;
    stream.request("GET /raft/stream/message/2", &newer, b"").await;
    let head = stream.head().await;
    assert_eq!(head.status(), 200);
    assert_eq!((head.get("kvd-version"), head.get("kvd-min-version")), (Some("1"), Some("1")));
    node.send(heartbeat(1, 2, 5));
    assert_eq!(stream.message().await.unwrap(), heartbeat(1, 2, 5));
    let (head, _) = exchange(node.address(), "GET /raft/probing", &newer, b"").await;
    assert_eq!(head.status(), 200);
    // A path that this version does not have is a plain 404: the newer one does without.
    let (head, reason) = exchange(node.address(), "POST /raft/future", &newer, b"").await;
    assert_eq!((head.status(), reason.as_str()), (404, "no such path"));
}

#[tokio::test]
async fn a_member_whose_versions_do_not_meet_ours_is_refused_with_the_reason() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    for (oldest, newest) in [(0, 0), (2, 9)] {
        let theirs = speaking(oldest, newest, 2, 1);
        let mut posts = theirs.clone();
        posts.push(("Content-Length", "0".to_owned()));
        for (line, headers) in [
            ("GET /raft/stream/message/2", &theirs),
            ("GET /raft/stream/msgapp/2", &theirs),
            ("GET /raft/probing", &theirs),
            ("GET /raft/members", &theirs),
            ("POST /raft", &posts),
            ("POST /raft/snapshot", &posts),
            ("POST /raft/call", &posts),
        ] {
            let (head, reason) = exchange(node.address(), line, headers, b"").await;
            assert_eq!(head.status(), 412, "{line}");
            let want = format!("version mismatch: this speaks 1 to 1, you speak {oldest} to {newest}");
            assert_eq!(reason, want, "{line}");
        }
    }
    assert_eq!(node.handler.events(), []);
}

/// Answers a dial as a member that speaks those versions.
async fn answer(dial: &mut Raw, oldest: u64, newest: u64, status: &str, body: Option<&str>) {
    let mut text = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in speaking(oldest, newest, 2, 1) {
        text += &format!("{name}: {value}\r\n");
    }
    text += "kvd-colour: blue\r\n";
    match body {
        Some(body) => text += &format!("content-length: {}\r\n\r\n{body}", body.len()),
        None => text += "transfer-encoding: chunked\r\n\r\n",
    }
    dial.write(text.as_bytes()).await;
}

#[tokio::test]
async fn a_newer_member_is_read_from_and_one_beyond_our_versions_is_not() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    // The other direction: we dial. One that has dropped our version is no peer, whatever it says, 410 included.
    for (oldest, newest, status) in [(2, 9, "200 OK"), (0, 0, "200 OK"), (2, 9, "410 Gone")] {
        let (mut dial, _others) = fake.accept_path("/raft/stream/message/1").await;
        answer(&mut dial, oldest, newest, status, Some("")).await;
        dial.rest().await;
    }
    let (mut dial, _others) = fake.accept_path("/raft/stream/message/1").await;
    answer(&mut dial, 2, 9, "412 Precondition Failed", Some("version mismatch: this speaks 2 to 9")).await;
    dial.rest().await;
    assert_eq!(node.handler.events(), []);
    // It is asked again: an upgrade may be on its way.
    let (mut dial, _others) = fake.accept_path("/raft/stream/message/1").await;
    answer(&mut dial, 1, 9, "200 OK", None).await;
    dial.write_chunk(&frame(&heartbeat(2, 1, 3))).await;
    node.handler.until("delivered", |events| indexes(events, MsgHeartbeat) == [3]).await;
}

#[tokio::test]
async fn messages_with_fields_that_we_do_not_know_are_read_without_them() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    let (mut dial, _others) = fake.accept_path("/raft/stream/message/1").await;
    dial.answer(2, "200 OK", None).await;
    let mut bytes = frame(&heartbeat(2, 1, 3));
    // Field 100, a number: two bytes of key, one of value.
    bytes.extend_from_slice(&[0xa0, 0x06, 1]);
    bytes[0] += 3;
    dial.write_chunk(&bytes).await;
    // A type that we do not know costs that message, and not the stream.
    dial.write_chunk(&[6, 0, 0, 0, 8, 100, 16, 1, 24, 2]).await;
    dial.write_chunk(&frame(&heartbeat(2, 1, 4))).await;
    node.handler.until("delivered", |events| indexes(events, MsgHeartbeat) == [3, 4]).await;
    assert_eq!(node.metric(r#"kvd_transport_frames_refused_total{From="2",Reason="malformed"}"#), 1.0);
}
