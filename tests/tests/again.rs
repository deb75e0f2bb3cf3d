//! The walk-through's two steps on members, again and again on one cluster: a member joins, another leaves.
//!
//! Five rounds, or `KVD_ROUNDS=100 cargo test -p kvd-tests --test again` (`.ci/run again`).
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use kvd_tests::Cluster;

#[test]
fn a_member_joins_and_another_leaves_again_and_again() {
    let rounds: u64 = std::env::var("KVD_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let mut cluster = Cluster::start(3);
    for round in 0..rounds {
        let (joins, leaves) = (4 + round, 3 + round);
        let value = round.to_string();
        cluster.member(1).put("my-key", &value);
        // POST /ID, then the member starts, and reads at once what was written before it came.
        cluster.add(joins, 1);
        assert_eq!(cluster.member(joins).get("my-key").unwrap(), value.as_bytes());
        // Through each of those who stay.
        let through = [1, 2, joins][round as usize % 3];
        let answer = cluster.member(through).request("DELETE", &format!("/{leaves}"), "");
        assert_eq!(answer.status, 204, "round {round}, through {through}: {}", answer.text());
        let status = cluster.member_mut(leaves).wait_exit();
        assert!(status.success(), "round {round}: member {leaves} ended with {status}");
        cluster.member(2).put("after", &value);
        assert_eq!(cluster.member(joins).get("after").unwrap(), value.as_bytes());
        if round % 10 == 9 {
            println!("{} rounds", round + 1);
        }
    }
}
