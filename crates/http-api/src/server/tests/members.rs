//! `/v1/members`, `/v1/leader`, `/v1/status`, and the form of refusals under `/v1`.

use kvd_kvstore::admin::{MembershipChange, MembershipRequest};
use serde_json::{Value, json};

use super::*;

fn document(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
}

#[tokio::test]
async fn the_member_list_is_a_document() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let reply = once(&server, "GET", "/v1/members", "").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    let list = json!({
        "cluster_id": "0000000000000007",
        "leader": "1",
        "members": [
            {"id": "1", "peer_urls": ["http://127.0.0.1:1"], "client_urls": ["http://127.0.0.1:81"], "role": "voter",
             "progress": null},
            {"id": "18446744073709551615", "peer_urls": [], "client_urls": [], "role": "learner",
             "progress": {"matched": 5, "active": true,
                          "catch_up": {"round": 2, "target": 8, "ready": false}}},
        ],
        "removed": ["9"],
    });
    assert_eq!(document(&reply), list);
    once(&server, "GET", "/v1/members?consistency=stale", "").await;
    assert_eq!(door.state().reads, [Consistency::Linearizable, Consistency::Stale]);
    let reply = once(&server, "GET", "/v1/status", "").await;
    let status = document(&reply);
    assert_eq!((status["id"].as_str(), status["role"].as_str()), (Some("1"), Some("leader")));
    assert_eq!((status["commit"].as_u64(), &status["staleness_ms"]), (Some(3), &Value::Null));
}

#[tokio::test]
async fn changes_arrive_whole_and_are_answered() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let add = r#"[{"change":"add","id":"2","peer_urls":["http://b:2"]},{"change":"remove","id":"3"}]"#;
    for (method, path, body) in [
        ("POST", "/v1/members", add),
        ("POST", "/v1/members?force=why+not", r#"{"change":"promote","id":"2"}"#),
        ("DELETE", "/v1/members/4", ""),
        ("POST", "/v1/members/5/promote?force=now", ""),
    ] {
        let reply = once(&server, method, path, body).await;
        assert_eq!(document(&reply), json!({"outcome": "applied", "index": 12}), "{method} {path}");
    }
    let promote = |id| vec![MembershipChange::Promote { id }];
    let requests = [
        MembershipRequest {
            changes: vec![
                MembershipChange::Add { id: 2, peer_urls: vec!["http://b:2".into()] },
                MembershipChange::Remove { id: 3 },
            ],
            force: None,
        },
        MembershipRequest { changes: promote(2), force: Some("why not".into()) },
        MembershipRequest { changes: vec![MembershipChange::Remove { id: 4 }], force: None },
        MembershipRequest { changes: promote(5), force: Some("now".into()) },
    ];
    assert_eq!(door.state().changes, requests);
    door.state().already_so = true;
    let reply = once(&server, "DELETE", "/v1/members/4", "").await;
    assert_eq!(document(&reply), json!({"outcome": "already_so"}));
    for (body, leader) in [("", "7"), (r#"{"id":"2"}"#, "2")] {
        let reply = once(&server, "POST", "/v1/leader", body).await;
        assert_eq!(document(&reply), json!({ "leader": leader }));
    }
}

#[tokio::test]
async fn a_refusal_is_a_problem_with_a_code() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    for (error, status, code) in [
        (Error::Overloaded, 429, "overloaded"),
        (Error::NoLeader, 503, "no_leader"),
        (Error::Stopped, 503, "stopping"),
        (Error::Removed, 503, "removed"),
        (Error::Unknown { reason: "the leader changed" }, 504, "outcome_unknown"),
        (Error::BadResponse, 500, "internal"),
        (MembershipRefusal::Removed(2).into(), 410, "member_removed"),
        (MembershipRefusal::Unknown(2).into(), 404, "member_unknown"),
        (MembershipRefusal::Conflict { id: 2, urls: Vec::new() }.into(), 409, "member_conflict"),
        (MembershipRefusal::LastVoter(2).into(), 409, "last_voter"),
        (MembershipRefusal::LosesQuorum { voters: vec![1, 2], active: vec![1] }.into(), 409, "loses_quorum"),
        (MembershipRefusal::NotCaughtUp(2).into(), 409, "not_caught_up"),
        (MembershipRefusal::NotTakenOver { to: 2, leader: 1 }.into(), 409, "not_taken_over"),
        (MembershipRefusal::Joint.into(), 409, "change_under_way"),
        (MembershipRefusal::Invalid("x".into()).into(), 400, "bad_request"),
    ] {
        let words = error.to_string();
        door.state().fail = Some(error);
        for (method, path) in [("DELETE", "/v1/members/2"), ("POST", "/v1/leader"), ("DELETE", "/v1/kv/k")] {
            let reply = once(&server, method, path, "").await;
            let case = format!("{method} {path}: {reply:?}");
            assert_eq!(
                (reply.status, reply.header("content-type")),
                (status, Some("application/problem+json")),
                "{case}"
            );
            let problem = document(&reply);
            assert_eq!(problem["status"].as_u64(), Some(status.into()), "{case}");
            assert_eq!(problem["code"].as_str(), Some(code), "{case}");
            assert_eq!(problem["detail"].as_str(), Some(words.as_str()), "{case}");
            assert_eq!(problem["leader"].as_str(), Some("1"), "{case}");
            assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{case}");
            assert_eq!(reply.header("retry-after").is_some(), matches!(status, 429 | 503), "{case}");
        }
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_the_store_is_asked() {
    let door = Fake::new();
    let server = open(&door, Options::default()).await;
    let long = format!("[{}]", " ".repeat(64 << 10));
    for (method, path, body, status, code) in [
        ("POST", "/v1/members", "", 400, "bad_request"),
        ("POST", "/v1/members", r#"{"change":"add","id":"2"}"#, 400, "bad_request"),
        ("POST", "/v1/members", &long, 413, "too_large"),
        ("POST", "/v1/members?force=%ff", r#"{"change":"remove","id":"2"}"#, 400, "bad_request"),
        ("GET", "/v1/members?consistency=no", "", 400, "bad_request"),
        ("DELETE", "/v1/members/x", "", 400, "bad_request"),
        ("POST", "/v1/members/x/promote", "", 400, "bad_request"),
        ("POST", "/v1/leader", "2", 400, "bad_request"),
        ("PUT", "/v1/members", "", 405, "method_not_allowed"),
        ("GET", "/v1/members/2", "", 405, "method_not_allowed"),
        ("GET", "/v1/members/2/promote", "", 405, "method_not_allowed"),
        ("GET", "/v1/leader", "", 405, "method_not_allowed"),
        ("POST", "/v1/status", "", 405, "method_not_allowed"),
    ] {
        let reply = once(&server, method, path, body).await;
        let problem = document(&reply);
        assert_eq!(
            (reply.status, problem["code"].as_str()),
            (status, Some(code)),
            "{method} {path} {body:.80}"
        );
        assert_eq!(reply.header("allow").is_some(), status == 405, "{method} {path}");
    }
    assert!(door.state().changes.is_empty());
}
