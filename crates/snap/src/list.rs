//! What a directory of snapshots holds, for whoever looks after it. Reads only, also beside a running member, which
//! writes, installs and removes files meanwhile: a file that has gone is [`State::Gone`].

use std::io;
use std::path::{Path, PathBuf};

use kvd_vfs::{Disk, OpenMode};

use crate::error::Error;
use crate::reader::{self, Summary};
use crate::snapshotter::{BROKEN_SUFFIX, SUFFIX, TEMP_SUFFIX, parse_name};

/// What a name says of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A snapshot.
    Snapshot,
    /// One that was found damaged, and set aside.
    Broken,
    /// One that is being written or received, or that a crash left.
    Temporary,
}

/// A file in a directory of snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// The term in its name.
    pub term: u64,
    /// The index in its name.
    pub index: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What [`Listed::check`] found.
#[derive(Debug)]
pub enum State {
    /// A snapshot that is whole.
    Good(Summary),
    /// A snapshot that is not; the error names the offset.
    Corrupt(Error),
    /// A file that was set aside, with what is wrong with it. `None` if nothing is: then whatever read it was.
    Broken(Option<Error>),
    /// A file that is not a snapshot yet, and was not read.
    Temporary,
    /// It was there when the directory was listed.
    Gone,
}

/// The files of a directory, by term and index. Names that this crate does not give are left out; a directory that is
/// missing holds nothing.
///
/// # Errors
/// [`Error::Io`].
pub fn list(disk: &Disk, dir: &Path) -> Result<Vec<Listed>, Error> {
    if !disk.exists(dir).map_err(Error::io("looking for the directory", dir))? {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for name in disk.list(dir).map_err(Error::io("listing the directory", dir))? {
        let Some((kind, term, index)) = parse(&name) else { continue };
        let path = dir.join(name);
        let bytes = match disk.open(&path, OpenMode::Read).and_then(|file| file.len()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::io("reading the length", &path))?,
        };
        found.push(Listed { path, kind, term, index, bytes });
    }
    found.sort_by_key(|listed| (listed.term, listed.index, listed.kind as u8));
    Ok(found)
}

/// What the name of a file says, wherever it is.
pub fn parse(name: &str) -> Option<(Kind, u64, u64)> {
    let kind = |kind| move |(term, index)| (kind, term, index);
    parse_name(name, SUFFIX)
        .map(kind(Kind::Snapshot))
        .or_else(|| parse_name(name, BROKEN_SUFFIX).map(kind(Kind::Broken)))
        .or_else(|| {
            // TERM-INDEX.NUMBER.tmp
            let (id, _number) = name.strip_suffix(TEMP_SUFFIX)?.split_once('.')?;
            parse_name(id, "").map(kind(Kind::Temporary))
        })
}

impl Listed {
    /// Reads the file from end to end, in constant memory, unless it is temporary.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NewerVersion`], which is no damage.
    pub fn check(&self, disk: &Disk) -> Result<State, Error> {
        if self.kind == Kind::Temporary {
            return Ok(State::Temporary);
        }
        match (reader::verify_as(disk, &self.path, (self.term, self.index)), self.kind) {
            (Ok(summary), Kind::Snapshot) => Ok(State::Good(summary)),
            (Ok(_), _) => Ok(State::Broken(None)),
            (Err(Error::Io { source, .. }), _) if source.kind() == io::ErrorKind::NotFound => Ok(State::Gone),
            (Err(error), Kind::Snapshot) if error.is_corruption() => Ok(State::Corrupt(error)),
            (Err(error), _) if error.is_corruption() => Ok(State::Broken(Some(error))),
            (Err(error), _) => Err(error),
        }
    }
}
