//! The bytes of the store in a snapshot.
//!
//! # Contract
//!
//! Two phases: [`View::new`] takes a clone of the store, which is O(1) and done on the node's loop; [`View::write`](kvd_node::View::write) runs
//! on another thread and streams, holding one record at a time beside the frozen tree. [`read`] is its inverse, holding
//! the new store and one record. The same store gives the same bytes on every member. There is no checksum here: the
//! snapshot file checks every chunk before its bytes are handed out.
//!
//! # Format (integers little-endian)
//!
//! ```text
//! +------+---------+--------------+-----------+--------------------------------------+
//! | KVDS | version | revision     | count     | count records, ascending by key      |
//! | 4 B  | u32 = 1 | u64 >= 1     | u64       |                                      |
//! +------+---------+--------------+-----------+--------------------------------------+
//! record:
//! +---------+-----------+--------+--------+---------+-----+-------+
//! | key len | value len | create | mod    | version | key | value |
//! | u32     | u32       | u64    | u64    | u64     |     |       |
//! +---------+-----------+--------+--------+---------+-----+-------+
//! ```
//!
//! Nothing follows the last record. For each record 1 < create <= mod <= revision and 1 <= version; version 1 exactly if
//! create = mod. Lengths are bounded by [`FORMAT_KEY_BYTES`] and [`FORMAT_VALUE_BYTES`], and memory is taken as bytes arrive, not
//! as a length promises.

use std::io::{self, Read, Write};

use bytes::Bytes;
use kvd_mutation::{Bug, planted};

use crate::command::{FORMAT_KEY_BYTES, FORMAT_VALUE_BYTES};
use crate::store::{FIRST_REVISION, Record, Store};

const MAGIC: [u8; 4] = *b"KVDS";
/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;
const HEAD_BYTES: usize = 24;
const RECORD_HEAD_BYTES: usize = 32;
/// Taken before the first byte of a key or value has been seen, in bytes; the rest grows as they arrive.
const TRUSTED_BYTES: usize = 64 << 10;

/// Why bytes are not a snapshot of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed, or the bytes ended early.
    #[error("snapshot of the store, at offset {offset}: {source}")]
    Read {
        /// Bytes read before.
        offset: u64,
        /// What the reader said.
        source: io::Error,
    },
    /// The bytes are not what the format says.
    #[error("snapshot of the store, at offset {offset}: {what}")]
    Damaged {
        /// Bytes read before what is wrong.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Another version of kvd wrote it.
    #[error(
        "snapshot of the store has format version {found}, and this kvd reads version {VERSION}: it was written by \
         another release"
    )]
    Version {
        /// The version it has.
        found: u32,
    },
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Read { source, .. } => source.kind(),
            Error::Damaged { .. } | Error::Version { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// The store as it was at one applied index.
#[derive(Debug)]
pub struct View {
    store: Store,
}

impl View {
    /// Freezes `store`, which is a clone of the live one.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

impl kvd_node::View for View {
    fn write(self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&self.store.revision().to_le_bytes())?;
        out.write_all(&(self.store.len() as u64).to_le_bytes())?;
        for (key, record) in self.store.iter() {
            let mut head = [0; RECORD_HEAD_BYTES];
            head[0..4].copy_from_slice(&length(key)?.to_le_bytes());
            head[4..8].copy_from_slice(&length(&record.value)?.to_le_bytes());
            head[8..16].copy_from_slice(&record.create_revision.to_le_bytes());
            head[16..24].copy_from_slice(&record.mod_revision.to_le_bytes());
            head[24..32].copy_from_slice(&record.version.to_le_bytes());
            out.write_all(&head)?;
            out.write_all(key)?;
            out.write_all(&record.value)?;
        }
        Ok(())
    }
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len())
        .map_err(|_| io::Error::other("a key or value of 4 GiB or more has no snapshot"))
}

/// Reads what [`View::write`](kvd_node::View::write) wrote, to the end of `reader`.
pub fn read(reader: &mut dyn Read) -> Result<Store, Error> {
    let mut input = Input { reader, offset: 0 };
    let head: [u8; HEAD_BYTES] = input.array()?;
    if head[0..4] != MAGIC {
        return Err(Error::Damaged { offset: 0, what: "it does not begin with KVDS" });
    }
    let found = u32_at(&head, 4);
    if found != VERSION {
        return Err(Error::Version { found });
    }
    let (revision, count) = (u64_at(&head, 8), u64_at(&head, 16));
    if revision < FIRST_REVISION {
        return Err(Error::Damaged { offset: 8, what: "its revision is 0" });
    }
    let mut store = Store::at_revision(revision);
    let mut last: Option<Bytes> = None;
    for _ in 0..count {
        let start = input.offset;
        let damaged = |what| Error::Damaged { offset: start, what };
        let head: [u8; RECORD_HEAD_BYTES] = input.array()?;
        let (key_bytes, value_bytes) = (u32_at(&head, 0) as usize, u32_at(&head, 4) as usize);
        let (create_revision, mod_revision) = (u64_at(&head, 8), u64_at(&head, 16));
        let version = u64_at(&head, 24);
        if key_bytes > FORMAT_KEY_BYTES || value_bytes > FORMAT_VALUE_BYTES {
            return Err(damaged("a key or value is longer than any that kvd stores"));
        }
        if !(FIRST_REVISION < create_revision && create_revision <= mod_revision && mod_revision <= revision)
        {
            return Err(damaged("a key's revisions are not between 2 and the store's"));
        }
        if version == 0 || (version == 1) != (create_revision == mod_revision) {
            return Err(damaged("a key's version does not fit its revisions"));
        }
        let key = input.bytes(key_bytes)?;
        if last.as_ref().is_some_and(|last| *last >= key) {
            return Err(damaged("its keys are not in ascending order"));
        }
        let value = input.bytes(value_bytes)?;
        let version = if planted(Bug::RestoredVersionLost) { 1 } else { version };
        store.insert_restored(&key, Record { value, create_revision, mod_revision, version });
        last = Some(key);
    }
    input.end()?;
    Ok(store)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

struct Input<'a> {
    reader: &'a mut dyn Read,
    offset: u64,
}

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|source| Error::Read { offset: self.offset, source })?;
        self.offset += N as u64;
        Ok(bytes)
    }

    fn bytes(&mut self, len: usize) -> Result<Bytes, Error> {
        let mut bytes = Vec::with_capacity(len.min(TRUSTED_BYTES));
        let read = (&mut *self.reader).take(len as u64).read_to_end(&mut bytes);
        let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "it ends within a key or value");
        match read {
            Ok(got) if got == len => {}
            Ok(_) => return Err(Error::Read { offset: self.offset, source: short() }),
            Err(source) => return Err(Error::Read { offset: self.offset, source }),
        }
        self.offset += len as u64;
        // Growing may have left room behind the bytes; a store keeps only what it needs.
        bytes.shrink_to_fit();
        Ok(bytes.into())
    }

    fn end(&mut self) -> Result<(), Error> {
        let mut byte = Vec::new();
        let read = (&mut *self.reader).take(1).read_to_end(&mut byte);
        match read {
            Ok(0) => Ok(()),
            Ok(_) => Err(Error::Damaged { offset: self.offset, what: "bytes follow its last record" }),
            Err(source) => Err(Error::Read { offset: self.offset, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use kvd_node::View as _;
    use proptest::prelude::*;

    use super::*;

    fn written(store: &Store) -> Vec<u8> {
        let mut bytes = Vec::new();
        View::new(store.clone()).write(&mut bytes).unwrap();
        bytes
    }

    fn small() -> Store {
        let mut store = Store::new();
        store.put(b"a", b"1");
        store.put(b"b\xff\0", b"\xfe\0");
        store.put(b"a", b"22");
        store.delete(b"nothing");
        store
    }

    #[test]
    fn the_bytes_are_these() {
        let expected = [
            "KVDS".as_bytes(),
            &hex("01000000 0400000000000000 0200000000000000"),
            &hex("01000000 02000000 0200000000000000 0400000000000000 0200000000000000 61 3232"),
            &hex("03000000 02000000 0300000000000000 0300000000000000 0100000000000000 62ff00 fe00"),
        ]
        .concat();
        assert_eq!(written(&small()), expected);
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = written(&small());
        for len in 0..bytes.len() {
            let error = read(&mut &bytes[..len]).unwrap_err();
            assert!(matches!(error, Error::Read { offset, .. } if offset <= len as u64), "{len}: {error}");
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(read(&mut &bytes[..]).unwrap(), small());
    }

    #[test]
    fn what_follows_is_refused() {
        let mut bytes = written(&small());
        bytes.push(0);
        let error = read(&mut &bytes[..]).unwrap_err();
        assert_eq!(error.to_string(), "snapshot of the store, at offset 96: bytes follow its last record");
    }

    #[test]
    fn damage_is_named() {
        // Offsets: head 24 bytes, then the first record: lengths at 24 and 28, create 32, mod 40, version 48, key 56.
        for (at, with, what) in [
            (0, &b"X"[..], "does not begin with KVDS"),
            (4, &[2], "format version 2"),
            (8, &[0], "revision is 0"),
            (16, &[3], "failed to fill whole buffer"),
            (16, &[1], "bytes follow its last record"),
            (26, &[2], "longer than any"),
            (31, &[5], "longer than any"),
            (32, &[0], "revisions are not between"),
            (32, &[1], "revisions are not between"),
            (32, &[5], "revisions are not between"),
            (40, &[5], "revisions are not between"),
            (48, &[0], "version does not fit"),
            (48, &[1], "version does not fit"),
            (56, b"c", "not in ascending order"),
        ] {
            let mut bytes = written(&small());
            bytes[at..at + with.len()].copy_from_slice(with);
            let error = read(&mut &bytes[..]).unwrap_err().to_string();
            assert!(error.contains(what), "{at}: {error}");
        }
    }

    #[test]
    fn a_promised_length_takes_no_memory() {
        let mut bytes = written(&small());
        bytes[28..32].copy_from_slice(&(FORMAT_VALUE_BYTES as u32).to_le_bytes());
        let error = read(&mut &bytes[..]).unwrap_err();
        assert!(error.to_string().contains("ends within a key or value"), "{error}");
        bytes[28..32].copy_from_slice(&(FORMAT_VALUE_BYTES as u32 + 1).to_le_bytes());
        assert!(read(&mut &bytes[..]).unwrap_err().to_string().contains("longer than any"));
    }

    #[test]
    fn a_failing_disk_is_not_called_damage() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, "no"))
            }
        }
        let error = io::Error::from(read(&mut Failing).unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    proptest! {
        #[test]
        fn any_store_survives(
            writes in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..4), prop::option::of(any::<Vec<u8>>())), 0..64),
        ) {
            let mut store = Store::new();
            for (key, value) in writes {
                match value {
                    Some(value) => drop(store.put(&key, &value)),
                    None => drop(store.delete(&key)),
                }
            }
            let bytes = written(&store);
            let restored = read(&mut &bytes[..]).unwrap();
            prop_assert_eq!(&restored, &store);
            prop_assert_eq!(written(&restored), bytes);
        }

        #[test]
        fn hostile_bytes_are_refused_or_read(bytes in any::<Vec<u8>>()) {
            let mut framed = written(&Store::new());
            let _ = read(&mut &bytes[..]);
            framed[16] = 2;
            framed.extend(bytes);
            let _ = read(&mut &framed[..]);
        }
    }
}
