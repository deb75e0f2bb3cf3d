//! `kvd recover`: a majority is lost for good, and one member's directory becomes a cluster of its own.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use std::path::Path;
use std::process::Output;

use kvd_tests::{Cluster, Member, PATIENCE, Writers, command, directory_contents, wait_until};
use serde_json::{Value, json};

fn recover(cluster: &Cluster, data_dir: &Path, more: &[&str]) -> Output {
    let data_dir = data_dir.to_str().unwrap();
    let args = ["recover", "--data-dir", data_dir, "--new-cluster"];
    command(cluster.directory()).args(args).args(more).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn get(member: &Member, path: &str) -> Value {
    serde_json::from_slice(&member.request("GET", path, "").body).unwrap()
}

#[test]
fn one_member_goes_on_alone_with_all_that_was_acknowledged_and_others_join_it() {
    let mut cluster = Cluster::start_with(3, &["--snapshot-bytes", "65536"]);
    let writers = Writers::start(4, cluster.members());
    writers.wait_for_more(500);
    let history = writers.finish();
    let old_cluster = get(cluster.member(2), "/v1/status")["cluster_id"].clone();
    // Member 2 has what the others have; then both are lost.
    history.check(cluster.member(2));
    cluster.member_mut(1).kill();
    cluster.member_mut(3).kill();

    let data_dir = cluster.member(2).data_dir();
    let running = recover(&cluster, &data_dir, &["--yes"]);
    assert!(!running.status.success() && text(&running.stderr).contains("another process"), "{running:?}");
    cluster.member_mut(2).kill();

    let before = directory_contents(&data_dir);
    let asked = recover(&cluster, &data_dir, &[]);
    assert!(!asked.status.success() && text(&asked.stderr).contains("--yes"), "{asked:?}");
    let said = text(&asked.stdout);
    for part in
        ["member 2 of cluster", "lost:", "dropped: member 1 at", "dropped: member 3 at", "Keep a copy"]
    {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let snapshots = |contents: &std::collections::BTreeMap<std::ffi::OsString, Option<Vec<u8>>>| {
        contents.keys().filter(|name| text(name.as_encoded_bytes()).ends_with(".snap")).count()
    };
    assert_eq!(snapshots(&directory_contents(&data_dir)), snapshots(&before), "it was asked only");

    let done = recover(&cluster, &data_dir, &["--yes"]);
    assert!(done.status.success(), "{done:?}");
    assert!(!data_dir.join("wal.old").exists() && !data_dir.join("wal.new").exists());

    // With the flags that it always had.
    cluster.member_mut(2).start();
    history.check(cluster.member(2));
    let status = get(cluster.member(2), "/v1/status");
    assert_ne!(status["cluster_id"], old_cluster);
    assert_eq!(get(cluster.member(2), "/v1/members")["removed"], json!(["1", "3"]));
    cluster.member(2).put("key", "after");

    // A member of the old cluster that comes back is none of the new one, and stays without a quorum.
    cluster.member_mut(1).spawn();
    wait_until("member 1 looks around in vain", PATIENCE, || {
        cluster.member(1).log().contains("no leader is known").then_some(())
    });
    assert_eq!(cluster.member(1).request("GET", "/readyz", "").status, 503);
    assert_eq!(get(cluster.member(1), "/v1/status")["cluster_id"], old_cluster);
    cluster.member_mut(1).kill();
    // Nor may its id be used again.
    std::fs::remove_dir_all(cluster.member(1).data_dir()).unwrap();
    assert_eq!(cluster.member(2).request("POST", "/1", cluster.member(1).peer_url()).status, 410);

    cluster.add(4, 2);
    cluster.add(5, 2);
    history.check(cluster.member(5));
    assert_eq!(cluster.member(4).get("key").as_deref(), Some(&b"after"[..]));
}

#[test]
fn what_is_no_members_directory_is_left_alone() {
    let cluster = Cluster::prepare(1, &[]);
    let nothing = cluster.directory().join("nothing");
    let refused = recover(&cluster, &nothing, &["--yes"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("no directory"), "{refused:?}");
    assert!(!nothing.exists());
    std::fs::create_dir(&nothing).unwrap();
    let refused = recover(&cluster, &nothing, &["--yes"]);
    assert!(
        !refused.status.success() && text(&refused.stderr).contains("no member has ever begun"),
        "{refused:?}"
    );
}
