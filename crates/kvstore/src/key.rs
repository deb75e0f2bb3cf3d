//! A key as the map keeps it.
//!
//! A look-up compares a dozen and a half keys. With each of them in memory of its own, comparing them was a quarter of a
//! follower's time under writes (docs/performance.md). So a short key stands in the tree's node itself; a long
//! one is shared, and cloning it, which a write does to all keys of a node that a snapshot holds too, copies nothing.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;

/// The longest key that stands in the node, in bytes: with its length as much as a [`Bytes`] takes beside its vtable.
const INLINE: usize = 23;

/// The bytes of a key. Ordered as bytes.
#[derive(Clone)]
pub(crate) struct Key(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE] },
    Shared(Bytes),
}

impl Key {
    /// A copy of `key`.
    pub(crate) fn copy_from(key: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        match bytes.get_mut(..key.len()) {
            Some(place) => {
                place.copy_from_slice(key);
                // At most INLINE.
                Self(Repr::Inline { len: key.len() as u8, bytes })
            }
            None => Self(Repr::Shared(Bytes::copy_from_slice(key))),
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_slice().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_any_length_is_what_it_was_made_of() {
        for len in [0, 1, INLINE - 1, INLINE, INLINE + 1, 4096] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let key = Key::copy_from(&bytes);
            assert_eq!(key.as_slice(), bytes);
            assert_eq!(matches!(key.0, Repr::Inline { .. }), len <= INLINE);
            assert_eq!(key.clone(), key);
        }
    }

    #[test]
    fn keys_are_ordered_as_bytes_wherever_they_stand() {
        let long = |first: u8| [&[first][..], &[0; INLINE]].concat();
        let mut all = [
            vec![],
            vec![0],
            vec![0, 0],
            vec![1],
            long(0),
            long(1),
            vec![0xff],
            vec![1; INLINE],
            vec![1; INLINE + 1],
        ];
        let mut keys: Vec<Key> = all.iter().map(|bytes| Key::copy_from(bytes)).collect();
        keys.sort();
        all.sort();
        assert!(keys.iter().map(Key::as_slice).eq(all.iter().map(Vec::as_slice)));
    }

    #[test]
    fn a_key_takes_no_more_room_than_a_handle() {
        assert_eq!(size_of::<Key>(), size_of::<Bytes>());
    }
}
