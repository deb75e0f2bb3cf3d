//! Probes: how far away a peer is, and what its clock says.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvd_transport::{Config, PeerStatus};
use support::raw::{FakePeer, headers};
use support::*;

fn probing() -> Config {
    Config { probe_interval: Duration::from_millis(20), ..config(1) }
}

async fn until(node: &Node, what: &str, satisfied: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
    soon(what, async {
        loop {
            let peer = status(node, 2);
            if satisfied(&peer) {
                return peer;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_peer_is_probed_for_its_distance_and_its_clock() {
    let b = Node::start(config(2), &membership(&[(1, vec![])], &[])).await;
    let a = Node::start(probing(), &membership(&[(2, vec![b.url.clone()])], &[])).await;
    assert_eq!((status(&a, 2).round_trip, status(&a, 2).clock_ahead), (None, None), "before the first");
    let peer = until(&a, "a probe", |peer| peer.round_trip.is_some()).await;
    let round_trip = peer.round_trip.unwrap();
    assert!(round_trip > Duration::ZERO && round_trip < Duration::from_secs(5));
    // One machine, one clock.
    assert!(peer.clock_ahead.unwrap().abs() <= round_trip.as_secs_f64(), "{peer:?}");
    assert!(a.metric(r#"etcd_network_peer_round_trip_time_seconds_count{To="2"}"#) >= 1.0);
    // A peer that cannot be reached any more is not as far away as it was.
    b.stop().await;
    let peer = until(&a, "a failed probe", |peer| peer.round_trip.is_none()).await;
    assert!(peer.clock_ahead.is_some());
    assert!(a.metric(r#"kvd_transport_probes_total{To="2",Outcome="failed"}"#) >= 1.0);
    a.stop().await;
}

#[tokio::test]
async fn a_clock_that_is_ahead_or_behind_shows() {
    let fake = FakePeer::bind().await;
    let node = Node::start(probing(), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    for difference in [3600.0_f64, -3600.0] {
        let (mut probe, _others) = fake.accept_path("/raft/probing").await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let mut text = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n".to_owned();
        for (name, value) in headers(2, 0) {
            text += &format!("{name}: {value}\r\n");
        }
        let time = ((now + difference) * 1e6) as u64;
        probe.write(format!("{text}kvd-time-us: {time}\r\n\r\n").as_bytes()).await;
        let near = |ahead: f64| (ahead - difference).abs() < 10.0;
        until(&node, "the difference", |peer| peer.clock_ahead.is_some_and(near)).await;
        assert!(near(node.metric(r#"kvd_transport_clock_ahead_seconds{To="2"}"#)));
    }
    // A peer that does not say its time is measured all the same, and one that answers for another is not.
    let (mut probe, _others) = fake.accept_path("/raft/probing").await;
    probe.answer(3, "200 OK", Some("")).await;
    until(&node, "no answer", |peer| peer.round_trip.is_none()).await;
    let (mut probe, _others) = fake.accept_path("/raft/probing").await;
    probe.answer(2, "200 OK", Some("")).await;
    until(&node, "an answer", |peer| peer.round_trip.is_some() && peer.clock_ahead.is_none()).await;
}

#[tokio::test]
async fn a_removed_member_learns_of_it_by_a_probe() {
    let fake = FakePeer::bind().await;
    let node = Node::start(probing(), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    let (mut probe, _others) = fake.accept_path("/raft/probing").await;
    probe.answer(2, "410 Gone", Some("removed")).await;
    node.handler.until_event(Event::Removed).await;
}
