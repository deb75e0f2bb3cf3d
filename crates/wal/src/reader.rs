//! Reads the batches of one segment, a bounded window at a time, and says what is wrong where one is not good.

use std::path::{Path, PathBuf};

use kvd_mutation::{Bug, planted};
use kvd_vfs::{Disk, File, OpenMode, SECTOR};

use crate::damage::Finding;
use crate::error::{Context, Error, Result};
use crate::format::{self, Header, NotHeader};
use crate::names::SegmentName;

/// How much is read at a time, in bytes: what stays in a core's cache until it was checked and copied, which makes
/// reading back half as fast again as with a mebibyte. A longer batch is read whole.
const WINDOW: usize = 256 << 10;

/// A position in a segment, moving from batch to batch.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    pub(crate) path: PathBuf,
    pub(crate) name: SegmentName,
    file: Box<dyn File>,
    file_len: u64,
    /// Where reading ends.
    len: u64,
    window: Vec<u8>,
    window_at: u64,
    /// Where the next batch begins.
    pub(crate) offset: u64,
    /// The checksum of the header before; `None` where reading began, and nothing is known of what came before.
    pub(crate) chain: Option<u32>,
    records: Vec<u8>,
}

/// What is at the reader's offset.
pub(crate) enum Next {
    /// A good batch; its records are in [`SegmentReader::records`], and the reader stands behind it.
    Batch,
    /// Something else, and what lies behind it; the reader stays.
    Finding(Finding, Behind),
}

/// What lies behind a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The greatest durable offset beyond the finding that a surviving header names.
    pub(crate) known_durable: Option<u64>,
    /// The end of the last sector that is not all zeros, or the reader's offset if there is none.
    pub(crate) end: u64,
}

impl SegmentReader {
    pub(crate) fn open(
        disk: &Disk,
        dir: &Path,
        name: SegmentName,
        chain: Option<u32>,
    ) -> Result<SegmentReader> {
        let path = name.path(dir);
        let file = disk.open(&path, OpenMode::Read).context("open", &path)?;
        let len = file.len().context("read", &path)?;
        let reader = SegmentReader {
            path,
            name,
            file,
            file_len: len,
            len,
            window: Vec::new(),
            window_at: 0,
            offset: 0,
            chain,
            records: Vec::new(),
        };
        Ok(reader)
    }

    /// Ends reading at an offset up to which the segment is durable, whatever its file holds behind: another thread may
    /// be writing there. It grows from call to call.
    pub(crate) fn set_end(&mut self, end: u64) {
        self.len = end.min(self.file_len);
    }

    /// The record bytes of the batch that [`SegmentReader::next`] found.
    pub(crate) fn records(&self) -> &[u8] {
        &self.records
    }

    /// Reads the batch at the offset.
    pub(crate) fn next(&mut self) -> Result<Next> {
        match self.try_batch()? {
            None => Ok(Next::Batch),
            Some(finding) => {
                let behind = self.behind()?;
                let more = finding == Finding::Zeros && behind.end > self.offset;
                Ok(Next::Finding(if more { Finding::ZerosThenMore } else { finding }, behind))
            }
        }
    }

    fn try_batch(&mut self) -> Result<Option<Finding>> {
        let left = self.len.saturating_sub(self.offset);
        let sector = self.view(self.offset, left.min(SECTOR as u64) as usize)?;
        if format::is_zero(sector) {
            return Ok(Some(Finding::Zeros));
        }
        if sector.len() < SECTOR {
            return Ok(Some(Finding::Incomplete));
        }
        let header = match format::decode_header(sector) {
            Ok(header) => header,
            Err(NotHeader::Damaged) => return Ok(Some(Finding::BadHeader)),
            Err(NotHeader::Version(found)) => {
                let (file, offset) = (self.path.clone(), self.offset);
                return Err(Error::UnsupportedVersion { file, offset, found, supported: format::VERSION });
            }
        };
        if !self.belongs(&header) {
            return Ok(Some(Finding::Misplaced));
        }
        let batch_len = format::batch_len(header.length as usize);
        if batch_len as u64 > left {
            return Ok(Some(Finding::Incomplete));
        }
        let batch = self.view(self.offset, batch_len)?;
        if crc32fast::hash(&batch[format::HEADER..]) != header.crc && !planted(Bug::LogChecksumSkipped) {
            let zeros = batch.chunks(SECTOR).any(format::is_zero);
            return Ok(Some(if zeros { Finding::ZeroSector } else { Finding::BadChecksum }));
        }
        let mut records = std::mem::take(&mut self.records);
        format::gather(self.view(self.offset, batch_len)?, header.length as usize, &mut records);
        self.records = records;
        self.offset += batch_len as u64;
        self.chain = Some(header.own_crc);
        Ok(None)
    }

    /// Looks behind the batch that should be at the reader's offset.
    fn behind(&mut self) -> Result<Behind> {
        let mut behind = Behind { known_durable: None, end: self.offset };
        let mut at = self.offset;
        while at < self.len {
            let n = (self.len - at).min(WINDOW as u64) as usize;
            let (own, seq) = (self.offset, self.name.seq);
            for (sector, i) in self.view(at, n)?.chunks(SECTOR).zip(0..) {
                let sector_at = at + i * SECTOR as u64;
                if !format::is_zero(sector) {
                    behind.end = sector_at + sector.len() as u64;
                }
                if sector_at > own
                    && format::may_be_header(sector)
                    && let Ok(header) = format::decode_header(sector)
                    && (header.seq, header.offset) == (seq, sector_at)
                    && header.durable > own
                {
                    behind.known_durable = behind.known_durable.max(Some(header.durable));
                }
            }
            at += n as u64;
        }
        Ok(behind)
    }

    /// The length of the file.
    pub(crate) fn file_len(&self) -> u64 {
        self.file_len
    }

    fn belongs(&self, header: &Header) -> bool {
        header.seq == self.name.seq
            && header.offset == self.offset
            && header.durable <= header.offset
            && self.chain.is_none_or(|chain| chain == header.chain)
    }

    /// The bytes at an offset, which lie within the file.
    fn view(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let end = self.window_at + self.window.len() as u64;
        if offset < self.window_at || offset + len as u64 > end {
            let want = len.max((self.len - offset).min(WINDOW as u64) as usize);
            if want <= WINDOW && self.window.capacity() > 4 * WINDOW {
                self.window = Vec::new();
            }
            self.window.resize(want, 0);
            self.window_at = offset;
            self.file.read_exact_at(&mut self.window, offset).context("read", &self.path)?;
        }
        let from = (offset - self.window_at) as usize;
        Ok(&self.window[from..from + len])
    }
}
