//! Peers that come, move and go, and the dialling of them.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use kvd_transport::Peers as _;
use raft::eraftpb::MessageType::MsgHeartbeat;
use support::raw::{self, FakePeer, frame};
use support::*;

#[tokio::test]
async fn a_peer_can_be_added_and_adding_it_again_changes_nothing() {
    let a = Node::start(config(1), &membership(&[(1, vec![])], &[])).await;
    let b = Node::start(config(2), &membership(&[(1, vec![a.url.clone()])], &[])).await;
    let both = membership(&[(1, vec![a.url.clone()]), (2, vec![b.url.clone()])], &[]);
    for _ in 0..3 {
        a.transport.update(&both);
        b.transport.update(&both);
    }
    connected(&a, &b).await;
    connected(&b, &a).await;
    let tasks = a.transport.tasks();
    a.transport.update(&both);
    assert_eq!(a.transport.tasks(), tasks);
    a.send(heartbeat(1, 2, 1));
    b.handler.until_event(Event::Delivered(1, heartbeat(1, 2, 1))).await;
    assert_eq!(a.handler.events(), [], "the streams were left alone");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_joiner_that_dials_before_it_is_a_member_gets_in_once_it_is() {
    let a = Node::start(config(1), &membership(&[(1, vec![])], &[])).await;
    let joiner = Node::start(config(2), &membership(&[(1, vec![a.url.clone()])], &[])).await;
    let refused = r#"kvd_transport_dial_failures_total{To="1"}"#;
    soon("refused several times", async {
        while joiner.metric(refused) < 6.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(joiner.handler.events(), [], "404 is no removal");
    a.transport.update(&membership(&[(1, vec![]), (2, vec![joiner.url.clone()])], &[]));
    connected(&a, &joiner).await;
    connected(&joiner, &a).await;
}

#[tokio::test]
async fn a_removed_member_learns_of_it_once_and_stops_dialling() {
    let nodes = cluster(3).await;
    let rest = membership(&[(1, vec![nodes[0].url.clone()]), (2, vec![nodes[1].url.clone()])], &[3]);
    let third = &nodes[2];
    for node in &nodes[..2] {
        node.transport.update(&rest);
        node.transport.update(&rest);
    }
    third.handler.until_event(Event::Removed).await;
    // Its dialers end one by one, and the tasks of both sides' streams with them.
    soon("its tasks end, except that of the listener", async {
        while third.transport.tasks() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(third.handler.count(&Event::Removed), 1);
    nodes[0].send(heartbeat(1, 3, 1));
    nodes[0].send(heartbeat(1, 2, 1));
    nodes[1].handler.until_event(Event::Delivered(1, heartbeat(1, 2, 1))).await;
    assert_eq!(nodes[0].metric("kvd_transport_unknown_recipients_total"), 1.0);
    assert!(!page(&nodes[0].transport).contains(r#""3""#), "its series are gone");
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn what_is_queued_for_a_removed_member_is_still_written() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let mut stream = raw::attach(node.address(), "msgapp", 2, 1).await;
    node.transport.send((0..10).map(|i| append(1, 2, i, 100)).collect());
    node.transport.update(&membership(&[], &[2]));
    for i in 0..10 {
        assert_eq!(stream.message().await.unwrap().index, i);
    }
    assert!(stream.message().await.is_none());
    assert_eq!(node.handler.events(), []);
}

#[tokio::test]
async fn only_410_ends_the_dialling() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    // The URL stays the same one, the only one, whatever the answer.
    for status in
        ["404 Not Found", "412 Precondition Failed", "500 Oops", "503 Busy", "400 Bad", "204 No Content"]
    {
        let (mut dial, _) = fake.accept().await;
        dial.answer(2, status, Some("")).await;
    }
    let (dial, _) = fake.accept().await;
    drop(dial);
    let (mut dial, _) = fake.accept().await;
    dial.write(b"no HTTP at all\r\n\r\n").await;
    assert_eq!(node.handler.events(), []);

    let mut halted = Vec::new();
    while halted.len() < 2 {
        let (mut dial, head) = fake.accept().await;
        dial.answer(2, "410 Gone", Some("you were removed")).await;
        halted.push(head.first);
    }
    node.handler.until_event(Event::Removed).await;
    soon("both dialers end", async {
        while node.transport.tasks() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    halted.sort();
    assert_eq!(halted, ["GET /raft/stream/message/1 HTTP/1.1", "GET /raft/stream/msgapp/1 HTTP/1.1"]);
    assert_eq!(node.handler.events(), [Event::Removed]);
}

#[tokio::test]
async fn a_stranger_cannot_say_that_a_member_was_removed() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    for _ in 0..4 {
        let (mut dial, _) = fake.accept().await;
        dial.write(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n").await;
    }
    let (mut dial, _) = fake.accept().await;
    dial.answer(3, "410 Gone", Some("from another member")).await;
    fake.accept().await;
    assert_eq!(node.handler.events(), []);
}

#[tokio::test]
async fn an_answer_of_another_member_is_no_stream() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    let (mut dial, _) = fake.accept().await;
    dial.answer(3, "200 OK", None).await;
    assert_eq!(dial.rest().await, b"", "hung up");
    assert_eq!(node.handler.events(), []);
}

#[tokio::test]
async fn dials_carry_who_and_where_to() {
    let fake = FakePeer::bind().await;
    let _node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    let (_dial, head) = fake.accept().await;
    for (name, value) in [
        ("kvd-from", "1"),
        ("kvd-to", "2"),
        ("kvd-cluster", "00000000000000c1"),
        ("kvd-version", "1"),
        ("kvd-min-version", "1"),
        ("host", fake.url.strip_prefix("http://").unwrap()),
    ] {
        assert_eq!(head.get(name), Some(value));
    }
}

#[tokio::test]
async fn urls_rotate_and_the_one_that_works_is_kept() {
    let (_reserved, dead) = dead_url();
    let (first, second) = (FakePeer::bind().await, FakePeer::bind().await);
    let urls = vec![dead, first.url.clone(), second.url.clone()];
    let node = Node::start(config(1), &membership(&[(2, urls)], &[])).await;
    // "Not a member yet" is an answer of the right peer: its URL is kept.
    for _ in 0..6 {
        let (mut dial, _) = first.accept().await;
        dial.answer(2, "404 Not Found", Some("not yet")).await;
    }
    let (mut stream, others) = first.accept_path("/raft/stream/message/1").await;
    stream.answer(2, "200 OK", None).await;
    stream.write_chunk(&frame(&heartbeat(2, 1, 1))).await;
    node.handler.until("delivered", |events| indexes(events, MsgHeartbeat) == [1]).await;
    // A stream that breaks is dialled at the same URL; when nobody listens there, at the next.
    drop(stream);
    let (again, more) = first.accept_path("/raft/stream/message/1").await;
    drop((again, more, others, first));
    let (mut stream, _others) = second.accept_path("/raft/stream/message/1").await;
    stream.answer(2, "200 OK", None).await;
    stream.write_chunk(&frame(&heartbeat(2, 1, 2))).await;
    node.handler.until("delivered", |events| indexes(events, MsgHeartbeat) == [1, 2]).await;
}

#[tokio::test]
async fn a_peer_that_moves_is_found_at_its_new_url() {
    let (_reserved, dead) = dead_url();
    let fake = FakePeer::bind().await;
    let slow = kvd_transport::Config {
        redial_min: std::time::Duration::from_secs(3600),
        redial_max: std::time::Duration::from_secs(3600),
        ..config(1)
    };
    let node = Node::start(slow, &membership(&[(2, vec![dead])], &[])).await;
    let failures = r#"kvd_transport_dial_failures_total{To="2"}"#;
    soon("the old URL was tried", async {
        while node.metric(failures) < 2.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.transport.update(&membership(&[(2, vec![fake.url.clone()])], &[]));
    fake.accept().await;
}

#[tokio::test]
async fn a_peer_without_urls_is_dialled_once_it_has_one() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec!["bogus".into()])], &[])).await;
    tokio::task::yield_now().await;
    node.transport.update(&membership(&[(2, vec![fake.url.clone()])], &[]));
    fake.accept().await;
}

#[tokio::test]
async fn a_peer_that_dials_is_dialled_back_at_once() {
    let fake = FakePeer::bind().await;
    let slow = kvd_transport::Config {
        redial_min: std::time::Duration::from_secs(3600),
        redial_max: std::time::Duration::from_secs(3600),
        ..config(1)
    };
    let node = Node::start(slow, &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    for _ in 0..2 {
        let (mut dial, _) = fake.accept().await;
        dial.answer(2, "404 Not Found", Some("")).await;
        dial.rest().await;
    }
    let _stream = raw::attach(node.address(), "message", 2, 1).await;
    fake.accept().await;
    fake.accept().await;
}
