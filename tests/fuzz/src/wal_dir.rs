//! A log directory: one to three segments of any bytes.
//!
//! ```text
//! count u8 | for each: first index u8, sectors u8, length u16, bytes | zeros up to the sectors
//! ```
//! Wherever a sector begins with the magic, the header is corrected for its place (see [`log_image::correct_header`]).

use crate::input::Input;
use crate::log_image::{self, SECTOR, Segment};

/// Sectors of a segment.
const MOST_SECTORS: usize = 24;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let count = u64::from(input.byte() % 3) + 1;
    let mut chain = 0;
    let segments: Vec<Segment> = (0..count)
        .map(|seq| {
            let first_index = u64::from(input.byte());
            let sectors = usize::from(input.byte()) % MOST_SECTORS;
            let mut bytes = input.piece().to_vec();
            bytes.resize(bytes.len().max(sectors * SECTOR), 0);
            correct(&mut bytes, seq, &mut chain);
            (seq, first_index, bytes)
        })
        .collect();
    log_image::check(&segments);
}

fn correct(bytes: &mut [u8], seq: u64, chain: &mut u32) {
    let mut at = 0;
    while at + SECTOR <= bytes.len() {
        let batch = &mut bytes[at..];
        let len = match batch.starts_with(b"kvdW") {
            true => {
                let (len, next) = log_image::correct_header(batch, seq, at as u64, *chain);
                *chain = next;
                len
            }
            false => SECTOR,
        };
        at = at.saturating_add(len);
    }
}
