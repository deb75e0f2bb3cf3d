//! Builds one batch in memory that is reused.

use bytes::BytesMut;
use kvd_raftpb::codec;
use kvd_vfs::{AlignedBuf, SECTOR};
use raft::eraftpb::{Entry, HardState};

use crate::format::{self, HEADER, Header, MARK, RECORD_HEAD};
use crate::record;

/// Memory that is kept from one batch to the next, in bytes.
const KEEP: usize = 4 << 20;

/// A batch in the making: records are pushed, then it is sealed for its place.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    buf: AlignedBuf,
    record_bytes: usize,
    body: BytesMut,
}

impl Batch {
    /// Forgets the records.
    pub(crate) fn clear(&mut self) {
        self.buf.clear();
        self.buf.shrink_to(KEEP);
        self.record_bytes = 0;
        if self.body.capacity() > KEEP {
            self.body = BytesMut::new();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.record_bytes == 0
    }

    /// Appends a record. All bodies together are at most about [`format::MAX_BATCH`] long.
    pub(crate) fn push(&mut self, kind: u8, body: &[u8]) {
        if self.buf.is_empty() {
            self.buf.resize(HEADER);
        }
        let [a, b, c, d] = (body.len() as u32).to_le_bytes();
        self.scatter(&[kind, a, b, c, d]);
        self.scatter(body);
        self.record_bytes += RECORD_HEAD + body.len();
    }

    pub(crate) fn push_entry(&mut self, entry: &Entry) {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        codec::encode_entry(entry, &mut body);
        self.push(record::ENTRY, &body);
        self.body = body;
    }

    pub(crate) fn push_hard_state(&mut self, state: &HardState) {
        self.push(record::HARD_STATE, &codec::encode_hard_state(state));
    }

    /// The length in bytes of the sealed batch.
    pub(crate) fn sealed_len(&self) -> u64 {
        format::batch_len(self.record_bytes) as u64
    }

    /// Completes the batch for its place in a segment: `durable` is the offset below which that segment is durable,
    /// `chain` the checksum of the header before. Returns the bytes to be written and the checksum of this header.
    pub(crate) fn seal(&mut self, seq: u64, offset: u64, durable: u64, chain: u32) -> (&[u8], u32) {
        self.buf.resize(format::batch_len(self.record_bytes));
        let bytes = self.buf.as_mut_slice();
        let crc = crc32fast::hash(&bytes[HEADER..]);
        let length = self.record_bytes as u32;
        let header = Header { seq, offset, durable, length, crc, chain, own_crc: 0 };
        let own_crc = format::encode_header(&header, bytes);
        (self.buf.as_slice(), own_crc)
    }

    /// Appends record bytes, with a mark at the start of each further sector.
    fn scatter(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.buf.len().is_multiple_of(SECTOR) {
                self.buf.extend_from_slice(&[MARK]);
            }
            let n = bytes.len().min(SECTOR - self.buf.len() % SECTOR);
            self.buf.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_scattered_is_gathered_at_every_length_around_a_sector() {
        let mut batch = Batch::default();
        let mut out = Vec::new();
        for len in (430..460).chain(940..970).chain([0, 1, 5000, 100_000]) {
            let body: Vec<u8> = (0..len).map(|i| i as u8).collect();
            batch.clear();
            batch.push(record::METADATA, &body);
            let len_on_disk = batch.sealed_len();
            let (bytes, own_crc) = batch.seal(1, 512, 512, 7);
            assert_eq!(bytes.len() as u64, len_on_disk);
            let header = format::decode_header(bytes).unwrap();
            assert_eq!((header.length as usize, header.own_crc), (RECORD_HEAD + len, own_crc));
            assert_eq!(header.crc, crc32fast::hash(&bytes[HEADER..]));
            assert!(bytes[SECTOR..].chunks(SECTOR).all(|sector| sector[0] == MARK));
            format::gather(bytes, header.length as usize, &mut out);
            assert_eq!(out[RECORD_HEAD..], body);
        }
    }
}
