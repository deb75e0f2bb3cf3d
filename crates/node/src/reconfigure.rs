//! Changes of the configuration, at the core: what the leader checks and proposes, what an entry does to everybody.
//!
//! One change is made after the other. For each request, oldest first, the leader
//!
//! 1. **checks** what only it can know ([`crate::oversight`]): that a majority of the voters that there would be answers
//!    it, and that a learner which is to vote has caught up. A reason (`force`) passes over this. A leader that is new
//!    waits for an election time-out before it refuses: it has not heard of everybody yet;
//! 2. **hands over** if it is to be removed itself, and its successor goes on: a leader outside of the configuration would
//!    go on sending heartbeats;
//! 3. **proposes** an entry. Whether the change can be is judged when that is applied, in log order, by all members alike
//!    ([`membership::judge`]); what a leader knows has no part in it.
//!
//! Several changes enter a joint configuration; whoever leads when that is applied proposes to leave it, as often as it
//! takes. A leader that is among those who go hands over first.

use std::sync::Arc;

use kvd_raftpb::codec;
use raft::eraftpb::{ConfChangeTransition, ConfChangeV2, Entry};

use crate::changes::{self, Answer, Wish};
use crate::core::{Core, Exit, Outside};
use crate::error::{Error, Fatal};
use crate::event::Event;
use crate::membership::{self, ChangeOutcome, MembershipChange, MembershipRequest, Refusal, Verdict};
use crate::shutdown::Phase;
use crate::state_machine::StateMachine;

/// What the leader's checks say.
enum Check {
    Good,
    /// It is too early to refuse.
    Wait,
    Refuse(Refusal),
}

impl<S: StateMachine> Core<S> {
    /// Does for the requests that need a leader what can be done now.
    pub(crate) fn move_changes_on(&mut self, out: &mut impl Outside<S>) {
        self.changes.applied(self.applied);
        let leader = self.raw.raft.leader_id;
        if self.is_leader() {
            self.lead_changes();
        } else if !self.changes.is_empty() && leader != raft::INVALID_ID {
            self.changes.does_not_lead();
            for ask in self.changes.questions(leader, self.now) {
                out.ask(ask);
            }
        }
    }

    fn lead_changes(&mut self) {
        // raft drops proposals meanwhile.
        if self.raw.raft.lead_transferee.is_some() {
            return;
        }
        // It was given up: whoever was to take over did not within an election time-out.
        if let Some((counter, to)) = self.changes.handed_to() {
            let refusal = Refusal::NotTakenOver { to, leader: self.config.id };
            self.changes.resolve(counter, Err(refusal.into()));
        }
        if self.raw.raft.has_pending_conf() {
            return;
        }
        if self.is_joint() {
            self.propose_to_leave_joint();
            return;
        }
        while let Some((counter, wish)) = self.changes.first() {
            let wish = wish.clone();
            let (check, hand_to) = match &wish {
                Wish::Change(request) => (self.check_change(request), None),
                Wish::Transfer(to) => self.check_transfer(*to),
            };
            match (check, hand_to) {
                (Check::Wait, _) => return,
                (Check::Refuse(refusal), _) => self.changes.resolve(counter, Err(refusal.into())),
                (Check::Good, Some(to)) if to == self.config.id => {
                    self.changes.resolve(counter, Ok(Answer::Leads(to)));
                }
                (Check::Good, Some(to)) => {
                    tracing::info!(to, "handing leadership over, as asked");
                    self.raw.transfer_leader(to);
                    self.changes.handing(counter, to);
                    return;
                }
                (Check::Good, None) => {
                    self.propose_change(counter, &wish);
                    return;
                }
            }
        }
    }

    fn propose_change(&mut self, counter: u64, wish: &Wish) {
        let going: Vec<u64> = match wish {
            Wish::Change(request) => request.changes.iter().filter_map(MembershipChange::removes).collect(),
            Wish::Transfer(_) => Vec::new(),
        };
        if going.contains(&self.config.id) && self.hand_over_to_other_than(&going) {
            return;
        }
        let Some(proposal) = self.changes.proposal(counter) else { return };
        // Refused only while too much is uncommitted; the next turn tries again.
        if self.raw.propose_conf_change(proposal.context, proposal.change).is_ok() {
            self.changes.proposed(counter, self.raw.raft.raft_log.last_index());
        }
    }

    fn propose_to_leave_joint(&mut self) {
        let id = self.config.id;
        let goes = self.state.membership.members.iter().any(|member| member.id == id && member.leaving);
        if goes && self.hand_over() {
            return;
        }
        if let Err(error) = self.raw.propose_conf_change(Vec::new(), ConfChangeV2::default()) {
            tracing::debug!(%error, "the joint configuration cannot be left yet");
        }
    }

    /// Whether raft's configuration is a joint one.
    fn is_joint(&self) -> bool {
        !self.conf_state.voters_outgoing.is_empty()
    }

    /// The leader's checks of a change.
    fn check_change(&self, request: &MembershipRequest) -> Check {
        if request.force.is_some() {
            return Check::Good;
        }
        let election = self.config.election_ticks as u64;
        let list = &self.state.membership;
        let before = membership::voters(list);
        let mut voters = before.clone();
        let mut behind = None;
        for change in &request.changes {
            match change {
                MembershipChange::Add { .. } => {}
                MembershipChange::Promote { id } => {
                    let learns = list.members.iter().any(|member| member.id == *id && member.learner);
                    if learns {
                        voters.push(*id);
                        behind = behind.or(Some(*id).filter(|id| !self.oversight.is_ready(*id)));
                    }
                }
                MembershipChange::Remove { id } => voters.retain(|voter| voter != id),
            }
        }
        let active = |id: &u64| *id == self.config.id || self.oversight.is_active(*id, election);
        let active: Vec<u64> = voters.iter().copied().filter(active).collect();
        let refusal = match behind {
            Some(id) => Some(Refusal::NotCaughtUp(id)),
            // That there is nobody left is for the verdict.
            None if voters != before && !voters.is_empty() && active.len() <= voters.len() / 2 => {
                Some(Refusal::LosesQuorum { voters, active })
            }
            None => None,
        };
        match refusal {
            None => Check::Good,
            Some(_) if !self.oversight.is_settled(election) => Check::Wait,
            Some(refusal) => Check::Refuse(refusal),
        }
    }

    /// The leader's checks of a transfer, and who is to lead.
    fn check_transfer(&self, to: Option<u64>) -> (Check, Option<u64>) {
        let id = self.config.id;
        let Some(to) = to.or_else(|| self.successor(&[])) else {
            let words = "there is no other voter that could lead; add a member first";
            return (Check::Refuse(Refusal::Invalid(words.into())), None);
        };
        let list = &self.state.membership;
        let refuse = |refusal| (Check::Refuse(refusal), None);
        if list.removed.binary_search(&to).is_ok() {
            return refuse(Refusal::Removed(to));
        }
        if !list.members.iter().any(|member| member.id == to) {
            return refuse(Refusal::Unknown(to));
        }
        let election = self.config.election_ticks as u64;
        let votes = membership::voters(list).contains(&to);
        if to == id || (votes && self.oversight.is_active(to, election)) {
            (Check::Good, Some(to))
        } else if votes && !self.oversight.is_settled(election) {
            (Check::Wait, None)
        } else {
            refuse(Refusal::NotTakenOver { to, leader: id })
        }
    }

    /// The voter with the longest log among those who stay, `going` not among them.
    fn successor(&self, going: &[u64]) -> Option<u64> {
        let id = self.config.id;
        let stay = membership::voters(&self.state.membership);
        let progress = self.raw.raft.prs();
        progress
            .iter()
            .filter(|(peer, _)| {
                let votes = progress.conf().voters().contains(**peer) && stay.contains(peer);
                **peer != id && votes && !going.contains(peer)
            })
            .max_by_key(|(peer, progress)| (progress.recent_active, progress.matched, **peer))
            .map(|(peer, _)| *peer)
    }

    /// Transfers leadership to the voter with the longest log. `false` if there is no other voter.
    pub(crate) fn hand_over(&mut self) -> bool {
        self.hand_over_to_other_than(&[])
    }

    /// As [`Self::hand_over`], but not to those that are about to be removed: they would have to hand over in their turn,
    /// and if nobody stays it would go round for ever. Then the change is for the verdict to refuse.
    fn hand_over_to_other_than(&mut self, going: &[u64]) -> bool {
        let best = self.successor(going);
        if let Some(peer) = best {
            tracing::info!(to = peer, "handing leadership over");
            self.raw.transfer_leader(peer);
        }
        best.is_some()
    }

    /// A tick of a leader: who answers, who has caught up.
    pub(crate) fn watch_over(&mut self) {
        let election = self.config.election_ticks as u64;
        self.oversight.tick(&self.raw.raft, election);
        self.progress = self.oversight.view(&self.raw.raft, election).into();
        let learns = |id: &u64| {
            self.state
                .membership
                .members
                .iter()
                .any(|member| member.id == *id && member.learner && !member.leaving)
        };
        if let Some(id) = self.oversight.ready().find(learns) {
            self.changes.promote(id, self.now);
        }
    }

    /// A tick of a member that does not lead.
    pub(crate) fn watch_nobody(&mut self) {
        self.oversight.forget();
        if !self.progress.is_empty() {
            self.progress = Arc::default();
        }
    }

    /// Applies an entry that changes the configuration.
    pub(crate) fn apply_change(&mut self, entry: &Entry, out: &mut impl Outside<S>) -> Result<(), Fatal> {
        let unreadable = |cause: String| Fatal::Entry { index: entry.index, cause };
        let change = codec::decode_conf_change(entry.get_entry_type(), &entry.data)
            .map_err(|e| unreadable(e.to_string()))?;
        self.lease.forget();
        if change.changes.is_empty() {
            self.conf_state = self.raw.apply_conf_change(&change)?;
            let gone = membership::leave_joint(Arc::make_mut(&mut self.state.membership));
            tracing::info!(removed = ?gone, index = entry.index, "the joint configuration is left");
            self.gone(&gone);
            self.list_changed(out);
            self.changes.joint_left(entry.index);
            return Ok(());
        }
        let proposed = changes::read(&change, &entry.context).ok_or_else(|| {
            unreadable("a membership change that this version does not know, or without its members".into())
        })?;
        let again = proposed.change.again;
        let verdict = membership::judge(&self.state.membership, self.is_joint(), &proposed.steps, again);
        let mut joint = false;
        let outcome = match verdict {
            Verdict::Change(change) => {
                joint = change.get_transition() == ConfChangeTransition::Explicit;
                self.conf_state =
                    self.raw.apply_conf_change(&membership::with_planted_bug(change.clone()))?;
                let forced = &proposed.change.forced;
                for single in change.changes.iter() {
                    let (member, kind, index) = (single.node_id, single.get_change_type(), entry.index);
                    if forced.is_empty() {
                        tracing::info!(member, change = ?kind, index, joint, "membership changed");
                    } else {
                        tracing::warn!(member, change = ?kind, index, joint, forced, "membership changed by force");
                    }
                }
                let before = self.state.membership.removed.len();
                let list = Arc::make_mut(&mut self.state.membership);
                membership::carry_out(list, &proposed.steps, joint);
                if list.removed.len() > before {
                    let gone: Vec<u64> = change.changes.iter().map(|single| single.node_id).collect();
                    self.gone(&gone);
                }
                self.list_changed(out);
                Ok(Answer::Changed(ChangeOutcome::Applied { index: entry.index }))
            }
            Verdict::AlreadySo => Ok(Answer::Changed(ChangeOutcome::AlreadySo)),
            Verdict::Refuse(refusal) => Err(Error::Refused(refusal)),
        };
        if self.changes.is_ours(&proposed.change) {
            match joint {
                true => self.changes.entered(proposed.change.counter),
                false => self.changes.resolve(proposed.change.counter, outcome),
            }
        }
        Ok(())
    }

    /// These members are removed.
    fn gone(&mut self, ids: &[u64]) {
        for id in ids {
            self.state.sessions.forget(*id);
            if *id == self.config.id {
                self.phase = Phase::Over(Exit::Removed);
            }
        }
    }

    fn list_changed(&mut self, out: &mut impl Outside<S>) {
        self.events.push(Event::Members { index: self.applied });
        self.members_changed(out);
    }

    /// A snapshot took the place of the state: what it covers has happened.
    pub(crate) fn changes_installed(&mut self) {
        if !self.is_joint() {
            self.changes.joint_left(self.applied);
        }
        self.changes.applied(self.applied);
    }
}
