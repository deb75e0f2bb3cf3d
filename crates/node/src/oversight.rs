//! What a leader knows of the others, in its own ticks: who answers, and which learner has caught up.
//!
//! # Who answers
//! raft marks a peer as active when it hears of it, and takes every mark off once in an election time-out. Here a peer
//! answers if it was marked within the last half of one: time enough for the next heartbeat after the marks were taken
//! off. So a peer that is gone is known to be after one and a half election time-outs at most.
//!
//! # Who has caught up
//! By rounds (Raft thesis, 4.2.1): a round lasts until the learner has all that the leader had when the round began. A
//! learner that needs less than an election time-out for one is close enough behind: as a voter it holds nothing up for
//! longer than an election does. After [`MAX_ROUNDS`] rounds that took longer it is given a rest of as many election
//! time-outs, and begins anew: writes come faster than it takes them, and there is no use in watching closely.
//!
//! Everything is a function of the ticks and of raft's state at each of them.

use std::collections::BTreeMap;

use kvd_mutation::{Bug, planted};
use raft::{ProgressState, Raft, Storage};

/// Rounds after which a learner is given a rest.
pub const MAX_ROUNDS: u32 = 10;

/// What the leader knows of one other member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The member.
    pub id: u64,
    /// Index of the last entry that it is known to have.
    pub matched: u64,
    /// Whether it answers; one that is gone is known to be after one and a half election time-outs at most.
    pub active: bool,
    /// Of a learner: how it catches up.
    pub learner: Option<CatchUp>,
}

/// How a learner catches up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatchUp {
    /// The round that is under way, from 1; 0 while it was not heard of, or rests.
    pub round: u32,
    /// The index that ends the round.
    pub target: u64,
    /// Whether its last round took less than an election time-out: it is promoted.
    pub ready: bool,
}

#[derive(Debug, Default)]
struct Peer {
    /// The tick at which it was last seen active.
    seen: Option<u64>,
    round: Option<Round>,
}

#[derive(Debug)]
struct Round {
    number: u32,
    /// It is over when the learner has this entry.
    target: u64,
    /// The tick at which it began.
    begun: u64,
    /// The last one was fast enough.
    ready: bool,
}

/// The leader's view. Empty at members that do not lead.
#[derive(Debug, Default)]
pub(crate) struct Oversight {
    ticks: u64,
    /// The term, and the tick at which its leadership was first seen.
    leads: Option<(u64, u64)>,
    peers: BTreeMap<u64, Peer>,
}

impl Oversight {
    /// A tick of a leader.
    pub(crate) fn tick(&mut self, raft: &Raft<impl Storage>, election_ticks: u64) {
        self.ticks += 1;
        if self.leads.is_none_or(|(term, _)| term != raft.term) {
            *self = Self { ticks: self.ticks, leads: Some((raft.term, self.ticks)), peers: BTreeMap::new() };
        }
        let (now, last) = (self.ticks, raft.raft_log.last_index());
        let learners = &raft.prs().conf().learners();
        self.peers.retain(|id, _| raft.prs().get(*id).is_some());
        for (id, progress) in raft.prs().iter().filter(|(id, _)| **id != raft.id) {
            let peer = self.peers.entry(*id).or_default();
            if progress.recent_active {
                peer.seen = Some(now);
            }
            let active = is_recent(peer.seen, now, election_ticks);
            if learners.contains(id) {
                let streams = progress.state == ProgressState::Replicate;
                if peer.look(active, streams, progress.matched, last, now, election_ticks) {
                    tracing::warn!(
                        member = id,
                        rounds = MAX_ROUNDS,
                        "a learner does not catch up and gets a rest; do writes come faster than it takes them?"
                    );
                }
            } else {
                peer.round = None;
            }
        }
    }

    /// This member does not lead.
    pub(crate) fn forget(&mut self) {
        self.leads = None;
        self.peers.clear();
    }

    /// Whether it has led for so long that everybody who is there has answered.
    pub(crate) fn is_settled(&self, election_ticks: u64) -> bool {
        self.leads.is_some_and(|(_, since)| self.ticks - since >= election_ticks)
    }

    /// Whether a peer answers.
    pub(crate) fn is_active(&self, id: u64, election_ticks: u64) -> bool {
        self.peers.get(&id).is_some_and(|peer| is_recent(peer.seen, self.ticks, election_ticks))
    }

    /// Whether a learner has caught up.
    pub(crate) fn is_ready(&self, id: u64) -> bool {
        let round = self.peers.get(&id).and_then(|peer| peer.round.as_ref());
        round.is_some_and(|round| round.ready) || planted(Bug::PromotedEarly)
    }

    /// Learners that have caught up.
    pub(crate) fn ready(&self) -> impl Iterator<Item = u64> {
        self.peers.keys().copied().filter(|id| self.is_ready(*id))
    }

    /// For whoever wants to see it.
    pub(crate) fn view(&self, raft: &Raft<impl Storage>, election_ticks: u64) -> Vec<Progress> {
        let one = |(id, peer): (&u64, &Peer)| {
            let progress = raft.prs().get(*id)?;
            let round = peer.round.as_ref();
            let learner = raft.prs().conf().learners().contains(id).then(|| CatchUp {
                round: round.map_or(0, |round| round.number),
                target: round.map_or(0, |round| round.target),
                ready: round.is_some_and(|round| round.ready),
            });
            let active = self.is_active(*id, election_ticks);
            Some(Progress { id: *id, matched: progress.matched, active, learner })
        };
        self.peers.iter().filter_map(one).collect()
    }
}

fn is_recent(seen: Option<u64>, now: u64, election_ticks: u64) -> bool {
    seen.is_some_and(|seen| now - seen <= election_ticks / 2)
}

impl Peer {
    /// A look at a learner, once a tick. `last` is the end of the leader's log. Says whether its rest begins.
    fn look(
        &mut self,
        active: bool,
        streams: bool,
        matched: u64,
        last: u64,
        now: u64,
        election_ticks: u64,
    ) -> bool {
        if !active {
            self.round = None;
            return false;
        }
        let Some(round) = &mut self.round else {
            self.round = Some(Round { number: 1, target: last, begun: now, ready: false });
            return false;
        };
        if round.number == 0 {
            // It rests.
            if now - round.begun >= u64::from(MAX_ROUNDS) * election_ticks {
                *round = Round { number: 1, target: last, begun: now, ready: false };
            }
        } else if streams && matched >= round.target {
            let ready = now - round.begun < election_ticks;
            let number = match round.number {
                _ if ready => 1,
                MAX_ROUNDS => 0,
                number => number + 1,
            };
            *round = Round { number, target: last, begun: now, ready };
            return number == 0;
        } else if now - round.begun >= election_ticks {
            round.ready = false;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION: u64 = 10;

    /// A learner whose log is seen at every tick.
    struct Learner {
        peer: Peer,
        now: u64,
    }

    impl Learner {
        fn new() -> Self {
            let mut learner = Self { peer: Peer::default(), now: 100 };
            learner.look(0, 5);
            learner
        }

        fn look(&mut self, matched: u64, last: u64) -> (u32, bool) {
            self.now += 1;
            self.peer.look(true, true, matched, last, self.now, ELECTION);
            let round = self.peer.round.as_ref().unwrap();
            (round.number, round.ready)
        }

        /// A round that takes so many ticks; the log grows meanwhile.
        fn round(&mut self, ticks: u64) -> (u32, bool) {
            let target = self.peer.round.as_ref().unwrap().target;
            for _ in 1..ticks {
                assert!(!self.look(target - 1, target + 7).1);
            }
            self.look(target, target + 7)
        }
    }

    #[test]
    fn a_round_below_an_election_time_out_is_enough_and_one_of_that_length_is_not() {
        for (ticks, ready) in [(ELECTION - 1, true), (ELECTION, false), (ELECTION + 1, false)] {
            assert_eq!(Learner::new().round(ticks).1, ready, "{ticks} ticks");
        }
        let mut learner = Learner::new();
        assert_eq!(learner.round(50), (2, false));
        assert_eq!(learner.round(ELECTION), (3, false));
        assert_eq!(learner.round(3), (1, true));
    }

    #[test]
    fn a_learner_that_falls_behind_again_is_not_ready_any_more() {
        let mut learner = Learner::new();
        assert_eq!(learner.round(1), (1, true));
        for _ in 0..ELECTION - 1 {
            assert_eq!(learner.look(5, 99), (1, true));
        }
        assert_eq!(learner.look(5, 99), (1, false));
    }

    #[test]
    fn after_ten_slow_rounds_it_rests_and_begins_anew() {
        let mut learner = Learner::new();
        for number in 2..=MAX_ROUNDS {
            assert_eq!(learner.round(ELECTION), (number, false));
        }
        assert_eq!(learner.round(ELECTION), (0, false));
        for _ in 1..u64::from(MAX_ROUNDS) * ELECTION {
            assert_eq!(learner.look(1000, 1000), (0, false));
        }
        assert_eq!(learner.look(1000, 1000), (1, false));
        assert_eq!(learner.round(1), (1, true));
    }

    #[test]
    fn a_learner_that_goes_or_gets_a_snapshot_is_not_ready() {
        let mut learner = Learner::new();
        assert_eq!(learner.round(1), (1, true));
        learner.peer.look(false, true, 100, 100, learner.now + 1, ELECTION);
        assert!(learner.peer.round.is_none());
        let mut learner = Learner::new();
        learner.peer.look(true, false, 100, 100, learner.now + 1, ELECTION);
        assert!(!learner.peer.round.unwrap().ready);
    }

    #[test]
    fn a_peer_answers_for_half_an_election_time_out_after_it_was_marked() {
        assert!(!is_recent(None, 5, ELECTION));
        assert!(is_recent(Some(1), 5, ELECTION));
        assert!(is_recent(Some(1), 6, ELECTION));
        assert!(!is_recent(Some(1), 7, ELECTION));
    }
}
