//! Members come, go, move and come back while others write and read: nothing that was acknowledged is lost.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking, its helpers too

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use kvd_tests::http::Client;
use kvd_tests::{Cluster, Member, PATIENCE, Writers, wait_until};
use serde_json::{Value, json};

fn get(member: &Member, path: &str) -> Value {
    let answer = member.request("GET", path, "");
    assert_eq!(answer.status, 200, "GET {path} at member {}: {}", member.id(), answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// A request that changes something: its status, and its answer or its code.
fn change(member: &Member, method: &str, path: &str, body: &Value) -> (u16, String) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = member.request(method, path, body);
    let document: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let word = document["outcome"].as_str().or(document["code"].as_str()).or(document["leader"].as_str());
    (answer.status, word.unwrap_or_default().to_owned())
}

fn applied() -> (u16, String) {
    (200, "applied".to_owned())
}

/// A member of the list, by what `through` says.
fn listed(through: &Member, id: u64) -> Option<Value> {
    in_list(&get(through, "/v1/members"), id)
}

fn in_list(list: &Value, id: u64) -> Option<Value> {
    let id = json!(id.to_string());
    list["members"].as_array().unwrap().iter().find(|member| member["id"] == id).cloned()
}

fn wait_for_voter(through: &Member, id: u64) {
    wait_until(&format!("member {id} votes"), PATIENCE, || {
        listed(through, id).filter(|member| member["role"] == "voter").map(drop)
    });
}

/// Adds member `id`, which was prepared, and starts it.
fn join(cluster: &mut Cluster, through: u64, id: u64) {
    let add = json!({ "change": "add", "id": id.to_string(), "peer_urls": [cluster.member(id).peer_url()] });
    assert_eq!(change(cluster.member(through), "POST", "/v1/members", &add), applied());
    cluster.member_mut(id).start();
    wait_for_voter(cluster.member(through), id);
}

/// Removes a member and sees it end.
fn remove(cluster: &mut Cluster, through: u64, id: u64) {
    let path = format!("/v1/members/{id}");
    assert_eq!(change(cluster.member(through), "DELETE", &path, &Value::Null), applied(), "member {id}");
    let status = cluster.member_mut(id).wait_exit();
    assert!(status.success(), "member {id} ended with {status}");
}

/// Reads a key that is only ever written upwards, at one member after the other, and sees that it never goes back.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Reader {
    fn start(key: &'static str, members: &[Member]) -> Self {
        let ports: Vec<u16> = members.iter().map(Member::client_port).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut last, mut reads) = (0, 0);
            for port in ports.iter().cycle() {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                // A member that is not up, or has no leader, gives no answer that means anything.
                let Ok(answer) = Client::new(*port).get(key) else {
                    std::thread::sleep(std::time::Duration::from_millis(1)); // no busy loop while nobody listens
                    continue;
                };
                if answer.status == 200 {
                    let value: u64 = answer.text().parse().unwrap();
                    assert!(value >= last, "{key} went from {last} back to {value}");
                    (last, reads) = (value, reads + 1);
                }
            }
            reads
        });
        Self { stop, thread }
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.thread.join().expect("the reader saw nothing wrong") > 0);
    }
}

#[test]
fn a_cluster_grows_from_one_to_five_and_back_under_load() {
    let mut cluster = Cluster::start(1);
    for id in 2..=5 {
        cluster.prepare_joiner(id);
    }
    let writers = Writers::start(4, cluster.members());
    let reader = Reader::start("last-0", cluster.members());
    for id in 2..=5 {
        join(&mut cluster, id - 1, id);
        writers.wait_for_more(50);
    }
    // The first ones go, and with them whoever leads.
    for id in 1..=4 {
        remove(&mut cluster, 5, id);
        writers.wait_for_more(50);
    }
    reader.finish();
    let history = writers.finish();
    history.check(cluster.member(5));
    assert_eq!(get(cluster.member(5), "/v1/members")["removed"], json!(["1", "2", "3", "4"]));
    // And it is one that can be started again.
    cluster.member_mut(5).kill();
    cluster.member_mut(5).start();
    history.check(cluster.member(5));
}

#[test]
fn all_members_are_replaced_at_once_under_load() {
    let mut cluster = Cluster::start(3);
    for id in 4..=6 {
        cluster.prepare_joiner(id);
    }
    let writers = Writers::start(4, cluster.members());
    for id in 4..=6 {
        join(&mut cluster, 1, id);
    }
    writers.wait_for_more(50);
    let all: Vec<Value> = (1..=3).map(|id| json!({ "change": "remove", "id": id })).collect();
    assert_eq!(change(cluster.member(4), "POST", "/v1/members", &all.into()), applied());
    for id in 1..=3 {
        let status = cluster.member_mut(id).wait_exit();
        assert!(status.success(), "member {id} ended with {status}");
    }
    writers.wait_for_more(50);
    let history = writers.finish();
    for id in 4..=6 {
        history.check(cluster.member(id));
    }
}

#[test]
fn a_leader_that_dies_in_a_change_of_several_members_loses_nothing() {
    let mut cluster = Cluster::start(5);
    let leader = cluster.leader();
    let [asked, a, b] = [leader % 5 + 1, (leader + 1) % 5 + 1, (leader + 2) % 5 + 1];
    let writers = Writers::start(4, cluster.members());
    writers.wait_for_more(50);
    let port = cluster.member(asked).client_port();
    let both = json!([{ "change": "remove", "id": a }, { "change": "remove", "id": b }]).to_string();
    let change =
        std::thread::spawn(move || Client::new(port).request("POST", "/v1/members", both.as_bytes()));
    cluster.member_mut(leader).kill();
    let answer = change.join().unwrap().expect("the member that was asked answers");
    // Of four voters that are left, all are needed at most: the change is done, or it is refused for want of a quorum.
    let ids = [a.to_string(), b.to_string()];
    match answer.status {
        200 => wait_until("both are gone", PATIENCE, || {
            let removed = get(cluster.member(asked), "/v1/members")["removed"].clone();
            ids.iter().all(|id| removed.as_array().unwrap().contains(&json!(id))).then_some(())
        }),
        409 | 503 | 504 => {}
        status => panic!("{status}: {}", answer.text()),
    }
    cluster.member_mut(leader).start();
    writers.wait_for_more(50);
    let history = writers.finish();
    history.check(cluster.member(asked));
    history.check(cluster.member(leader));
    let list = get(cluster.member(leader), "/v1/members");
    assert!(list["members"].as_array().unwrap().iter().all(|member| member["role"] == "voter"), "{list}");
}

#[test]
fn leadership_is_handed_around_under_load() {
    let cluster = Cluster::start(3);
    let writers = Writers::start(4, cluster.members());
    for to in [1, 2, 3, 1] {
        writers.wait_for_more(20);
        // Whoever was down for a moment is heard of again within an election time-out.
        let asked = cluster.member(to % 3 + 1);
        assert_eq!(change(asked, "POST", "/v1/leader", &json!({ "id": to })), (200, to.to_string()));
        assert_eq!(get(cluster.member(to), "/v1/status")["role"], "leader");
    }
    assert_eq!(change(cluster.member(2), "POST", "/v1/leader", &Value::Null).0, 200);
    writers.wait_for_more(20);
    let history = writers.finish();
    (1..=3).for_each(|id| history.check(cluster.member(id)));
}

#[test]
fn a_member_moves_to_another_address_under_load() {
    let mut cluster = Cluster::start(3);
    let writers = Writers::start(4, cluster.members());
    writers.wait_for_more(50);
    for id in [2, 3] {
        cluster.member_mut(id).stop();
        let old = cluster.member(id).peer_url();
        cluster.member_mut(id).move_to_another_peer_port();
        let new = cluster.member(id).peer_url();
        assert_ne!(old, new);
        cluster.member_mut(id).start();
        for through in 1..=3 {
            wait_until("the others know where it is", PATIENCE, || {
                (listed(cluster.member(through), id)?["peer_urls"] == json!([new])).then_some(())
            });
        }
    }
    // Now nothing goes without the two that moved.
    cluster.member_mut(1).kill();
    writers.wait_for_more(50);
    let history = writers.finish();
    cluster.member_mut(1).start();
    (1..=3).for_each(|id| history.check(cluster.member(id)));
}

#[test]
fn all_members_move_while_they_are_down() {
    let mut cluster = Cluster::start(3);
    cluster.member(1).put("key", "value");
    for id in 1..=3 {
        cluster.member_mut(id).stop();
        cluster.member_mut(id).move_to_another_peer_port();
    }
    let urls: Vec<String> = cluster.members().iter().map(Member::peer_url).collect();
    for member in cluster.members_mut() {
        let own = member.peer_url();
        let args = ["--cluster", &urls.join(","), "--advertise-peer", &own, "--tick-ms", "50"];
        member.set_args(args.map(str::to_owned).to_vec());
        member.spawn();
    }
    for id in 1..=3 {
        cluster.member_mut(id).wait_ready();
        assert_eq!(cluster.member(id).get("key").as_deref(), Some(&b"value"[..]));
    }
}

#[test]
fn every_member_knows_where_the_others_are_also_from_a_snapshot() {
    let mut cluster = Cluster::start_with(3, &["--snapshot-bytes", "4096"]);
    for turn in 0..100 {
        cluster.member(1).put(&format!("key-{turn}"), "x".repeat(200));
    }
    cluster.prepare_joiner(4);
    join(&mut cluster, 2, 4);
    for id in 1..=4 {
        cluster.member_mut(id).stop();
    }
    for id in 1..=4 {
        cluster.member_mut(id).spawn();
    }
    for id in 1..=4 {
        cluster.member_mut(id).wait_ready();
    }
    for through in 1..=4 {
        let list = get(cluster.member(through), "/v1/members");
        for member in cluster.members() {
            let listed = in_list(&list, member.id()).unwrap_or_else(|| panic!("{list}"));
            assert_eq!(listed["peer_urls"], json!([member.peer_url()]));
            assert_eq!(listed["client_urls"], json!([format!("http://127.0.0.1:{}", member.client_port())]));
        }
    }
    // A leader has it from its first tick on.
    wait_until("the leader knows of three others", PATIENCE, || {
        let list = get(cluster.member(cluster.leader()), "/v1/members");
        let with = list["members"].as_array()?.iter().filter(|member| member["progress"].is_object());
        (with.count() == 3).then_some(())
    });
}

#[test]
fn what_would_lose_the_quorum_is_refused_and_what_helps_is_not() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let [up, down] = [leader % 3 + 1, (leader + 1) % 3 + 1];
    cluster.member_mut(down).kill();
    let path = format!("/v1/members/{up}");
    wait_until("the leader misses the one that is down", PATIENCE, || {
        let progress = listed(cluster.member(leader), down)?["progress"].clone();
        (progress["active"] == false).then_some(())
    });
    let refused = (409, "loses_quorum".to_owned());
    assert_eq!(change(cluster.member(up), "DELETE", &path, &Value::Null), refused);
    assert_eq!(cluster.member(leader).request("DELETE", &format!("/{up}"), "").status, 409);
    // A learner that is not there costs nothing, and is no voter.
    let add = json!({ "change": "add", "id": "9", "peer_urls": ["http://127.0.0.1:1"] });
    assert_eq!(change(cluster.member(up), "POST", "/v1/members", &add), applied());
    let promote = "/v1/members/9/promote";
    let refused = (409, "not_caught_up".to_owned());
    assert_eq!(change(cluster.member(up), "POST", promote, &Value::Null), refused);
    assert_eq!(change(cluster.member(up), "POST", &format!("{promote}?force="), &Value::Null).0, 400);
    assert_eq!(change(cluster.member(up), "DELETE", "/v1/members/9", &Value::Null), applied());
    // The one that is down may go, and then the other may.
    let dead = format!("/v1/members/{down}");
    assert_eq!(change(cluster.member(up), "DELETE", &dead, &Value::Null), applied());
    remove(&mut cluster, leader, up);
    cluster.member(leader).put("key", "value");
}

#[test]
fn a_forced_change_is_made_and_its_reason_is_logged_by_everybody() {
    let mut cluster = Cluster::start(1);
    cluster.prepare_joiner(2);
    let add = json!({ "change": "add", "id": "2", "peer_urls": [cluster.member(2).peer_url()] });
    assert_eq!(change(cluster.member(1), "POST", "/v1/members", &add), applied());
    // Nobody has started it: with two voters, nothing is decided until somebody does.
    let promoted =
        change(cluster.member(1), "POST", "/v1/members/2/promote?force=it+starts+in+a+minute", &Value::Null);
    assert_eq!(promoted, applied());
    cluster.member_mut(2).start();
    wait_for_voter(cluster.member(2), 2);
    cluster.member(2).put("key", "value");
    assert!(cluster.member(1).log().contains("it starts in a minute"));
    wait_until("the reason is in both logs", PATIENCE, || {
        // Member 2 may have got it in a snapshot, which holds what came of it.
        let listed = listed(cluster.member(2), 2)?;
        (listed["role"] == "voter").then_some(())
    });
}

#[test]
fn a_removed_member_that_starts_again_disturbs_nobody() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let [gone, other] = [leader % 3 + 1, (leader + 1) % 3 + 1];
    cluster.member_mut(gone).stop();
    let path = format!("/v1/members/{gone}");
    assert_eq!(change(cluster.member(other), "DELETE", &path, &Value::Null), applied());
    let term = |cluster: &Cluster, id| get(cluster.member(id), "/v1/status")["term"].as_u64().unwrap();
    let terms = [term(&cluster, leader), term(&cluster, other)];
    let writers = Writers::start(2, cluster.members());
    for _ in 0..3 {
        cluster.member_mut(gone).spawn();
        let status = cluster.member_mut(gone).wait_exit();
        assert!(status.success(), "the removed member, started again, ended with {status}");
        writers.wait_for_more(20);
    }
    assert!(cluster.member(gone).log().contains("removed"));
    assert_eq!([term(&cluster, leader), term(&cluster, other)], terms, "there was an election");
    writers.finish().check(cluster.member(other));
}

#[test]
fn a_joiner_of_another_cluster_is_refused() {
    let mut ours = Cluster::start(1);
    let theirs = Cluster::start(1);
    ours.add(2, 1);
    ours.member_mut(2).stop();
    // They know a member 2, too. But this directory is that of ours.
    let add = theirs.member(1).request("POST", "/2", "http://127.0.0.1:1");
    assert_eq!(add.status, 204);
    let list = format!("{},http://127.0.0.1:1", theirs.member(1).peer_url());
    ours.member_mut(2).set_args(["--cluster", &list, "--join"].map(str::to_owned).to_vec());
    ours.member_mut(2).spawn();
    let status = ours.member_mut(2).wait_exit();
    assert!(!status.success(), "a member of another cluster joined");
    let log = ours.member(2).log();
    assert!(
        log.contains("belongs to member 2 of cluster") && log.contains("--data-dir"),
        "no word on what to do"
    );
    // With a word of theirs it stays one of ours, and they do not take it.
    let own = ours.member(2).peer_url();
    let args = ["--cluster", &list, "--join", "--advertise-peer", &own].map(str::to_owned);
    ours.member_mut(2).set_args(args.to_vec());
    ours.member_mut(2).start();
    ours.member(1).put("key", "ours");
    assert_eq!(ours.member(2).get("key").as_deref(), Some(&b"ours"[..]));
    assert_eq!(theirs.member(1).get("key"), None);
    let listed = listed(theirs.member(1), 2).expect("it was added there");
    assert_eq!(listed["client_urls"], json!([]), "nobody has spoken up there");
}
