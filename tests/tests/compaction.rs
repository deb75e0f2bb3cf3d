//! Snapshots of a running cluster: taken, sent, and what they leave on the disk.

use kvd_tests::{Cluster, Member, PATIENCE, directory_contents, wait_until};

/// 512 KiB: forty of them are more than a member keeps in memory behind a snapshot.
fn large(n: usize) -> Vec<u8> {
    vec![b'a' + (n % 26) as u8; 512 << 10]
}

const WRITES: usize = 48;
const KEYS: usize = 6;

fn write_past_a_snapshot(member: &Member) {
    for n in 0..WRITES {
        member.put(&format!("large-{}", n % KEYS), large(n));
    }
}

fn check(member: &Member) {
    for key in 0..KEYS {
        let last = WRITES - KEYS + key;
        assert!(
            member.get(&format!("large-{key}")) == Some(large(last)),
            "large-{key} at member {}",
            member.id()
        );
    }
}

#[test]
fn a_follower_that_missed_a_compaction_gets_a_snapshot() {
    let mut cluster = Cluster::start_with(3, &["--snapshot-bytes", "1048576"]);
    cluster.member(1).put("early", "value");
    cluster.member_mut(3).stop();
    write_past_a_snapshot(cluster.member(1));
    cluster.member_mut(3).start();
    let late = cluster.member(3);
    check(late);
    assert_eq!(late.get("early").as_deref(), Some(&b"value"[..]));
    assert!(
        late.metric("kvd_snapshots_installed_total") >= Some(1.0),
        "member 3 caught up without a snapshot"
    );
    // It is a member like the others again: it acknowledges, and it survives a restart.
    cluster.member(3).put("late", "value");
    cluster.member_mut(3).stop();
    cluster.member_mut(3).start();
    check(cluster.member(3));
    assert_eq!(cluster.member(3).get("late").as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_new_member_begins_with_a_snapshot() {
    let mut cluster = Cluster::start_with(1, &["--snapshot-bytes", "1048576"]);
    write_past_a_snapshot(cluster.member(1));
    cluster.add(2, 1);
    check(cluster.member(2));
    assert!(cluster.member(2).metric("kvd_snapshots_installed_total") >= Some(1.0));
}

#[test]
fn members_restart_from_their_snapshots_and_keep_few_of_them() {
    let mut cluster = Cluster::start_with(1, &["--snapshot-bytes", "1048576"]);
    write_past_a_snapshot(cluster.member(1));
    wait_until("snapshots are taken", PATIENCE, || {
        (cluster.member(1).metric("kvd_snapshot_index") > Some(20.0)).then_some(())
    });
    cluster.member_mut(1).kill();
    cluster.member_mut(1).start();
    check(cluster.member(1));
    cluster.member_mut(1).stop();
    let files = directory_contents(&cluster.member(1).data_dir().join("snap"));
    assert!((1..=5).contains(&files.len()), "{} snapshots on disk: {:?}", files.len(), files.keys());
}
