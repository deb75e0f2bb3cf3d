//! Every request that the listener refuses, and how.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use std::time::Duration;

use prost::Message as _;
use support::raw::{Raw, exchange, headers};
use support::*;

async fn node() -> Node {
    Node::start(config(1), &membership(&[(1, vec![]), (2, vec![])], &[3])).await
}

fn with(name: &'static str, value: &str) -> Vec<(&'static str, String)> {
    let mut headers = headers(2, 1);
    headers.retain(|(n, _)| *n != name);
    headers.push((name, value.to_owned()));
    headers
}

fn without(name: &str) -> Vec<(&'static str, String)> {
    let mut headers = headers(2, 1);
    headers.retain(|(n, _)| *n != name);
    headers
}

#[tokio::test]
async fn streams_are_refused_with_the_status_that_fits() {
    let node = node().await;
    let get = "GET /raft/stream/message/2";
    let cases = [
        ("POST /raft/stream/message/2", headers(2, 1), 405, "takes GET"),
        ("PUT /raft/stream/msgapp/2", headers(2, 1), 405, "takes GET"),
        ("GET /raft/stream/message/x", headers(2, 1), 404, "path"),
        ("GET /raft/stream/message/+2", headers(2, 1), 404, "path"),
        ("GET /raft/stream/message/2/", headers(2, 1), 404, "path"),
        ("GET /raft/stream/message", headers(2, 1), 404, "path"),
        ("GET /raft/stream/other/2", headers(2, 1), 404, "path"),
        ("GET /raft/", headers(2, 1), 404, "path"),
        ("GET /", headers(2, 1), 404, "path"),
        (get, without("Kvd-From"), 400, "kvd-from"),
        (get, without("Kvd-To"), 400, "kvd-to"),
        (get, without("Kvd-Cluster"), 400, "kvd-cluster"),
        (get, without("Kvd-Version"), 400, "kvd-version"),
        (get, without("Kvd-Min-Version"), 400, "kvd-min-version"),
        (get, with("Kvd-From", "zwei"), 400, "kvd-from"),
        (get, with("Kvd-From", "0"), 400, "kvd-from"),
        ("GET /raft/stream/message/4", headers(2, 1), 400, "path says"),
        (get, with("Kvd-Cluster", "c2"), 412, "cluster mismatch"),
        (get, with("Kvd-To", "2"), 412, "recipient mismatch"),
        (get, with("Kvd-Version", "0"), 412, "version mismatch"),
        (get, with("Kvd-Min-Version", "2"), 412, "version mismatch"),
        ("GET /raft/stream/message/4", headers(4, 1), 404, "not a member"),
        ("GET /raft/stream/message/3", headers(3, 1), 410, "removed"),
        ("GET /raft/stream/msgapp/3", headers(3, 1), 410, "removed"),
        // A member that dials itself: its own URL is in the wrong place.
        ("GET /raft/stream/message/1", headers(1, 1), 404, "not a member"),
    ];
    for (line, headers, status, reason) in cases {
        let (head, body) = exchange(node.address(), line, &headers, b"").await;
        assert_eq!(head.status(), status, "{line} {headers:?}: {body}");
        assert!(body.contains(reason), "{line}: {body}");
        assert_eq!(head.get("kvd-from"), Some("1"), "an answer says who it is from");
        assert_eq!(head.get("allow"), (status == 405).then_some("GET"));
    }
    assert_eq!(node.metric(r#"kvd_transport_requests_refused_total{Status="410"}"#), 2.0);
    assert_eq!(node.handler.events(), []);
}

#[tokio::test]
async fn probing_is_answered() {
    let node = node().await;
    let (head, body) = exchange(node.address(), "GET /raft/probing", &headers(2, 1), b"").await;
    assert_eq!((head.status(), body.as_str()), (200, ""));
    let (head, _) = exchange(node.address(), "POST /raft/probing", &headers(2, 1), b"").await;
    assert_eq!(head.status(), 405);
}

#[tokio::test]
async fn the_member_list_is_for_members() {
    let node = node().await;
    let address = node.address();
    let ask = async |from| exchange(address, "GET /raft/members", &headers(from, 0), b"").await;
    assert_eq!(ask(2).await.0.status(), 503, "not known yet");

    let list = membership(&[(1, vec!["http://a:1".into()]), (2, vec![])], &[3]);
    *node.handler.membership.lock().unwrap() = Some(list.clone());
    let mut raw = Raw::connect(node.address()).await;
    raw.request("GET /raft/members", &headers(2, 0), b"").await;
    assert_eq!(raw.head().await.status(), 200);
    assert_eq!(kvd_raftpb::node::Membership::decode(&raw.rest().await[..]).unwrap(), list);
    assert_eq!(ask(3).await.0.status(), 410);
    assert_eq!(ask(4).await.0.status(), 404);
    let (head, _) = exchange(node.address(), "GET /raft/members", &[("Host", "x".into())], b"").await;
    assert_eq!(head.status(), 400);
}

#[tokio::test]
async fn a_head_must_come_in_time_and_within_its_size() {
    let quick = kvd_transport::Config { head_timeout: Duration::from_millis(50), ..config(1) };
    let node = Node::start(quick, &membership(&[], &[])).await;
    let mut slow = Raw::connect(node.address()).await;
    slow.write(b"GET /raft/probing HTTP/1.1\r\nHost").await;
    slow.rest().await;

    let small = kvd_transport::Config { max_head_bytes: 8192, ..config(1) };
    let node = Node::start(small, &membership(&[], &[])).await;
    for (len, status) in [(7000, 200), (9000, 431)] {
        let long = [("Host", "x".to_owned()), ("Padding", "x".repeat(len))];
        let (head, _) = exchange(node.address(), "GET /raft/probing", &long, b"").await;
        assert_eq!(head.status(), status, "{len}");
    }
}

#[tokio::test]
async fn connections_are_counted_and_bounded() {
    let few = kvd_transport::Config { max_connections: 3, ..config(1) };
    let node = Node::start(few, &membership(&[(2, vec![])], &[])).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(Raw::connect(node.address()).await);
    }
    let mut one_more = Raw::connect(node.address()).await;
    assert_eq!(one_more.rest().await, b"", "closed without a word");
    assert_eq!(node.metric("kvd_transport_connections_refused_total"), 1.0);
    // One that goes makes room for one.
    let mut last = open.pop().unwrap();
    last.request("GET /raft/probing", &headers(2, 1), b"").await;
    assert_eq!(last.head().await.status(), 200);
    last.rest().await;
    let mut next = Raw::connect(node.address()).await;
    next.request("GET /raft/probing", &headers(2, 1), b"").await;
    assert_eq!(next.head().await.status(), 200);
    drop(open);
    node.stop().await;
    assert_eq!(node.metric("kvd_transport_connections"), 0.0);
}
