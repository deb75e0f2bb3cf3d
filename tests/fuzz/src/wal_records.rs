//! Records of a log in batches that are in order: what a checksum cannot keep out.
//!
//! ```text
//! options u8 | pieces, each the record bytes of a batch
//! ```
//! Option 1: the first piece is the head as it is; otherwise a good head goes before it. Option 2: what follows the
//! `0xff 0xff` piece is the next segment, whose link the input writes.

use bytes::Bytes;

use crate::input::Input;
use crate::log_image::{self, HEADER, SECTOR, Segment};
use crate::reference;

const MARK: u8 = 0xC5;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let options = input.byte();
    let mut segment = Writer { seq: 0, first_index: 0, chain: 0, bytes: Vec::new() };
    let mut segments = Vec::new();
    if options & 1 == 0 {
        segment.batch(&head(0));
    }
    while !input.is_empty() {
        let records = input.piece();
        if options & 2 != 0 && records == [0xff, 0xff] && segments.len() < 2 {
            let end = segment.bytes.len() as u64;
            let next = Writer {
                seq: segment.seq + 1,
                first_index: input.byte().into(),
                chain: segment.chain,
                bytes: Vec::new(),
            };
            segments.push(std::mem::replace(&mut segment, next).finish());
            if options & 4 == 0 {
                segment.batch(&head(end));
            }
            continue;
        }
        if let [3, _, _, _, _, entry @ ..] = records {
            reference::compare_entry(&Bytes::copy_from_slice(entry));
        }
        segment.batch(records);
    }
    segments.push(segment.finish());
    log_image::check(&segments);
}

/// The records of a segment's head.
fn head(previous_end: u64) -> Vec<u8> {
    let mut head = record(1, &previous_end.to_le_bytes());
    head.extend(record(2, b"member 1"));
    if previous_end == 0 {
        head.extend(record(5, &[0; 16]));
    }
    head
}

pub(crate) fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(body);
    out
}

struct Writer {
    seq: u64,
    first_index: u64,
    chain: u32,
    bytes: Vec<u8>,
}

impl Writer {
    fn batch(&mut self, records: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(b"kvdW\x01\0");
        self.bytes.resize(start + HEADER, 0);
        self.bytes[start + 32..start + 36].copy_from_slice(&(records.len() as u32).to_le_bytes());
        let (first, further) = records.split_at(records.len().min(SECTOR - HEADER));
        self.bytes.extend_from_slice(first);
        for sector in further.chunks(SECTOR - 1) {
            self.bytes.push(MARK);
            self.bytes.extend_from_slice(sector);
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR), 0);
        let (_, chain) =
            log_image::correct_header(&mut self.bytes[start..], self.seq, start as u64, self.chain);
        self.chain = chain;
    }

    fn finish(mut self) -> Segment {
        // Slack for two short appends.
        self.bytes.resize(self.bytes.len() + 4 * SECTOR, 0);
        (self.seq, self.first_index, self.bytes)
    }
}
