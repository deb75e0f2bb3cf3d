//! Calls: one request, one answer, a limit in time, and the truth about what was done.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvd_transport::{BoxFuture, CallError, Peers as _};
use support::raw::{FakePeer, exchange, headers};
use support::*;
use tokio::sync::Semaphore;

/// A limit that a call which works does not come near.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);

type Answered = Result<Bytes, CallError>;

fn answers(node: &Node, with: impl Fn(u64, Bytes, Duration) -> BoxFuture<Answered> + Send + Sync + 'static) {
    *node.handler.answer.lock().unwrap() = Some(Box::new(with));
}

fn now(result: Answered) -> BoxFuture<Answered> {
    Box::pin(ready(result))
}

async fn call(node: &Node, to: u64, request: impl Into<Bytes>, limit: Duration) -> Answered {
    soon("the call ends", node.transport.call(to, request.into(), limit)).await
}

fn is_not_done(result: &Answered) -> bool {
    matches!(result, Err(CallError::NotDone { .. }))
}

fn is_unknown(result: &Answered) -> bool {
    matches!(result, Err(CallError::Unknown { .. }))
}

#[tokio::test]
async fn an_answer_comes_back() {
    let nodes = cluster(2).await;
    answers(&nodes[1], |from, request, limit| {
        assert!(limit <= LONG && limit > SHORT, "{limit:?}");
        now(Ok([&from.to_string().into_bytes()[..], b" asked ", &request[..]].concat().into()))
    });
    assert_eq!(call(&nodes[0], 2, "why", LONG).await, Ok("1 asked why".into()));
    assert_eq!(call(&nodes[0], 2, "", LONG).await, Ok("1 asked ".into()));
    answers(&nodes[1], |_, _, _| now(Ok(Bytes::new())));
    assert_eq!(call(&nodes[0], 2, "why", LONG).await, Ok(Bytes::new()));
    assert_eq!(nodes[0].metric(r#"kvd_transport_calls_total{To="2",Outcome="ok"}"#), 3.0);
    assert_eq!(nodes[1].metric(r#"kvd_transport_calls_answered_total{From="1",Outcome="ok"}"#), 3.0);
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn the_errors_of_the_handler_keep_their_kind_and_words() {
    let nodes = cluster(2).await;
    let refused = call(&nodes[0], 2, "x", LONG).await;
    assert_eq!(refused, Err(CallError::not_done("member 2 says: this member answers no calls")));
    answers(&nodes[1], |_, _, _| now(Err(CallError::not_done("not the leader"))));
    assert_eq!(
        call(&nodes[0], 2, "x", LONG).await,
        Err(CallError::not_done("member 2 says: not the leader"))
    );
    answers(&nodes[1], |_, _, _| now(Err(CallError::unknown("lost its leader"))));
    assert_eq!(
        call(&nodes[0], 2, "x", LONG).await,
        Err(CallError::unknown("member 2 says: lost its leader"))
    );
}

#[tokio::test]
async fn what_never_left_was_not_done() {
    let (_reserved, dead) = dead_url();
    let members = membership(&[(2, vec![dead]), (3, vec![])], &[]);
    let node = Node::start(config(1), &members).await;
    for to in [1, 2, 3, 4] {
        let result = call(&node, to, "x", LONG).await;
        assert!(is_not_done(&result), "to {to}: {result:?}");
    }
    node.stop().await;
    assert!(is_not_done(&call(&node, 2, "x", LONG).await));
    assert_eq!(node.transport.tasks(), 0);
}

#[tokio::test]
async fn a_callee_that_is_silent_breaks_off_or_is_a_stranger_leaves_it_unknown() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    let silent = node.transport.call(2, "x".into(), SHORT);
    let (_held, _others) = fake.accept_path("/raft/call").await;
    assert!(is_unknown(&soon("the limit", silent).await));

    let broken = node.transport.call(2, "x".into(), LONG);
    drop(fake.accept_path("/raft/call").await);
    assert!(is_unknown(&soon("an end", broken).await));

    for (id, status, done) in [
        (3, "200 OK", None),
        (3, "409 Conflict", None),
        (2, "409 Conflict", Some(false)),
        (2, "404 Not Found", Some(false)),
        (2, "503 Busy", Some(false)),
        (2, "500 Oops", None),
        (2, "504 Late", None),
        (2, "302 Found", None),
        (2, "200 OK", Some(true)),
    ] {
        let asked = node.transport.call(2, "x".into(), LONG);
        let (mut peer, _others) = fake.accept_path("/raft/call").await;
        peer.answer(id, status, Some("words")).await;
        let result = soon("an end", asked).await;
        match done {
            Some(true) => assert_eq!(result, Ok("words".into())),
            Some(false) => assert!(is_not_done(&result), "{id} {status}: {result:?}"),
            None => assert!(is_unknown(&result), "{id} {status}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn a_request_is_written_once_whatever_happens() {
    let fake = FakePeer::bind().await;
    let (_reserved, dead) = dead_url();
    let urls = vec![fake.url.clone(), dead];
    let node = Node::start(config(1), &membership(&[(2, urls)], &[])).await;
    let asked = node.transport.call(2, "x".into(), LONG);
    drop(fake.accept_path("/raft/call").await);
    assert!(is_unknown(&soon("an end", asked).await));
    // The stream dials go on; none of the next is a call.
    for _ in 0..20 {
        let (_, head) = fake.accept().await;
        assert!(!head.first.contains("/raft/call"), "{}", head.first);
    }
}

#[tokio::test]
async fn a_removed_caller_learns_of_it() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    let asked = node.transport.call(2, "x".into(), LONG);
    let (mut peer, _others) = fake.accept_path("/raft/call").await;
    peer.answer(2, "410 Gone", Some("removed")).await;
    assert!(is_not_done(&soon("an end", asked).await));
    node.handler.until_event(Event::Removed).await;
}

/// Sets a flag when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn the_callee_gives_up_when_the_time_is_over() {
    let nodes = cluster(2).await;
    let given_up = Arc::new(AtomicUsize::new(0));
    let counter = given_up.clone();
    answers(&nodes[1], move |_, _, _| {
        let dropped = Dropped(counter.clone());
        Box::pin(async move {
            let _dropped = dropped;
            pending().await
        })
    });
    assert!(is_unknown(&call(&nodes[0], 2, "x", SHORT).await));
    soon("the callee gives up", async {
        while given_up.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // A caller that sets no sensible limit is held to the callee's.
    let brief = kvd_transport::Config { max_call_time: SHORT, ..config(3) };
    let members = membership(&[(4, vec![])], &[]);
    let node = Node::start(brief, &members).await;
    answers(&node, |_, _, limit| {
        assert!(limit <= SHORT);
        Box::pin(pending())
    });
    let (head, reason) = exchange(node.address(), "POST /raft/call", &post(4, 3, 1, u64::MAX), b"x").await;
    assert_eq!(head.status(), 504, "{reason}");
}

#[tokio::test]
async fn a_stop_ends_calls_on_both_sides() {
    let nodes = cluster(2).await;
    answers(&nodes[1], |_, _, _| Box::pin(pending()));
    let asked = nodes[0].transport.call(2, "x".into(), LONG);
    nodes[0].stop().await;
    let result = soon("an end", asked).await;
    assert!(result.is_err(), "{result:?}");

    let nodes = cluster(2).await;
    let begun = Arc::new(Semaphore::new(0));
    let seen = begun.clone();
    answers(&nodes[1], move |_, _, _| {
        seen.add_permits(1);
        Box::pin(pending())
    });
    let asked = nodes[0].transport.call(2, "x".into(), LONG);
    soon("the call arrives", begun.acquire()).await.unwrap().forget();
    nodes[1].stop().await;
    assert!(is_unknown(&soon("an end", asked).await));
}

#[tokio::test]
async fn requests_and_answers_are_bounded() {
    let small = |id| kvd_transport::Config { max_call_bytes: 1000, ..config(id) };
    let callee = Node::start(small(2), &membership(&[(1, vec![])], &[])).await;
    let members = membership(&[(2, vec![callee.url.clone()])], &[]);
    let (caller, generous) = (Node::start(small(1), &members).await, Node::start(config(1), &members).await);
    answers(&callee, |_, request, _| now(Ok(request)));
    for (len, fits) in [(999, true), (1000, true), (1001, false)] {
        for node in [&caller, &generous] {
            let result = call(node, 2, vec![7; len], LONG).await;
            assert_eq!(result.is_ok(), fits, "{len}");
            assert!(fits || is_not_done(&result));
        }
        // The request fits, its answer does not: it was done, and what came of it is not known.
        answers(&callee, move |_, _, _| now(Ok(vec![7; len].into())));
        let result = call(&caller, 2, "x", LONG).await;
        assert!(if fits { result.is_ok() } else { is_unknown(&result) }, "{len}: {result:?}");
        answers(&callee, |_, request, _| now(Ok(request)));
    }
}

#[tokio::test]
async fn calls_under_way_are_bounded_on_both_sides() {
    let callee_few = kvd_transport::Config { max_calls: 2, ..config(2) };
    let callee = Node::start(callee_few, &membership(&[(1, vec![])], &[])).await;
    let members = membership(&[(2, vec![callee.url.clone()])], &[]);
    let caller = Node::start(config(1), &members).await;
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (closed, seen) = (gate.clone(), begun.clone());
    answers(&callee, move |_, request, _| {
        let closed = closed.clone();
        seen.add_permits(1);
        Box::pin(async move {
            closed.acquire().await.unwrap().forget();
            Ok(request)
        })
    });
    let two = [(); 2].map(|()| caller.transport.call(2, "x".into(), LONG));
    soon("both are being answered", begun.acquire_many(2)).await.unwrap().forget();
    assert!(is_not_done(&call(&caller, 2, "x", LONG).await), "a third");
    gate.add_permits(2);
    for one in two {
        assert!(soon("an end", one).await.is_ok());
    }
    gate.add_permits(1);
    assert!(call(&caller, 2, "x", LONG).await.is_ok(), "there is room again");

    let few = kvd_transport::Config { max_calls: 1, ..config(1) };
    let caller = Node::start(few, &members).await;
    let first = caller.transport.call(2, "x".into(), LONG);
    assert!(is_not_done(&call(&caller, 2, "x", LONG).await), "a second");
    gate.add_permits(1);
    assert!(soon("an end", first).await.is_ok());
}

fn post(from: u64, to: u64, length: usize, limit: u64) -> Vec<(&'static str, String)> {
    let mut headers = headers(from, to);
    headers.push(("Content-Length", length.to_string()));
    headers.push(("Kvd-Limit-Ms", limit.to_string()));
    headers
}

#[tokio::test]
async fn calls_are_refused_with_the_status_that_fits() {
    let small = kvd_transport::Config { max_call_bytes: 1000, ..config(1) };
    let node = Node::start(small, &membership(&[(1, vec![]), (2, vec![])], &[3])).await;
    answers(&node, |_, request, _| now(Ok(request)));
    let mut other_cluster = post(2, 1, 1, 1000);
    other_cluster[3].1 = "c2".to_owned();
    let mut chunked = headers(2, 1);
    chunked.push(("Transfer-Encoding", "chunked".to_owned()));
    chunked.push(("Kvd-Limit-Ms", "1000".to_owned()));
    let mut limitless = headers(2, 1);
    limitless.push(("Content-Length", "1".to_owned()));
    for (what, headers, body, status) in [
        ("unknown", post(4, 1, 1, 1000), &b"x"[..], 404),
        ("removed", post(3, 1, 1, 1000), b"x", 410),
        ("cluster", other_cluster, b"x", 412),
        ("recipient", post(2, 5, 1, 1000), b"x", 412),
        ("no limit", limitless, b"x", 400),
        ("no length", chunked, b"1\r\nx\r\n0\r\n\r\n", 411),
        ("too long", post(2, 1, 1001, 1000), b"", 413),
        ("does not arrive", post(2, 1, 10, 50), b"x", 408),
    ] {
        let (head, reason) = exchange(node.address(), "POST /raft/call", &headers, body).await;
        assert_eq!(head.status(), status, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}");
    }
    let (head, _) = exchange(node.address(), "GET /raft/call", &headers(2, 1), b"").await;
    assert_eq!((head.status(), head.get("allow")), (405, Some("POST")));
    let (head, body) = exchange(node.address(), "POST /raft/call", &post(2, 1, 1, 1000), b"x").await;
    assert_eq!((head.status(), body.as_str()), (200, "x"));
}
