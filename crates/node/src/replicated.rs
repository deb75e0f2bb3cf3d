//! Everything that the log decides: the user's state machine, the member list, and the retry sessions.
//!
//! They change together, are frozen together and are restored together, so that a snapshot is never newer in one
//! part than in another. A snapshot's body is
//!
//! ```text
//! u32 LE length | kvd.node.NodeState (prost): members, sessions | the state machine's own bytes
//! ```

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use kvd_mutation::{Bug, planted};
use kvd_raftpb::node::{Batch, Membership, NodeState};
use prost::Message as _;

use crate::membership;
use crate::session::{Admission, Applied, Sessions};
use crate::state_machine::{StateMachine, View};

/// The longest [`NodeState`] that is read back, in bytes: a full window of results for each of some members.
const MAX_NODE_STATE: u32 = 256 << 20;

pub(crate) struct Replicated<S> {
    pub(crate) membership: Arc<Membership>,
    pub(crate) sessions: Sessions,
    pub(crate) machine: S,
}

impl<S: StateMachine> Replicated<S> {
    /// Applies the commands of a batch that were not applied before. `answer(counter, result)` is called for each. Says
    /// whether the member list changed: the first batch of a start makes that start known.
    ///
    /// A batch from somebody who is not a member changes nothing: a member's retries must not outlive its removal.
    pub(crate) fn apply(&mut self, batch: Batch, index: u64, mut answer: impl FnMut(u64, &Applied)) -> bool {
        let member = batch.member;
        let known = self.membership.members.binary_search_by_key(&member, |m| m.id).is_ok();
        if !known || !self.sessions.begin(member, batch.boot, batch.floor) {
            return false;
        }
        let news = membership::hear_of(&mut self.membership, member, batch.boot, batch.announcement.as_ref());
        let mut counters = Vec::with_capacity(batch.commands.len());
        let mut payloads = Vec::with_capacity(batch.commands.len());
        for command in batch.commands {
            // Two commands of one batch never share a counter, unless the proposer is broken; the second is dropped.
            let repeated = counters.last().is_some_and(|last| *last >= command.counter);
            let fresh = self.sessions.admit(member, command.counter) == Admission::Fresh;
            if !repeated && (fresh || planted(Bug::DedupeIgnored)) {
                counters.push(command.counter);
                payloads.push(command.payload);
            }
        }
        if payloads.is_empty() {
            return news;
        }
        let responses = self.machine.apply(&payloads, index);
        assert_eq!(
            responses.len(),
            payloads.len(),
            "StateMachine::apply returns one response for each command"
        );
        for (counter, response) in counters.into_iter().zip(responses) {
            let applied = Applied { index, response };
            answer(counter, &applied);
            self.sessions.record(member, counter, applied);
        }
        news
    }

    /// The state as of now, for a snapshot.
    pub(crate) fn freeze(&mut self) -> Frozen<S::View> {
        let mut sessions = self.sessions.to_pb();
        if planted(Bug::SnapshotWithoutSessions) {
            sessions.clear();
        }
        Frozen {
            node: NodeState { membership: Some((*self.membership).clone()), sessions },
            view: self.machine.freeze(),
        }
    }

    /// Replaces everything by what a snapshot held.
    pub(crate) fn install(&mut self, restored: Restored<S::Restored>) {
        self.membership = Arc::new(restored.membership);
        if !planted(Bug::InstallKeepsSessions) {
            self.sessions = restored.sessions;
        }
        self.machine.install(restored.machine);
    }
}

/// The replicated state (members, sessions, state machine), frozen.
#[derive(Debug)]
pub struct Frozen<V> {
    node: NodeState,
    view: V,
}

impl<V: View> Frozen<V> {
    /// A state that nobody has written to, for a new cluster of these members.
    pub(crate) fn of(membership: Membership, view: V) -> Self {
        Self { node: NodeState { membership: Some(membership), sessions: Vec::new() }, view }
    }

    /// Streams the body of a snapshot.
    ///
    /// # Errors
    /// Whatever `out` answers.
    pub fn write(self, out: &mut dyn Write) -> io::Result<()> {
        let head = self.node.encode_to_vec();
        let len = u32::try_from(head.len()).ok().filter(|len| *len <= MAX_NODE_STATE);
        let len =
            len.ok_or_else(|| io::Error::other("the members and sessions outgrow a snapshot's head"))?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(&head)?;
        self.view.write(out)
    }
}

/// The replicated state as it was read back, not yet in place.
pub struct Restored<R> {
    pub(crate) membership: Membership,
    pub(crate) sessions: Sessions,
    pub(crate) machine: R,
}

impl<R> Restored<R> {
    /// Members and sessions, for whoever checks a snapshot from outside.
    pub fn node_state(&self) -> NodeState {
        NodeState { membership: Some(self.membership.clone()), sessions: self.sessions.to_pb() }
    }

    /// The state machine's part, for whoever checks a snapshot from outside.
    pub fn machine(&self) -> &R {
        &self.machine
    }
}

/// Reads the body of a snapshot.
pub(crate) fn restore<S: StateMachine>(reader: &mut dyn Read) -> io::Result<Restored<S::Restored>> {
    let (membership, sessions) = read_head(reader)?;
    Ok(Restored { membership, sessions, machine: S::restore(reader)? })
}

/// Reads the member list out of the body of a snapshot.
pub(crate) fn read_membership(reader: &mut dyn Read) -> io::Result<Membership> {
    Ok(read_head(reader)?.0)
}

fn read_head(reader: &mut dyn Read) -> io::Result<(Membership, Sessions)> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("snapshot's head: {what}"));
    let mut len = [0; 4];
    reader.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len > MAX_NODE_STATE {
        return Err(invalid("longer than any that was written"));
    }
    let mut head = Vec::new();
    reader.take(u64::from(len)).read_to_end(&mut head)?;
    if head.len() != len as usize {
        return Err(invalid("cut short"));
    }
    let state = NodeState::decode(Bytes::from(head)).map_err(|e| invalid(&e.to_string()))?;
    let membership = state.membership.ok_or_else(|| invalid("without a member list"))?;
    if !membership::is_consistent(&membership) {
        return Err(invalid("the member list contradicts itself"));
    }
    let sessions =
        Sessions::from_pb(state.sessions).ok_or_else(|| invalid("the sessions contradict themselves"))?;
    Ok((membership, sessions))
}
