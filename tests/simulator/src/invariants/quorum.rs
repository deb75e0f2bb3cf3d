//! Quorums (sections 5.2, 5.4.2 and 6): who leads was elected by a majority of its configuration, what it commits is on
//! the disks of a majority of its configuration. In a joint configuration it takes a majority of each half. And what acts
//! in a term, elects or commits, overlaps with what acted in it before: no two disjoint majorities act in one configuration
//! of a term, nor in two that follow each other.
//!
//! This is what "acknowledged" rests on: a client is told only of what was committed, so what a client was told is on a
//! majority of disks.

use std::collections::btree_map::Entry::Vacant;
use std::collections::{BTreeMap, BTreeSet};

use raft::StateRole;
use raft::eraftpb::ConfState;

use super::durability::Durable;
use super::{Look, Verdict};

/// What has acted in each term.
#[derive(Debug, Default)]
pub struct Quorum {
    /// The members that elected its leader, or stored what was committed last; and the configuration then.
    acted: BTreeMap<u64, (ConfState, BTreeSet<u64>)>,
    /// What each leader looked like the last time: term, commit index and configuration.
    seen: BTreeMap<u64, (u64, u64, ConfState)>,
}

/// Whether these are a majority of the voters, of both halves if the configuration is joint.
pub fn is_quorum(conf: &ConfState, of: &BTreeSet<u64>) -> bool {
    let majority = |voters: &[u64]| {
        voters.is_empty() || voters.iter().filter(|voter| of.contains(voter)).count() > voters.len() / 2
    };
    majority(&conf.voters) && majority(&conf.voters_outgoing)
}

/// Whether one configuration may follow the other without one between them: majorities of the two overlap.
fn are_neighbours(one: &ConfState, other: &ConfState) -> bool {
    let all = |conf: &ConfState| -> BTreeSet<u64> {
        conf.voters.iter().chain(&conf.voters_outgoing).copied().collect()
    };
    let joint = !one.voters_outgoing.is_empty() || !other.voters_outgoing.is_empty();
    let shared = [&one.voters, &one.voters_outgoing].into_iter().filter(|half| !half.is_empty());
    let shares_half = shared.into_iter().any(|half| *half == other.voters || *half == other.voters_outgoing);
    if joint { shares_half } else { all(one).symmetric_difference(&all(other)).count() <= 1 }
}

impl Quorum {
    /// A member after a turn. `disks` are those of all members that ever were.
    pub fn look(&mut self, Look { member, raft, .. }: Look<'_>, disks: &[(u64, &Durable)]) -> Verdict {
        if raft.raft.state != StateRole::Leader {
            return Ok(());
        }
        let (term, commit) = (raft.raft.term, raft.raft.raft_log.committed);
        let conf = raft.raft.prs().conf().to_conf_state();
        if let Vacant(vacant) = self.acted.entry(term) {
            let voted = disks.iter().filter(|(_, disk)| disk.voted_for(term) == Some(member));
            let mut voted: BTreeSet<u64> = voted.map(|(id, _)| *id).collect();
            // A sole voter's vote may be on its way to the disk; nobody hears of the term before it is there.
            voted.insert(member);
            if !is_quorum(&conf, &voted) {
                return Err(format!(
                    "quorum: member {member} leads in term {term} with the votes of {voted:?}; the voters are {:?} {:?}",
                    conf.voters, conf.voters_outgoing
                ));
            }
            vacant.insert((conf.clone(), voted));
        }
        let seen = self.seen.insert(member, (term, commit, conf.clone()));
        // What it knew as committed when it was elected others have committed.
        let Some((_, _, before)) = seen.filter(|(of, seen, _)| *of == term && *seen < commit) else {
            return Ok(());
        };
        let stored =
            disks.iter().filter(|(_, disk)| disk.holds(commit, raft.raft.raft_log.term(commit).ok()));
        let stored: BTreeSet<u64> = stored.map(|(id, _)| *id).collect();
        // A turn may commit under one configuration and then apply the next.
        if !is_quorum(&conf, &stored) && !is_quorum(&before, &stored) {
            return Err(format!(
                "quorum: member {member}, leader of term {term}, commits entry {commit}, which is on the disks of \
                 {stored:?} only; the voters are {:?} {:?}",
                conf.voters, conf.voters_outgoing
            ));
        }
        match self.acted.insert(term, (conf.clone(), stored.clone())) {
            Some((of, acted)) if are_neighbours(&of, &conf) && acted.is_disjoint(&stored) => Err(format!(
                "quorum: in term {term} {acted:?} acted, and then {stored:?}, none of them, committed entry {commit}"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_one_of_each_half() {
        let conf = ConfState::from((vec![1, 2, 3], vec![4]));
        let quorum = |of: &[u64]| is_quorum(&conf, &of.iter().copied().collect());
        assert!(quorum(&[1, 2]) && quorum(&[1, 2, 3]));
        assert!(!quorum(&[1]) && !quorum(&[1, 4]) && !quorum(&[]));
        let mut joint = conf.clone();
        joint.voters_outgoing = vec![3, 5, 6];
        let quorum = |of: &[u64]| is_quorum(&joint, &of.iter().copied().collect());
        assert!(
            are_neighbours(&conf, &joint) && are_neighbours(&conf, &ConfState::from((vec![2, 3], vec![])))
        );
        assert!(!are_neighbours(&conf, &ConfState::from((vec![1, 2, 3, 4, 5], vec![]))));
        assert!(quorum(&[1, 3, 5]) && quorum(&[1, 2, 5, 6]));
        assert!(!quorum(&[1, 2, 3]) && !quorum(&[3, 5, 6]));
    }
}
