//! Snapshot files to and from a peer: raw bytes, verified on their way.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use kvd_raftpb::peers::{SnapshotSink, SnapshotStore};
use kvd_vfs::{File, OpenMode};

use crate::error::Error;
use crate::format::{CHUNK_BYTES, Event, Parser};
use crate::reader::refused;
use crate::snapshotter::{Directory, Snapshotter};
use crate::write::TempFile;

impl SnapshotStore for Snapshotter {
    fn open(&self, term: u64, index: u64) -> io::Result<(u64, Box<dyn Read + Send>)> {
        let path = self.dir.path(term, index);
        let file = self.dir.disk.open(&path, OpenMode::Read).map_err(Error::io("opening", &path))?;
        let len = file.len().map_err(Error::io("reading the length", &path))?;
        Ok((len, Box::new(RawReader { path, file, len, parser: Parser::new(), failed: false })))
    }

    fn receive(&self, term: u64, index: u64) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(Sink::new(self.dir.clone(), term, index)?))
    }
}

/// The bytes of a file as they are. They are parsed on the way out, so that a file that rotted on this disk is this
/// member's error, with the place of the damage, rather than a riddle to the receiver.
struct RawReader {
    path: PathBuf,
    file: Box<dyn File>,
    len: u64,
    parser: Parser,
    failed: bool,
}

impl Read for RawReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let offset = self.parser.offset();
        let left = usize::try_from(self.len - offset).unwrap_or(usize::MAX);
        let room = out.len().min(left);
        if out.is_empty() {
            return Ok(0);
        }
        let n = if room == 0 {
            0
        } else {
            self.file.read_at(&mut out[..room], offset).map_err(Error::io("reading", &self.path))?
        };
        if n == 0 && self.parser.is_done() && left == 0 {
            return Ok(0);
        }
        let checked =
            if n == 0 { Err(self.parser.truncated()) } else { feed_all(&mut self.parser, &out[..n]) };
        match checked {
            Ok(_) => Ok(n),
            Err(e) => {
                self.failed = true;
                Err(refused(&self.path, e).into())
            }
        }
    }
}

/// Feeds any number of bytes. Whether the metadata was completed by them.
fn feed_all(parser: &mut Parser, mut bytes: &[u8]) -> Result<bool, crate::format::Refused> {
    let mut metadata = false;
    while !bytes.is_empty() {
        // Once the file is complete nothing is wanted, and the parser refuses whatever it is given.
        let (now, later) = bytes.split_at(parser.wanted().max(1).min(bytes.len()));
        metadata |= matches!(parser.feed(now)?, Some(Event::Metadata));
        bytes = later;
    }
    Ok(metadata)
}

/// A snapshot that is being received: a temporary file until it is installed.
struct Sink {
    file: TempFile,
    asked: (u64, u64),
    parser: Parser,
    /// Verified as far as can be, and not written yet: peers send small pieces.
    buffer: Vec<u8>,
    /// After an error nothing more is taken, and nothing can be installed.
    failed: bool,
}

impl Sink {
    fn new(dir: Arc<Directory>, term: u64, index: u64) -> Result<Self, Error> {
        Ok(Self {
            file: TempFile::create(dir, term, index)?,
            asked: (term, index),
            parser: Parser::new(),
            buffer: Vec::with_capacity(CHUNK_BYTES),
            failed: false,
        })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let path = self.file.target();
        if feed_all(&mut self.parser, bytes).map_err(|e| refused(path, e))?
            && let Some(metadata) = self.parser.metadata()
        {
            let found = (metadata.term, metadata.index);
            if found != self.asked {
                return Err(Error::Other { path: path.to_owned(), asked: self.asked, found });
            }
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn write_out(&mut self) -> Result<(), Error> {
        let result = self.file.append(&self.buffer);
        self.buffer.clear();
        result.map_err(Error::io("writing", self.file.target()))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed {
            return Err(io::Error::other("an earlier piece of this snapshot was refused"));
        }
        let taken = &bytes[..bytes.len().min(CHUNK_BYTES)];
        let result = self
            .take(taken)
            .and_then(|()| if self.buffer.len() >= CHUNK_BYTES { self.write_out() } else { Ok(()) });
        self.failed = result.is_err();
        result.map_err(io::Error::from)?;
        Ok(taken.len())
    }

    /// Does nothing: only [`SnapshotSink::install`] makes anything durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotSink for Sink {
    fn install(mut self: Box<Self>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier piece of this snapshot was refused"));
        }
        if !self.parser.is_done() {
            return Err(refused(self.file.target(), self.parser.truncated()).into());
        }
        self.write_out()?;
        // The member starts from what the log recorded: no peer exchanges that, whatever it sends under its name.
        if !self.file.dir().keeps(self.asked)? {
            self.file.publish()?;
        }
        Ok(())
    }
}
