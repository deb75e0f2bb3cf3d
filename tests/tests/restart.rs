//! What members know survives their processes.

use kvd_tests::{Cluster, Writers};

#[test]
fn a_single_member_keeps_its_keys() {
    let mut cluster = Cluster::start(1);
    cluster.member(1).put("key", "value");
    cluster.member(1).put("bytes", [0xff, 0, b'a']);
    cluster.member_mut(1).stop();
    cluster.member_mut(1).start();
    assert_eq!(cluster.member(1).get("key").as_deref(), Some(&b"value"[..]));
    assert_eq!(cluster.member(1).get("bytes"), Some(vec![0xff, 0, b'a']));
    assert_eq!(cluster.member(1).get("absent"), None);
}

#[test]
fn each_member_in_turn_is_down_while_the_others_write() {
    let mut cluster = Cluster::start(3);
    for down in 1..=3 {
        let up = down % 3 + 1;
        cluster.member_mut(down).stop();
        cluster.member(up).put(&format!("without-{down}"), "written");
        cluster.member(up).put("last-without", down.to_string());
        cluster.member_mut(down).start();
        for n in 1..=down {
            let value = cluster.member(down).get(&format!("without-{n}"));
            assert_eq!(value.as_deref(), Some(&b"written"[..]), "written without member {n}, read at {down}");
        }
        assert_eq!(cluster.member(down).get("last-without"), Some(down.to_string().into_bytes()));
    }
}

#[test]
fn all_members_stop_and_start_again() {
    let mut cluster = Cluster::start(3);
    for id in 1..=3 {
        cluster.member(id).put(&format!("from-{id}"), id.to_string());
    }
    for _ in 0..2 {
        for member in cluster.members_mut() {
            member.stop();
        }
        for member in cluster.members_mut() {
            member.spawn();
        }
        for member in cluster.members_mut() {
            member.wait_ready();
        }
        for reader in cluster.members() {
            for id in 1..=3 {
                assert_eq!(reader.get(&format!("from-{id}")), Some(id.to_string().into_bytes()));
            }
        }
    }
}

#[test]
fn all_members_are_killed_under_load() {
    let mut cluster = Cluster::start(3);
    let writers = Writers::start(6, cluster.members());
    writers.wait_for_more(300);
    for member in cluster.members_mut() {
        member.kill();
    }
    let history = writers.finish();
    for member in cluster.members_mut() {
        member.spawn();
    }
    for member in cluster.members_mut() {
        member.wait_ready();
    }
    for member in cluster.members() {
        history.check(member);
    }
}
