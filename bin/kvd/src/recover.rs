//! `kvd recover`: when a majority is lost for good, one stopped member's directory becomes a cluster of its own.
//!
//! It says what it will do and what may be lost, and asks before it does anything.

use std::io::{self, BufRead, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use kvd_kvstore::{Kv, Shared};
use kvd_node::{Fatal, Home, Recovery};
use kvd_vfs::RealDisk;

/// Flags of `kvd recover`.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// The directory of the stopped member that has the most of the log
    #[arg(long)]
    pub data_dir: PathBuf,

    /// Begin a new cluster with this member alone; there is no other way to recover yet
    #[arg(long, required = true)]
    pub new_cluster: bool,

    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no such directory. It is not created, as a member's is at its first start.
    #[error("{} is no directory of a member", .0.display())]
    NoDirectory(PathBuf),
    /// The directory, its log, its snapshots.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The question could not be asked.
    #[error("cannot ask on this terminal: {0}")]
    Terminal(#[from] io::Error),
    /// The answer was not yes.
    #[error("nothing was changed")]
    Declined,
    /// There is nobody to ask.
    #[error(
        "stdin is no terminal, so nobody can be asked; nothing was changed: give --yes if that is what you want"
    )]
    NobodyToAsk,
}

/// Recovers. The description and the question go to `out`.
///
/// # Errors
/// [`Failure`]; then the directory is as it was, or, after an error of the disk, as after a power failure.
pub fn run(flags: &Flags, out: &mut dyn Write) -> Result<(), Failure> {
    if !flags.data_dir.is_dir() {
        return Err(Failure::NoDirectory(flags.data_dir.clone()));
    }
    let home = Home::open(Arc::new(RealDisk::new()), &flags.data_dir)?;
    let planned = home.plan_recovery(Kv::new(Shared::new()), nonce())?;
    let recovery = planned.recovery().clone();
    describe(&recovery, &flags.data_dir, out)?;
    if !flags.yes {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(Failure::NobodyToAsk);
        }
        write!(out, "\nThis cannot be taken back. Type yes to go on: ")?;
        out.flush()?;
        let mut answer = String::new();
        stdin.lock().read_line(&mut answer)?;
        if answer.trim() != "yes" {
            return Err(Failure::Declined);
        }
    }
    planned.carry_out()?;
    writeln!(
        out,
        "done: member {} is cluster {:016x}. Start it with its old flags; add the others under new ids.",
        recovery.member.id, recovery.new_cluster
    )?;
    Ok(())
}

/// Two recoveries of one directory, or of its copies, are two clusters.
fn nonce() -> u64 {
    // The lower bits are those that differ. A clock that is before 1970 does not make the id any worse than 0 does.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn describe(recovery: &Recovery, dir: &Path, out: &mut dyn Write) -> io::Result<()> {
    let Recovery { member, old_cluster, new_cluster, last_term, last_index, commit, dropped } = recovery;
    let uncertain = last_index.saturating_sub(*commit);
    writeln!(out, "{}: member {} of cluster {old_cluster:016x}", dir.display(), member.id)?;
    writeln!(
        out,
        "  log: ends at index {last_index}, term {last_term}; known to be committed: up to {commit}"
    )?;
    writeln!(
        out,
        "\nIt will be the only member of a new cluster, {new_cluster:016x}, with all that is in its log."
    )?;
    writeln!(out, "  lost:    whatever the old cluster acknowledged behind index {last_index}")?;
    if uncertain > 0 {
        writeln!(
            out,
            "  unknown: the last {uncertain} entries may or may not have been acknowledged; they are kept"
        )?;
    }
    for member in dropped {
        let learner = if member.learner { ", a learner" } else { "" };
        writeln!(
            out,
            "  dropped: member {} at {}{learner}; its id is spent",
            member.id,
            member.peer_urls.join(" ")
        )?;
    }
    writeln!(
        out,
        "\nStop the dropped members that still run, and compare before you go on: the member whose log ends at"
    )?;
    writeln!(
        out,
        "the highest term, and there at the highest index, loses the least. Keep a copy of the directory."
    )
}
