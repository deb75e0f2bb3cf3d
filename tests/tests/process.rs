//! The process and its surroundings: environment, signals, what it says about itself.

use std::time::Instant;

use kvd_tests::{Cluster, PATIENCE, wait_until};
use rustix::process::Signal;

#[test]
fn flags_can_be_given_as_variables() {
    let mut cluster = Cluster::prepare(3, &["--log", "info"]);
    for member in cluster.members_mut() {
        member.configure_through_environment();
        member.spawn();
    }
    for member in cluster.members_mut() {
        member.wait_ready();
    }
    cluster.member(1).put("key", "value");
    assert_eq!(cluster.member(3).get("key").as_deref(), Some(&b"value"[..]));
    for member in cluster.members() {
        assert!(member.data_dir().join("wal").is_dir());
    }
}

#[test]
fn a_variable_names_the_data_directory() {
    let mut cluster = Cluster::prepare(1, &["--data-dir", "somewhere/else"]);
    cluster.member_mut(1).configure_through_environment();
    cluster.member_mut(1).start();
    assert!(cluster.directory().join("somewhere/else/wal").is_dir());
    assert!(!cluster.member(1).data_dir().exists());
}

#[test]
fn a_second_sigterm_ends_the_process_at_once() {
    let mut cluster = Cluster::start(3);
    cluster.member(1).put("key", "value");
    cluster.member_mut(2).kill();
    cluster.member_mut(3).kill();
    // Without the others this request waits, and a first SIGTERM waits for it.
    let mut client = cluster.member(1).client();
    let waiting = std::thread::spawn(move || client.put("key", "in flight"));
    wait_until("the request is in flight", PATIENCE, || {
        (cluster.member(1).metric("etcd_server_proposals_pending") > Some(0.0)).then_some(())
    });
    let begin = Instant::now();
    cluster.member(1).signal(Signal::TERM);
    wait_until("member 1 says that it stops", PATIENCE, || {
        cluster.member(1).log().contains("stopping").then_some(())
    });
    cluster.member(1).signal(Signal::TERM);
    let status = cluster.member_mut(1).wait_exit();
    let took = begin.elapsed();
    assert!(!status.success(), "in-flight requests were dropped, which is no clean end: {status}");
    assert!(took.as_millis() < 1500, "took {took:?}, although nothing is waited for after a second SIGTERM");
    let answer = waiting.join().unwrap();
    assert!(!matches!(&answer, Ok(a) if a.status == 204), "nobody could have committed this: {answer:?}");
}

#[test]
fn members_tell_how_they_are() {
    let cluster = Cluster::start(3);
    for member in cluster.members() {
        for path in ["/health", "/livez", "/readyz", "/version", "/metrics"] {
            assert_eq!(member.request("GET", path, "").status, 200, "{path} at member {}", member.id());
        }
        assert_eq!(member.metric("etcd_server_has_leader"), Some(1.0));
        assert!(member.metric("etcd_disk_wal_fsync_duration_seconds_count") > Some(0.0));
    }
    let leaders = cluster.members().iter().filter(|m| m.metric("etcd_server_is_leader") == Some(1.0));
    assert_eq!(leaders.count(), 1);
}

#[test]
fn a_member_without_a_majority_is_alive_but_not_ready() {
    let mut cluster = Cluster::start(3);
    cluster.member(1).put("key", "value");
    cluster.member_mut(2).kill();
    cluster.member_mut(3).kill();
    wait_until("member 1 is not ready", PATIENCE, || {
        (cluster.member(1).request("GET", "/readyz", "").status == 503).then_some(())
    });
    assert_eq!(cluster.member(1).request("GET", "/livez", "").status, 200);
    let stale = cluster.member(1).request("GET", "/key?consistency=stale", "");
    assert_eq!((stale.status, stale.body.as_slice()), (200, &b"value"[..]));
    let refused = cluster.member(1).request("PUT", "/key", "new");
    assert!(matches!(refused.status, 503 | 504), "{refused:?}");
    cluster.member_mut(2).start();
    assert!(cluster.member(1).get("key").is_some());
}
