//! Verdicts, and what they do to the list.

use super::*;
use ConfChangeType::*;

fn member(id: u64, url: &str) -> Member {
    Member { id, peer_urls: vec![url.into()], ..Member::default() }
}

fn list() -> Membership {
    let mut learner = member(4, "http://d:4");
    learner.learner = true;
    Membership {
        cluster_id: 9,
        members: vec![member(1, "http://a:1"), member(2, "http://b:2"), learner],
        removed: vec![3],
    }
}

/// What becomes of one change: nothing (`None`), or raft's changes.
fn judged(list: &Membership, steps: &[Step], again: bool) -> Result<Vec<(ConfChangeType, u64)>, Refusal> {
    match judge(list, false, steps, again) {
        Verdict::Change(change) => {
            assert_eq!(change.get_transition() == ConfChangeTransition::Explicit, steps.len() > 1);
            Ok(change.changes.iter().map(|one| (one.get_change_type(), one.node_id)).collect())
        }
        Verdict::AlreadySo => Ok(Vec::new()),
        Verdict::Refuse(refusal) => Err(refusal),
    }
}

#[test]
fn each_change_has_one_verdict() {
    use Refusal::*;
    let conflict = |id: u64, url: &str| Err(Conflict { id, urls: vec![url.into()] });
    let change = |kind, id| Ok(vec![(kind, id)]);
    let already_so = || Ok(Vec::new());
    for (kind, subject, verdict) in [
        (AddLearnerNode, member(5, "http://e:5"), change(AddLearnerNode, 5)),
        (AddLearnerNode, member(2, "http://b:2"), already_so()),
        (AddLearnerNode, member(4, "http://d:4"), already_so()),
        (AddLearnerNode, member(2, "http://x:2"), conflict(2, "http://b:2")),
        (AddLearnerNode, member(5, "http://b:2"), conflict(2, "http://b:2")),
        (AddLearnerNode, member(3, "http://c:3"), Err(Removed(3))),
        (AddNode, member(4, ""), change(AddNode, 4)),
        (AddNode, member(1, ""), already_so()),
        (AddNode, member(3, ""), Err(Removed(3))),
        (AddNode, member(5, ""), Err(Unknown(5))),
        (RemoveNode, member(1, ""), change(RemoveNode, 1)),
        (RemoveNode, member(4, ""), change(RemoveNode, 4)),
        (RemoveNode, member(3, ""), Err(Removed(3))),
        (RemoveNode, member(5, ""), Err(Unknown(5))),
    ] {
        assert_eq!(judged(&list(), &[(kind, subject.clone())], false), verdict, "{kind:?} {subject:?}");
    }
}

#[test]
fn several_changes_are_one() {
    let steps = |steps: &[(ConfChangeType, u64)]| -> Vec<Step> {
        steps.iter().map(|(kind, id)| (*kind, member(*id, &format!("http://{id}:1")))).collect()
    };
    let all = steps(&[(AddLearnerNode, 5), (AddNode, 4), (RemoveNode, 1), (RemoveNode, 2)]);
    let singles = vec![(AddLearnerNode, 5), (AddNode, 4), (RemoveNode, 1), (RemoveNode, 2)];
    assert_eq!(judged(&list(), &all, false), Ok(singles));
    // One that cannot be takes the others with it, and what is so already is left out.
    let one_bad = steps(&[(AddLearnerNode, 5), (RemoveNode, 9)]);
    assert_eq!(judged(&list(), &one_bad, false), Err(Refusal::Unknown(9)));
    let one_so = steps(&[(AddNode, 1), (RemoveNode, 2)]);
    assert_eq!(judged(&list(), &one_so, false), Ok(vec![(RemoveNode, 2)]));
    // Each is judged against what those before it leave.
    let all_voters = steps(&[(RemoveNode, 1), (RemoveNode, 2)]);
    assert_eq!(judged(&list(), &all_voters, false), Err(Refusal::LastVoter(2)));

    let mut list = list();
    carry_out(&mut list, &all, true);
    assert_eq!(voters(&list), [4]);
    assert_eq!(list.removed, [3], "they still vote");
    let busy = judge(&list, true, &steps(&[(AddLearnerNode, 6)]), false);
    assert_eq!(busy, Verdict::Refuse(Refusal::Joint));
    assert_eq!(leave_joint(&mut list), [1, 2]);
    assert_eq!(list.removed, [1, 2, 3]);
    assert_eq!(list.members.iter().map(|m| (m.id, m.learner)).collect::<Vec<_>>(), [(4, false), (5, true)]);
    assert!(is_consistent(&list));
    assert_eq!(leave_joint(&mut list), [0; 0]);
    let request = |ids: &[u64]| MembershipRequest {
        changes: ids.iter().map(|id| MembershipChange::Remove { id: *id }).collect(),
        force: None,
    };
    assert!(holds(&list, &request(&[1, 2])) && !holds(&list, &request(&[1, 4])));
    // Asked for again, all of it is so; but a mistake stays one.
    let rest = steps(&[(AddNode, 4), (RemoveNode, 1), (RemoveNode, 2)]);
    assert_eq!(judged(&list, &rest, true), Ok(Vec::new()));
    assert_eq!(judged(&list, &rest, false), Err(Refusal::Removed(1)));
    assert_eq!(judged(&list, &steps(&[(AddLearnerNode, 1)]), true), Err(Refusal::Removed(1)));
}

#[test]
fn the_last_voter_stays() {
    let mut list = list();
    carry_out(&mut list, &[(RemoveNode, member(2, ""))], false);
    assert_eq!(judged(&list, &[(RemoveNode, member(1, ""))], false), Err(Refusal::LastVoter(1)));
    assert!(judged(&list, &[(RemoveNode, member(4, ""))], false).is_ok());
    // A learner that is promoted in the same entry takes its place.
    let swap = [(AddNode, member(4, "")), (RemoveNode, member(1, ""))];
    assert!(judged(&list, &swap, false).is_ok());
}

#[test]
fn a_member_comes_is_promoted_and_goes_for_good() {
    let mut list = list();
    carry_out(&mut list, &[(AddLearnerNode, member(5, "http://e:5"))], false);
    assert!(list.members.last().unwrap().learner);
    carry_out(&mut list, &[(AddNode, member(5, ""))], false);
    let last = list.members.last().unwrap();
    assert!(!last.learner && last.peer_urls == ["http://e:5"]);
    carry_out(&mut list, &[(RemoveNode, member(5, ""))], false);
    assert_eq!(list.removed, [3, 5]);
    assert!(is_consistent(&list));
}

#[test]
fn bad_requests_are_refused_before_anything_is_proposed() {
    let add = |id, urls: &[&str]| -> MembershipRequest {
        let peer_urls = urls.iter().map(|url| url.to_string()).collect();
        MembershipChange::Add { id, peer_urls }.into()
    };
    let removals = |n: u64| MembershipRequest {
        changes: (1..=n).map(|id| MembershipChange::Remove { id }).collect(),
        force: None,
    };
    let forced = |n| MembershipRequest { force: Some("x".repeat(n)), ..removals(1) };
    for good in [
        add(1, &["http://h:1"]),
        add(1, &["http://h:1"; MAX_PEER_URLS]),
        removals(MAX_CHANGES as u64 - 1),
        removals(MAX_CHANGES as u64),
        forced(1),
        forced(MAX_REASON_BYTES),
    ] {
        assert_eq!(check(&good), Ok(()), "{good:?}");
    }
    let twice = MembershipRequest { changes: vec![MembershipChange::Promote { id: 1 }; 2], force: None };
    for bad in [
        add(0, &["http://h:1"]),
        add(1, &[]),
        add(1, &["no url"]),
        add(1, &["http://h:1"; MAX_PEER_URLS + 1]),
        MembershipChange::Remove { id: 0 }.into(),
        removals(0),
        removals(MAX_CHANGES as u64 + 1),
        twice,
        forced(0),
        forced(MAX_REASON_BYTES + 1),
    ] {
        assert!(matches!(check(&bad), Err(Refusal::Invalid(_))), "{bad:?}");
    }
}

#[test]
fn a_start_tells_where_the_member_is() {
    let mut list = Arc::new(list());
    let announce = |peer: &str, client: &str| Announcement {
        peer_urls: vec![peer.into()],
        client_urls: vec![client.into()],
    };
    let urls =
        |list: &Membership| (list.members[1].peer_urls[0].clone(), list.members[1].client_urls.clone());
    assert!(hear_of(&mut list, 2, 1, Some(&announce("http://b:2", "http://b:80"))));
    assert_eq!(urls(&list), ("http://b:2".into(), vec!["http://b:80".into()]));
    // The same start again, and one that was before it.
    assert!(!hear_of(&mut list, 2, 1, Some(&announce("http://x:2", "http://x:80"))));
    assert!(!hear_of(&mut list, 2, 0, None));
    // It moves; but not to where another one is.
    assert!(hear_of(&mut list, 2, 2, Some(&announce("http://x:2", "http://x:80"))));
    assert_eq!(urls(&list), ("http://x:2".into(), vec!["http://x:80".into()]));
    assert!(hear_of(&mut list, 2, 3, Some(&announce("http://a:1", "http://y:80"))));
    assert_eq!(urls(&list), ("http://x:2".into(), vec!["http://y:80".into()]));
    assert!(hear_of(&mut list, 2, 4, Some(&announce("no url", "http://y:80"))));
    assert!(hear_of(&mut list, 2, 5, None));
    assert_eq!(urls(&list), ("http://x:2".into(), vec!["http://y:80".into()]));
    assert!(!hear_of(&mut list, 9, 1, None), "nobody");
    // One of several URLs is enough to stay.
    Arc::make_mut(&mut list).members[1].peer_urls = vec!["http://b:2".into(), "http://x:2".into()];
    assert!(hear_of(&mut list, 2, 6, Some(&announce("http://x:2", "http://y:80"))));
    assert_eq!(list.members[1].peer_urls.len(), 2);
}
