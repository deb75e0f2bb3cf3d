//! Stopping: nothing is left behind.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use kvd_transport::Peers as _;
use support::raw::{self, FakePeer, Raw, headers};
use support::*;

#[tokio::test]
async fn stop_while_dialling_leaks_nothing() {
    let (_reserved, dead) = dead_url();
    let mute = FakePeer::bind().await;
    let members = membership(&[(2, vec![dead]), (3, vec![mute.url.clone()]), (4, vec![])], &[]);
    let node = Node::start(config(1), &members).await;
    // Member 3 has taken the dials and does not answer them; the dials to 2 fail and are tried again.
    let held = [mute.accept().await, mute.accept().await];
    assert_eq!(node.transport.tasks(), 10, "two dialers and a prober for each peer, and the listener");
    node.stop().await;
    for (mut dial, _) in held {
        assert_eq!(dial.rest().await, b"", "hung up");
    }
    node.stop().await;
}

#[tokio::test]
async fn stop_writes_out_what_is_queued() {
    let patient = kvd_transport::Config { stop_grace: std::time::Duration::from_secs(20), ..config(1) };
    let node = Node::start(patient, &membership(&[(2, vec![])], &[])).await;
    let mut stream = raw::attach(node.address(), "msgapp", 2, 1).await;
    let mut idle = Raw::connect(node.address()).await;
    // More than the sockets' buffers take: the rest is written while the stop waits.
    node.transport.send((0..32).map(|i| append(1, 2, i, 1 << 20)).collect());
    let reader = tokio::spawn(async move {
        for i in 0..32 {
            assert_eq!(stream.message().await.unwrap().index, i);
        }
        assert!(stream.message().await.is_none());
    });
    node.stop().await;
    soon("all was read", reader).await.unwrap();
    assert_eq!(idle.rest().await, b"", "closed");
}

#[tokio::test]
async fn stop_does_not_wait_for_a_peer_that_does_not_read() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let _unread = raw::attach(node.address(), "msgapp", 2, 1).await;
    for i in 0..32 {
        node.send(append(1, 2, i, 1 << 20));
    }
    node.stop().await;
}

#[tokio::test]
async fn after_stop_nothing_is_taken() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let _stream = raw::attach(node.address(), "message", 2, 1).await;
    node.stop().await;
    node.handler.clear();
    node.transport.send(vec![heartbeat(1, 2, 1), snapshot(1, 2, 1, 1)]);
    node.transport.update(&membership(&[(2, vec![]), (3, vec![node.url.clone()])], &[]));
    assert_eq!(node.transport.tasks(), 0);
    assert_eq!(node.handler.events(), [Event::Snapshot(2, false)], "its fate, and nothing else");
    assert!(tokio::net::TcpStream::connect(node.address()).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn connections_that_come_and_go_leave_nothing() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let tasks = node.transport.tasks();
    for i in 0..300 {
        match i % 3 {
            0 => drop(raw::attach(node.address(), "message", 2, 1).await),
            1 => drop(Raw::connect(node.address()).await),
            _ => {
                let mut raw = Raw::connect(node.address()).await;
                raw.request("GET /raft/stream/message/9", &headers(9, 1), b"").await;
                raw.rest().await;
            }
        }
    }
    soon("every connection's task ends", async {
        while node.transport.tasks() > tasks {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(node.metric("kvd_transport_connections"), 0.0);
}
