//! Who belongs to the cluster: the replicated member list, and what may change it.
//!
//! Every membership entry is judged when it is *applied*, in log order, against the list as of that index. So every
//! member comes to the same verdict, and a change that was proposed twice changes the list once. What only a leader can
//! know (who answers, who has caught up) is judged before an entry is proposed, in `reconfigure.rs`.
//!
//! # Several changes in one entry
//!
//! They are one: all of them happen or none. raft makes them by joint consensus: from the entry that *enters* the joint
//! configuration to the one that *leaves* it, both the old voters and the new ones have a majority in every decision.
//! New learners and voters are so in the list from the first entry on; members that go are marked as
//! [leaving](Member::leaving) by it, for they still vote, and are gone and their ids spent with the second.

use std::sync::Arc;

use kvd_mutation::{Bug, planted};
use kvd_raftpb::node::{Announcement, Member, Membership};
use kvd_raftpb::peer_url::parse_peer_url;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

/// The most peer URLs, and the most client URLs, that one member may have.
pub const MAX_PEER_URLS: usize = 8;
/// The longest client URL, in bytes.
pub const MAX_URL_BYTES: usize = 1024;
/// The most members that one request may change.
pub const MAX_CHANGES: usize = 16;
/// The longest reason for a forced change, in bytes.
pub const MAX_REASON_BYTES: usize = 256;

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
    /// Makes a learner a voter, which the leader does by itself once it has caught up.
    Promote {
        /// The learner's id.
        id: u64,
    },
}

impl MembershipChange {
    /// The member that it is about.
    pub fn id(&self) -> u64 {
        match self {
            Self::Add { id, .. } | Self::Remove { id } | Self::Promote { id } => *id,
        }
    }

    /// The member that it removes.
    pub(crate) fn removes(&self) -> Option<u64> {
        matches!(self, Self::Remove { .. }).then_some(self.id())
    }

    pub(crate) fn kind(&self) -> ConfChangeType {
        match self {
            Self::Add { .. } => ConfChangeType::AddLearnerNode,
            Self::Promote { .. } => ConfChangeType::AddNode,
            Self::Remove { .. } => ConfChangeType::RemoveNode,
        }
    }
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MembershipRequest {
    /// 1 to [`MAX_CHANGES`], each of another member.
    pub changes: Vec<MembershipChange>,
    /// Why the leader is to make them even if they endanger the quorum. The reason goes into the log, and every member
    /// reports it.
    pub force: Option<String>,
}

impl From<MembershipChange> for MembershipRequest {
    fn from(change: MembershipChange) -> Self {
        Self { changes: vec![change], force: None }
    }
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
    /// Too few of the voters that would be left answer the leader.
    #[error(
        "of the voters {voters:?} that there would be only {active:?} answer, and nothing could be decided; bring the \
         others back, or remove them first; --force with a reason does it all the same"
    )]
    LosesQuorum {
        /// Who would vote.
        voters: Vec<u64>,
        /// Those of them that the leader hears.
        active: Vec<u64>,
    },
    /// A learner that the leader does not take for ready.
    #[error(
        "member {0} has not caught up, and is promoted by itself once it has; --force with a reason does it all the same"
    )]
    NotCaughtUp(u64),
    /// Leadership did not go where it was to go.
    #[error(
        "member {to} did not take over, member {leader} leads; is it a voter, up, and close behind the leader?"
    )]
    NotTakenOver {
        /// Who was to lead.
        to: u64,
        /// Who leads.
        leader: u64,
    },
    /// Another change of several members is not finished.
    #[error("another change of several members is not finished; ask again")]
    Joint,
}

/// Checks what needs no member list: ids, URLs, bounds.
pub(crate) fn check(request: &MembershipRequest) -> Result<(), Refusal> {
    let MembershipRequest { changes, force } = request;
    let invalid = |words: String| Err(Refusal::Invalid(words));
    if changes.is_empty() || changes.len() > MAX_CHANGES {
        return invalid(format!("a request changes 1 to {MAX_CHANGES} members, not {}", changes.len()));
    }
    if let Some(reason) = force
        && (reason.trim().is_empty() || reason.len() > MAX_REASON_BYTES)
    {
        return invalid(format!("a forced change needs a reason, of at most {MAX_REASON_BYTES} bytes"));
    }
    for (at, change) in changes.iter().enumerate() {
        let id = change.id();
        if id == 0 {
            return invalid("member ids begin at 1".into());
        }
        if changes[..at].iter().any(|other| other.id() == id) {
            return invalid(format!("member {id} is in the request twice"));
        }
        if let MembershipChange::Add { peer_urls, .. } = change {
            check_peer_urls(peer_urls).or_else(invalid)?;
        }
    }
    Ok(())
}

fn check_peer_urls(urls: &[String]) -> Result<(), String> {
    if urls.is_empty() || urls.len() > MAX_PEER_URLS {
        return Err(format!("a member has 1 to {MAX_PEER_URLS} peer URLs, not {}", urls.len()));
    }
    urls.iter().try_for_each(|url| {
        parse_peer_url(url).map(drop).map_err(|e| format!("{url:?} is not a peer URL: {e}"))
    })
}

/// What an applied membership entry does to the list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// The list changes, and raft's configuration by this.
    Change(ConfChangeV2),
    /// Nothing changes, and that is what was asked for.
    AlreadySo,
    /// Nothing changes, against what was asked for.
    Refuse(Refusal),
}

/// One change of a membership entry.
pub(crate) type Step = (ConfChangeType, Member);

/// Judges changes that happen together, one after the other, each against the list as those before it leave it. `again`:
/// they were asked for before, so that a removal that has happened is no mistake.
/// `joint`: raft's configuration is a joint one.
pub(crate) fn judge(list: &Membership, joint: bool, steps: &[Step], again: bool) -> Verdict {
    if joint {
        return Verdict::Refuse(Refusal::Joint);
    }
    let mut scratch = list.clone();
    let mut singles = Vec::new();
    for (kind, subject) in steps {
        match judge_one(&scratch, *kind, subject) {
            Ok(true) => {
                carry_out_one(&mut scratch, *kind, subject);
                let mut single = ConfChangeSingle::default();
                single.set_change_type(*kind);
                single.node_id = subject.id;
                singles.push(single);
            }
            Ok(false) => {}
            Err(Refusal::Removed(_)) if again && *kind == ConfChangeType::RemoveNode => {}
            Err(refusal) => return Verdict::Refuse(refusal),
        }
    }
    if singles.is_empty() {
        return Verdict::AlreadySo;
    }
    let mut change = ConfChangeV2::default();
    if steps.len() > 1 {
        // The leader proposes to leave the joint configuration; raft's own way (implicit) would let a leader do so
        // that is outside of the configuration which remains.
        change.set_transition(ConfChangeTransition::Explicit);
    }
    change.set_changes(singles.into());
    Verdict::Change(change)
}

/// Whether one change can be (`Ok(true)`), or is so already (`Ok(false)`).
fn judge_one(list: &Membership, kind: ConfChangeType, subject: &Member) -> Result<bool, Refusal> {
    let known = list.members.iter().find(|member| member.id == subject.id);
    let gone = || match list.removed.binary_search(&subject.id) {
        Ok(_) => Refusal::Removed(subject.id),
        Err(_) => Refusal::Unknown(subject.id),
    };
    match kind {
        ConfChangeType::AddLearnerNode => {
            if list.removed.binary_search(&subject.id).is_ok() && !planted(Bug::RemovedIdReturns) {
                return Err(Refusal::Removed(subject.id));
            }
            if known.is_some_and(|member| member.peer_urls == subject.peer_urls) {
                return Ok(false);
            }
            let taken = |member: &&Member| {
                member.id == subject.id || member.peer_urls.iter().any(|url| subject.peer_urls.contains(url))
            };
            match list.members.iter().find(taken) {
                Some(other) => Err(Refusal::Conflict { id: other.id, urls: other.peer_urls.clone() }),
                None => Ok(true),
            }
        }
        ConfChangeType::AddNode => known.map(|member| member.learner).ok_or_else(gone),
        ConfChangeType::RemoveNode => {
            let known = known.ok_or_else(gone)?;
            if voters(list) == [known.id] {
                return Err(Refusal::LastVoter(known.id));
            }
            Ok(true)
        }
    }
}

/// Whether everything that a request asks for is so.
pub(crate) fn holds(list: &Membership, request: &MembershipRequest) -> bool {
    let known = |id: &u64| list.members.iter().find(|member| member.id == *id);
    request.changes.iter().all(|change| match change {
        MembershipChange::Add { id, peer_urls } => {
            known(id).is_some_and(|member| member.peer_urls == *peer_urls)
        }
        MembershipChange::Promote { id } => known(id).is_some_and(|member| !member.learner),
        MembershipChange::Remove { id } => list.removed.binary_search(id).is_ok(),
    })
}

/// Who has a vote once the list is as it says.
pub(crate) fn voters(list: &Membership) -> Vec<u64> {
    list.members.iter().filter(|member| !member.learner && !member.leaving).map(|member| member.id).collect()
}

/// Carries out changes that [`judge`] let pass. `joint`: those who go are marked, and stay until [`leave_joint`].
pub(crate) fn carry_out(list: &mut Membership, steps: &[Step], joint: bool) {
    for (kind, subject) in steps {
        let at = list.members.binary_search_by_key(&subject.id, |member| member.id);
        match (kind, at) {
            (ConfChangeType::RemoveNode, Ok(at)) if joint => list.members[at].leaving = true,
            _ => carry_out_one(list, *kind, subject),
        }
    }
}

fn carry_out_one(list: &mut Membership, kind: ConfChangeType, subject: &Member) {
    let at = list.members.binary_search_by_key(&subject.id, |member| member.id);
    match (kind, at) {
        (ConfChangeType::AddLearnerNode, Err(at)) => {
            let member = Member {
                id: subject.id,
                peer_urls: subject.peer_urls.clone(),
                learner: true,
                ..Member::default()
            };
            list.members.insert(at, member);
        }
        (ConfChangeType::AddNode, Ok(at)) => list.members[at].learner = false,
        (ConfChangeType::RemoveNode, Ok(at)) => {
            list.members.remove(at);
            if let Err(at) = list.removed.binary_search(&subject.id) {
                list.removed.insert(at, subject.id);
            }
        }
        // It is so already.
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

/// The joint configuration is left: who was marked as leaving is gone. Returns them.
pub(crate) fn leave_joint(list: &mut Membership) -> Vec<u64> {
    let gone: Vec<u64> =
        list.members.iter().filter(|member| member.leaving).map(|member| member.id).collect();
    for id in &gone {
        carry_out_one(list, ConfChangeType::RemoveNode, &Member { id: *id, ..Member::default() });
    }
    gone
}

/// The cluster has heard of a start of a member, and of where that member says it is. Says whether it is news.
pub(crate) fn hear_of(
    list: &mut Arc<Membership>,
    id: u64,
    boot: u64,
    announcement: Option<&Announcement>,
) -> bool {
    let Ok(at) = list.members.binary_search_by_key(&id, |member| member.id) else { return false };
    if boot <= list.members[at].boot {
        return false;
    }
    let peer_urls = announcement.and_then(|announcement| moved_to(list, at, &announcement.peer_urls));
    let member = &mut Arc::make_mut(list).members[at];
    member.boot = boot;
    if let Some(urls) = peer_urls {
        tracing::info!(member = id, from = ?member.peer_urls, to = ?urls, "a member has other peer URLs");
        member.peer_urls = urls;
    }
    if let Some(announcement) = announcement
        && announcement.client_urls.len() <= MAX_PEER_URLS
        && announcement.client_urls.iter().all(|url| url.len() <= MAX_URL_BYTES)
    {
        member.client_urls.clone_from(&announcement.client_urls);
    }
    true
}

/// The peer URLs that take the place of those in the list.
fn moved_to(list: &Membership, at: usize, urls: &[String]) -> Option<Vec<String>> {
    let member = &list.members[at];
    if urls.iter().all(|url| member.peer_urls.contains(url)) {
        return None;
    }
    let of_another =
        |url| list.members.iter().any(|other| other.id != member.id && other.peer_urls.contains(url));
    if let Err(why) = check_peer_urls(urls) {
        tracing::warn!(
            member = member.id,
            why,
            "a member announces peer URLs that cannot be; the old ones stay"
        );
        return None;
    }
    if let Some(url) = urls.iter().find(|url| of_another(url)) {
        tracing::warn!(
            member = member.id,
            url,
            "a member announces the peer URL of another; the old ones stay"
        );
        return None;
    }
    Some(urls.to_vec())
}

/// Whether a list read from a snapshot is in order: ids ascending, none at once a member and removed.
pub(crate) fn is_consistent(list: &Membership) -> bool {
    list.members.windows(2).all(|pair| pair[0].id < pair[1].id)
        && list.removed.windows(2).all(|pair| pair[0] < pair[1])
        && list.members.iter().all(|member| member.id != 0 && list.removed.binary_search(&member.id).is_err())
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
