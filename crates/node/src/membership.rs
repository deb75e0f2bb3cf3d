//! Who belongs to the cluster: the replicated member list, and what may change it.
//!
//! Every membership entry is judged when it is *applied*, in log order, against the list as of that index. So every
//! member comes to the same verdict, and a change that was proposed twice changes the list once.

use std::sync::Arc;

use kvd_mutation::{Bug, planted};
use kvd_raftpb::node::{Member, Membership};
use kvd_raftpb::peer_url::parse_peer_url;
use raft::eraftpb::{ConfChangeType, ConfChangeV2};

/// The most peer URLs that one member may have.
pub const MAX_PEER_URLS: usize = 8;

/// A change that a user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    /// Adds a learner; the leader promotes it to a voter once it has caught up.
    Add {
        /// The new member's id, never used before.
        id: u64,
        /// Where its peer listener can be reached.
        peer_urls: Vec<String>,
    },
    /// Removes a member for good.
    Remove {
        /// The member's id.
        id: u64,
    },
}

/// How a change ended that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// The list was changed by the entry at this index.
    Applied {
        /// The raft index; for a member that learnt of its own removal from others, the last one that it applied.
        index: u64,
    },
    /// The list was so already.
    AlreadySo,
}

/// Why a change is refused. Asking again does not help before the cause is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The id was removed before.
    #[error("member {0} was removed from this cluster; an id never comes back, use a new one")]
    Removed(u64),
    /// No member has that id.
    #[error("member {0} is unknown")]
    Unknown(u64),
    /// The id or one of the URLs is taken.
    #[error("member {id} has {urls:?}; remove it first, or use another id and other URLs")]
    Conflict {
        /// The member in the way.
        id: u64,
        /// Its peer URLs.
        urls: Vec<String>,
    },
    /// The cluster would be left without a voter.
    #[error("member {0} is the last voter; add another member before it is removed")]
    LastVoter(u64),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// Checks what needs no member list: ids and URLs.
pub(crate) fn check(change: &MembershipChange) -> Result<(), Refusal> {
    let (MembershipChange::Add { id, .. } | MembershipChange::Remove { id }) = change;
    if *id == 0 {
        return Err(Refusal::Invalid("member ids begin at 1".into()));
    }
    let MembershipChange::Add { peer_urls, .. } = change else { return Ok(()) };
    if peer_urls.is_empty() || peer_urls.len() > MAX_PEER_URLS {
        return Err(Refusal::Invalid(format!(
            "a member has 1 to {MAX_PEER_URLS} peer URLs, not {}",
            peer_urls.len()
        )));
    }
    for url in peer_urls {
        parse_peer_url(url).map_err(|e| Refusal::Invalid(format!("{url:?} is not a peer URL: {e}")))?;
    }
    Ok(())
}

/// What an applied membership entry does to the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// raft's configuration and the list change.
    Change,
    /// Nothing changes, and that is what was asked for.
    AlreadySo,
    /// Nothing changes, against what was asked for.
    Refuse(Refusal),
}

/// Judges a change against the list.
pub(crate) fn judge(list: &Membership, kind: ConfChangeType, subject: &Member) -> Verdict {
    let known = list.members.iter().find(|member| member.id == subject.id);
    let removed = list.removed.binary_search(&subject.id).is_ok() && !planted(Bug::RemovedIdReturns);
    match kind {
        ConfChangeType::AddLearnerNode => {
            if removed {
                return Verdict::Refuse(Refusal::Removed(subject.id));
            }
            if known.is_some_and(|member| member.peer_urls == subject.peer_urls) {
                return Verdict::AlreadySo;
            }
            let taken = |member: &&Member| {
                member.id == subject.id || member.peer_urls.iter().any(|url| subject.peer_urls.contains(url))
            };
            match list.members.iter().find(taken) {
                Some(other) => {
                    Verdict::Refuse(Refusal::Conflict { id: other.id, urls: other.peer_urls.clone() })
                }
                None => Verdict::Change,
            }
        }
        ConfChangeType::AddNode => match known {
            Some(member) if member.learner => Verdict::Change,
            Some(_) => Verdict::AlreadySo,
            None if removed => Verdict::Refuse(Refusal::Removed(subject.id)),
            None => Verdict::Refuse(Refusal::Unknown(subject.id)),
        },
        ConfChangeType::RemoveNode => match known {
            Some(member) if !member.learner && list.members.iter().filter(|m| !m.learner).count() == 1 => {
                Verdict::Refuse(Refusal::LastVoter(subject.id))
            }
            Some(_) => Verdict::Change,
            None if removed => Verdict::Refuse(Refusal::Removed(subject.id)),
            None => Verdict::Refuse(Refusal::Unknown(subject.id)),
        },
    }
}

/// Carries out a change that [`judge`] let pass.
pub(crate) fn carry_out(list: &mut Membership, kind: ConfChangeType, subject: Member) {
    let at = list.members.binary_search_by_key(&subject.id, |member| member.id);
    match (kind, at) {
        (ConfChangeType::AddLearnerNode, Err(at)) => {
            list.members.insert(at, Member { learner: true, boot: 0, ..subject })
        }
        (ConfChangeType::AddNode, Ok(at)) => list.members[at].learner = false,
        (ConfChangeType::RemoveNode, Ok(at)) => {
            list.members.remove(at);
            if let Err(at) = list.removed.binary_search(&subject.id) {
                list.removed.insert(at, subject.id);
            }
        }
        // `judge` answers `Change` in no other case.
        _ => {}
    }
}

/// The change that raft's configuration takes: the one that was judged, unless a bug is planted here.
pub(crate) fn with_planted_bug(mut change: ConfChangeV2) -> ConfChangeV2 {
    if planted(Bug::RemovedStillVotes) {
        change.mut_changes().retain(|single| single.get_change_type() != ConfChangeType::RemoveNode);
    }
    if planted(Bug::LearnerVotes) {
        change.mut_changes().iter_mut().for_each(|single| single.set_change_type(ConfChangeType::AddNode));
    }
    change
}

/// The cluster has heard of a start of a member. Says whether it is news.
pub(crate) fn hear_of(list: &mut Arc<Membership>, id: u64, boot: u64) -> bool {
    let Ok(at) = list.members.binary_search_by_key(&id, |member| member.id) else { return false };
    let news = boot > list.members[at].boot;
    if news {
        Arc::make_mut(list).members[at].boot = boot;
    }
    news
}

/// Whether a list read from a snapshot is in order: ids ascending, none at once a member and removed.
pub(crate) fn is_consistent(list: &Membership) -> bool {
    list.members.windows(2).all(|pair| pair[0].id < pair[1].id)
        && list.removed.windows(2).all(|pair| pair[0] < pair[1])
        && list.members.iter().all(|member| member.id != 0 && list.removed.binary_search(&member.id).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConfChangeType::*;

    fn member(id: u64, url: &str) -> Member {
        Member { id, peer_urls: vec![url.into()], client_urls: Vec::new(), learner: false, boot: 0 }
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

    #[test]
    fn each_change_has_one_verdict() {
        use Refusal::*;
        let conflict = |id: u64, url: &str| Verdict::Refuse(Conflict { id, urls: vec![url.into()] });
        for (kind, subject, verdict) in [
            (AddLearnerNode, member(5, "http://e:5"), Verdict::Change),
            (AddLearnerNode, member(2, "http://b:2"), Verdict::AlreadySo),
            (AddLearnerNode, member(4, "http://d:4"), Verdict::AlreadySo),
            (AddLearnerNode, member(2, "http://x:2"), conflict(2, "http://b:2")),
            (AddLearnerNode, member(5, "http://b:2"), conflict(2, "http://b:2")),
            (AddLearnerNode, member(3, "http://c:3"), Verdict::Refuse(Removed(3))),
            (AddNode, member(4, ""), Verdict::Change),
            (AddNode, member(1, ""), Verdict::AlreadySo),
            (AddNode, member(3, ""), Verdict::Refuse(Removed(3))),
            (AddNode, member(5, ""), Verdict::Refuse(Unknown(5))),
            (RemoveNode, member(1, ""), Verdict::Change),
            (RemoveNode, member(4, ""), Verdict::Change),
            (RemoveNode, member(3, ""), Verdict::Refuse(Removed(3))),
            (RemoveNode, member(5, ""), Verdict::Refuse(Unknown(5))),
        ] {
            assert_eq!(judge(&list(), kind, &subject), verdict, "{kind:?} {subject:?}");
        }
    }

    #[test]
    fn the_last_voter_stays() {
        let mut list = list();
        carry_out(&mut list, RemoveNode, member(2, ""));
        assert_eq!(judge(&list, RemoveNode, &member(1, "")), Verdict::Refuse(Refusal::LastVoter(1)));
        assert_eq!(judge(&list, RemoveNode, &member(4, "")), Verdict::Change);
    }

    #[test]
    fn a_member_comes_is_promoted_and_goes_for_good() {
        let mut list = list();
        carry_out(&mut list, AddLearnerNode, member(5, "http://e:5"));
        assert!(list.members.last().unwrap().learner);
        carry_out(&mut list, AddNode, member(5, ""));
        let last = list.members.last().unwrap();
        assert!(!last.learner && last.peer_urls == ["http://e:5"]);
        carry_out(&mut list, RemoveNode, member(5, ""));
        assert_eq!(list.removed, [3, 5]);
        assert!(is_consistent(&list));
    }

    #[test]
    fn bad_ids_and_urls_are_refused_before_anything_is_proposed() {
        let add = |id, urls: &[&str]| MembershipChange::Add {
            id,
            peer_urls: urls.iter().map(|url| url.to_string()).collect(),
        };
        assert!(check(&add(1, &["http://h:1"])).is_ok());
        assert!(check(&add(1, &["http://h:1"; MAX_PEER_URLS])).is_ok());
        for bad in [
            add(0, &["http://h:1"]),
            add(1, &[]),
            add(1, &["no url"]),
            add(1, &["http://h:1"; MAX_PEER_URLS + 1]),
            MembershipChange::Remove { id: 0 },
        ] {
            assert!(matches!(check(&bad), Err(Refusal::Invalid(_))), "{bad:?}");
        }
    }
}
