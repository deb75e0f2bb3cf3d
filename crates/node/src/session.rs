//! Exactly once: recognises commands that were applied already.
//!
//! A proposal that is forwarded to a leader can vanish with it, so its proposer sends it again, and then it may be in
//! the log twice. Each command carries (member, boot, counter). `boot` ascends with each start of a member's process
//! and `counter` with each command of that boot, so a command is a duplicate iff its counter was seen in this boot.
//!
//! Memory is bounded by the proposer's *floor*: it travels in each batch and promises that every counter below it was
//! answered and will not be sent again. What lies below the floor is forgotten, and dropped if it still arrives.
//! The scheme is section 6.3 of the Raft thesis, with members as the clients.
//!
//! Sessions are replicated state: every member changes them alike, and each snapshot carries them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kvd_raftpb::node;

/// The largest distance between a boot's floor and its newest counter, in commands. A proposer stops at it
/// ([`crate::Error::Overloaded`]), so no result that somebody waits for can be forgotten.
pub const WINDOW: u64 = 16 * 1024;

/// A remembered result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The index of the raft entry that applied the command.
    pub index: u64,
    /// What the state machine answered.
    pub response: Bytes,
}

/// What is to be done with a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Apply it, then [`Sessions::record`] its result.
    Fresh,
    /// It was applied or given up before: change nothing.
    Seen,
}

#[derive(Debug, Clone, Default)]
struct Session {
    boot: u64,
    /// Counter of `results[0]`.
    floor: u64,
    results: VecDeque<Option<Applied>>,
}

impl Session {
    fn raise_floor(&mut self, floor: u64) {
        while self.floor < floor && self.results.pop_front().is_some() {
            self.floor += 1;
        }
        self.floor = self.floor.max(floor);
    }
}

/// The sessions of all members.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions {
    members: BTreeMap<u64, Session>,
}

impl Sessions {
    /// Opens the member's session of that boot, and drops the results below its floor. `false`: the batch comes from
    /// an earlier boot, whose waiters are gone; none of its commands may be applied any more.
    pub(crate) fn begin(&mut self, member: u64, boot: u64, floor: u64) -> bool {
        let session = self.members.entry(member).or_default();
        if boot < session.boot {
            return false;
        }
        if boot > session.boot {
            *session = Session { boot, floor, results: VecDeque::new() };
        }
        session.raise_floor(floor);
        true
    }

    /// Whether the command is new to the member's current session.
    pub(crate) fn admit(&self, member: u64, counter: u64) -> Admission {
        let Some(session) = self.members.get(&member) else { return Admission::Seen };
        let Some(at) = counter.checked_sub(session.floor) else { return Admission::Seen };
        match session.results.get(at as usize) {
            _ if at >= WINDOW => Admission::Seen,
            Some(Some(_)) => Admission::Seen,
            _ => Admission::Fresh,
        }
    }

    /// Keeps the result of a command that [`Self::admit`] called fresh.
    pub(crate) fn record(&mut self, member: u64, counter: u64, applied: Applied) {
        let Some(session) = self.members.get_mut(&member) else { return };
        let at = (counter - session.floor) as usize;
        if session.results.len() <= at {
            session.results.resize(at + 1, None);
        }
        session.results[at] = Some(applied);
    }

    /// The result of a command of that boot, if it was applied and is still kept.
    pub(crate) fn result(&self, member: u64, boot: u64, counter: u64) -> Option<&Applied> {
        let session = self.members.get(&member).filter(|session| session.boot == boot)?;
        session.results.get(counter.checked_sub(session.floor)? as usize)?.as_ref()
    }

    /// Forgets a member that was removed.
    pub(crate) fn forget(&mut self, member: u64) {
        self.members.remove(&member);
    }

    pub(crate) fn to_pb(&self) -> Vec<node::Session> {
        self.members
            .iter()
            .map(|(&member, session)| node::Session {
                member,
                boot: session.boot,
                floor: session.floor,
                results: (session.floor..)
                    .zip(&session.results)
                    .filter_map(|(counter, result)| {
                        let applied = result.as_ref()?;
                        Some(node::Result {
                            counter,
                            index: applied.index,
                            response: applied.response.clone(),
                        })
                    })
                    .collect(),
            })
            .collect()
    }

    /// The reverse of [`Self::to_pb`]; `None` if the parts contradict each other.
    pub(crate) fn from_pb(sessions: Vec<node::Session>) -> Option<Self> {
        let mut out = Self::default();
        for from in sessions {
            let mut session = Session { boot: from.boot, floor: from.floor, results: VecDeque::new() };
            for result in from.results {
                let at = result.counter.checked_sub(from.floor).filter(|at| *at < WINDOW)? as usize;
                if at < session.results.len() {
                    return None;
                }
                session.results.resize(at + 1, None);
                session.results[at] = Some(Applied { index: result.index, response: result.response });
            }
            out.members.insert(from.member, session);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(index: u64) -> Applied {
        Applied { index, response: Bytes::from(index.to_string()) }
    }

    /// Applies a batch the way the node does and returns the counters that were fresh.
    fn apply(sessions: &mut Sessions, boot: u64, floor: u64, counters: &[u64]) -> Vec<u64> {
        if !sessions.begin(1, boot, floor) {
            return Vec::new();
        }
        let mut fresh = Vec::new();
        for &counter in counters {
            if sessions.admit(1, counter) == Admission::Fresh {
                sessions.record(1, counter, applied(counter));
                fresh.push(counter);
            }
        }
        fresh
    }

    #[test]
    fn a_command_is_fresh_once() {
        let mut sessions = Sessions::default();
        assert_eq!(apply(&mut sessions, 1, 0, &[0, 1, 2]), [0, 1, 2]);
        assert_eq!(apply(&mut sessions, 1, 0, &[1, 2, 3]), [3]);
        assert_eq!(sessions.result(1, 1, 2), Some(&applied(2)));
    }

    #[test]
    fn what_lies_below_the_floor_is_forgotten_and_never_applied_again() {
        let mut sessions = Sessions::default();
        apply(&mut sessions, 1, 0, &[0, 1, 2, 5]);
        assert_eq!(apply(&mut sessions, 1, 4, &[6]), [6]);
        assert_eq!(sessions.result(1, 1, 2), None);
        assert_eq!(sessions.result(1, 1, 5), Some(&applied(5)));
        assert_eq!(apply(&mut sessions, 1, 4, &[2, 3, 4, 5]), [4]);
    }

    #[test]
    fn a_late_batch_with_an_older_floor_does_not_lower_it() {
        let mut sessions = Sessions::default();
        apply(&mut sessions, 1, 10, &[10]);
        assert_eq!(apply(&mut sessions, 1, 3, &[3, 9, 11]), [11]);
    }

    #[test]
    fn an_earlier_boot_is_refused_and_a_later_one_starts_afresh() {
        let mut sessions = Sessions::default();
        apply(&mut sessions, 2, 0, &[0, 1]);
        assert_eq!(apply(&mut sessions, 1, 0, &[2]), []);
        assert_eq!(apply(&mut sessions, 3, 0, &[0]), [0]);
        assert_eq!(sessions.result(1, 2, 1), None);
    }

    #[test]
    fn the_window_is_bounded() {
        let mut sessions = Sessions::default();
        assert_eq!(apply(&mut sessions, 1, 5, &[5 + WINDOW - 1]), [5 + WINDOW - 1]);
        assert_eq!(apply(&mut sessions, 1, 5, &[5 + WINDOW]), []);
        assert_eq!(apply(&mut sessions, 1, 6, &[5 + WINDOW]), [5 + WINDOW]);
    }

    #[test]
    fn a_floor_beyond_every_result_empties_the_window() {
        let mut sessions = Sessions::default();
        apply(&mut sessions, 1, 0, &[0, 1]);
        assert_eq!(apply(&mut sessions, 1, 100, &[99, 100]), [100]);
    }

    #[test]
    fn sessions_survive_a_snapshot() {
        let mut sessions = Sessions::default();
        apply(&mut sessions, 7, 3, &[3, 5, 9]);
        let mut copy = Sessions::from_pb(sessions.to_pb()).unwrap();
        assert_eq!(copy.to_pb(), sessions.to_pb());
        assert_eq!(apply(&mut copy, 7, 3, &[3, 4, 5, 9]), [4]);
    }

    #[test]
    fn contradictory_sessions_are_refused() {
        let result = |counter| node::Result { counter, index: 1, response: Bytes::new() };
        let session = |results| node::Session { member: 1, boot: 1, floor: 5, results };
        for bad in [
            vec![result(4)],
            vec![result(5 + WINDOW)],
            vec![result(6), result(6)],
            vec![result(7), result(6)],
        ] {
            assert!(Sessions::from_pb(vec![session(bad)]).is_none());
        }
        assert!(Sessions::from_pb(vec![session(vec![result(5), result(5 + WINDOW - 1)])]).is_some());
    }
}
