//! Where scans stand.
//!
//! `SCAN` goes through the keys in their order, and its cursor stands for the last key that it has seen: so a key that is
//! there from the first call to the last is returned, whatever else comes and goes. But clients take a cursor for a number
//! of 64 bits, and a key does not fit into one. So the member remembers the keys of the cursors that it gave out last, for
//! all connections, because clients spread a scan over several. A cursor is a keyed hash of its key: giving it out
//! again takes no room, and one of another start of this member is not mistaken for one of this start. It has 53 bits,
//! which every client can hold in whatever it takes for a number.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};

use bytes::Bytes;

/// Positions that are remembered. With keys of 4 KiB they are 16 MiB.
pub(crate) const POSITIONS: usize = 4096;

/// The positions, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    hash: RandomState,
    keys: HashMap<u64, Bytes>,
    order: VecDeque<u64>,
}

impl Cursors {
    /// The cursor for going on behind `key`. Never 0, which ends a scan and begins one.
    pub(crate) fn give_out(&mut self, key: &[u8]) -> u64 {
        let cursor = (self.hash.hash_one(key) >> 11).max(1);
        // Two keys in one place are told apart by the newer one's being here; among 4096 that takes 2^29 scans.
        if self.keys.insert(cursor, Bytes::copy_from_slice(key)).is_none() {
            self.order.push_back(cursor);
            if self.order.len() > POSITIONS
                && let Some(oldest) = self.order.pop_front()
            {
                self.keys.remove(&oldest);
            }
        }
        cursor
    }

    /// The key behind which the scan with this cursor goes on.
    pub(crate) fn position(&self, cursor: u64) -> Option<Bytes> {
        self.keys.get(&cursor).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_positions_are_known() {
        let mut cursors = Cursors::default();
        let key = |i: usize| Bytes::from(i.to_be_bytes().to_vec());
        let given: Vec<u64> = (0..POSITIONS).map(|i| cursors.give_out(&key(i))).collect();
        assert!(given.iter().all(|cursor| (1..1 << 53).contains(cursor)));
        assert_eq!(cursors.give_out(&key(7)), given[7], "again");
        assert_eq!(cursors.position(given[0]), Some(key(0)));
        cursors.give_out(&key(POSITIONS));
        assert_eq!(cursors.position(given[0]), None);
        assert_eq!(cursors.position(given[1]), Some(key(1)));
        assert_eq!((cursors.keys.len(), cursors.order.len()), (POSITIONS, POSITIONS));
        assert_eq!(Cursors::default().position(given[1]), None, "another start");
    }
}
