//! Members whose network delays, loses, cuts and chokes. All of them talk through a proxy of this process.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use std::time::Duration;

use kvd_transport::{Config, Peers as _};
use raft::eraftpb::MessageType::{MsgAppend, MsgHeartbeat};
use support::proxy::Proxy;
use support::*;
use tokio::net::TcpListener;

/// Two members, each of which finds the other behind a proxy.
struct Pair {
    a: Node,
    b: Node,
    /// What the second one dials to reach the first.
    to_a: Proxy,
    /// What the first one dials to reach the second.
    to_b: Proxy,
}

/// Time-outs that a test need not wait long for, and that a busy machine does not meet by chance.
fn quick(id: u64) -> Config {
    Config {
        stream_timeout: Duration::from_secs(1),
        heartbeat_interval: Duration::from_millis(100),
        head_timeout: Duration::from_secs(1),
        ..config(id)
    }
}

async fn pair(a: Config, b: Config) -> Pair {
    let listeners =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let to_a = Proxy::to(&url(&listeners[0])).await;
    let to_b = Proxy::to(&url(&listeners[1])).await;
    let [on_a, on_b] = listeners;
    let a = Node::start_on(on_a, a, &membership(&[(2, vec![to_b.url.clone()])], &[]));
    let b = Node::start_on(on_b, b, &membership(&[(1, vec![to_a.url.clone()])], &[]));
    let pair = Pair { a, b, to_a, to_b };
    pair.connect().await;
    pair
}

impl Pair {
    async fn connect(&self) {
        connected(&self.a, &self.b).await;
        connected(&self.b, &self.a).await;
    }

    fn weather(&self, change: impl Fn(&mut support::proxy::Weather)) {
        self.to_a.set(&change);
        self.to_b.set(&change);
    }

    fn mend(&self) {
        self.to_a.mend();
        self.to_b.mend();
    }

    /// Sends until something arrives, from the first to the second.
    async fn arrives(&self, mut index: u64) {
        self.b.handler.clear();
        soon("messages arrive again", async {
            while self.b.handler.delivered(MsgAppend).is_empty()
                || self.b.handler.delivered(MsgHeartbeat).is_empty()
            {
                index += 1;
                self.a.transport.send(vec![append(1, 2, index, 10), heartbeat(1, 2, index)]);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert!(self.b.handler.delivered(MsgAppend).is_sorted());
    }

    async fn stop(self) {
        self.mend();
        self.a.stop().await;
        self.b.stop().await;
    }
}

#[tokio::test]
async fn a_slow_network_keeps_the_order_and_shows_in_the_probes() {
    let probing = |id| Config { probe_interval: Duration::from_millis(50), ..quick(id) };
    let pair = pair(probing(1), probing(2)).await;
    pair.weather(|weather| weather.delay = Duration::from_millis(30));
    for i in 0..50 {
        pair.a.transport.send(vec![append(1, 2, i, 1000), heartbeat(1, 2, i)]);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pair.b
        .handler
        .until("all arrived", |events| {
            [MsgAppend, MsgHeartbeat].iter().all(|kind| indexes(events, *kind).len() == 50)
        })
        .await;
    for kind in [MsgAppend, MsgHeartbeat] {
        same(&pair.b.handler.delivered(kind), &(0..50).collect::<Vec<_>>());
    }
    soon("a probe of the slow network", async {
        while status(&pair.a, 2).round_trip.is_none_or(|trip| trip < Duration::from_millis(60)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(pair.a.handler.events(), []);
    pair.stop().await;
}

#[tokio::test]
async fn a_direction_that_loses_everything_is_noticed_and_mended() {
    let pair = pair(quick(1), quick(2)).await;
    // What the first one writes vanishes, on every connection; what it reads arrives.
    pair.to_a.set(|weather| weather.mute_down = true);
    pair.to_b.set(|weather| weather.mute_up = true);
    let dials = pair.to_a.dials();
    soon("the reader gives the silent streams up and dials again", async {
        while pair.to_a.dials() < dials + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    pair.a.handler.until("the sender learns of it", |events| events.contains(&Event::Unreachable(2))).await;
    pair.mend();
    pair.arrives(1000).await;
    pair.stop().await;
}

#[tokio::test]
async fn connections_that_are_half_open_are_noticed_and_mended() {
    let pair = pair(quick(1), quick(2)).await;
    pair.weather(|weather| (weather.mute_up, weather.mute_down) = (true, true));
    for node in [&pair.a, &pair.b] {
        let other = 3 - node.id;
        // The streams end without a sign from the network, by the silence alone.
        let active = format!(r#"etcd_network_active_peers{{Local="{}",Remote="{other}"}}"#, node.id);
        soon("the reader notices", async {
            while node.metric(&active) > 0.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    pair.mend();
    pair.arrives(1000).await;
    pair.stop().await;
}

#[tokio::test]
async fn cut_and_mended_again_and_again() {
    let pair = pair(quick(1), quick(2)).await;
    for round in 1..=10 {
        pair.to_a.cut();
        if round % 2 == 0 {
            pair.to_b.cut();
        }
        // Nothing blocks, nothing grows: what does not fit is dropped.
        for i in 0..100 {
            pair.a.transport.send(vec![append(1, 2, round * 1000 + i, 100), heartbeat(1, 2, i)]);
        }
        pair.mend();
        pair.arrives(round * 1000 + 500).await;
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_connection_that_ends_at_any_byte_delivers_whole_messages_only() {
    let pair = pair(quick(1), quick(2)).await;
    // No posts: the first one cannot reach the second by itself.
    pair.to_b.cut();
    let mut sent = 0;
    // The head of an answer, the first heartbeat frame, and the append with its chunk: all of it is cut somewhere.
    for bytes in 0..500 {
        pair.to_a.set(|weather| (weather.cut, weather.truncate_down) = (true, Some(bytes)));
        let truncated = pair.to_a.truncated();
        pair.to_a.set(|weather| weather.cut = false);
        soon("both streams break at that byte", async {
            while pair.to_a.truncated() < truncated + 2 {
                sent += 1;
                pair.a.transport.send(vec![append(1, 2, sent, 40)]);
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let got = pair.b.handler.events();
    for event in &got {
        let Event::Delivered(1, message) = event else { continue };
        assert_eq!(*message, append(1, 2, message.index, 40), "whole, or not at all");
    }
    let indexes = pair.b.handler.delivered(MsgAppend);
    assert!(indexes.windows(2).all(|two| two[0] < two[1]), "in order, and none twice");
    assert!(!indexes.is_empty(), "the longest prefixes had room for a message");
    let malformed = r#"kvd_transport_frames_refused_total{From="1",Reason="malformed"}"#;
    assert_eq!(pair.b.metric(malformed), 0.0);
    pair.mend();
    pair.arrives(sent).await;
    pair.stop().await;
}

#[tokio::test]
async fn a_slow_reader_costs_its_own_appends_and_no_heartbeat() {
    let small = Config { queue_bytes: 1 << 20, stream_timeout: Duration::from_secs(20), ..quick(1) };
    let pair = pair(small, Config { stream_timeout: Duration::from_secs(20), ..quick(2) }).await;
    pair.to_a.set(|weather| weather.slow_down = Some(100));
    // Far more than sockets and queue hold: the rest is dropped, and said.
    let mut index = 0;
    soon("the queue is full", async {
        while pair.a.handler.events().is_empty() {
            index += 1;
            pair.a.send(append(1, 2, index, 100_000));
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(pair.a.handler.events()[0], Event::Unreachable(2));
    assert!(pair.a.metric(r#"kvd_transport_messages_dropped_total{To="2",Reason="queue_full"}"#) >= 1.0);
    // A heartbeat has the time of its own stream, not that of the megabytes before it.
    pair.a.send(heartbeat(1, 2, 7));
    pair.b.handler.until_event(Event::Delivered(1, heartbeat(1, 2, 7))).await;
    let appends = pair.b.handler.delivered(MsgAppend).len() as u64;
    assert!(appends < index / 2, "the bulk is still on its way: {appends} of {index} arrived");
    pair.stop().await;
}
