//! Posts: how messages reach a member that has not dialled their stream.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use kvd_transport::{Config, Peers as _};
use raft::eraftpb::Message;
use raft::eraftpb::MessageType::{self, *};
use support::raw::{self, FakePeer, Raw, exchange, frame, headers};
use support::*;

fn indexes_of(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.index).collect()
}

#[tokio::test]
async fn a_member_that_cannot_dial_back_gets_everything_in_order() {
    let (_reserved, dead) = dead_url();
    // The second member looks for the first where nobody is.
    let b = Node::start(config(2), &membership(&[(1, vec![dead])], &[])).await;
    let a = Node::start(config(1), &membership(&[(2, vec![b.url.clone()])], &[])).await;
    for i in 0..200 {
        a.transport.send(vec![append(1, 2, i, 100), message(MsgAppendResponse, 1, 2, i), heartbeat(1, 2, i)]);
        if i % 20 == 0 {
            // As many as a post of appends takes while the one before is under way.
            b.handler
                .until("all so far", |events| {
                    [MsgAppend, MsgHeartbeat].iter().all(|kind| indexes(events, *kind).contains(&i))
                })
                .await;
        }
    }
    b.handler
        .until("all arrived", |events| {
            indexes(events, MsgAppend).len() == 200 && indexes(events, MsgHeartbeat).len() == 200
        })
        .await;
    same(&b.handler.delivered(MsgAppend), &(0..200).collect::<Vec<_>>());
    // Answers to appends are never out of order: those that a later post has overtaken are missing.
    let answers = b.handler.delivered(MsgAppendResponse);
    assert!(answers.is_sorted() && answers.contains(&199), "{answers:?}");
    assert_eq!(a.handler.events(), []);
    assert!(a.metric(r#"kvd_transport_posts_total{To="2",Outcome="ok"}"#) >= 1.0);
    // The last answers may be on their way yet.
    soon("all posts are answered", async {
        while a.metric(r#"kvd_transport_messages_sent_total{To="2",Path="pipeline"}"#) < 600.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let overtaken = b.metric(r#"kvd_transport_frames_refused_total{From="1",Reason="overtaken"}"#);
    let delivered = b.metric(r#"kvd_transport_messages_received_total{From="1",Path="pipeline"}"#);
    assert_eq!(overtaken + delivered, 600.0);
    // The other way there is the stream that the first one has dialled.
    b.send(heartbeat(2, 1, 7));
    a.handler.until_event(Event::Delivered(2, heartbeat(2, 1, 7))).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn every_type_of_message_is_posted_for_its_stream() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    let types = [
        MsgPropose,
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgTransferLeader,
        MsgTimeoutNow,
        MsgReadIndex,
        MsgReadIndexResp,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
    ];
    node.transport.send(types.iter().map(|kind| message(*kind, 1, 2, 0)).collect());
    let mut got = Vec::new();
    for _ in 0..2 {
        let (mut post, head) = fake.accept_post().await;
        for name in ["kvd-from", "kvd-to", "kvd-cluster", "kvd-version", "kvd-boot", "kvd-place"] {
            assert!(head.get(name).is_some(), "{name}");
        }
        let kinds = post.posted(&head).await.iter().map(Message::get_msg_type).collect::<Vec<_>>();
        got.push((head.get("kvd-stream").unwrap().to_owned(), kinds));
        post.answer(2, "204 No Content", Some("")).await;
    }
    got.sort_by_key(|(stream, _)| stream.clone());
    assert_eq!(got[0], ("message".to_owned(), types[2..].to_vec()));
    assert_eq!(got[1], ("msgapp".to_owned(), vec![MsgPropose, MsgAppend]), "a burst is one post");
}

#[tokio::test]
async fn one_post_of_appends_and_three_of_the_rest_are_under_way() {
    let fake = FakePeer::bind().await;
    let slow = Config { redial_min: std::time::Duration::from_secs(3600), ..config(1) };
    let node = Node::start(slow, &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    let mut held = Vec::new();
    for (stream, most, kind) in [("msgapp", 1, MsgAppend), ("message", 3, MsgHeartbeat)] {
        for i in 0..most {
            node.send(message(kind, 1, 2, i));
            let (mut post, head) = fake.accept_post().await;
            assert_eq!(head.get("kvd-stream"), Some(stream));
            assert_eq!(indexes_of(&post.posted(&head).await), [i]);
            held.push(post);
        }
        // Beyond that, what comes is gathered, and goes out when an answer arrives, on the same connection.
        node.transport.send((10..20).map(|i| message(kind, 1, 2, i)).collect());
        let mut first = held.pop().unwrap();
        first.answer(2, "204 No Content", Some("")).await;
        let head = first.head().await;
        assert_eq!(indexes_of(&first.posted(&head).await), (10..20).collect::<Vec<_>>());
        held.push(first);
    }
    assert_eq!(held.len(), 4);
    assert_eq!(node.handler.events(), []);
    node.stop().await;
}

#[tokio::test]
async fn a_post_that_fails_is_reported_once_and_not_repeated() {
    let fake = FakePeer::bind().await;
    let slow = Config {
        redial_min: std::time::Duration::from_secs(3600),
        redial_max: std::time::Duration::from_secs(3600),
        ..config(1)
    };
    for answer in ["503 Busy", "404 Not Found", "200 OK", ""] {
        let node = Node::start(slow.clone(), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
        node.transport.send((0..10).map(|i| append(1, 2, i, 10)).collect());
        let (mut post, head) = fake.accept_post().await;
        post.posted(&head).await;
        node.send(append(1, 2, 10, 10));
        if answer.is_empty() {
            drop(post);
        } else {
            // A success of another member is none.
            post.answer(if answer == "200 OK" { 3 } else { 2 }, answer, Some("")).await;
        }
        node.handler.until_event(Event::Unreachable(2)).await;
        let not_posted = r#"kvd_transport_messages_dropped_total{To="2",Reason="not_posted"}"#;
        assert_eq!(node.metric(not_posted), 11.0, "with what waited behind it");
        node.send(append(1, 2, 11, 10));
        let no_stream = r#"kvd_transport_messages_dropped_total{To="2",Reason="no_stream"}"#;
        assert_eq!(node.metric(no_stream), 1.0, "not so soon again");
        assert_eq!(node.handler.events(), [Event::Unreachable(2)]);
        node.stop().await;
    }
}

#[tokio::test]
async fn a_removed_sender_of_posts_learns_of_it() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    node.send(heartbeat(1, 2, 1));
    let (mut post, head) = fake.accept_post().await;
    post.posted(&head).await;
    post.answer(2, "410 Gone", Some("removed")).await;
    node.handler.until_event(Event::Removed).await;
}

#[tokio::test]
async fn a_stream_takes_over_what_waits_to_be_posted() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    node.send(append(1, 2, 1, 10));
    let (mut post, head) = fake.accept_post().await;
    assert_eq!(indexes_of(&post.posted(&head).await), [1]);
    node.transport.send(vec![append(1, 2, 2, 10), append(1, 2, 3, 10)]);
    let mut stream = Raw::connect(node.address()).await;
    stream.request("GET /raft/stream/msgapp/2", &headers(2, 1), b"").await;
    let answer = stream.head().await;
    let number = |head: &raw::Head| head.get("kvd-place").unwrap().parse::<u64>().unwrap();
    assert!(number(&answer) > number(&head), "the stream comes after the post");
    assert_eq!(answer.get("kvd-boot"), head.get("kvd-boot"));
    node.send(append(1, 2, 4, 10));
    for i in 2..5 {
        assert_eq!(stream.message().await.unwrap().index, i);
    }
    post.answer(2, "204 No Content", Some("")).await;
    assert_eq!(post.rest().await, b"", "no more is posted");
    assert_eq!(node.handler.events(), []);
}

fn post_headers(from: u64, class: &str, place: u64, body: &[u8]) -> Vec<(&'static str, String)> {
    let mut all = headers(from, 1);
    all.push(("Kvd-Stream", class.to_owned()));
    all.push(("Kvd-Boot", "5".to_owned()));
    all.push(("Kvd-Place", place.to_string()));
    all.push(("Content-Length", body.len().to_string()));
    all
}

async fn post(node: &Node, class: &str, place: u64, messages: &[Message]) {
    let body: Vec<u8> = messages.iter().flat_map(frame).collect();
    let mut raw = Raw::connect(node.address()).await;
    raw.request("POST /raft", &post_headers(2, class, place, &body), &body).await;
    assert_eq!(raw.head().await.status(), 204);
}

#[tokio::test]
async fn what_matters_in_an_overtaken_post_is_dropped_and_the_rest_delivered() {
    let node = Node::start(config(1), &membership(&[(2, vec![])], &[])).await;
    let both = |i| [message(MsgAppendResponse, 2, 1, i), heartbeat(2, 1, i)];
    post(&node, "message", 3, &both(3)).await;
    post(&node, "message", 2, &both(2)).await;
    post(&node, "message", 4, &both(4)).await;
    assert_eq!(node.handler.delivered(MsgAppendResponse), [3, 4]);
    assert_eq!(node.handler.delivered(MsgHeartbeat), [3, 2, 4]);
    // Each class has a row of its own.
    post(&node, "msgapp", 1, &[append(2, 1, 1, 10)]).await;
    post(&node, "msgapp", 0, &[append(2, 1, 0, 10)]).await;
    assert_eq!(node.handler.delivered(MsgAppend), [1]);
    let overtaken = r#"kvd_transport_frames_refused_total{From="2",Reason="overtaken"}"#;
    assert_eq!(node.metric(overtaken), 2.0);
}

#[tokio::test]
async fn a_later_post_ends_a_stream_and_an_earlier_one_does_not() {
    let fake = FakePeer::bind().await;
    let node = Node::start(config(1), &membership(&[(2, vec![fake.url.clone()])], &[])).await;
    let answer = async |stream: &mut Raw, place: u64| {
        let mut text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n".to_owned();
        for (name, value) in headers(2, 0) {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("kvd-boot: 5\r\nkvd-place: {place}\r\n\r\n");
        stream.write(text.as_bytes()).await;
    };
    let (mut stream, mut others) = fake.accept_path("/raft/stream/msgapp/1").await;
    answer(&mut stream, 10).await;
    stream.write_chunk(&frame(&append(2, 1, 1, 10))).await;
    node.handler.until("delivered", |events| indexes(events, MsgAppend) == [1]).await;
    post(&node, "msgapp", 9, &[append(2, 1, 0, 10)]).await;
    stream.write_chunk(&frame(&append(2, 1, 2, 10))).await;
    node.handler.until("delivered", |events| indexes(events, MsgAppend) == [1, 2]).await;
    post(&node, "msgapp", 11, &[append(2, 1, 4, 10)]).await;
    stream.write_chunk(&frame(&append(2, 1, 3, 10))).await;
    assert_eq!(stream.rest().await, b"", "hung up");
    // The stream that is dialled next is an old one, by its number, until it is not.
    let (mut stream, more) = fake.accept_path("/raft/stream/msgapp/1").await;
    others.extend(more);
    answer(&mut stream, 10).await;
    assert_eq!(stream.rest().await, b"", "hung up");
    let (mut stream, more) = fake.accept_path("/raft/stream/msgapp/1").await;
    others.extend(more);
    answer(&mut stream, 12).await;
    stream.write_chunk(&frame(&append(2, 1, 5, 10))).await;
    node.handler.until("delivered", |events| indexes(events, MsgAppend) == [1, 2, 4, 5]).await;
}

#[tokio::test]
async fn posts_are_refused_with_the_status_that_fits() {
    let small = Config { max_frame_bytes: 1000, ..config(1) };
    let node = Node::start(small, &membership(&[(1, vec![]), (2, vec![])], &[3])).await;
    let body = frame(&heartbeat(2, 1, 1));
    let good = || post_headers(2, "message", 1, &body);
    let with = |name: &'static str, value: &str| {
        let mut headers = good();
        headers.iter_mut().find(|(n, _)| *n == name).unwrap().1 = value.to_owned();
        headers
    };
    let without = |name: &str| good().into_iter().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    let mut chunked = without("Content-Length");
    chunked.push(("Transfer-Encoding", "chunked".to_owned()));
    let long = 1001u32.to_le_bytes().to_vec();
    for (what, headers, body, status) in [
        ("unknown", post_headers(4, "message", 1, &body), body.clone(), 404),
        ("removed", post_headers(3, "message", 1, &body), body.clone(), 410),
        ("cluster", with("Kvd-Cluster", "c2"), body.clone(), 412),
        ("recipient", with("Kvd-To", "5"), body.clone(), 412),
        ("version", with("Kvd-Min-Version", "2"), body.clone(), 412),
        ("no class", without("Kvd-Stream"), body.clone(), 400),
        ("another class", with("Kvd-Stream", "snapshot"), body.clone(), 400),
        ("no place", without("Kvd-Place"), body.clone(), 400),
        ("no boot", without("Kvd-Boot"), body.clone(), 400),
        ("no length", chunked, b"0\r\n\r\n".to_vec(), 411),
        ("too long", with("Content-Length", "2001"), vec![], 413),
        ("a frame too long", with("Content-Length", "4"), long, 413),
        ("ends within a frame", with("Content-Length", "10"), body[..10].to_vec(), 400),
    ] {
        let (head, reason) = exchange(node.address(), "POST /raft", &headers, &body).await;
        assert_eq!(head.status(), status, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}");
    }
    let (head, _) = exchange(node.address(), "GET /raft", &headers(2, 1), b"").await;
    assert_eq!((head.status(), head.get("allow")), (405, Some("POST")));
    assert_eq!(node.handler.events(), []);
    // What a stream would refuse, a post refuses too, and the rest of it is delivered.
    let bad = [heartbeat(3, 1, 1), heartbeat(2, 3, 1), snapshot(2, 1, 1, 1), heartbeat(2, 1, 7)];
    post(&node, "message", 1, &bad).await;
    assert_eq!(node.handler.events(), [Event::Delivered(2, heartbeat(2, 1, 7))]);
}

#[tokio::test]
async fn requests_that_were_passed_on_are_from_whoever_asked_first() {
    let node = Node::start(config(1), &membership(&[(2, vec![]), (3, vec![])], &[])).await;
    let passed_on: [MessageType; 3] = [MsgPropose, MsgReadIndex, MsgTransferLeader];
    let messages: Vec<_> = passed_on.iter().map(|kind| message(*kind, 3, 1, 1)).collect();
    post(&node, "message", 1, &messages).await;
    let want: Vec<_> = messages.into_iter().map(|message| Event::Delivered(2, message)).collect();
    assert_eq!(node.handler.events(), want);
}
