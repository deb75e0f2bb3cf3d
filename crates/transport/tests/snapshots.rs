//! Snapshots: whole or not at all, and always reported.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use std::time::Duration;

use kvd_transport::Peers as _;
use raft::eraftpb::MessageType::MsgSnapshot;
use support::raw::{self, FakePeer, Raw, exchange, frame, headers};
use support::store::{Mode, snapshot_bytes};
use support::*;

const LEN: usize = 3_000_000;

#[tokio::test]
async fn a_snapshot_arrives_before_its_message_is_delivered() {
    let nodes = cluster(2).await;
    for (index, len) in [(5, 1), (6, 128 << 10), (7, LEN)] {
        let bytes = snapshot_bytes(len);
        nodes[0].store.put(2, index, bytes.clone());
        nodes[0].send(snapshot(1, 2, 2, index));
        nodes[1].handler.until_event(Event::Delivered(1, snapshot(1, 2, 2, index))).await;
        assert_eq!(nodes[1].store.installed()[&(2, index)], bytes);
        nodes[0].handler.until_event(Event::Snapshot(2, true)).await;
        nodes[0].handler.clear();
    }
    assert_eq!(nodes[1].store.temporary(), 0);
    assert_eq!(nodes[0].metric(r#"kvd_transport_snapshots_sent_total{Peer="2",Outcome="ok"}"#), 3.0);
    assert_eq!(nodes[1].metric(r#"kvd_transport_snapshots_received_total{Peer="1",Outcome="ok"}"#), 3.0);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn data_in_the_message_is_left_out() {
    let nodes = cluster(2).await;
    nodes[0].store.put(1, 1, snapshot_bytes(10));
    let mut with_data = snapshot(1, 2, 1, 1);
    with_data.mut_snapshot().data = vec![1; 100].into();
    nodes[0].send(with_data);
    nodes[1].handler.until_event(Event::Delivered(1, snapshot(1, 2, 1, 1))).await;
}

#[tokio::test]
async fn messages_flow_while_a_snapshot_does() {
    let nodes = cluster(2).await;
    nodes[0].store.put(1, 9, snapshot_bytes(LEN));
    nodes[0].store.set_mode(Mode::Blocked);
    nodes[0].send(snapshot(1, 2, 1, 9));
    for i in 0..100 {
        nodes[0].transport.send(vec![heartbeat(1, 2, i), append(1, 2, i, 100)]);
    }
    nodes[1].handler.until("the messages", |events| events.len() == 200).await;
    nodes[0].store.release();
    nodes[0].handler.until_event(Event::Snapshot(2, true)).await;
}

const RECEIVED_FAILED: &str = r#"kvd_transport_snapshots_received_total{Peer="1",Outcome="failed"}"#;

/// Sends a snapshot that must fail; nothing may be left of it, and the failure is reported. `reached`: the receiver saw
/// some of it.
async fn fails(nodes: &[Node], index: u64, reached: bool) {
    let before = nodes[1].metric(RECEIVED_FAILED);
    nodes[0].handler.clear();
    nodes[0].send(snapshot(1, 2, 1, index));
    nodes[0].handler.until_event(Event::Snapshot(2, false)).await;
    soon("the receiver lets go", async {
        while nodes[1].metric(RECEIVED_FAILED) < before + f64::from(u8::from(reached)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(nodes[1].store.temporary(), 0);
    assert!(nodes[1].store.installed().is_empty());
    assert_eq!(nodes[1].handler.delivered(MsgSnapshot), []);
}

#[tokio::test]
async fn what_is_not_whole_leaves_no_file_and_is_reported_once() {
    let nodes = cluster(2).await;
    let mut corrupt = snapshot_bytes(LEN);
    corrupt[LEN / 2] ^= 1;
    nodes[0].store.put(1, 1, snapshot_bytes(LEN));
    nodes[0].store.put(1, 2, corrupt);
    for mode in [Mode::Short, Mode::Long, Mode::Error] {
        nodes[0].store.set_mode(mode);
        fails(&nodes, 1, true).await;
    }
    nodes[0].store.set_mode(Mode::Whole);
    fails(&nodes, 2, true).await;
    fails(&nodes, 3, false).await;
    *nodes[1].store.disk_full_at.lock().unwrap() = Some(LEN / 2);
    fails(&nodes, 1, true).await;
    // Then it works: the failures took nothing with them. And each was reported once, as the sum shows.
    *nodes[1].store.disk_full_at.lock().unwrap() = None;
    nodes[0].send(snapshot(1, 2, 1, 1));
    nodes[0].handler.until_event(Event::Snapshot(2, true)).await;
    let failed = r#"kvd_transport_snapshots_sent_total{Peer="2",Outcome="failed"}"#;
    assert_eq!(nodes[0].metric(failed), 6.0);
}

#[tokio::test]
async fn its_rate_is_bounded_and_its_progress_can_be_seen() {
    // Eight chunks a second: the first goes at once, the other three need three eighths of a second.
    let bounded = kvd_transport::Config { snapshot_rate: Some(8 << 10), ..config(1) };
    let to = Node::start(config(2), &membership(&[(1, vec![])], &[])).await;
    let from = Node::start(bounded, &membership(&[(2, vec![to.url.clone()])], &[])).await;
    from.store.put(1, 1, snapshot_bytes(4 << 10));
    let start = std::time::Instant::now();
    from.send(snapshot(1, 2, 1, 1));
    let mut seen = Vec::new();
    soon("it is sent", async {
        while from.handler.events().is_empty() {
            seen.extend(status(&from, 2).snapshot);
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(start.elapsed() >= Duration::from_millis(370), "{:?}", start.elapsed());
    assert_eq!(from.handler.events(), [Event::Snapshot(2, true)]);
    seen.dedup();
    assert!(seen.len() >= 4, "{seen:?}");
    assert!(
        seen.is_sorted() && seen.iter().all(|(sent, total)| sent <= total && *total > 4 << 10),
        "{seen:?}"
    );
    assert_eq!(status(&from, 2).snapshot, None);
    assert_eq!(from.metric(r#"etcd_network_snapshot_send_inflights_total{To="2"}"#), 0.0);
    assert_eq!(to.metric(r#"etcd_network_snapshot_receive_inflights_total{From="1"}"#), 0.0);
}

#[tokio::test]
async fn one_snapshot_at_a_time_to_a_peer() {
    let nodes = cluster(2).await;
    nodes[0].store.put(1, 1, snapshot_bytes(LEN));
    nodes[0].store.set_mode(Mode::Blocked);
    nodes[0].transport.send(vec![snapshot(1, 2, 1, 1), snapshot(1, 2, 1, 1)]);
    assert_eq!(nodes[0].handler.events(), [Event::Snapshot(2, false)], "the second, at once");
    nodes[0].store.release();
    nodes[0].handler.until_event(Event::Snapshot(2, true)).await;
    nodes[0].handler.clear();
    nodes[0].send(snapshot(1, 2, 1, 1));
    nodes[0].handler.until_event(Event::Snapshot(2, true)).await;
}

#[tokio::test]
async fn its_fate_is_reported_when_there_is_nobody_to_send_it_to() {
    let (_reserved, dead) = dead_url();
    let node = Node::start(config(1), &membership(&[(2, vec![dead]), (3, vec![])], &[])).await;
    node.store.put(1, 1, snapshot_bytes(10));
    for to in [2, 3, 9] {
        node.send(snapshot(1, to, 1, 1));
        node.handler.until_event(Event::Snapshot(to, false)).await;
    }
    assert_eq!(node.handler.events().len(), 3);
}

#[tokio::test]
async fn its_fate_is_reported_when_the_transport_stops_or_the_peer_is_removed() {
    for stops in [true, false] {
        let fake = FakePeer::bind().await;
        let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
        node.store.put(1, 1, snapshot_bytes(LEN));
        node.send(snapshot(1, 2, 1, 1));
        let (_posting, _others) = fake.accept_path("/raft/snapshot").await;
        if stops {
            node.stop().await;
        } else {
            node.transport.update(&membership(&[], &[2]));
        }
        node.handler.until_event(Event::Snapshot(2, false)).await;
        assert_eq!(node.handler.events(), [Event::Snapshot(2, false)]);
    }
}

#[tokio::test]
async fn a_receiver_that_stalls_or_never_confirms_is_given_up() {
    let quick = || kvd_transport::Config {
        snapshot_stall_timeout: Duration::from_millis(50),
        snapshot_install_timeout: Duration::from_millis(150),
        ..config(1)
    };
    // The large one fills the sockets' buffers and stalls; the small one is taken and never confirmed.
    for len in [30_000_000, 10] {
        let fake = FakePeer::bind().await;
        let node = Node::start(quick(), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
        node.store.put(1, 1, snapshot_bytes(len));
        node.send(snapshot(1, 2, 1, 1));
        let (_unread, _others) = fake.accept_path("/raft/snapshot").await;
        node.handler.until_event(Event::Snapshot(2, false)).await;
        node.stop().await;
        assert_eq!(node.handler.events(), [Event::Snapshot(2, false)]);
    }
}

#[tokio::test]
async fn a_removed_sender_learns_of_it() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    node.store.put(1, 1, snapshot_bytes(10));
    node.send(snapshot(1, 2, 1, 1));
    let (mut posting, _others) = fake.accept_path("/raft/snapshot").await;
    posting.answer(2, "410 Gone", Some("removed")).await;
    node.handler.until_event(Event::Snapshot(2, false)).await;
    assert_eq!(node.handler.count(&Event::Removed), 1);
}

fn post(from: u64, length: usize) -> Vec<(&'static str, String)> {
    let mut headers = headers(from, 1);
    headers.push(("Content-Length", length.to_string()));
    headers
}

#[tokio::test]
async fn posts_are_refused_with_the_status_that_fits() {
    let small = kvd_transport::Config { max_frame_bytes: 1000, ..config(1) };
    let node = Node::start(small, &membership(&[(1, vec![]), (2, vec![])], &[3])).await;
    let good = snapshot(2, 1, 1, 1);
    let mut with_data = good.clone();
    with_data.mut_snapshot().data = vec![1].into();
    let mut body = frame(&good);
    body.extend(snapshot_bytes(10));
    let wrong = |message| {
        let mut body = frame(&message);
        body.extend(snapshot_bytes(10));
        body
    };
    let mut chunked = headers(2, 1);
    chunked.push(("Transfer-Encoding", "chunked".to_owned()));
    let mut other_cluster = post(2, body.len());
    other_cluster[3].1 = "c2".to_owned();
    let cases = [
        ("404 unknown", post(4, body.len()), body.clone(), 404),
        ("410 removed", post(3, body.len()), body.clone(), 410),
        ("412 cluster", other_cluster, body.clone(), 412),
        ("411 no length", chunked, b"0\r\n\r\n".to_vec(), 411),
        ("no body", post(2, 0), vec![], 400),
        ("ends within the length", post(2, 2), vec![1, 0], 400),
        ("ends within the message", post(2, 10), body[..10].to_vec(), 400),
        ("a heartbeat frame", post(2, 5), vec![0; 5], 400),
        ("nonsense", post(2, 8), vec![4, 0, 0, 0, 255, 255, 255, 255], 400),
        ("a message beyond the limit", post(2, 4), 1001u32.to_le_bytes().to_vec(), 413),
        ("another type", post(2, 30), wrong(heartbeat(2, 1, 1)), 400),
        ("another sender", post(2, 30), wrong(snapshot(4, 1, 1, 1)), 400),
        ("another recipient", post(2, 30), wrong(snapshot(2, 4, 1, 1)), 400),
        ("no index", post(2, 30), wrong(snapshot(2, 1, 1, 0)), 400),
        ("no term", post(2, 30), wrong(snapshot(2, 1, 0, 1)), 400),
        ("data in the message", post(2, 30), wrong(with_data), 400),
        ("corrupt", post(2, body.len() - 1), body[..body.len() - 1].to_vec(), 500),
    ];
    for (what, mut headers, body, status) in cases {
        if let Some(length) =
            headers.iter_mut().find(|(name, value)| *name == "Content-Length" && value == "30")
        {
            length.1 = body.len().to_string();
        }
        let (head, text) = exchange(node.address(), "POST /raft/snapshot", &headers, &body).await;
        assert_eq!(head.status(), status, "{what}: {text}");
        assert!(!text.is_empty(), "{what}");
    }
    let (head, _) = exchange(node.address(), "GET /raft/snapshot", &headers(2, 1), b"").await;
    assert_eq!((head.status(), head.get("allow")), (405, Some("POST")));
    assert_eq!(node.handler.events(), []);
    assert!(node.store.installed().is_empty());
    assert_eq!(node.store.temporary(), 0);

    let (head, _) = exchange(node.address(), "POST /raft/snapshot", &post(2, body.len()), &body).await;
    assert_eq!(head.status(), 204);
    assert_eq!(node.handler.events(), [Event::Delivered(2, good)]);
}

#[tokio::test]
async fn a_post_that_breaks_off_or_stalls_leaves_no_file() {
    let quick = kvd_transport::Config { snapshot_stall_timeout: Duration::from_millis(100), ..config(1) };
    let node = Node::start(quick, &membership(&[(2, vec![])], &[])).await;
    let mut body = frame(&snapshot(2, 1, 1, 1));
    body.extend(snapshot_bytes(100_000));
    for breaks in [true, false] {
        let mut raw = Raw::connect(node.address()).await;
        raw.request("POST /raft/snapshot", &post(2, body.len()), &body[..50_000]).await;
        soon("the sink is open", async {
            while node.store.temporary() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        if breaks {
            drop(raw);
        } else {
            assert_eq!(raw.head().await.status(), 408);
        }
        soon("the sink is dropped", async {
            while node.store.temporary() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    assert!(node.store.installed().is_empty());
    assert_eq!(node.handler.events(), []);
}

#[tokio::test]
async fn one_snapshot_at_a_time_is_received() {
    let node = Node::start(config(1), &membership(&[(2, vec![]), (3, vec![])], &[])).await;
    let mut body = frame(&snapshot(2, 1, 1, 1));
    body.extend(snapshot_bytes(1000));
    let mut first = Raw::connect(node.address()).await;
    first.request("POST /raft/snapshot", &post(2, body.len()), &body[..500]).await;
    soon("the first is under way", async {
        while node.store.temporary() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (head, _) = exchange(node.address(), "POST /raft/snapshot", &post(3, 10), &[0; 10]).await;
    assert_eq!(head.status(), 503);
    first.write(&body[500..]).await;
    assert_eq!(first.head().await.status(), 204);
    node.stop().await;
}

#[tokio::test]
async fn a_stop_gives_up_what_is_being_received() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let mut body = frame(&snapshot(2, 1, 1, 1));
    body.extend(snapshot_bytes(1000));
    let mut post_half = Raw::connect(node.address()).await;
    post_half.request("POST /raft/snapshot", &post(2, body.len()), &body[..500]).await;
    let _stream = raw::attach(node.address(), "message", 2, 1).await;
    node.stop().await;
    assert_eq!(node.store.temporary(), 0);
    assert!(node.store.installed().is_empty());
}
