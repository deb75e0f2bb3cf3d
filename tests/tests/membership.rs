//! Members come and go.

use kvd_tests::{Cluster, PATIENCE, wait_until};

fn delete(cluster: &Cluster, through: u64, id: u64) -> u16 {
    cluster.member(through).request("DELETE", &format!("/{id}"), "").status
}

fn post(cluster: &Cluster, through: u64, id: u64, url: &str) -> u16 {
    cluster.member(through).request("POST", &format!("/{id}"), url).status
}

#[test]
fn a_member_joins_and_survives_restarts() {
    let mut cluster = Cluster::start(3);
    cluster.member(1).put("key", "old");
    cluster.add(4, 2);
    assert_eq!(cluster.member(4).get("key").as_deref(), Some(&b"old"[..]));
    cluster.member(4).put("from-4", "new");
    // A joiner that begins again must not begin a cluster of its own.
    cluster.member_mut(4).stop();
    cluster.member(1).put("key", "new");
    cluster.member_mut(4).start();
    assert_eq!(cluster.member(4).get("key").as_deref(), Some(&b"new"[..]));
    cluster.member_mut(4).kill();
    cluster.member_mut(4).start();
    assert_eq!(cluster.member(1).get("from-4").as_deref(), Some(&b"new"[..]));
}

#[test]
fn a_joiner_waits_until_it_is_added() {
    let mut cluster = Cluster::start(1);
    cluster.member(1).put("key", "value");
    let url = cluster.prepare_joiner(2).peer_url();
    cluster.member_mut(2).spawn();
    wait_until("the joiner says what it waits for", PATIENCE, || {
        cluster.member(2).log().contains("waiting to join").then_some(())
    });
    assert!(cluster.member_mut(2).is_running());
    assert!(!cluster.member(2).data_dir().join("wal").exists(), "it has a log already");
    // It can end and begin again in that state.
    cluster.member_mut(2).stop();
    cluster.member_mut(2).spawn();
    assert_eq!(post(&cluster, 1, 2, &url), 204);
    cluster.member_mut(2).wait_ready();
    assert_eq!(cluster.member(2).get("key").as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_new_member_becomes_a_voter() {
    let mut cluster = Cluster::start(3);
    cluster.add(4, 1);
    wait_until("member 4 is no learner", PATIENCE, || {
        (cluster.member(4).metric("etcd_server_is_learner") == Some(0.0)).then_some(())
    });
    // Of four voters three are needed: without member 1, nothing goes without member 4.
    cluster.member_mut(1).kill();
    cluster.member(2).put("key", "value");
    assert_eq!(cluster.member(4).get("key").as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_removed_member_says_so_ends_well_and_never_comes_back() {
    let mut cluster = Cluster::start(3);
    let url = cluster.member(3).peer_url();
    assert_eq!(delete(&cluster, 1, 3), 204);
    let status = cluster.member_mut(3).wait_exit();
    let log = cluster.member(3).log().to_lowercase();
    assert!(status.success(), "the removed member ended with {status}");
    assert!(log.contains("removed"), "the removed member does not say why it ends");

    cluster.member(2).put("key", "two are enough");
    assert_eq!(post(&cluster, 1, 3, &url), 410, "a removed id is free for ever");
    assert_eq!(post(&cluster, 2, 3, "http://127.0.0.1:1"), 410, "at another address, too");

    // Started again it learns the same.
    cluster.member_mut(3).spawn();
    let status = cluster.member_mut(3).wait_exit();
    assert!(status.success(), "the removed member, started again, ended with {status}");
    // With an empty directory it asks before it begins anything, and is told what to do.
    let data = cluster.member(3).data_dir();
    std::fs::remove_dir_all(&data).expect("the directory of a stopped member");
    cluster.member_mut(3).spawn();
    let status = cluster.member_mut(3).wait_exit();
    assert!(!status.success(), "the removed member began anew");
    assert!(!data.join("wal").exists(), "the removed member began a log");
    assert!(cluster.member(3).log().contains("under a new one"), "no word on what to do");
    cluster.member(1).put("key", "two are still enough");
}

#[test]
fn the_leader_can_be_removed_through_another_member() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let other = leader % 3 + 1;
    assert_eq!(delete(&cluster, other, leader), 204);
    let status = cluster.member_mut(leader).wait_exit();
    assert!(status.success(), "the removed leader ended with {status}");
    cluster.member(other).put("key", "value");
}

#[test]
fn a_leader_can_be_asked_to_remove_itself() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let other = leader % 3 + 1;
    assert_eq!(delete(&cluster, leader, leader), 204);
    let status = cluster.member_mut(leader).wait_exit();
    assert!(status.success(), "the removed leader ended with {status}");
    cluster.member(other).put("key", "value");
}

#[test]
fn a_member_that_lost_its_disk_is_refused_and_returns_under_a_new_id() {
    let mut cluster = Cluster::start(3);
    cluster.member(2).put("key", "value"); // with this, the cluster has heard of member 2
    cluster.member_mut(2).stop();
    let data = cluster.member(2).data_dir();
    std::fs::remove_dir_all(&data).expect("the directory of a stopped member");
    cluster.member_mut(2).spawn();
    let status = cluster.member_mut(2).wait_exit();
    assert!(!status.success(), "a member without its votes went on");
    assert!(!data.join("wal").exists(), "a member without its votes began a log");
    let log = cluster.member(2).log();
    assert!(log.contains("DELETE /2") && log.contains("under a new one"), "no remedy in the message");

    // The remedy.
    assert_eq!(delete(&cluster, 1, 2), 204);
    cluster.add(4, 1);
    assert_eq!(cluster.member(4).get("key").as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_member_that_was_away_finds_a_leader_that_joined_meanwhile() {
    let mut cluster = Cluster::start(3);
    cluster.member_mut(3).stop();
    for id in [4, 5] {
        cluster.add(id, 1);
        wait_until("the joiner is no learner", PATIENCE, || {
            (cluster.member(id).metric("etcd_server_is_learner") == Some(0.0)).then_some(())
        });
    }
    // A leader that is removed hands over to the one of the highest id among those that have its whole log.
    let old = cluster.leader();
    if old < 4 {
        wait_until("the joiners have the leader's log", PATIENCE, || {
            let applied = |id| cluster.member(id).metric("etcd_server_proposals_applied_total");
            (applied(4) >= applied(old) && applied(5) >= applied(old)).then_some(())
        });
        assert_eq!(delete(&cluster, old, old), 204);
        assert!(cluster.member_mut(old).wait_exit().success());
        assert!(cluster.leader() >= 4, "a member leads that is known to member 3");
    }
    cluster.member(4).put("key", "value");
    // Of those who are left it knows one, who does not lead.
    cluster.member_mut(3).start();
    assert_eq!(cluster.member(3).get("key").as_deref(), Some(&b"value"[..]));
}

#[test]
fn requests_that_change_nothing_say_why() {
    let cluster = Cluster::start(3);
    let url = cluster.member(2).peer_url();
    assert_eq!(post(&cluster, 1, 2, &url), 204, "it is a member already");
    assert_eq!(post(&cluster, 1, 2, "http://127.0.0.1:1"), 409, "it is a member at another address");
    assert_eq!(delete(&cluster, 1, 9), 404, "there is no member 9");
    for (path, body) in
        [("/0", "http://127.0.0.1:1"), ("/x", "http://127.0.0.1:1"), ("/9", "no url"), ("/9", "")]
    {
        let answer = cluster.member(1).request("POST", path, body);
        assert_eq!(answer.status, 400, "POST {path} {body:?}");
        assert!(!answer.body.is_empty(), "POST {path} {body:?} gives no reason");
    }
    let single = Cluster::start(1);
    assert_eq!(delete(&single, 1, 1), 409, "the last voter stays");
    single.member(1).put("key", "value");
}
