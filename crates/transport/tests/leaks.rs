//! Connections that come and go leave no task and no descriptor. Alone in its process, which it counts the files of.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use support::raw::{self, FakePeer, Raw, headers};
use support::*;

/// Connections to the listener. Each is closed with a reset, or the ports would run out in their last wait.
const ACCEPTED: usize = 10_000;
/// Streams that break at a dialler.
const DIALLED: usize = 1000;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn ten_thousand_connections_leave_nothing() {
    let fake = FakePeer::bind().await;
    let members = membership(&[(2, vec![]), (3, vec![fake.url.clone()])], &[]);
    let node = Node::start(config(1), &members).await;
    // Once round, so that whatever is opened for good is open.
    come_and_go(&node, 10).await;
    settled(&node).await;
    let (tasks, files) = (node.transport.tasks(), descriptors());
    come_and_go(&node, ACCEPTED).await;
    for i in 0..DIALLED {
        let (mut dial, _) = fake.accept().await;
        if i % 2 == 0 {
            dial.answer(3, "200 OK", None).await;
        }
    }
    settled(&node).await;
    soon("every task ends", async {
        // The dialler may be between two dials, or in one.
        while node.transport.tasks() > tasks || descriptors() > files + 4 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
    node.stop().await;
}

async fn come_and_go(node: &Node, times: usize) {
    for i in 0..times {
        let raw = match i % 5 {
            0 => raw::attach(node.address(), "message", 2, 1).await,
            1 => raw::attach(node.address(), "msgapp", 2, 1).await,
            2 => Raw::connect(node.address()).await,
            3 => {
                let mut raw = Raw::connect(node.address()).await;
                raw.write(b"GET /raft/stre").await;
                raw
            }
            _ => {
                let mut raw = Raw::connect(node.address()).await;
                raw.request("GET /raft/stream/message/9", &headers(9, 1), b"").await;
                raw.head().await;
                raw
            }
        };
        if i % 7 == 0 {
            node.send(heartbeat(1, 2, i as u64));
        }
        raw.socket.set_zero_linger().unwrap();
    }
}

async fn settled(node: &Node) {
    soon("every connection is closed", async {
        while node.metric("kvd_transport_connections") > 0.0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
}
