//! The bytes of a segment. `docs/wal-format.md` is the specification for readers; this is the codec.
//!
//! A segment is a row of batches, each written by one durable write, then zeros. A batch begins on a sector bound and
//! fills whole sectors:
//! ```text
//! first sector     | header, 64 bytes            | record bytes ...                            |
//! each further one | 0xC5 | record bytes ...                                                   |
//!                                                                 ... zeros to the sector's end |
//!
//! header  0       4       6     8          16       24        32       36      40      44     60      64
//!         | magic | ver.  | 0   | sequence | offset | durable | length | crc   | chain | zero | hcrc  |
//!         | kvdW  | u16   | u16 | u64      | u64    | u64     | u32    | u32   | u32   |      | u32   |
//!
//! record  | kind u8 | length u32 | body |        one behind the other through the record bytes
//! ```
//! Integers are little-endian. `offset` is the batch's own; `durable` is the offset below which the segment was known to
//! be durable when this batch was written; `length` counts record bytes; `crc` is the CRC-32 of everything in the batch
//! behind the header, marks and padding included; `chain` is the `hcrc` of the batch before, also across segments;
//! `hcrc` is the CRC-32 of header bytes 0..60. Magic, version and `hcrc` stay where they are in every later version.
//!
//! The mark 0xC5 makes every sector of a batch non-zero, whatever the records hold. So a sector that is all zeros was
//! never written, and no sector of a payload can be taken for a header.

use kvd_vfs::SECTOR;

/// The version that is written, and the newest that is read.
pub(crate) const VERSION: u16 = 1;
/// The bytes of a header.
pub(crate) const HEADER: usize = 64;
/// The most record bytes of one batch, which is what one save may be.
pub(crate) const MAX_BATCH: usize = 1 << 30;
/// Bytes of a record before its body.
pub(crate) const RECORD_HEAD: usize = 5;

const MAGIC: [u8; 4] = *b"kvdW";
pub(crate) const MARK: u8 = 0xC5;
const FIRST: usize = SECTOR - HEADER;
const FURTHER: usize = SECTOR - 1;

/// A batch's header, without what is constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    pub(crate) durable: u64,
    pub(crate) length: u32,
    pub(crate) crc: u32,
    pub(crate) chain: u32,
    /// Of the encoded header; the next batch's `chain`.
    pub(crate) own_crc: u32,
}

/// Why 64 bytes are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotHeader {
    /// Wrong magic or checksum.
    Damaged,
    /// A good header of a version that is not known.
    Version(u16),
}

/// The bytes that a batch with so many record bytes takes on disk.
pub(crate) fn batch_len(record_bytes: usize) -> usize {
    SECTOR + record_bytes.saturating_sub(FIRST).div_ceil(FURTHER) * SECTOR
}

/// Writes a header over the first bytes of a batch, and returns its checksum.
pub(crate) fn encode_header(header: &Header, out: &mut [u8]) -> u32 {
    let out = &mut out[..HEADER];
    out.fill(0);
    out[0..4].copy_from_slice(&MAGIC);
    out[4..6].copy_from_slice(&VERSION.to_le_bytes());
    out[8..16].copy_from_slice(&header.seq.to_le_bytes());
    out[16..24].copy_from_slice(&header.offset.to_le_bytes());
    out[24..32].copy_from_slice(&header.durable.to_le_bytes());
    out[32..36].copy_from_slice(&header.length.to_le_bytes());
    out[36..40].copy_from_slice(&header.crc.to_le_bytes());
    out[40..44].copy_from_slice(&header.chain.to_le_bytes());
    let own_crc = crc32fast::hash(&out[..60]);
    out[60..64].copy_from_slice(&own_crc.to_le_bytes());
    own_crc
}

/// Reads the header at the start of a sector.
pub(crate) fn decode_header(sector: &[u8]) -> Result<Header, NotHeader> {
    let bytes = sector.first_chunk::<HEADER>().ok_or(NotHeader::Damaged)?;
    let own_crc = u32_at(bytes, 60);
    if bytes[..4] != MAGIC || crc32fast::hash(&bytes[..60]) != own_crc {
        return Err(NotHeader::Damaged);
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != VERSION {
        return Err(NotHeader::Version(version));
    }
    Ok(Header {
        seq: u64_at(bytes, 8),
        offset: u64_at(bytes, 16),
        durable: u64_at(bytes, 24),
        length: u32_at(bytes, 32),
        crc: u32_at(bytes, 36),
        chain: u32_at(bytes, 40),
        own_crc,
    })
}

/// Whether a sector may begin with a header: a cheap test before [`decode_header`].
pub(crate) fn may_be_header(sector: &[u8]) -> bool {
    sector.starts_with(&MAGIC)
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Whole words first: the compiler makes vector code of it.
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().all(|word| *word == [0; 32]) && rest.iter().all(|byte| *byte == 0)
}

/// Gathers the record bytes of a whole batch, without header, marks and padding.
pub(crate) fn gather(batch: &[u8], length: usize, out: &mut Vec<u8>) {
    out.clear();
    out.reserve(length);
    out.extend_from_slice(&batch[HEADER..HEADER + length.min(FIRST)]);
    for sector in batch[SECTOR..].chunks(SECTOR) {
        let n = (length - out.len()).min(FURTHER);
        out.extend_from_slice(&sector[1..1 + n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { seq: 1, offset: 512, durable: 512, length: 9, crc: 7, chain: 3, own_crc: 0 }
    }

    #[test]
    fn a_header_is_read_as_written_and_every_flipped_bit_is_seen() {
        let mut bytes = [0; SECTOR];
        let own_crc = encode_header(&header(), &mut bytes);
        assert_eq!(decode_header(&bytes), Ok(Header { own_crc, ..header() }));
        for bit in 0..HEADER * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_header(&bytes), Err(NotHeader::Damaged), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(decode_header(&bytes[..HEADER - 1]), Err(NotHeader::Damaged));
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = [0; HEADER];
        encode_header(&header(), &mut bytes);
        bytes[4] = 2;
        assert_eq!(decode_header(&bytes), Err(NotHeader::Damaged));
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode_header(&bytes), Err(NotHeader::Version(2)));
    }

    #[test]
    fn lengths_step_by_sectors() {
        let want = [(0, 512), (447, 512), (448, 512), (449, 1024), (958, 1024), (959, 1024), (960, 1536)];
        for (bytes, len) in want {
            assert_eq!(batch_len(bytes), len, "{bytes} record bytes");
        }
    }

    #[test]
    fn zeros_are_zeros_at_every_length() {
        for len in 0..100 {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes));
                bytes[at] = 0;
            }
        }
    }
}
