//! The joiner's question.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use std::time::Duration;

use kvd_transport::{Error, fetch_membership, fetch_membership_of};
use support::raw::FakePeer;
use support::*;

const LIMIT: Duration = Duration::from_secs(1);

async fn knowing(list: &kvd_raftpb::node::Membership) -> Node {
    let node = Node::start(config(1), &membership(&[], &[])).await;
    *node.handler.membership.lock().unwrap() = Some(list.clone());
    node
}

#[tokio::test]
async fn a_member_gets_the_list_from_the_first_peer_that_has_it() {
    let list = membership(&[(1, vec!["http://a:1".into()]), (4, vec![])], &[3]);
    let (_reserved, dead) = dead_url();
    let ignorant = Node::start(config(2), &membership(&[], &[])).await;
    let node = knowing(&list).await;
    let urls = [dead, ignorant.url.clone(), node.url.clone()];
    assert_eq!(fetch_membership(&urls, 4, Duration::from_secs(20)).await, Ok(list));
}

#[tokio::test]
async fn it_keeps_asking_until_it_is_a_member() {
    let node = knowing(&membership(&[(1, vec![])], &[])).await;
    let urls = [node.url.clone()];
    let asked = tokio::spawn(async move { fetch_membership(&urls, 4, Duration::from_secs(20)).await });
    let refused = r#"kvd_transport_requests_refused_total{Status="404"}"#;
    soon("it was refused", async {
        while node.metric(refused) < 2.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let list = membership(&[(1, vec![]), (4, vec![])], &[]);
    *node.handler.membership.lock().unwrap() = Some(list.clone());
    assert_eq!(soon("an answer", asked).await.unwrap(), Ok(list));
}

#[tokio::test]
async fn it_says_why_there_is_no_list() {
    let (_reserved, dead) = dead_url();
    let node = knowing(&membership(&[(1, vec![])], &[3])).await;
    let urls = [node.url.clone(), dead.clone()];
    let error = fetch_membership(&urls, 4, LIMIT).await.unwrap_err();
    assert!(matches!(error, Error::NotMember { .. }), "{error}");
    assert!(error.to_string().contains("not a member of the cluster yet"), "{error}");
    let error = fetch_membership(&urls, 3, Duration::from_secs(3600)).await.unwrap_err();
    assert!(matches!(error, Error::Removed { .. }), "{error}");
    let error = fetch_membership(&[dead], 4, LIMIT).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("cannot connect"), "{error}");
    assert_eq!(fetch_membership(&[], 4, LIMIT).await, Err(Error::NoUrls));
    let error = fetch_membership(&["ftp://x".into()], 4, LIMIT).await.unwrap_err();
    assert!(matches!(error, Error::Url(_)), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_no_list_is_not_believed() {
    let fake = FakePeer::bind().await;
    let urls = [fake.url.clone()];
    let asked = tokio::spawn(async move { fetch_membership(&urls, 4, LIMIT).await });
    let (mut dial, head) = fake.accept().await;
    assert_eq!(head.get("kvd-from"), Some("4"));
    dial.write(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n").await;
    let (mut dial, _) = fake.accept().await;
    dial.answer(1, "200 OK", Some("\u{ff}\u{ff}")).await;
    let error = soon("an answer", asked).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn another_cluster_has_no_say() {
    let list = membership(&[(1, vec![]), (4, vec![])], &[3]);
    let node = knowing(&list).await;
    let urls = [node.url.clone()];
    assert_eq!(fetch_membership_of(CLUSTER, &urls, 4, LIMIT).await, Ok(list));
    let removed = fetch_membership_of(CLUSTER, &urls, 3, LIMIT).await.unwrap_err();
    assert!(matches!(removed, Error::Removed { .. }), "{removed}");
    for id in [3, 4] {
        let error = fetch_membership_of(CLUSTER + 1, &urls, id, LIMIT).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("another one"), "{error}");
    }
}
