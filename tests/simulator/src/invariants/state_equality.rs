//! State Machine Safety (section 5.4.3): members that have applied the same index are in the same state, sessions and
//! member list included; and a snapshot (section 7) holds the state as of its index.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};

use kvd_kvstore::store::Store;
use kvd_raftpb::node::NodeState;
use prost::Message as _;

use super::Verdict;

/// The state at each index, by whoever was there first.
#[derive(Debug, Default)]
pub struct StateEquality {
    states: BTreeMap<u64, (u64, u64)>,
}

/// Adds bytes to a hash, eight at a time: this is done for every entry at every member.
pub(super) fn add(mut hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    // An end, so that what follows is not taken for more of it.
    rest.iter()
        .chain([&0xff])
        .fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A hash over all that is replicated.
pub fn hash(store: &Store, node: &NodeState) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| hash = add(hash, bytes);
    add(&node.encode_to_vec());
    add(&store.revision().to_le_bytes());
    for (key, record) in store.iter() {
        add(key);
        for number in [record.create_revision, record.mod_revision, record.version] {
            add(&number.to_le_bytes());
        }
        add(&record.value);
    }
    hash
}

impl StateEquality {
    /// A member's state after it applied `index`.
    pub fn look(&mut self, member: u64, index: u64, store: &Store, node: &NodeState) -> Verdict {
        let found = hash(store, node);
        match self.states.entry(index) {
            Vacant(vacant) => {
                vacant.insert((found, member));
                Ok(())
            }
            Occupied(known) if known.get().0 == found => Ok(()),
            Occupied(known) => Err(format!(
                "state machine safety: members {member} and {} differ after index {index}",
                known.get().1
            )),
        }
    }

    /// The state in a snapshot that claims to be one of `index`.
    pub fn snapshot(&self, member: u64, index: u64, (store, node): (&Store, &NodeState)) -> Verdict {
        match self.states.get(&index) {
            Some((known, _)) if *known != hash(store, node) => Err(format!(
                "snapshot: member {member} writes one of index {index} with another state than that of {index}"
            )),
            _ => Ok(()),
        }
    }
}
