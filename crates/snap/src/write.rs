//! A file that is being written under a temporary name, and the body writer on top of it.
//!
//! Order: [`TempFile::create`], [`TempFile::append`] any number of times, [`TempFile::publish`]. Dropped before it was
//! published, a temporary file is removed.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32fast::Hasher;
use kvd_mutation::{Bug, planted};
use kvd_vfs::{File, OpenMode, failpoint};
use raft::eraftpb::SnapshotMetadata;

use crate::error::Error;
use crate::format::{self, CHUNK_BYTES, CHUNK_HEAD_BYTES};
use crate::snapshotter::Directory;

/// After so many bytes the file is synced. One sync at the end of a large file would hold up every other sync of the same
/// disk, the log's among them, until all of it is written back.
const SYNC_EVERY: u64 = 4 << 20;

/// A file without a final name yet.
#[derive(Debug)]
pub(crate) struct TempFile {
    dir: Arc<Directory>,
    /// `None` once the file was closed.
    file: Option<Box<dyn File>>,
    temp: PathBuf,
    target: PathBuf,
    offset: u64,
    /// Where the last sync was.
    synced: u64,
    published: bool,
}

impl TempFile {
    pub(crate) fn create(dir: Arc<Directory>, term: u64, index: u64) -> Result<Self, Error> {
        let temp = dir.next_temp(term, index);
        failpoint!("snap-before-create");
        let file = dir
            .disk
            .open(&temp, OpenMode::CreateNew)
            .map_err(Error::io("creating the temporary file", &temp))?;
        let target = dir.path(term, index);
        Ok(Self { dir, file: Some(file), temp, target, offset: 0, synced: 0, published: false })
    }

    pub(crate) fn dir(&self) -> &Directory {
        &self.dir
    }

    /// The final name.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        if self.offset - self.synced >= SYNC_EVERY {
            file.sync_data()?;
            self.synced = self.offset;
        }
        Ok(())
    }

    /// Makes the file durable and gives it its final name, durably. Returns its length in bytes. After an error
    /// neither name is left, as far as the disk still obeys.
    pub(crate) fn publish(mut self) -> Result<u64, Error> {
        if let Some(mut file) = self.file.take().filter(|_| !planted(Bug::SnapshotNotSynced)) {
            failpoint!("snap-before-sync");
            file.sync_data().map_err(Error::io("syncing", &self.temp))?;
        }
        self.dir.publish(&self.temp, &self.target)?;
        self.published = true;
        Ok(self.offset)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        self.file = None;
        if !self.published {
            // What cannot be removed now is an orphan, which the next open of the directory removes.
            let _ = self.dir.disk.remove_file(&self.temp);
        }
    }
}

/// Cuts a body into chunks.
///
/// Fails for good with the first failed write: whoever writes the body may drop an error, [`BodyWriter::finish`]
/// does not.
#[derive(Debug)]
pub(crate) struct BodyWriter {
    file: TempFile,
    /// Room for the head of the chunk, then its bytes.
    buffer: Vec<u8>,
    whole: Hasher,
    chunks: u64,
    body_len: u64,
    failed: Option<io::Error>,
}

impl BodyWriter {
    /// Writes prelude and header.
    pub(crate) fn start(mut file: TempFile, metadata: &SnapshotMetadata) -> Result<Self, Error> {
        let header = format::encode_header(metadata).map_err(|len| Error::MetadataTooLarge {
            path: file.target.clone(),
            len,
            limit: format::MAX_METADATA_BYTES as usize,
        })?;
        file.append(&header).map_err(Error::io("writing", &file.temp))?;
        let mut whole = Hasher::new();
        whole.update(&header);
        let mut buffer = Vec::with_capacity(CHUNK_HEAD_BYTES + CHUNK_BYTES);
        buffer.resize(CHUNK_HEAD_BYTES, 0);
        Ok(Self { file, buffer, whole, chunks: 0, body_len: 0, failed: None })
    }

    /// Whether a write failed, and how: the disk's fault, not that of whoever writes the body.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failed.take().map(Error::io("writing", &self.file.temp))
    }

    pub(crate) fn target(&self) -> &Path {
        self.file.target()
    }

    /// Writes what is left of the body and the trailer.
    pub(crate) fn finish(mut self) -> Result<TempFile, Error> {
        if self.buffer.len() > CHUNK_HEAD_BYTES {
            // A failure is kept, and taken below.
            let _ = self.write_chunk();
        }
        if let Some(error) = self.take_failure() {
            return Err(error);
        }
        let trailer = format::encode_trailer(self.chunks, self.body_len, self.whole.finalize());
        self.file.append(&trailer).map_err(Error::io("writing", &self.file.temp))?;
        Ok(self.file)
    }

    fn write_chunk(&mut self) -> io::Result<()> {
        let body = &self.buffer[CHUNK_HEAD_BYTES..];
        let head = format::encode_chunk_head(self.chunks, body);
        self.body_len += body.len() as u64;
        self.buffer[..CHUNK_HEAD_BYTES].copy_from_slice(&head);
        self.whole.update(&self.buffer);
        self.chunks += 1;
        let result = self.file.append(&self.buffer);
        self.buffer.truncate(CHUNK_HEAD_BYTES);
        result.map_err(|e| {
            let copy = duplicate(&e);
            self.failed = Some(e);
            copy
        })
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(error) = &self.failed {
            return Err(duplicate(error));
        }
        let room = CHUNK_HEAD_BYTES + CHUNK_BYTES - self.buffer.len();
        let taken = room.min(bytes.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK_HEAD_BYTES + CHUNK_BYTES {
            self.write_chunk()?;
        }
        Ok(taken)
    }

    /// Does nothing: only a complete chunk is written.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// [`io::Error`] cannot be cloned; this keeps its kind and its words.
pub(crate) fn duplicate(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
