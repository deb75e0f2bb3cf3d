//! Members that end at each durability edge: during their very first start, and under load.
//!
//! Each failpoint of [`kvd_vfs::failpoint::ALL`] is visited in every situation that reaches it; one that is not reached
//! is a failure, so that the list stays true. The member then starts again without it, gets ready, and everything that
//! clients were told has to be true.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvd_linearizability::{Action, History, Limits, Outcome, Report, check};
use kvd_tests::{kvd_with_failpoints, wait_until};
use kvd_vfs::failpoint;
use rustix::process::Signal;

use crate::clients::{Clients, Recorder};
use crate::cluster::{Cluster, PATIENCE, Storage};
use crate::door::http::Http;
use crate::rng::Rng;
use crate::run::{farewell, fresh, keep, wait_for_more, words};

/// When a member can come to a failpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// In the first start of a member of a new cluster.
    FirstBoot,
    /// While it starts again, or serves.
    Load,
    /// When it comes back so late that the leader sends it a snapshot.
    Behind,
}

/// When a failpoint is reached.
pub fn when(name: &str) -> &'static [When] {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if starts(&["begin-", "wal-create-"]) {
        &[When::FirstBoot]
    } else if starts(&["install-"]) {
        &[When::Behind]
    } else if starts(&["wal-cut-", "wal-release-", "snapshot-", "snap-before-remove", "snap-after-remove"]) {
        &[When::Load]
    } else if starts(&["snap-"]) {
        &[When::FirstBoot, When::Load, When::Behind]
    } else {
        &[When::FirstBoot, When::Load]
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Visited {
    /// How many times a member ended at a failpoint.
    pub ended: usize,
    /// What the checker said of the load.
    pub report: Option<Report>,
    /// Everything that is wrong.
    pub failures: Vec<String>,
    /// The history, if it was kept.
    pub history: Option<PathBuf>,
}

impl Visited {
    /// Whether all is well.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.report.as_ref().is_some_and(Report::passed)
    }
}

impl fmt::Display for Visited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "members ended {} times at {} failpoints", self.ended, failpoint::ALL.len())?;
        if let Some(report) = &self.report {
            write!(f, "\n  {}", report.to_string().replace('\n', "\n  "))?;
        }
        for failure in &self.failures {
            write!(f, "\n  FAILED: {failure}")?;
        }
        match &self.history {
            Some(path) => {
                write!(f, "\n  check again: cargo run -p kvd-linearizability -- {}", path.display())
            }
            None => Ok(()),
        }
    }
}

/// Visits every failpoint.
pub fn visit(seed: u64, keep_in: &Path) -> Visited {
    let mut visited = Visited::default();
    let directory = keep_in.join(format!("failpoints-{seed}"));
    let recorder = Arc::new(Recorder::default());
    let mut all = || {
        for name in failpoint::ALL.iter().filter(|name| when(name).contains(&When::FirstBoot)) {
            first_boot(&directory, name).map_err(|error| format!("first boot, {name}: {error}"))?;
            visited.ended += 1;
        }
        load(seed, &directory, &recorder, &mut visited.ended)
    };
    let base = catch_unwind(AssertUnwindSafe(&mut all)).unwrap_or_else(|panic| Err(words(&*panic)));
    let base = base.map_err(|failure| visited.failures.push(failure)).ok();
    visited.failures.extend(recorder.wrong());
    let history = History::new(base, recorder.ops());
    visited.report = Some(check(&history, &Limits::default()));
    let kept = match visited.passed() {
        true => std::fs::remove_dir_all(&directory).map(|()| None),
        false => keep(&history, &directory).map(Some),
    };
    match kept {
        Ok(path) => visited.history = path,
        Err(error) => visited.failures.push(format!("{}: {error}", directory.display())),
    }
    visited
}

/// Three members that run `kvd-failpoints`.
fn cluster(directory: &Path) -> Result<Cluster, String> {
    fresh(directory)?;
    let mut cluster = Cluster::prepare(directory, 3, false, |_| Storage::Plain)?;
    for slot in &mut cluster.slots {
        slot.member.set_program(kvd_with_failpoints());
    }
    Ok(cluster)
}

/// Starts a member that is to end at a failpoint.
fn arm(cluster: &mut Cluster, id: u64, name: &str, arrival: u64) {
    let member = &mut cluster.slot_mut(id).member;
    member.set_env(&[("KVD_FAILPOINT", &format!("{name}:{arrival}"))]);
    member.spawn();
    member.set_env(&[]);
}

/// Waits for that end.
fn wait_for_end(cluster: &mut Cluster, id: u64, name: &str) -> Result<(), String> {
    let member = &mut cluster.slot_mut(id).member;
    wait_until(&format!("member {id} comes to {name}"), PATIENCE, || member.try_exit());
    let status = member.wait_exit();
    let said = member.log().contains(&format!("failpoint {name}, arrival"));
    match status.signal() == Some(Signal::ABORT.as_raw()) && said {
        true => Ok(()),
        false => Err(format!("member {id} ended with {status} before it came to the failpoint")),
    }
}

/// The first member of a new cluster ends there in its first start, and starts again.
fn first_boot(directory: &Path, name: &str) -> Result<(), String> {
    let mut cluster = cluster(directory)?;
    arm(&mut cluster, 1, name, 1);
    for id in [2, 3] {
        cluster.restart(id);
    }
    wait_for_end(&mut cluster, 1, name)?;
    cluster.restart(1);
    cluster.wait_ready();
    let recorder = Recorder::default();
    for (slot, value) in cluster.slots.iter().zip(["a", "b", "c"]) {
        let mut door = Http::new(slot.member.client_port(), false);
        let put = Action::Put { value: value.into(), condition: None };
        let done = recorder.ask(&mut door, 1, "k", put, None);
        let read = recorder.ask(&mut door, 1, "k", Action::Get, None);
        if done.outcome != Outcome::Ok || read.read.as_deref() != Some(value) {
            return Err(format!("at member {}: {done}; {read}", slot.member.id()));
        }
    }
    match cluster.complaints().pop() {
        Some(complaint) => Err(complaint),
        None => Ok(()),
    }
}

/// Members of a cluster under load end at one failpoint after the other.
fn load(seed: u64, directory: &Path, recorder: &Arc<Recorder>, ended: &mut usize) -> Result<u64, String> {
    let mut cluster = cluster(directory)?;
    cluster.start();
    let http = cluster.slot_mut(1).member.client_port();
    let read = Recorder::default().ask(&mut Http::new(http, false), 0, "k", Action::Get, None);
    let base = read.revision.ok_or_else(|| format!("the first read has no revision: {read}"))?;
    let clients = Clients::start(6, seed, &cluster.addresses, recorder, false);
    wait_for_more(recorder, "writes begin");
    let mut rng = Rng::new(seed);
    for name in failpoint::ALL {
        for when in when(name) {
            let id = 1 + rng.below(3);
            match when {
                When::FirstBoot => continue,
                When::Load => {
                    cluster.slot_mut(id).member.kill();
                }
                When::Behind => {
                    cluster.slot_mut(id).member.kill();
                    let other = if id == 1 { 2 } else { 1 };
                    let port = cluster.slot_mut(other).member.client_port();
                    leave_behind(recorder, port, name);
                }
            }
            // What happens all the time may also end it a little later.
            let often = ["append", "save-", "send-", "apply-"].iter().any(|part| name.contains(part));
            let arrival = if often { 1 + rng.below(40) } else { 1 };
            arm(&mut cluster, id, name, arrival);
            wait_for_end(&mut cluster, id, name).map_err(|error| format!("{when:?}, {name}: {error}"))?;
            *ended += 1;
            cluster.restart(id);
            cluster.wait_ready();
            wait_for_more(recorder, "writes go on");
        }
    }
    clients.finish();
    farewell(&cluster, recorder);
    match cluster.complaints().pop() {
        Some(complaint) => Err(complaint),
        None => Ok(base),
    }
}

/// Writes so much that the log no longer reaches back to where a member is that does not run.
fn leave_behind(recorder: &Recorder, port: u16, name: &str) {
    let mut door = Http::new(port, false);
    let mut done = 0;
    while done < 40 {
        let value = format!("{name}-{}-{}", recorder.now(), ".".repeat(16 << 10));
        let put = Action::Put { value, condition: None };
        let op = recorder.ask(&mut door, 7, "large", put, None);
        // Without a leader nothing is done; the next value is another one in any case.
        if op.outcome == Outcome::Ok {
            done += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failpoint_is_visited() {
        for name in failpoint::ALL {
            assert!(!when(name).is_empty(), "{name}");
        }
    }
}
