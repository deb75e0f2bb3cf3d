//! Requests that only a leader can carry out (membership changes, a transfer of leadership), on their way to an answer.
//!
//! ```text
//!             +--------------- not done, a new leader ----------------+
//!             v                                                       |
//!   push -> Waiting -- at a follower --> Asked (a peer call) ---------+--> Known -- applied here --> answered
//!             |                                                       
//!             +-- at the leader, one at a time --> Proposed -- applied --> answered
//!             |          ^                            |  '-- several members --> Entered -- joint left --> answered
//!             |          '--- lost with leadership ---'
//!             '-- a transfer --> Handing -- a leader is known --> answered
//! ```
//!
//! A request whose answer was lost is made again, marked so: changes are judged when they are applied, so one that
//! happened before is found to be so already. At its deadline a request is answered in any case: that nothing was done,
//! or that this is unknown.

use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use kvd_raftpb::node::{Member, MemberChange};
use kvd_raftpb::peers::CallError;
use prost::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use crate::error::Error;
use crate::inbox::Request;
use crate::leader_call;
use crate::membership::{ChangeOutcome, MembershipChange, MembershipRequest, Refusal, Step};

/// How long a request waits before it is made again at a leader that did not take it.
const RETRY: Duration = Duration::from_millis(500);

/// How long the leader tries to promote a learner before it looks again whether it has caught up.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    Change(MembershipRequest),
    /// This member is to lead; `None`: whoever has the longest log.
    Transfer(Option<u64>),
}

/// A good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Changed(ChangeOutcome),
    /// This member leads.
    Leads(u64),
}

pub(crate) type Reply = oneshot::Sender<Result<Answer, Error>>;

/// A question for the leader; the answer comes back as `Done::Answered` with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Names the question.
    pub number: u64,
    /// The leader.
    pub to: u64,
    /// What its [`kvd_raftpb::peers::PeerHandler::answer`] is given.
    pub request: Bytes,
    /// How long the answer is waited for.
    pub limit: Duration,
}

#[derive(Debug)]
enum Stage {
    /// For a leader, or for its turn at this one.
    Waiting,
    /// This leader, by the call of this number.
    Asked { number: u64, leader: u64 },
    /// In this leader's log at this index, if that is not overwritten.
    Proposed(u64),
    /// The joint configuration is entered and not left.
    Entered,
    /// Leadership is on its way to this member.
    Handing(u64),
    /// The leader has answered; it holds here once this index is applied.
    Known(Answer, u64),
}

struct Pending {
    counter: u64,
    wish: Wish,
    deadline: Duration,
    /// `None` for a promotion that nobody has asked for.
    reply: Option<Reply>,
    /// It came from another member, which asks somebody else if this one does not lead.
    of_peer: bool,
    /// It was asked for before.
    again: bool,
    /// It may have been done.
    tried: bool,
    retry_at: Duration,
    stage: Stage,
}

impl Pending {
    fn answer(self, result: Result<Answer, Error>) {
        if let Some(reply) = self.reply {
            // The caller may be gone; then nobody wants the answer.
            let _ = reply.send(result);
        }
    }

    /// Goes back to where it began, after something that may have done it.
    fn ask_again(&mut self) {
        (self.stage, self.again, self.tried) = (Stage::Waiting, true, true);
        self.retry_at = Duration::ZERO;
    }
}

/// A membership entry as raft takes it.
pub(crate) struct Proposal {
    /// A [`MemberChange`].
    pub(crate) context: Vec<u8>,
    pub(crate) change: ConfChangeV2,
}

pub(crate) struct Changes {
    member: u64,
    boot: u64,
    /// Counts requests and questions.
    last_number: u64,
    limit: usize,
    pending: Vec<Pending>,
}

impl Changes {
    pub(crate) fn new(member: u64, boot: u64, limit: usize) -> Self {
        Self { member, boot, last_number: 0, limit, pending: Vec::new() }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(crate) fn push(&mut self, request: Request, now: Duration) {
        if self.pending.len() >= self.limit {
            let _ = request.reply.send(Err(Error::Overloaded));
            return;
        }
        let counter = self.next_number();
        self.pending.push(Pending {
            counter,
            wish: request.wish,
            deadline: now + request.timeout,
            reply: Some(request.reply),
            of_peer: request.of_peer,
            again: request.again,
            tried: false,
            retry_at: Duration::ZERO,
            stage: Stage::Waiting,
        });
    }

    /// Wants a learner promoted, unless something is pending.
    pub(crate) fn promote(&mut self, id: u64, now: Duration) {
        if self.pending.is_empty() {
            let counter = self.next_number();
            self.pending.push(Pending {
                counter,
                wish: Wish::Change(MembershipChange::Promote { id }.into()),
                deadline: now + PROMOTION_TIMEOUT,
                reply: None,
                of_peer: false,
                again: false,
                tried: false,
                retry_at: Duration::ZERO,
                stage: Stage::Waiting,
            });
        }
    }

    /// Whether there is nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether somebody waits for an answer. For a promotion nobody does.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.pending.iter().any(|pending| pending.reply.is_some())
    }

    // --- at the leader

    /// The next request for this leader, if none is under way: its counter, and what is asked for.
    pub(crate) fn first(&self) -> Option<(u64, &Wish)> {
        let under_way =
            |stage: &Stage| matches!(stage, Stage::Proposed(_) | Stage::Entered | Stage::Handing(_));
        if self.pending.iter().any(|pending| under_way(&pending.stage)) {
            return None;
        }
        let first = self.pending.iter().find(|pending| matches!(pending.stage, Stage::Waiting))?;
        Some((first.counter, &first.wish))
    }

    /// The entry for a request of [`Self::first`].
    pub(crate) fn proposal(&self, counter: u64) -> Option<Proposal> {
        let pending = self.pending.iter().find(|pending| pending.counter == counter)?;
        let Wish::Change(request) = &pending.wish else { return None };
        let mut changes: Vec<&MembershipChange> = request.changes.iter().collect();
        // Who comes is there before it is counted who is left.
        changes.sort_by_key(|change| match change {
            MembershipChange::Add { .. } => 0,
            MembershipChange::Promote { .. } => 1,
            MembershipChange::Remove { .. } => 2,
        });
        let single = |change: &&MembershipChange| {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(change.kind());
            single.node_id = change.id();
            single
        };
        let mut change = ConfChangeV2::default();
        change.set_changes(changes.iter().map(single).collect::<Vec<_>>().into());
        if changes.len() > 1 {
            change.set_transition(ConfChangeTransition::Explicit);
        }
        let member = |change: &&MembershipChange| match change {
            MembershipChange::Add { id, peer_urls } => {
                Member { id: *id, peer_urls: peer_urls.clone(), ..Member::default() }
            }
            other => Member { id: other.id(), ..Member::default() },
        };
        let context = MemberChange {
            proposer: self.member,
            boot: self.boot,
            counter,
            members: changes.iter().map(member).collect(),
            forced: request.force.clone().unwrap_or_default(),
            again: pending.again,
        };
        Some(Proposal { context: context.encode_to_vec(), change })
    }

    /// raft took the proposal; it is the entry at `index`.
    pub(crate) fn proposed(&mut self, counter: u64, index: u64) {
        self.with(counter, |pending| {
            (pending.stage, pending.tried) = (Stage::Proposed(index), true);
        });
    }

    /// Leadership is on its way to member `to`.
    pub(crate) fn handing(&mut self, counter: u64, to: u64) {
        self.with(counter, |pending| (pending.stage, pending.tried) = (Stage::Handing(to), true));
    }

    /// Whom leadership is on its way to because somebody asked for it.
    pub(crate) fn handed_to(&self) -> Option<(u64, u64)> {
        self.pending.iter().find_map(|pending| match pending.stage {
            Stage::Handing(to) => Some((pending.counter, to)),
            _ => None,
        })
    }

    /// Answers a request.
    pub(crate) fn resolve(&mut self, counter: u64, result: Result<Answer, Error>) {
        if let Some(at) = self.pending.iter().position(|pending| pending.counter == counter) {
            self.pending.remove(at).answer(result);
        }
    }

    /// Whether an entry is one of this start of this member.
    pub(crate) fn is_ours(&self, change: &MemberChange) -> bool {
        (change.proposer, change.boot) == (self.member, self.boot)
    }

    /// The joint configuration of this request is entered.
    pub(crate) fn entered(&mut self, counter: u64) {
        self.with(counter, |pending| pending.stage = Stage::Entered);
    }

    /// No joint configuration is in force any more, as of `index`.
    pub(crate) fn joint_left(&mut self, index: u64) {
        for pending in self.pending.extract_if(.., |pending| matches!(pending.stage, Stage::Entered)) {
            pending.answer(Ok(Answer::Changed(ChangeOutcome::Applied { index })));
        }
    }

    fn with(&mut self, counter: u64, change: impl FnOnce(&mut Pending)) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.counter == counter) {
            change(pending);
        }
    }

    // --- at a follower

    /// This member does not lead: its own promotions are not its business, and peers have to ask somebody else.
    pub(crate) fn does_not_lead(&mut self) {
        let others = |pending: &mut Pending| {
            (pending.of_peer || pending.reply.is_none()) && matches!(pending.stage, Stage::Waiting)
        };
        for pending in self.pending.extract_if(.., others) {
            let error = match pending.tried {
                true => Error::Unknown { reason: "the leader that proposed it has lost the leadership" },
                false => Error::NoLeader,
            };
            pending.answer(Err(error));
        }
    }

    /// The questions that are due for the leader `to`.
    pub(crate) fn questions(&mut self, to: u64, now: Duration) -> Vec<Ask> {
        let mut questions = Vec::new();
        let mut number = self.last_number;
        for pending in &mut self.pending {
            if matches!(pending.stage, Stage::Waiting) && now >= pending.retry_at && now < pending.deadline {
                number += 1;
                pending.stage = Stage::Asked { number, leader: to };
                let request = leader_call::encode_request(&pending.wish, pending.again);
                questions.push(Ask { number, to, request, limit: pending.deadline - now });
            }
        }
        self.last_number = number;
        questions
    }

    /// What came of a question. Answers to questions that were asked anew are ignored.
    pub(crate) fn answered(&mut self, number: u64, answer: Result<Bytes, CallError>, now: Duration) {
        let asked = |pending: &Pending| matches!(pending.stage, Stage::Asked { number: asked, .. } if asked == number);
        let Some(at) = self.pending.iter().position(asked) else { return };
        let pending = &mut self.pending[at];
        match answer.and_then(leader_call::decode_answer) {
            Ok(Ok(answer)) => {
                let index = match answer {
                    Answer::Changed(ChangeOutcome::Applied { index }) => index,
                    Answer::Changed(ChangeOutcome::AlreadySo) | Answer::Leads(_) => 0,
                };
                pending.stage = Stage::Known(answer, index);
            }
            Ok(Err(error)) => self.pending.remove(at).answer(Err(error)),
            Err(error) => {
                tracing::debug!(%error, "the leader did not answer");
                if matches!(error, CallError::Unknown { .. }) {
                    pending.ask_again();
                }
                (pending.stage, pending.retry_at) = (Stage::Waiting, now + RETRY);
            }
        }
    }

    // --- at every member

    /// A new leader is known.
    pub(crate) fn new_leader(&mut self, leader: u64) {
        for pending in &mut self.pending {
            match (&pending.stage, &pending.wish) {
                (Stage::Waiting, _) => pending.retry_at = Duration::ZERO,
                // It was to hand over, to anybody or to this one, and did.
                (Stage::Asked { leader: last, .. }, Wish::Transfer(to))
                    if to.map_or(*last != leader, |to| to == leader) =>
                {
                    pending.stage = Stage::Known(Answer::Leads(leader), 0);
                }
                // The one that was asked may be gone.
                (Stage::Asked { .. }, _) => pending.ask_again(),
                _ => {}
            }
        }
        while let Some((counter, to)) = self.handed_to() {
            let refused = Refusal::NotTakenOver { to, leader };
            self.resolve(counter, if to == leader { Ok(Answer::Leads(to)) } else { Err(refused.into()) });
        }
    }

    /// Everything up to this index is applied here.
    pub(crate) fn applied(&mut self, applied: u64) {
        for pending in &mut self.pending {
            // Another leader's entry has its place, or a snapshot covers it.
            if matches!(pending.stage, Stage::Proposed(index) if index <= applied) {
                pending.ask_again();
            }
        }
        let holds =
            |pending: &mut Pending| matches!(pending.stage, Stage::Known(_, index) if index <= applied);
        for mut pending in self.pending.extract_if(.., holds) {
            if let Stage::Known(answer, _) = std::mem::replace(&mut pending.stage, Stage::Waiting) {
                pending.answer(Ok(answer));
            }
        }
    }

    /// This member learnt that it was removed, perhaps from others: whoever asked for that has what was asked for.
    pub(crate) fn removed(&mut self, id: u64, index: u64) {
        let asked = |pending: &mut Pending| matches!(&pending.wish, Wish::Change(request) if request.changes == [MembershipChange::Remove { id }]);
        for pending in self.pending.extract_if(.., asked) {
            pending.answer(Ok(Answer::Changed(ChangeOutcome::Applied { index })));
        }
    }

    /// Answers what is overdue.
    pub(crate) fn expire(&mut self, now: Duration) {
        let maybe =
            Error::Unknown { reason: "the change was proposed and has no result within the deadline" };
        self.answer_where(|pending| now >= pending.deadline, &Error::NoLeader, &maybe);
    }

    /// Answers everybody: `never` to those whose request was never made, `maybe` to the rest.
    pub(crate) fn fail_all(&mut self, never: &Error, maybe: &Error) {
        self.answer_where(|_| true, never, maybe);
    }

    fn answer_where(&mut self, which: impl Fn(&Pending) -> bool, never: &Error, maybe: &Error) {
        for pending in self.pending.extract_if(.., |pending| which(pending)) {
            let result = match &pending.stage {
                // Done, though not seen here yet.
                Stage::Known(answer, _) => Ok(answer.clone()),
                Stage::Asked { .. } => Err(maybe.clone()),
                _ if pending.tried => Err(maybe.clone()),
                _ => Err(never.clone()),
            };
            pending.answer(result);
        }
    }
}

/// A membership entry as it was proposed: what raft is to do, and what the member list is to say.
pub(crate) struct Proposed {
    pub(crate) change: MemberChange,
    pub(crate) steps: Vec<Step>,
}

/// Reads an entry of some changes. `None` if it is not one that [`Changes::proposal`] can have made.
pub(crate) fn read(change: &ConfChangeV2, context: &[u8]) -> Option<Proposed> {
    let mut context = MemberChange::decode(context).ok()?;
    let members = std::mem::take(&mut context.members);
    let explicit = change.get_transition() == ConfChangeTransition::Explicit;
    if members.len() != change.changes.len() || explicit != (members.len() > 1) {
        return None;
    }
    let kinds = change.changes.iter().map(|single| (single.get_change_type(), single.node_id));
    let steps = kinds.zip(members);
    let steps = steps.map(|((kind, id), member)| (member.id == id).then_some((kind, member)));
    Some(Proposed { change: context, steps: steps.collect::<Option<Vec<(ConfChangeType, Member)>>>()? })
}
