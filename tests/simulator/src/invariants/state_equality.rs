//! State Machine Safety (section 5.4.3): members that have applied the same index are in the same state.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};

use kvd_kvstore::store::Store;

use super::Verdict;

/// The state at each index, by whoever was there first.
#[derive(Debug, Default)]
pub struct StateEquality {
    states: BTreeMap<u64, (u64, u64)>,
}

/// A hash over all that a store holds.
pub fn hash(store: &Store) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
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
    pub fn look(&mut self, member: u64, index: u64, store: &Store) -> Verdict {
        let found = hash(store);
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
}
