//! Reading a snapshot back, and verifying one.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kvd_vfs::{Disk, File, OpenMode};
use raft::eraftpb::SnapshotMetadata;

use crate::error::Error;
use crate::format::{self, Event, Parser, Refused, TRAILER_BYTES};

/// Reads the body of a snapshot.
///
/// The bytes of a chunk are handed out once its checksum was found right; [`Read::read`] returns 0 once the trailer
/// and the checksum of the whole file were. Damage is an error of kind [`io::ErrorKind::InvalidData`] with an
/// [`Error`] inside, and so is every read after it. The file stays readable after
/// [`Snapshotter::retain`](crate::Snapshotter::retain) removed its name.
#[derive(Debug)]
pub struct SnapshotReader {
    source: Source,
    metadata: SnapshotMetadata,
    len: u64,
    /// The chunk that is being handed out, and how much of it was.
    chunk: Vec<u8>,
    handed: usize,
    failed: bool,
}

impl SnapshotReader {
    /// Opens a file, whatever its name: one of a backup, or one that was set aside.
    ///
    /// # Errors
    /// [`Error::Io`]; damage in the header of the file.
    pub fn open_file(disk: &Disk, path: &Path) -> Result<Self, Error> {
        let mut source = Source::open(disk, path)?;
        let len = source.body_len()?;
        let mut buffer = Vec::new();
        while !matches!(source.next(&mut buffer)?, Event::Metadata) {}
        let metadata = source.parser.metadata().cloned().unwrap_or_default();
        Ok(Self { source, metadata, len, chunk: Vec::new(), handed: 0, failed: false })
    }

    pub(crate) fn open(disk: &Disk, path: &Path, asked: (u64, u64)) -> Result<Self, Error> {
        let reader = Self::open_file(disk, path)?;
        reader.source.check_name(asked)?;
        Ok(reader)
    }

    /// Conf state, index and term.
    pub fn metadata(&self) -> &SnapshotMetadata {
        &self.metadata
    }

    /// The length of the body in bytes, as the trailer has it. It is verified when the end has been reached.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.handed == self.chunk.len() {
            if self.failed {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "this snapshot was found damaged before",
                ));
            }
            if self.source.parser.is_done() {
                return Ok(0);
            }
            self.handed = 0;
            match self.source.next(&mut self.chunk) {
                Ok(Event::Chunk) => {}
                Ok(_) => self.chunk.clear(),
                Err(e) => {
                    self.chunk.clear();
                    self.failed = true;
                    return Err(e.into());
                }
            }
            if self.chunk.is_empty() {
                return Ok(0);
            }
        }
        let n = out.len().min(self.chunk.len() - self.handed);
        out[..n].copy_from_slice(&self.chunk[self.handed..self.handed + n]);
        self.handed += n;
        Ok(n)
    }
}

/// What [`verify`] found in a whole file.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Conf state, index and term.
    pub metadata: SnapshotMetadata,
    /// The format's version.
    pub version: u32,
    /// Number of chunks.
    pub chunks: u64,
    /// Length of the body in bytes.
    pub body_bytes: u64,
    /// Length of the file in bytes.
    pub file_bytes: u64,
}

/// Reads a file from end to end and checks everything in it; writes nothing. Its name does not matter.
pub fn verify(disk: &Disk, path: &Path) -> Result<Summary, Error> {
    let mut source = Source::open(disk, path)?;
    let mut buffer = Vec::new();
    while !matches!(source.next(&mut buffer)?, Event::End) {}
    let (chunks, body_bytes, file_bytes) =
        (source.parser.chunks(), source.parser.body_len(), source.parser.offset());
    let metadata = source.parser.into_metadata().unwrap_or_default();
    Ok(Summary { metadata, version: format::VERSION, chunks, body_bytes, file_bytes })
}

/// As [`verify`], and the snapshot is the one that its name says, as term and index.
pub(crate) fn verify_as(disk: &Disk, path: &Path, asked: (u64, u64)) -> Result<Summary, Error> {
    let summary = verify(disk, path)?;
    let found = (summary.metadata.term, summary.metadata.index);
    if found == asked { Ok(summary) } else { Err(Error::Other { path: path.to_owned(), asked, found }) }
}

/// A file and the parser that runs over it.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: Box<dyn File>,
    len: u64,
    parser: Parser,
}

impl Source {
    fn open(disk: &Disk, path: &Path) -> Result<Self, Error> {
        let file = disk.open(path, OpenMode::Read).map_err(Error::io("opening", path))?;
        let len = file.len().map_err(Error::io("reading the length", path))?;
        Ok(Self { path: path.to_owned(), file, len, parser: Parser::new() })
    }

    /// Reads to the next event. After [`Event::Chunk`], `buffer` holds the bytes of that chunk.
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Event, Error> {
        loop {
            let (offset, wanted) = (self.parser.offset(), self.parser.wanted());
            // The length was bounded by the parser; what is not there is not read, and no memory is taken for it.
            if self.len - offset < wanted as u64 {
                return Err(self.truncated());
            }
            buffer.resize(wanted, 0);
            match self.file.read_exact_at(buffer, offset) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(self.truncated()),
                other => other.map_err(Error::io("reading", &self.path))?,
            }
            if let Some(event) = self.parser.feed(buffer).map_err(|e| refused(&self.path, e))? {
                if matches!(event, Event::End) {
                    self.check_end()?;
                }
                return Ok(event);
            }
        }
    }

    fn truncated(&self) -> Error {
        let Refused::Damage { offset, .. } = self.parser.truncated() else {
            unreachable!("a truncated file is damaged")
        };
        let damage = crate::Damage::Truncated(self.len);
        Error::Corrupt { path: self.path.clone(), offset, damage }
    }

    fn check_end(&self) -> Result<(), Error> {
        let end = self.parser.offset();
        if self.len == end {
            return Ok(());
        }
        let damage = crate::Damage::TrailingBytes;
        Err(Error::Corrupt { path: self.path.clone(), offset: end, damage })
    }

    fn check_name(&self, asked: (u64, u64)) -> Result<(), Error> {
        let found = self.parser.metadata().map_or((0, 0), |m| (m.term, m.index));
        if found == asked { Ok(()) } else { Err(Error::Other { path: self.path.clone(), asked, found }) }
    }

    /// The body length at the end of the file, not verified yet.
    fn body_len(&self) -> Result<u64, Error> {
        let Some(at) = self.len.checked_sub(TRAILER_BYTES as u64) else {
            return Err(self.truncated());
        };
        let mut trailer = [0; TRAILER_BYTES];
        self.file.read_exact_at(&mut trailer, at).map_err(Error::io("reading", &self.path))?;
        Ok(format::body_len_in_trailer(&trailer))
    }
}

/// The parser's refusal as an error about a file.
pub(crate) fn refused(path: &Path, refused: Refused) -> Error {
    let path = path.to_owned();
    match refused {
        Refused::Damage { offset, damage } => Error::Corrupt { path, offset, damage },
        Refused::NewerVersion(found) => Error::NewerVersion { path, found, newest: format::VERSION },
    }
}
