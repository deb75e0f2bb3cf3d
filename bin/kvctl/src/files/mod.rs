//! The commands that read a member's files: `wal dump`, `wal verify`, `snap inspect`, `snap verify`.
//!
//! They take no lock and change nothing, so the member may run: what it writes and removes meanwhile is no damage
//! ([`kvd_wal::scan`]). Memory does not grow with the log or a snapshot.

mod dump;
mod payload;
mod snap;
mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use kvd_vfs::{Disk, RealDisk};

use crate::Error;
use crate::cluster::Output;

/// What can be done with a log.
#[derive(Debug, Subcommand)]
pub enum Wal {
    /// Print what the log holds, record by record
    Dump(Dump),
    /// Check all of the log, and say what it holds and what opening it would do
    Verify(Place),
}

/// What can be done with snapshots.
#[derive(Debug, Subcommand)]
pub enum Snap {
    /// Check snapshots, and print what they hold beside the store's data: configuration, members, sessions
    Inspect(Place),
    /// Check snapshots, a line for each file
    Verify(Place),
}

/// Where to look, and how to tell.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// A member's data directory, or the `wal` or `snap` directory in it; for snapshots also one file
    pub path: PathBuf,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `wal dump`.
#[derive(Debug, Clone, Args)]
pub struct Dump {
    /// A member's data directory, or the `wal` directory in it
    pub path: PathBuf,
    /// Begin with this index; of the records, only entries and snapshots have one
    #[arg(long)]
    pub from: Option<u64>,
    /// End with this index
    #[arg(long)]
    pub to: Option<u64>,
    /// End after so many records
    #[arg(long)]
    pub limit: Option<u64>,
    /// Only records of these kinds, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub kinds: Vec<Kind>,
    /// Print values, too: with escapes, or in hexadecimal digits
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "escaped")]
    pub values: Option<Values>,
    /// Bytes of a value that are printed
    #[arg(long, default_value_t = 64)]
    pub value_bytes: usize,
    /// How to print it; JSON is an object a line
    #[command(flatten)]
    pub output: Output,
}

/// Kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Where the segment before ended
    Link,
    /// Whose log this is
    Metadata,
    /// An entry of raft's log
    Entry,
    /// Term, vote and commit index
    HardState,
    /// A snapshot is on disk
    Snapshot,
    /// The log was closed cleanly
    Close,
}

/// How bytes are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Values {
    /// As ASCII, other bytes as `\xNN`
    Escaped,
    /// As hexadecimal digits
    Hex,
}

/// Runs a command about a log.
pub(crate) fn wal(command: &Wal, out: &mut dyn Write) -> Result<(), Error> {
    let disk: Disk = Arc::new(RealDisk::new());
    match command {
        Wal::Dump(flags) => dump::dump(&disk, flags, out),
        Wal::Verify(place) => verify::verify(&disk, place, out),
    }
}

/// Runs a command about snapshots.
pub(crate) fn snap(command: &Snap, out: &mut dyn Write) -> Result<(), Error> {
    let disk: Disk = Arc::new(RealDisk::new());
    match command {
        Snap::Inspect(place) => snap::run(&disk, place, true, out),
        Snap::Verify(place) => snap::run(&disk, place, false, out),
    }
}

/// The directories of a member, as far as a path leads to them.
struct Directories {
    wal: PathBuf,
    snap: Option<PathBuf>,
}

/// A member's data directory or its `wal`.
fn directories(path: &Path) -> Result<Directories, Error> {
    if path.join("wal").is_dir() {
        return Ok(Directories { wal: path.join("wal"), snap: existing(path.join("snap")) });
    }
    if holds(path, |name| name.ends_with(".wal")) {
        let full = path.canonicalize().map_err(|source| Error::Read { path: path.to_owned(), source })?;
        // A copy of a log, under another name, has no snapshots beside it.
        let beside = full.parent().filter(|_| full.ends_with("wal")).map(|parent| parent.join("snap"));
        return Ok(Directories { wal: path.to_owned(), snap: beside.and_then(existing) });
    }
    Err(Error::NothingThere { path: path.to_owned(), wanted: "log", names: "wal/ or *.wal" })
}

/// A member's data directory or its `snap`.
fn snap_directory(path: &Path) -> Result<PathBuf, Error> {
    if path.join("snap").is_dir() {
        return Ok(path.join("snap"));
    }
    if path.file_name().is_some_and(|name| name == "snap") && path.is_dir()
        || holds(path, |name| kvd_snap::parse(name).is_some())
    {
        return Ok(path.to_owned());
    }
    Err(Error::NothingThere { path: path.to_owned(), wanted: "snapshots", names: "snap/ or *.snap" })
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_dir().then_some(path)
}

fn holds(path: &Path, wanted: impl Fn(&str) -> bool) -> bool {
    let names = std::fs::read_dir(path).into_iter().flatten().flatten();
    names.into_iter().any(|entry| entry.file_name().to_str().is_some_and(&wanted))
}

/// A file's name without its directory, for people.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// `1 byte`, `2 bytes`.
fn count(n: u64, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ if what.ends_with("ch") => format!("{n} {what}es"),
        _ => match what.strip_suffix('y') {
            Some(stem) => format!("{n} {stem}ies"),
            None => format!("{n} {what}s"),
        },
    }
}

/// Whether an error of the log says that its files are damaged, rather than that they could not be read.
pub(crate) fn is_damage(error: &kvd_wal::Error) -> bool {
    use kvd_wal::Error as E;
    !matches!(
        error,
        E::Io { .. }
            | E::Absent { .. }
            | E::UnsupportedVersion { .. }
            | E::UnknownRecord { .. }
            | E::Released { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_counted_in_english() {
        let counted: Vec<String> =
            ["byte", "batch", "entry"].iter().flat_map(|what| [count(1, what), count(2, what)]).collect();
        assert_eq!(counted, ["1 byte", "2 bytes", "1 batch", "2 batches", "1 entry", "2 entries"]);
    }
}
