//! The leader's lease: for how long after a round of heartbeats nobody else can lead.
//!
//! ```text
//!   round begins        a quorum has answered                            the lease ends
//!        |--------------------------|--------------------------------------------|
//!        0                          election_ticks - 2 ticks                 election_ticks - 1: votes are granted
//! ```
//! Whoever hears a leader grants no vote for `election_ticks` ticks of its own, of which the first may come at once; and
//! of the quorum that has answered everybody heard this leader after the round began. In ticks of the leader one more
//! must not have begun, and ticks come late at times: so the lease ends two ticks earlier.
//!
//! raft has a lease, too (`ReadOnlyOption::LeaseBased`), which lasts for as long as the leader believes that it leads.
//! It looks at that once in an election time-out: a leader that is cut off right after a look goes on for nearly two,
//! while the others wait for one.

use kvd_mutation::{Bug, planted};

use crate::core::Core;
use crate::state_machine::StateMachine;

/// Ticks that a lease is shorter than what the others wait.
const MARGIN: u64 = 2;

/// What is known of the lease. A round is a ReadIndex round of [`crate::read_index`].
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// Ticks so far.
    ticks: u64,
    /// The ticks when the newest round began.
    round: u64,
    /// The term, and the ticks when it began, of the newest round that a quorum has answered.
    held: Option<(u64, u64)>,
    /// A term in which somebody else was asked to lead, who then waits for nothing.
    given_up: u64,
}

impl Lease {
    pub(crate) fn tick(&mut self) {
        self.ticks += 1;
    }

    pub(crate) fn round_begins(&mut self) {
        self.round = self.ticks;
    }

    /// A quorum has answered the newest round, to the leader of that term.
    pub(crate) fn confirmed(&mut self, term: u64) {
        self.held = Some((term, self.round));
    }

    /// The configuration has changed: the quorum that answered is one no more.
    pub(crate) fn forget(&mut self) {
        self.held = None;
    }

    fn holds(&self, term: u64, election_ticks: u64) -> bool {
        let long = |begun: u64| self.ticks - begun + MARGIN < election_ticks || planted(Bug::LeaseOutlived);
        self.given_up != term && self.held.is_some_and(|(of, begun)| of == term && long(begun))
    }
}

impl<S: StateMachine> Core<S> {
    /// Answers the reads that wait, if the lease holds: what this leader has committed is all that anybody has.
    pub(crate) fn read_by_lease(&mut self) {
        let raft = &self.raw.raft;
        if raft.lead_transferee.is_some() {
            self.lease.given_up = raft.term;
        }
        let wanted = self.config.lease_reads && self.is_leader();
        let careless = planted(Bug::ReadWithoutRound) && self.is_leader();
        if careless || wanted && self.lease.holds(raft.term, self.config.election_ticks as u64) {
            self.reads.confirm_all(raft.raft_log.committed, self.now);
            self.reads.applied(self.applied);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_two_ticks_before_votes_may_be_granted() {
        let mut lease = Lease::default();
        lease.tick();
        assert!(!lease.holds(3, 10));
        lease.round_begins();
        lease.confirmed(3);
        for ticks in 0..=9 {
            assert_eq!(lease.holds(3, 10), ticks <= 7, "{ticks}");
            lease.tick();
        }
    }

    #[test]
    fn a_lease_counts_from_the_beginning_of_its_round() {
        let mut lease = Lease::default();
        lease.round_begins();
        (0..7).for_each(|_| lease.tick());
        lease.confirmed(3);
        assert!(lease.holds(3, 10));
        lease.tick();
        assert!(!lease.holds(3, 10));
    }

    #[test]
    fn a_lease_is_of_one_term_and_ends_with_the_configuration_or_a_transfer() {
        let mut lease = Lease::default();
        lease.round_begins();
        lease.confirmed(3);
        assert!(lease.holds(3, 10) && !lease.holds(4, 10));
        lease.forget();
        assert!(!lease.holds(3, 10));
        lease.confirmed(3);
        assert!(lease.holds(3, 10));
        lease.given_up = 3;
        lease.confirmed(3);
        assert!(!lease.holds(3, 10));
        lease.confirmed(4);
        assert!(lease.holds(4, 10));
    }

    #[test]
    fn there_is_no_lease_with_a_time_out_that_is_too_short_for_one() {
        for (election_ticks, holds) in [(1, false), (2, false), (3, true)] {
            let mut lease = Lease::default();
            lease.confirmed(1);
            assert_eq!(lease.holds(1, election_ticks), holds, "{election_ticks}");
        }
    }
}
