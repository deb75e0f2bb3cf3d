//! Messages between members: which stream they take, their order, and what is dropped.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use std::time::Duration;

use kvd_transport::Peers as _;
use raft::eraftpb::MessageType::{self, *};
use support::proxy::Proxy;
use support::raw::{self, FakePeer, frame};
use support::*;
use tokio::net::TcpListener;

#[tokio::test]
async fn messages_arrive_in_order_on_both_streams() {
    let nodes = cluster(3).await;
    let (a, b) = (&nodes[0], &nodes[1]);
    for i in 0..500 {
        a.transport.send(vec![append(1, 2, i, 300), heartbeat(1, 2, i), heartbeat(2, 1, i)]);
        b.transport.send(vec![heartbeat(2, 1, i)]);
    }
    b.handler
        .until("all arrived", |events| {
            indexes(events, MsgAppend).len() + indexes(events, MsgHeartbeat).len() == 1000
        })
        .await;
    a.handler.until("all arrived", |events| indexes(events, MsgHeartbeat).len() == 500).await;
    let all: Vec<u64> = (0..500).collect();
    same(&b.handler.delivered(MsgAppend), &all);
    same(&b.handler.delivered(MsgHeartbeat), &all);
    same(&a.handler.delivered(MsgHeartbeat), &all);
    // What was sent to itself, and what is for a third member, reached neither.
    assert!(nodes[2].handler.events().is_empty());
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn what_was_sent_is_what_arrives() {
    let nodes = cluster(2).await;
    let mut sent = append(1, 2, 7, 1000);
    sent.commit = 5;
    sent.log_term = 3;
    sent.context = vec![1, 2, 3].into();
    nodes[0].send(sent.clone());
    nodes[1].handler.until_event(Event::Delivered(1, sent)).await;
}

#[tokio::test]
async fn each_type_takes_its_stream() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let mut bulk = raw::attach(node.address(), "msgapp", 2, 1).await;
    let mut light = raw::attach(node.address(), "message", 2, 1).await;
    let types = [
        MsgPropose,
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgTransferLeader,
        MsgTimeoutNow,
        MsgReadIndex,
        MsgReadIndexResp,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
    ];
    node.transport.send(types.iter().map(|kind| message(*kind, 1, 2, 0)).collect());
    let (heavy, others): (Vec<MessageType>, Vec<MessageType>) =
        types.iter().partition(|kind| matches!(kind, MsgPropose | MsgAppend));
    for (stream, want) in [(&mut bulk, heavy), (&mut light, others)] {
        for kind in want {
            assert_eq!(stream.message().await.unwrap().get_msg_type(), kind);
        }
    }
}

#[tokio::test]
async fn a_burst_is_one_write() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let mut stream = raw::attach(node.address(), "msgapp", 2, 1).await;
    assert_eq!(stream.chunk().await.unwrap().len(), 4, "a first sign of life");
    node.transport.send((0..100).map(|i| append(1, 2, i, 256)).collect());
    let want: usize = (0..100).map(|i| frame(&append(1, 2, i, 256)).len()).sum();
    assert_eq!(stream.chunk().await.unwrap().len(), want);
}

#[tokio::test]
async fn a_long_queue_is_several_bounded_writes() {
    let config = kvd_transport::Config { write_bytes: 64 << 10, ..config(1) };
    let node = Node::start(config, &membership(&[(2, vec![])], &[])).await;
    let mut stream = raw::attach(node.address(), "msgapp", 2, 1).await;
    assert_eq!(stream.chunk().await.unwrap().len(), 4);
    node.transport.send((0..100).map(|i| append(1, 2, i, 10_000)).collect());
    let mut left: usize = (0..100).map(|i| frame(&append(1, 2, i, 10_000)).len()).sum();
    while left > 0 {
        let chunk = stream.chunk().await.unwrap().len();
        assert!(chunk <= (64 << 10) + 10_100);
        left -= chunk;
    }
}

#[tokio::test]
async fn an_unknown_recipient_is_ignored() {
    let nodes = cluster(2).await;
    nodes[0].transport.send(vec![heartbeat(1, 9, 1), heartbeat(1, 0, 1), heartbeat(1, 2, 1)]);
    nodes[1].handler.until_event(Event::Delivered(1, heartbeat(1, 2, 1))).await;
    assert_eq!(nodes[0].handler.events(), []);
    assert_eq!(nodes[0].metric("kvd_transport_unknown_recipients_total"), 2.0);
}

#[tokio::test]
async fn without_a_stream_a_burst_is_reported_once() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    node.transport.send(vec![heartbeat(1, 2, 1), heartbeat(1, 2, 2)]);
    node.transport.send(vec![heartbeat(1, 2, 3)]);
    assert_eq!(node.handler.events(), [Event::Unreachable(2)]);
    assert_eq!(node.metric(r#"kvd_transport_messages_dropped_total{To="2",Reason="no_stream"}"#), 3.0);
    assert_eq!(node.metric(r#"etcd_network_peer_sent_failures_total{To="2"}"#), 3.0);
}

#[tokio::test]
async fn a_full_queue_drops_and_reports_and_recovers() {
    let config = kvd_transport::Config { queue_messages: 10, ..config(1) };
    let node = Node::start(config, &membership(&[(2, vec![])], &[])).await;
    let mut stream = raw::attach(node.address(), "msgapp", 2, 1).await;
    // Nothing runs between the sends on this one thread: the stream cannot take what is queued.
    node.transport.send((0..9).map(|i| append(1, 2, i, 10)).collect());
    node.send(append(1, 2, 9, 10));
    assert_eq!(node.handler.events(), []);
    node.send(append(1, 2, 10, 10));
    node.send(append(1, 2, 11, 10));
    assert_eq!(node.handler.events(), [Event::Unreachable(2)]);
    for i in 0..10 {
        assert_eq!(stream.message().await.unwrap().index, i);
    }
    node.send(append(1, 2, 12, 10));
    assert_eq!(stream.message().await.unwrap().index, 12);
    assert_eq!(node.metric(r#"kvd_transport_messages_dropped_total{To="2",Reason="queue_full"}"#), 2.0);
}

#[tokio::test]
async fn bulk_that_nobody_reads_does_not_delay_heartbeats() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let _unread = raw::attach(node.address(), "msgapp", 2, 1).await;
    let mut light = raw::attach(node.address(), "message", 2, 1).await;
    for i in 0..40 {
        node.send(append(1, 2, i, 1 << 20));
        node.send(heartbeat(1, 2, i));
        assert_eq!(light.message().await.unwrap().index, i);
    }
}

#[tokio::test]
async fn the_limit_of_a_frame_holds_when_sending() {
    let len = frame(&append(1, 2, 1, 1000)).len() - 4;
    for (max, passes) in [(len - 1, false), (len, true), (len + 1, true)] {
        let config = kvd_transport::Config { max_frame_bytes: u32::try_from(max).unwrap(), ..config(1) };
        let node = Node::start(config, &membership(&[(2, vec![])], &[])).await;
        let mut stream = raw::attach(node.address(), "msgapp", 2, 1).await;
        node.transport.send(vec![append(1, 2, 1, 1000), append(1, 2, 2, 10)]);
        let first = stream.message().await.unwrap().index;
        assert_eq!(first, if passes { 1 } else { 2 }, "the limit is {max}, the frame {len}");
        assert_eq!(node.handler.count(&Event::Unreachable(2)), usize::from(!passes));
    }
}

#[tokio::test]
async fn the_limit_of_a_frame_holds_when_receiving() {
    let whole = frame(&append(2, 1, 1, 1000));
    let len = whole.len() - 4;
    for (max, passes) in [(len - 1, false), (len, true), (len + 1, true)] {
        let fake = FakePeer::bind().await;
        let config = kvd_transport::Config { max_frame_bytes: u32::try_from(max).unwrap(), ..config(1) };
        let node = Node::start(config, &membership(&[(2, vec![fake.url.clone()])], &[])).await;
        let (mut stream, _others) = fake.accept_path("/raft/stream/msgapp/1").await;
        stream.answer(2, "200 OK", None).await;
        // The length alone decides: the bytes of the frame need not have come.
        stream.write_chunk(&whole[..4]).await;
        if passes {
            stream.write_chunk(&whole[4..]).await;
            node.handler.until("delivered", |events| indexes(events, MsgAppend) == [1]).await;
        } else {
            assert_eq!(stream.rest().await, b"", "closed");
            let refused = r#"kvd_transport_frames_refused_total{From="2",Reason="too_long"}"#;
            assert_eq!(node.metric(refused), 1.0);
            assert_eq!(node.handler.events(), []);
        }
    }
}

#[tokio::test]
async fn frames_that_do_not_belong_here_are_dropped_and_the_stream_goes_on() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    let (mut stream, _others) = fake.accept_path("/raft/stream/message/1").await;
    stream.answer(2, "200 OK", None).await;
    let mut bytes = Vec::new();
    bytes.extend(frame(&heartbeat(3, 1, 1)));
    bytes.extend(frame(&heartbeat(2, 3, 2)));
    bytes.extend(frame(&snapshot(2, 1, 1, 1)));
    bytes.extend([3, 0, 0, 0, 0xff, 0xff, 0xff]);
    bytes.extend([2, 0, 0, 0, 8, 99]);
    bytes.extend(frame(&heartbeat(2, 1, 3)));
    // Cut at an odd place, so that a frame spans two chunks.
    stream.write_chunk(&bytes[..7]).await;
    stream.write_chunk(&bytes[7..]).await;
    node.handler.until("the good one", |events| indexes(events, MsgHeartbeat) == [3]).await;
    for (reason, count) in
        [("wrong_sender", 1.0), ("wrong_recipient", 1.0), ("snapshot", 1.0), ("malformed", 2.0)]
    {
        let series = format!(r#"kvd_transport_frames_refused_total{{From="2",Reason="{reason}"}}"#);
        assert_eq!(node.metric(&series), count, "{reason}");
    }
}

#[tokio::test]
async fn the_newest_stream_wins() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let mut first = raw::attach(node.address(), "message", 2, 1).await;
    let mut other_class = raw::attach(node.address(), "msgapp", 2, 1).await;
    node.send(heartbeat(1, 2, 1));
    assert_eq!(first.message().await.unwrap().index, 1);
    let mut second = raw::attach(node.address(), "message", 2, 1).await;
    assert!(first.message().await.is_none(), "the old stream ends");
    node.transport.send(vec![heartbeat(1, 2, 2), append(1, 2, 3, 1)]);
    assert_eq!(second.message().await.unwrap().index, 2);
    assert_eq!(other_class.message().await.unwrap().index, 3);
    assert_eq!(node.handler.events(), [Event::Unreachable(2)], "the old stream may have lost messages");
}

#[tokio::test]
async fn a_broken_stream_is_reported_and_its_queue_dropped() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let stream = raw::attach(node.address(), "message", 2, 1).await;
    drop(stream);
    node.handler.until_event(Event::Unreachable(2)).await;
    node.send(heartbeat(1, 2, 1));
    let mut stream = raw::attach(node.address(), "message", 2, 1).await;
    node.send(heartbeat(1, 2, 2));
    assert_eq!(stream.message().await.unwrap().index, 2, "nothing old is sent again");
    assert_eq!(node.handler.events(), [Event::Unreachable(2)]);
}

#[tokio::test]
async fn an_idle_stream_carries_heartbeats_and_a_silent_one_is_redialled() {
    let fast = kvd_transport::Config {
        heartbeat_interval: Duration::from_millis(10),
        stream_timeout: Duration::from_millis(500),
        ..config(1)
    };
    let fake = FakePeer::bind().await;
    let node = Node::start(fast, &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    let mut idle = raw::attach(node.address(), "message", 2, 1).await;
    for _ in 0..20 {
        assert_eq!(idle.frame().await, Some(None));
    }
    // The other direction: a peer that answers and then says nothing.
    let (mut silent, _others) = fake.accept_path("/raft/stream/message/1").await;
    silent.answer(2, "200 OK", None).await;
    assert_eq!(silent.rest().await, b"", "given up");
    fake.accept_path("/raft/stream/message/1").await;
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_closed() {
    let fast = kvd_transport::Config {
        heartbeat_interval: Duration::from_millis(10),
        stream_timeout: Duration::from_millis(200),
        ..config(1)
    };
    let node = Node::start(fast, &membership(&[(2, vec![])], &[])).await;
    let _unread = raw::attach(node.address(), "msgapp", 2, 1).await;
    // More than the sockets' buffers take.
    for i in 0..32 {
        node.send(append(1, 2, i, 1 << 20));
    }
    node.handler.until_event(Event::Unreachable(2)).await;
}

#[tokio::test]
async fn cut_and_mended() {
    let listeners =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let mut proxies = Vec::new();
    for listener in &listeners {
        proxies.push(Proxy::to(&format!("http://{}", listener.local_addr().unwrap())).await);
    }
    let members = membership(&[(1, vec![proxies[0].url.clone()]), (2, vec![proxies[1].url.clone()])], &[]);
    let nodes: Vec<Node> =
        (1..).zip(listeners).map(|(id, listener)| Node::start_on(listener, config(id), &members)).collect();
    for _ in 0..3 {
        connected(&nodes[0], &nodes[1]).await;
        connected(&nodes[1], &nodes[0]).await;
        proxies.iter().for_each(Proxy::cut);
        nodes[0].handler.until_event(Event::Unreachable(2)).await;
        nodes[1].handler.until_event(Event::Unreachable(1)).await;
        proxies.iter().for_each(Proxy::mend);
    }
    connected(&nodes[0], &nodes[1]).await;
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn bytes_are_counted() {
    let nodes = cluster(2).await;
    let received = r#"etcd_network_peer_received_bytes_total{From="1"}"#;
    let before = nodes[1].metric(received);
    nodes[0].send(append(1, 2, 1, 5000));
    nodes[1].handler.until("arrived", |events| !events.is_empty()).await;
    let len = frame(&append(1, 2, 1, 5000)).len() as f64;
    assert!(nodes[1].metric(received) - before >= len);
    assert!(nodes[0].metric(r#"etcd_network_peer_sent_bytes_total{To="2"}"#) >= len);
    assert_eq!(nodes[0].metric(r#"etcd_network_active_peers{Local="1",Remote="2"}"#), 1.0);
}
