//! Configurations (section 6): they are part of the replicated state. All members that have applied the same index have
//! the same configuration; it is what the member list says; and who was removed never comes back.

use std::collections::BTreeMap;

use kvd_node::Membership;
use raft::eraftpb::ConfState;

use super::Verdict;

/// The configuration as of an index.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    conf: ConfState,
    list: Membership,
    member: u64,
}

/// The configurations by the indexes at which members were seen with them.
#[derive(Debug, Default)]
pub struct Configuration {
    known: BTreeMap<u64, Known>,
}

fn sorted(mut ids: Vec<u64>) -> Vec<u64> {
    ids.sort_unstable();
    ids
}

impl Configuration {
    /// A member, its configuration and its list after it applied `index`.
    pub fn look(&mut self, member: u64, index: u64, conf: &ConfState, list: &Membership) -> Verdict {
        if index == 0 {
            // A joiner that has nothing yet.
            return Ok(());
        }
        let mut list = list.clone();
        // Not a matter of configuration, and compared with the rest of the state.
        list.members.iter_mut().for_each(|member| member.boot = 0);
        let mut conf = conf.clone();
        for ids in [&mut conf.voters, &mut conf.learners, &mut conf.voters_outgoing, &mut conf.learners_next]
        {
            ids.sort_unstable();
        }
        let by_list = |learner| {
            let of = list.members.iter().filter(|member| member.learner == learner);
            sorted(of.map(|member| member.id).collect())
        };
        if conf.voters_outgoing.is_empty()
            && (conf.voters != by_list(false) || conf.learners != by_list(true))
        {
            return Err(format!(
                "configuration: after index {index} raft of member {member} has voters {:?} and learners {:?}, its member \
                 list {:?} and {:?}",
                conf.voters,
                conf.learners,
                by_list(false),
                by_list(true)
            ));
        }
        if let Some((_, last)) = self.known.range(..=index).next_back()
            && let Some(back) = last.list.removed.iter().find(|id| list.removed.binary_search(id).is_err())
        {
            return Err(format!(
                "configuration: member {back} was removed, and after index {index} member {member} has forgotten it"
            ));
        }
        match self.known.get(&index) {
            Some(known) if (&known.conf, &known.list) != (&conf, &list) => Err(format!(
                "configuration: after index {index} member {member} has {conf:?}, member {} {:?}",
                known.member, known.conf
            )),
            Some(_) => Ok(()),
            None => {
                // Only changes are kept, and the newest.
                let newest = self.known.last_key_value().map(|(at, known)| (*at, known.clone()));
                let same =
                    newest.filter(|(at, known)| *at < index && known.conf == conf && known.list == list);
                if same.is_none() {
                    self.known.insert(index, Known { conf, list, member });
                }
                Ok(())
            }
        }
    }

    /// The conf state of a snapshot that claims to be one of `index`.
    pub fn snapshot(&self, member: u64, index: u64, conf: &ConfState) -> Verdict {
        let Some((at, known)) = self.known.range(..=index).next_back() else { return Ok(()) };
        let (voters, learners) = (sorted(conf.voters.clone()), sorted(conf.learners.clone()));
        if (&voters, &learners) == (&known.conf.voters, &known.conf.learners) {
            return Ok(());
        }
        Err(format!(
            "snapshot: member {member} writes one of index {index} with voters {voters:?} and learners {learners:?}; since \
             index {at} they are {:?} and {:?}",
            known.conf.voters, known.conf.learners
        ))
    }

    /// The newest configuration: voters and learners.
    pub fn newest(&self) -> (Vec<u64>, Vec<u64>) {
        let newest = self.known.last_key_value().map(|(_, known)| &known.conf);
        newest.map_or((Vec::new(), Vec::new()), |conf| (conf.voters.clone(), conf.learners.clone()))
    }

    /// Whether a member was removed, as of the newest configuration.
    pub fn is_removed(&self, id: u64) -> bool {
        self.known.last_key_value().is_some_and(|(_, known)| known.list.removed.binary_search(&id).is_ok())
    }
}
