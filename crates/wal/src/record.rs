//! Records: what a batch carries.
//!
//! | kind | | body |
//! |---|---|---|
//! | 1 | link | u64: the offset at which the segment before this one ended, durable; 0 in the first |
//! | 2 | metadata | the caller's bytes |
//! | 3 | entry | `kvd.raft.Entry` in protobuf |
//! | 4 | hard state | `kvd.raft.HardState` in protobuf |
//! | 5 | snapshot | u64 index, u64 term |
//! | 6 | close | empty |

use bytes::{Bytes, BytesMut};
use kvd_raftpb::codec;
use raft::eraftpb::{Entry, HardState};

use crate::format::RECORD_HEAD;

pub(crate) const LINK: u8 = 1;
pub(crate) const METADATA: u8 = 2;
pub(crate) const ENTRY: u8 = 3;
pub(crate) const HARD_STATE: u8 = 4;
pub(crate) const SNAPSHOT: u8 = 5;
pub(crate) const CLOSE: u8 = 6;

/// The highest index in a log. raft's own are below 2^62 (see `kvd_raftpb::validate`); what is computed from one up to
/// here cannot overflow.
pub(crate) const MAX_INDEX: u64 = 1 << 63;

/// Names a snapshot. Ordered by index, then term.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotRecord {
    /// The index of the last entry that the snapshot covers.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
}

/// A record, its body still in the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Record<'a> {
    Link { previous_end: u64 },
    Metadata(&'a [u8]),
    Entry(&'a [u8]),
    HardState(&'a [u8]),
    Snapshot(SnapshotRecord),
    Close,
}

/// Why the record bytes of a batch with a good checksum cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadRecord {
    UnknownKind(u8),
    Malformed(&'static str),
}

pub(crate) fn encode_snapshot(snapshot: SnapshotRecord) -> [u8; 16] {
    let mut body = [0; 16];
    body[..8].copy_from_slice(&snapshot.index.to_le_bytes());
    body[8..].copy_from_slice(&snapshot.term.to_le_bytes());
    body
}

/// Takes the first record off the record bytes of a batch.
pub(crate) fn next_record<'a>(bytes: &mut &'a [u8]) -> Option<Result<Record<'a>, BadRecord>> {
    if bytes.is_empty() {
        return None;
    }
    Some(take_record(bytes))
}

fn take_record<'a>(bytes: &mut &'a [u8]) -> Result<Record<'a>, BadRecord> {
    let (head, rest) =
        bytes.split_first_chunk::<RECORD_HEAD>().ok_or(BadRecord::Malformed("a record without a head"))?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let (body, rest) =
        rest.split_at_checked(length).ok_or(BadRecord::Malformed("a record beyond its batch"))?;
    *bytes = rest;
    let record = match head[0] {
        LINK => Record::Link { previous_end: number(body)? },
        METADATA => Record::Metadata(body),
        ENTRY => Record::Entry(body),
        HARD_STATE => Record::HardState(body),
        SNAPSHOT => match body.split_at_checked(8) {
            Some((index, term)) => match (number(index)?, number(term)?) {
                (index, term) if index <= MAX_INDEX => Record::Snapshot(SnapshotRecord { index, term }),
                _ => return Err(BadRecord::Malformed("a snapshot at an impossible index")),
            },
            None => return Err(BadRecord::Malformed("a short snapshot record")),
        },
        CLOSE => Record::Close,
        kind => return Err(BadRecord::UnknownKind(kind)),
    };
    Ok(record)
}

fn number(body: &[u8]) -> Result<u64, BadRecord> {
    let bytes = body.try_into().map_err(|_| BadRecord::Malformed("a number that is not 8 bytes long"))?;
    Ok(u64::from_le_bytes(bytes))
}

pub(crate) fn decode_hard_state(body: &[u8]) -> Result<HardState, String> {
    codec::decode_hard_state(body).map_err(|e| e.to_string())
}

/// Gives entries memory of their own, apart from the segment that they were read from.
///
/// Small ones share blocks of 64 KiB with their neighbours, so that an entry that outlives the others pins no more than
/// that; a larger one has its own.
#[derive(Debug, Default)]
pub(crate) struct EntryDecoder {
    block: BytesMut,
}

const BLOCK: usize = 64 << 10;

impl EntryDecoder {
    pub(crate) fn decode(&mut self, body: &[u8]) -> Result<Entry, String> {
        let bytes = if body.len() >= BLOCK / 4 {
            Bytes::copy_from_slice(body)
        } else {
            if self.block.capacity() < body.len() {
                self.block = BytesMut::with_capacity(BLOCK);
            }
            self.block.extend_from_slice(body);
            self.block.split().freeze()
        };
        let entry = codec::decode_entry(bytes).map_err(|e| e.to_string())?;
        if !(1..=MAX_INDEX).contains(&entry.index) {
            return Err(format!("an entry with the impossible index {}", entry.index));
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_record_bytes_are_refused_without_a_panic() {
        let cases: [(&[u8], BadRecord); 7] = [
            (&[3, 0, 0, 0], BadRecord::Malformed("a record without a head")),
            (&[3, 1, 0, 0, 0], BadRecord::Malformed("a record beyond its batch")),
            (&[3, 255, 255, 255, 255, 0], BadRecord::Malformed("a record beyond its batch")),
            (&[1, 1, 0, 0, 0, 9], BadRecord::Malformed("a number that is not 8 bytes long")),
            (&[5, 1, 0, 0, 0, 9], BadRecord::Malformed("a short snapshot record")),
            (&[7, 0, 0, 0, 0], BadRecord::UnknownKind(7)),
            (
                &[[5, 16, 0, 0, 0].as_slice(), &[0xff; 16]].concat(),
                BadRecord::Malformed("a snapshot at an impossible index"),
            ),
        ];
        for (mut bytes, want) in cases {
            assert_eq!(next_record(&mut bytes).unwrap().unwrap_err(), want);
        }
        assert!(next_record(&mut &[][..]).is_none());
    }

    #[test]
    fn an_index_is_neither_0_nor_beyond_the_highest() {
        for (index, good) in [
            (0, false),
            (1, true),
            (MAX_INDEX - 1, true),
            (MAX_INDEX, true),
            (MAX_INDEX + 1, false),
            (u64::MAX, false),
        ] {
            let mut entry = Entry::default();
            entry.index = index;
            let mut encoded = BytesMut::new();
            codec::encode_entry(&entry, &mut encoded);
            assert_eq!(EntryDecoder::default().decode(&encoded).is_ok(), good, "{index}");
            let body = encode_snapshot(SnapshotRecord { index, term: 1 });
            let record = [&[SNAPSHOT, 16, 0, 0, 0], body.as_slice()].concat();
            let snapshot = next_record(&mut record.as_slice()).unwrap();
            assert_eq!(snapshot.is_ok(), good || index == 0, "{index}");
        }
    }

    #[test]
    fn small_entries_share_a_block_and_large_ones_do_not() {
        let mut decoder = EntryDecoder::default();
        let mut entry = Entry::default();
        entry.index = 1;
        entry.data = Bytes::from(vec![1; 100]);
        let mut encoded = BytesMut::new();
        codec::encode_entry(&entry, &mut encoded);
        let (one, two) = (decoder.decode(&encoded).unwrap(), decoder.decode(&encoded).unwrap());
        assert_eq!((&one, &two), (&entry, &entry));
        let distance = two.data.as_ptr() as usize - one.data.as_ptr() as usize;
        assert_eq!(distance, encoded.len());
        for size in [BLOCK / 4 - 10, BLOCK / 4, BLOCK, 3 * BLOCK] {
            entry.data = Bytes::from(vec![2; size]);
            encoded.clear();
            codec::encode_entry(&entry, &mut encoded);
            assert_eq!(decoder.decode(&encoded).unwrap(), entry, "{size}");
        }
        assert!(decoder.decode(&[0xff]).is_err());
    }
}
