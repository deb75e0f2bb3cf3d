//! The bytes of a snapshot file, and the one parser of them.
//!
//! All integers are little-endian; every checksum is CRC-32 (IEEE).
//!
//! ```text
//!  offset      bytes  content
//!  ---------   -----  --------------------------------------------------------------------
//!       0        8    magic "kvd-snap"                              \  prelude: the same
//!       8        4    format version (1)                             > in every version
//!      12        4    crc of bytes 0..12                            /
//!  ---------   -----  --------------------------------------------------------------------
//!      16        4    M, the length of the metadata, 1..=1 MiB      \
//!      20        M    SnapshotMetadata (prost): conf state,          > header
//!                     index, term                                   |
//!    20+M        4    crc of bytes 16..20+M                         /
//!  ---------   -----  --------------------------------------------------------------------
//!   C              4    L, the length of the chunk, 1..=1 MiB       \
//!   C+4            4    crc of: chunk number (u64, from 0), L, bytes > any number of chunks
//!   C+8            L    bytes of the body                           /
//!  ---------   -----  --------------------------------------------------------------------
//!   T            4    0: no chunk follows                           \
//!   T+4          4    crc of: number of chunks (u64), 0 (u32),       |
//!                     bytes T+8..T+28                                |
//!   T+8          8    length of the body: the sum of every L         > trailer
//!   T+16         4    crc of bytes 0..T                              |
//!   T+20         8    magic "pans-dvk"                               |
//!   T+28              end of the file                               /
//! ```
//!
//! The prelude has a checksum of its own, so that a version is believed before the rest of the layout is: a flipped
//! bit there is damage, and a newer version is a newer version. The number of a chunk goes into its checksum, so that
//! a chunk that lies in another's place is found before its bytes are handed out. Every length is checked against
//! its limit before memory is taken for it.

use crc32fast::Hasher;
use kvd_mutation::{Bug, planted};
use kvd_raftpb::codec;
use raft::eraftpb::SnapshotMetadata;

use crate::error::Damage;

/// The newest format version that this build reads, and the one that it writes.
pub const VERSION: u32 = 1;
/// Bytes of the body in each chunk but the last, as written. Large enough that the 8 bytes and the system call for
/// each do not matter, small enough that several snapshots in flight cost little memory.
pub const CHUNK_BYTES: usize = 256 << 10;
/// The longest chunk that a reader accepts, in bytes.
pub const MAX_CHUNK_BYTES: u32 = 1 << 20;
/// The longest encoded metadata, in bytes: room for a conf state of a hundred thousand members.
pub const MAX_METADATA_BYTES: u32 = 1 << 20;

pub(crate) const MAGIC: [u8; 8] = *b"kvd-snap";
pub(crate) const END_MAGIC: [u8; 8] = *b"pans-dvk";
const PRELUDE_BYTES: usize = 16;
pub(crate) const CHUNK_HEAD_BYTES: usize = 8;
const TRAILER_REST_BYTES: usize = 20;
/// Length of the trailer in bytes.
pub(crate) const TRAILER_BYTES: usize = CHUNK_HEAD_BYTES + TRAILER_REST_BYTES;

/// Prelude and header. `None` if the encoded metadata is longer than [`MAX_METADATA_BYTES`]; its length then.
pub(crate) fn encode_header(metadata: &SnapshotMetadata) -> Result<Vec<u8>, usize> {
    let encoded = codec::encode_snapshot_metadata(metadata);
    let len =
        u32::try_from(encoded.len()).ok().filter(|len| *len <= MAX_METADATA_BYTES).ok_or(encoded.len())?;
    let mut out = Vec::with_capacity(PRELUDE_BYTES + 8 + encoded.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&encoded);
    out.extend_from_slice(&crc32fast::hash(&out[PRELUDE_BYTES..]).to_le_bytes());
    Ok(out)
}

/// The head of chunk `number`.
pub(crate) fn encode_chunk_head(number: u64, body: &[u8]) -> [u8; CHUNK_HEAD_BYTES] {
    debug_assert!(!body.is_empty() && body.len() <= MAX_CHUNK_BYTES as usize);
    let mut crc = chunk_hasher(number, body.len() as u32);
    crc.update(body);
    head(body.len() as u32, crc.finalize())
}

/// The trailer after `chunks` chunks with `body_len` bytes; `whole` is the checksum of everything before it.
pub(crate) fn encode_trailer(chunks: u64, body_len: u64, whole: u32) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[8..16].copy_from_slice(&body_len.to_le_bytes());
    out[16..20].copy_from_slice(&whole.to_le_bytes());
    out[20..].copy_from_slice(&END_MAGIC);
    let mut crc = chunk_hasher(chunks, 0);
    crc.update(&out[CHUNK_HEAD_BYTES..]);
    out[..CHUNK_HEAD_BYTES].copy_from_slice(&head(0, crc.finalize()));
    out
}

fn head(len: u32, crc: u32) -> [u8; CHUNK_HEAD_BYTES] {
    let mut out = [0; CHUNK_HEAD_BYTES];
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn chunk_hasher(number: u64, len: u32) -> Hasher {
    let mut crc = Hasher::new();
    crc.update(&number.to_le_bytes());
    crc.update(&len.to_le_bytes());
    crc
}

/// What the parser just completed.
#[derive(Debug)]
pub(crate) enum Event {
    /// The metadata was verified.
    Metadata,
    /// The body of a chunk was verified: the bytes fed since the last event.
    Chunk,
    /// The trailer was verified, and with it the whole file.
    End,
}

/// Why [`Parser::feed`] refuses.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The part that begins at `offset` does not add up.
    Damage { offset: u64, damage: Damage },
    /// A later version of the format.
    NewerVersion(u32),
}

/// Verifies a snapshot file that is fed to it in pieces, in constant memory.
///
/// Feed at most [`Parser::wanted`] bytes at a time. After an error the parser must not be used again.
#[derive(Debug)]
pub(crate) struct Parser {
    state: State,
    /// The bytes so far of the part that is being read; not used for bodies of chunks.
    part: Vec<u8>,
    /// Bytes still missing from the part that is being read.
    missing: usize,
    /// Offset of the part that is being read.
    part_offset: u64,
    offset: u64,
    whole: Hasher,
    chunks: u64,
    body_len: u64,
    metadata: Option<SnapshotMetadata>,
}

#[derive(Debug)]
enum State {
    Prelude,
    MetadataLength,
    Metadata,
    ChunkHead,
    ChunkBody { running: Hasher, expected: u32 },
    TrailerRest { expected: u32 },
    Done,
}

impl Parser {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Prelude,
            part: Vec::new(),
            missing: PRELUDE_BYTES,
            part_offset: 0,
            offset: 0,
            whole: Hasher::new(),
            chunks: 0,
            body_len: 0,
            metadata: None,
        }
    }

    /// How many bytes complete the part that is being read; 0 once the file is complete. At most
    /// [`MAX_CHUNK_BYTES`] and a few.
    pub(crate) fn wanted(&self) -> usize {
        self.missing
    }

    /// Bytes taken in so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn metadata(&self) -> Option<&SnapshotMetadata> {
        self.metadata.as_ref()
    }

    pub(crate) fn into_metadata(self) -> Option<SnapshotMetadata> {
        self.metadata
    }

    /// Whole chunks so far.
    pub(crate) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Bytes of the body so far.
    pub(crate) fn body_len(&self) -> u64 {
        self.body_len
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The damage of a file that ends here.
    pub(crate) fn truncated(&self) -> Refused {
        Refused::Damage { offset: self.part_offset, damage: Damage::Truncated(self.offset) }
    }

    /// Takes the next bytes, at most [`Parser::wanted`] of them.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Option<Event>, Refused> {
        if bytes.is_empty() {
            return Ok(None);
        }
        if self.is_done() {
            return Err(Refused::Damage { offset: self.offset, damage: Damage::TrailingBytes });
        }
        assert!(bytes.len() <= self.missing, "fed more than wanted");
        self.offset += bytes.len() as u64;
        self.missing -= bytes.len();
        match &mut self.state {
            State::ChunkBody { running, .. } => {
                running.update(bytes);
                self.body_len += bytes.len() as u64;
                self.whole.update(bytes);
            }
            // The trailer is the one part that the whole-file checksum leaves out; its head is added below once
            // it has turned out to be that of a chunk.
            State::ChunkHead | State::TrailerRest { .. } => self.part.extend_from_slice(bytes),
            _ => {
                self.part.extend_from_slice(bytes);
                self.whole.update(bytes);
            }
        }
        if self.missing > 0 {
            return Ok(None);
        }
        let damaged = |damage| Refused::Damage { offset: self.part_offset, damage };
        let mut event = None;
        let mut part = std::mem::take(&mut self.part);
        let (state, missing) = match std::mem::replace(&mut self.state, State::Done) {
            State::Prelude => {
                if part[..8] != MAGIC {
                    return Err(damaged(Damage::Magic));
                }
                if u32_at(&part, 12) != crc32fast::hash(&part[..12]) {
                    return Err(damaged(Damage::Prelude));
                }
                match u32_at(&part, 8) {
                    VERSION => (State::MetadataLength, 4),
                    version if version > VERSION => return Err(Refused::NewerVersion(version)),
                    version => return Err(damaged(Damage::Version(version))),
                }
            }
            State::MetadataLength => {
                let len = u32_at(&part, 0);
                if len == 0 || len > MAX_METADATA_BYTES {
                    return Err(damaged(Damage::MetadataLength { len, max: MAX_METADATA_BYTES }));
                }
                // The length stays in the part: the checksum covers it too.
                self.part = std::mem::take(&mut part);
                self.state = State::Metadata;
                self.missing = len as usize + 4;
                return Ok(None);
            }
            State::Metadata => {
                let end = part.len() - 4;
                if u32_at(&part, end) != crc32fast::hash(&part[..end]) {
                    return Err(damaged(Damage::Metadata));
                }
                let metadata = codec::decode_snapshot_metadata(&part[4..end])
                    .map_err(|e| damaged(Damage::MetadataEncoding(e)))?;
                self.metadata = Some(metadata);
                event = Some(Event::Metadata);
                (State::ChunkHead, CHUNK_HEAD_BYTES)
            }
            State::ChunkHead => match (u32_at(&part, 0), u32_at(&part, 4)) {
                (0, expected) => {
                    self.state = State::TrailerRest { expected };
                    self.missing = TRAILER_REST_BYTES;
                    return Ok(None);
                }
                (len, _) if len > MAX_CHUNK_BYTES => {
                    let (chunk, max) = (self.chunks, MAX_CHUNK_BYTES);
                    return Err(damaged(Damage::ChunkLength { chunk, len, max }));
                }
                (len, expected) => {
                    self.whole.update(&part);
                    self.state = State::ChunkBody { running: chunk_hasher(self.chunks, len), expected };
                    self.missing = len as usize;
                    return Ok(None);
                }
            },
            State::ChunkBody { running, expected } => {
                if running.finalize() != expected && !planted(Bug::SnapshotChecksumSkipped) {
                    return Err(damaged(Damage::Chunk(self.chunks)));
                }
                self.chunks += 1;
                event = Some(Event::Chunk);
                (State::ChunkHead, CHUNK_HEAD_BYTES)
            }
            State::TrailerRest { expected } => {
                let mut crc = chunk_hasher(self.chunks, 0);
                crc.update(&part);
                if crc.finalize() != expected || part[12..] != END_MAGIC {
                    return Err(damaged(Damage::Trailer));
                }
                let body_len = u64_at(&part, 0);
                if body_len != self.body_len {
                    return Err(damaged(Damage::BodyLength { found: self.body_len, expected: body_len }));
                }
                if u32_at(&part, 8) != self.whole.clone().finalize() && !planted(Bug::SnapshotChecksumSkipped)
                {
                    return Err(damaged(Damage::Whole));
                }
                event = Some(Event::End);
                (State::Done, 0)
            }
            State::Done => unreachable!("checked at the top"),
        };
        self.state = state;
        self.missing = missing;
        self.part_offset = self.offset;
        Ok(event)
    }
}

/// The body length in the trailer, unverified: [`Parser`] compares it once it gets there.
pub(crate) fn body_len_in_trailer(trailer: &[u8; TRAILER_BYTES]) -> u64 {
    u64_at(trailer, 8)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
