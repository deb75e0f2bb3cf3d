//! The leader goes, with warning and without.

use std::time::Instant;

use kvd_tests::{Cluster, Writers};

#[test]
fn killed_leader_loses_no_acknowledged_write() {
    let mut cluster = Cluster::start(3);
    let writers = Writers::start(6, cluster.members());
    for _ in 0..2 {
        writers.wait_for_more(200);
        let leader = cluster.leader();
        cluster.member_mut(leader).kill();
        writers.wait_for_more(200); // the other two go on
        cluster.member_mut(leader).start();
    }
    writers.wait_for_more(100);
    let history = writers.finish();
    assert!(history.acknowledged() > 0);
    for member in cluster.members() {
        history.check(member);
    }
}

#[test]
fn a_leader_that_is_told_to_stop_hands_leadership_over() {
    // Without a successor named by the leader, the others would wait 60 to 120 ticks of 50 ms: 3 s at least.
    let mut cluster = Cluster::start_with(3, &["--election-ticks", "60"]);
    let leader = cluster.leader();
    let other = leader % 3 + 1;
    cluster.member(leader).put("key", "before");
    cluster.member_mut(leader).stop();
    let begin = Instant::now();
    cluster.member(other).put("key", "after");
    let gap = begin.elapsed();
    assert!(gap.as_millis() < 2500, "no writes for {gap:?}: nobody was handed the leadership");
}

#[test]
fn a_leader_that_is_told_to_stop_under_load_answers_what_it_took() {
    let mut cluster = Cluster::start(3);
    let writers = Writers::start(6, cluster.members());
    writers.wait_for_more(200);
    let leader = cluster.leader();
    cluster.member_mut(leader).stop();
    writers.wait_for_more(200);
    cluster.member_mut(leader).start();
    let history = writers.finish();
    for member in cluster.members() {
        history.check(member);
    }
}
