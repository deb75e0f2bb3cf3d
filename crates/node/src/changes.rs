//! Membership changes on their way to the log.
//!
//! raft takes one at a time: another becomes an empty entry that names nobody, so whoever has no answer proposes again. That is safe, because a change that was applied
//! already changes nothing ([`crate::membership`] judges each entry when it is applied).

use std::time::Duration;

use futures_channel::oneshot;
use kvd_raftpb::node::{Member, MemberChange};
use prost::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};

use crate::error::Error;
use crate::inbox::Change;
use crate::membership::{ChangeOutcome, MembershipChange};

/// How long a proposed change waits before it is proposed again.
const RETRY: Duration = Duration::from_millis(500);

/// How long the leader tries to promote a learner before it looks again whether it has caught up.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(5);

type Reply = oneshot::Sender<Result<ChangeOutcome, Error>>;

struct Pending {
    counter: u64,
    kind: ConfChangeType,
    subject: Member,
    deadline: Duration,
    /// `None` for a promotion, which nobody waits for.
    reply: Option<Reply>,
    proposed: bool,
    retry_at: Duration,
}

/// A change that is due, as raft takes it.
pub(crate) struct Due {
    pub(crate) kind: ConfChangeType,
    pub(crate) subject: u64,
    /// The entry's context: a [`MemberChange`].
    pub(crate) context: Vec<u8>,
    /// The entry's data.
    pub(crate) change: ConfChangeV2,
}

pub(crate) struct Changes {
    member: u64,
    boot: u64,
    next_counter: u64,
    limit: usize,
    /// The counter of the change that was handed out last.
    last_due: u64,
    pending: Vec<Pending>,
}

impl Changes {
    pub(crate) fn new(member: u64, boot: u64, limit: usize) -> Self {
        Self { member, boot, next_counter: 0, limit, last_due: 0, pending: Vec::new() }
    }

    pub(crate) fn push(&mut self, change: Change, now: Duration) {
        if self.pending.len() >= self.limit {
            let _ = change.reply.send(Err(Error::Overloaded));
            return;
        }
        let (kind, id, peer_urls) = match change.change {
            MembershipChange::Add { id, peer_urls } => (ConfChangeType::AddLearnerNode, id, peer_urls),
            MembershipChange::Remove { id } => (ConfChangeType::RemoveNode, id, Vec::new()),
        };
        let subject = Member { id, peer_urls, ..Member::default() };
        self.add(kind, subject, now + change.timeout, Some(change.reply));
    }

    /// Wants a learner promoted. Does nothing while anything is pending.
    pub(crate) fn promote(&mut self, id: u64, now: Duration) {
        if self.pending.is_empty() {
            let subject = Member { id, ..Member::default() };
            self.add(ConfChangeType::AddNode, subject, now + PROMOTION_TIMEOUT, None);
        }
    }

    fn add(&mut self, kind: ConfChangeType, subject: Member, deadline: Duration, reply: Option<Reply>) {
        let counter = self.next_counter;
        self.next_counter += 1;
        let retry_at = Duration::ZERO;
        self.pending.push(Pending { counter, kind, subject, deadline, reply, proposed: false, retry_at });
    }

    /// The change to propose now, if there is one. It is not handed out again before its pause is over.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Due> {
        let pending = self.pending.iter_mut().find(|pending| now >= pending.retry_at)?;
        pending.retry_at = now + RETRY;
        self.last_due = pending.counter;
        let mut single = ConfChangeSingle::default();
        single.set_change_type(pending.kind);
        single.node_id = pending.subject.id;
        let mut change = ConfChangeV2::default();
        change.set_changes(vec![single].into());
        let context = MemberChange {
            proposer: self.member,
            boot: self.boot,
            counter: pending.counter,
            member: Some(pending.subject.clone()),
        };
        Some(Due {
            kind: pending.kind,
            subject: pending.subject.id,
            context: context.encode_to_vec(),
            change,
        })
    }

    /// raft took the change that [`Self::due`] returned last.
    pub(crate) fn proposed(&mut self) {
        let last_due = self.last_due;
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.counter == last_due) {
            pending.proposed = true;
        }
    }

    /// Whether somebody waits for an answer. For a promotion nobody does.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.pending.iter().any(|pending| pending.reply.is_some())
    }

    /// A new leader may not have what the last one was sent.
    pub(crate) fn propose_again(&mut self) {
        for pending in &mut self.pending {
            pending.retry_at = Duration::ZERO;
        }
    }

    /// The entry of this change was applied. Changes of other members and boots are ignored.
    pub(crate) fn resolve(&mut self, change: &MemberChange, outcome: Result<ChangeOutcome, Error>) {
        if (change.proposer, change.boot) == (self.member, self.boot)
            && let Some(at) = self.pending.iter().position(|pending| pending.counter == change.counter)
            && let Some(reply) = self.pending.remove(at).reply
        {
            let _ = reply.send(outcome);
        }
    }

    /// This member learnt that it was removed, perhaps from others: whoever asked for that has what was asked for.
    pub(crate) fn removed(&mut self, id: u64, index: u64) {
        let asked =
            |pending: &mut Pending| pending.kind == ConfChangeType::RemoveNode && pending.subject.id == id;
        for pending in self.pending.extract_if(.., asked) {
            if let Some(reply) = pending.reply {
                let _ = reply.send(Ok(ChangeOutcome::Applied { index }));
            }
        }
    }

    /// Answers what is overdue.
    pub(crate) fn expire(&mut self, now: Duration) {
        let maybe =
            Error::Unknown { reason: "the change was proposed and has no result within the deadline" };
        self.answer_where(|pending| now >= pending.deadline, &Error::NoLeader, &maybe);
    }

    /// Answers everybody: `never` to those whose change was never proposed, `maybe` to the rest.
    pub(crate) fn fail_all(&mut self, never: &Error, maybe: &Error) {
        self.answer_where(|_| true, never, maybe);
    }

    fn answer_where(&mut self, which: impl Fn(&Pending) -> bool, never: &Error, maybe: &Error) {
        for pending in self.pending.extract_if(.., |pending| which(pending)) {
            if let Some(reply) = pending.reply {
                let _ = reply.send(Err(if pending.proposed { maybe } else { never }.clone()));
            }
        }
    }
}

/// A membership entry as it was proposed: what raft is to do, and what the member list is to say.
pub(crate) struct Proposed {
    pub(crate) kind: ConfChangeType,
    pub(crate) change: MemberChange,
    pub(crate) subject: Member,
}

/// Reads the entry of one change. `None` if it is not one that [`Changes::due`] can have made.
pub(crate) fn read(change: &ConfChangeV2, context: &[u8]) -> Option<Proposed> {
    let [single] = change.changes.as_ref() else { return None };
    let context = MemberChange::decode(context).ok()?;
    let subject = context.member.clone().filter(|subject| subject.id == single.node_id)?;
    Some(Proposed { kind: single.get_change_type(), change: context, subject })
}
