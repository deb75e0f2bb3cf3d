//! The cluster under `/v1`: members, leader, status.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/members` | the member list; linearizable unless `?consistency=stale` |
//! | `POST /v1/members` | a change, or a list of changes that happen together or not at all |
//! | `DELETE /v1/members/ID` | the member is removed for ever |
//! | `POST /v1/members/ID/promote` | the learner votes |
//! | `POST /v1/leader`, body `{"id": "2"}` or none | that member leads, or whoever has the longest log |
//! | `GET /v1/status` | how the member is that was asked |
//!
//! A change is `{"change": "add", "id": "4", "peer_urls": ["http://..."]}`, or `"remove"` or `"promote"` with an `id`.
//! `?force=REASON` passes over the leader's checks; the reason is logged by every member. Answers to changes are
//! `{"outcome": "applied", "index": 12}`, or `{"outcome": "already_so"}`.
//!
//! Ids are strings of decimal digits in every answer: a member's id is any u64, and a number of JavaScript holds 53 bits.
//! In requests a number will do as well. A cluster's id is 16 hexadecimal digits. Terms, indexes, revisions and counts are
//! numbers.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use kvd_kvstore::admin::{
    Admin, ChangeOutcome, MemberInfo, MemberStatus, MembershipChange, MembershipRequest, Progress, Role,
    Standing,
};
use kvd_kvstore::{Door, Error};
use serde_json::{Value, json};

use crate::answer::{self, Answer, Refusal};
use crate::server::{Connection, Shared};
use crate::{body, path, root};

/// The longest body, in bytes: as many changes as a request may have, with a few URLs each.
const BODY_BYTES: usize = 64 << 10;

/// What a path below `/v1` names here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Members,
    Member(u64),
    Promote(u64),
    Leader,
    Status,
}

impl Route {
    /// `rest` is what follows `/v1`, decoded. An id that is none is refused.
    pub(crate) fn of(rest: &[u8]) -> Option<Result<Self, Refusal>> {
        let member = rest.strip_prefix(b"/members/");
        Some(match rest {
            b"/members" => Ok(Self::Members),
            b"/leader" => Ok(Self::Leader),
            b"/status" => Ok(Self::Status),
            _ => {
                let member = member?;
                let (id, promote) = match member.strip_suffix(b"/promote") {
                    Some(id) => (id, true),
                    None => (member, false),
                };
                match path::member_id(id) {
                    Some(id) if promote => Ok(Self::Promote(id)),
                    Some(id) => Ok(Self::Member(id)),
                    None => Err(Refusal::bad("a member's id is a number from 1 to 18446744073709551615")),
                }
            }
        })
    }
}

/// Answers one request.
pub(crate) async fn handle<D: Admin>(
    shared: &Shared<D>,
    connection: &Connection,
    route: Result<Route, Refusal>,
    request: Request<Incoming>,
) -> Answer {
    let answered = match route {
        Ok(route) => answer(shared, connection, route, request).await,
        Err(refusal) => Err(refusal),
    };
    match answered {
        Ok(value) => answer::document(&value),
        Err(refusal) => refusal.problem(shared.door.status().leader),
    }
}

async fn answer<D: Admin>(
    shared: &Shared<D>,
    connection: &Connection,
    route: Route,
    request: Request<Incoming>,
) -> Result<Value, Refusal> {
    let query = request.uri().query().map(str::to_owned);
    let query = query.as_deref();
    let method = request.method().clone();
    match (route, method) {
        (Route::Members, Method::GET) => {
            let how = root::consistency(query).ok_or_else(root::bad_consistency)?;
            let members = shared.door.members(how).await.map_err(refused)?;
            Ok(json!({
                "cluster_id": format!("{:016x}", members.cluster_id),
                "leader": members.leader.map(|id| id.to_string()),
                "members": members.members.iter().map(member).collect::<Vec<_>>(),
                "removed": members.removed.iter().map(u64::to_string).collect::<Vec<_>>(),
            }))
        }
        (Route::Members, Method::POST) => {
            let force = force(query)?;
            let changes = changes(&read(shared, connection, request).await?)?;
            change(&shared.door, MembershipRequest { changes, force }).await
        }
        (Route::Member(id), Method::DELETE) => {
            let changes = vec![MembershipChange::Remove { id }];
            change(&shared.door, MembershipRequest { changes, force: force(query)? }).await
        }
        (Route::Promote(id), Method::POST) => {
            let changes = vec![MembershipChange::Promote { id }];
            change(&shared.door, MembershipRequest { changes, force: force(query)? }).await
        }
        (Route::Leader, Method::POST) => {
            let to = successor(&read(shared, connection, request).await?)?;
            let leader = shared.door.transfer_leadership(to).await.map_err(refused)?;
            Ok(json!({ "leader": leader.to_string() }))
        }
        (Route::Status, Method::GET) => Ok(status(&shared.door.member_status())),
        (Route::Members, _) => Err(Refusal::method_not_allowed("GET, POST")),
        (Route::Member(_), _) => Err(Refusal::method_not_allowed("DELETE")),
        (Route::Promote(_) | Route::Leader, _) => Err(Refusal::method_not_allowed("POST")),
        (Route::Status, _) => Err(Refusal::method_not_allowed("GET")),
    }
}

fn refused(error: Error) -> Refusal {
    Refusal::from(&error)
}

async fn change<D: Admin>(door: &D, request: MembershipRequest) -> Result<Value, Refusal> {
    Ok(match door.change_members(request).await.map_err(refused)? {
        ChangeOutcome::Applied { index } => json!({ "outcome": "applied", "index": index }),
        ChangeOutcome::AlreadySo => json!({ "outcome": "already_so" }),
    })
}

async fn read<D: Door>(
    shared: &Shared<D>,
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Bytes, Refusal> {
    let (head, body) = request.into_parts();
    let read = body::read(body, &head.headers, BODY_BYTES, &connection.gauge, &shared.bodies).await;
    read.map_err(|error| match error {
        body::Error::TooLong { .. } => {
            let detail = format!("the body has at most {BODY_BYTES} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
        }
        other => root::no_body(&other),
    })
}

/// The reason in `?force=`. That it is long enough, and short enough, is checked with the change.
fn force(query: Option<&str>) -> Result<Option<String>, Refusal> {
    let mut pairs = query.unwrap_or_default().split('&');
    let Some(reason) = pairs.find_map(|pair| match pair.split_once('=').unwrap_or((pair, "")) {
        ("force", reason) => Some(reason),
        _ => None,
    }) else {
        return Ok(None);
    };
    let reason = path::decode(&reason.replace('+', " ")).map(std::borrow::Cow::into_owned);
    let reason = reason.and_then(|reason| String::from_utf8(reason).ok());
    reason.map(Some).ok_or_else(|| Refusal::bad("force=REASON: the reason is text, percent-encoded"))
}

fn json(bytes: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::bad(format!("the body is not JSON: {error}")))
}

/// The changes in a body: one, or a list of them. How many there may be is checked with the changes.
fn changes(bytes: &[u8]) -> Result<Vec<MembershipChange>, Refusal> {
    match json(bytes)? {
        Value::Array(list) => list.iter().map(one_change).collect(),
        one => Ok(vec![one_change(&one)?]),
    }
}

fn one_change(value: &Value) -> Result<MembershipChange, Refusal> {
    const FORM: &str = "a change is {\"change\": \"add\", \"id\": \"4\", \"peer_urls\": [\"http://...\"]}, or \
                        \"remove\" or \"promote\" with an id";
    let bad = |what: String| Refusal::bad(format!("{what}; {FORM}"));
    let object = value.as_object().ok_or_else(|| bad("a change is an object".into()))?;
    if let Some(strange) = object.keys().find(|key| !matches!(key.as_str(), "change" | "id" | "peer_urls")) {
        return Err(bad(format!("a change has no {strange:?}")));
    }
    let id = id(object.get("id")).ok_or_else(|| bad("a change needs the id of a member".into()))?;
    let urls = object.get("peer_urls");
    match (object.get("change").and_then(Value::as_str), urls) {
        (Some("add"), Some(urls)) => {
            let urls = urls.as_array().map(|urls| urls.iter().map(|url| url.as_str().map(str::to_owned)));
            let peer_urls = urls.and_then(Iterator::collect::<Option<Vec<_>>>);
            let peer_urls = peer_urls.ok_or_else(|| bad("peer_urls is a list of URLs".into()))?;
            Ok(MembershipChange::Add { id, peer_urls })
        }
        (Some("add"), None) => Err(bad("a member that is added needs peer_urls".into())),
        (Some("remove"), None) => Ok(MembershipChange::Remove { id }),
        (Some("promote"), None) => Ok(MembershipChange::Promote { id }),
        (Some("remove" | "promote"), Some(_)) => Err(bad("only a member that is added has peer_urls".into())),
        _ => Err(bad("a change is add, remove or promote".into())),
    }
}

/// Who is to lead: nobody in particular if there is no body.
fn successor(bytes: &[u8]) -> Result<Option<u64>, Refusal> {
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    let value = json(bytes)?;
    match value
        .as_object()
        .filter(|object| object.keys().all(|key| key == "id"))
        .map(|object| object.get("id"))
    {
        Some(None | Some(Value::Null)) => Ok(None),
        Some(Some(to)) if id(Some(to)).is_some() => Ok(id(Some(to))),
        _ => Err(Refusal::bad("the body is {\"id\": \"2\"}, or nothing, and any voter may lead")),
    }
}

/// An id, as a string of digits or as a number.
fn id(value: Option<&Value>) -> Option<u64> {
    let id = match value? {
        Value::String(digits) => path::member_id(digits.as_bytes())?,
        other => other.as_u64()?,
    };
    Some(id).filter(|id| *id != 0)
}

fn member(member: &MemberInfo) -> Value {
    json!({
        "id": member.id.to_string(),
        "peer_urls": member.peer_urls,
        "client_urls": member.client_urls,
        "role": match member.standing {
            Standing::Voter => "voter",
            Standing::Learner => "learner",
            Standing::Leaving => "leaving",
        },
        "progress": member.progress.as_ref().map(progress),
    })
}

fn progress(progress: &Progress) -> Value {
    json!({
        "matched": progress.matched,
        "active": progress.active,
        "catch_up": progress.learner.map(|learner| json!({
            "round": learner.round,
            "target": learner.target,
            "ready": learner.ready,
        })),
    })
}

fn status(status: &MemberStatus) -> Value {
    json!({
        "id": status.id.to_string(),
        "cluster_id": format!("{:016x}", status.cluster_id),
        "version": env!("CARGO_PKG_VERSION"),
        "role": match status.role {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
        },
        "leader": status.leader.map(|id| id.to_string()),
        "member": status.member,
        "term": status.term,
        "commit": status.commit,
        "applied": status.applied,
        "snapshot": status.snapshot,
        "staleness_ms": status.staleness.and_then(|age| u64::try_from(age.as_millis()).ok()),
        "revision": status.revision,
        "keys": status.keys,
        "bytes": status.bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_there_is() {
        let of = |path: &str| Route::of(path.as_bytes()).map(Result::ok);
        assert_eq!(of("/members"), Some(Some(Route::Members)));
        assert_eq!(of("/members/4"), Some(Some(Route::Member(4))));
        assert_eq!(of("/members/4/promote"), Some(Some(Route::Promote(4))));
        assert_eq!(of("/leader"), Some(Some(Route::Leader)));
        assert_eq!(of("/status"), Some(Some(Route::Status)));
        for bad in ["/members/", "/members/x", "/members/4/", "/members/-1/promote", "/members//promote"] {
            assert_eq!(of(bad), Some(None), "{bad}");
        }
        for other in ["", "/", "/member", "/membership", "/status/", "/kv/members"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn bodies_are_changes_or_say_what_is_wrong() {
        let good = |text: &str| changes(text.as_bytes()).unwrap();
        let add = MembershipChange::Add { id: u64::MAX, peer_urls: vec!["http://h:1".into()] };
        assert_eq!(good(r#"{"change":"add","id":"18446744073709551615","peer_urls":["http://h:1"]}"#), [add]);
        assert_eq!(
            good(r#"[{"change":"remove","id":3},{"change":"promote","id":"4"}]"#),
            [MembershipChange::Remove { id: 3 }, MembershipChange::Promote { id: 4 }]
        );
        for bad in [
            "",
            "4",
            "no json",
            r#"{"change":"add","id":"4"}"#,
            r#"{"change":"add","id":"4","peer_urls":"http://h:1"}"#,
            r#"{"change":"add","id":"4","peer_urls":[1]}"#,
            r#"{"change":"remove","id":"4","peer_urls":[]}"#,
            r#"{"change":"remove","id":"0"}"#,
            r#"{"change":"remove","id":"+4"}"#,
            r#"{"change":"remove","id":-4}"#,
            r#"{"change":"remove","id":4.5}"#,
            r#"{"change":"remove"}"#,
            r#"{"change":"replace","id":"4"}"#,
            r#"{"change":"remove","id":"4","urls":[]}"#,
            r#"[[{"change":"remove","id":"4"}]]"#,
        ] {
            assert!(changes(bad.as_bytes()).is_err(), "{bad}");
        }
        // Deeper than anybody means it.
        assert!(changes("[".repeat(60_000).as_bytes()).is_err());
    }

    #[test]
    fn a_successor_is_named_or_not() {
        for (body, to) in [
            ("", Ok(None)),
            (" \n", Ok(None)),
            ("{}", Ok(None)),
            (r#"{"id":null}"#, Ok(None)),
            (r#"{"id":"2"}"#, Ok(Some(2))),
            (r#"{"id":2}"#, Ok(Some(2))),
            (r#"{"id":"0"}"#, Err(())),
            (r#"{"id":"x"}"#, Err(())),
            (r#"{"to":"2"}"#, Err(())),
            ("2", Err(())),
        ] {
            assert_eq!(successor(body.as_bytes()).map_err(drop), to, "{body}");
        }
    }

    #[test]
    fn a_reason_is_text() {
        for (query, reason) in [
            (None, Ok(None)),
            (Some("consistency=stale"), Ok(None)),
            (Some("x=y&force=the%20rack+burns"), Ok(Some("the rack burns".to_owned()))),
            (Some("force"), Ok(Some(String::new()))),
            (Some("force=%ff"), Err(())),
            (Some("force=%zz"), Err(())),
        ] {
            assert_eq!(force(query).map_err(drop), reason, "{query:?}");
        }
    }
}
