//! Disks that fail or are slow: strace stands between the process and the system.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use kvd_tests::wait_until;

use super::Fault;
use crate::cluster::{Cluster, PATIENCE};
use crate::rng::Rng;

/// The calls by which kvd writes files and makes them durable. Its log goes through `pwrite64` with O_DSYNC.
const CALLS: &str = "pwrite64,fdatasync,fsync";

/// A tracer that changes what calls return.
struct Tracer {
    child: Child,
    report: PathBuf,
}

impl Tracer {
    fn attach(cluster: &mut Cluster, id: u64, inject: &str) -> Result<Tracer, String> {
        let report = cluster.directory().join(format!("strace-{id}"));
        // What an earlier tracer wrote is not evidence for this one.
        std::fs::write(&report, b"").map_err(|e| format!("{}: {e}", report.display()))?;
        let pid = cluster.slot_mut(id).member.pid().ok_or("the member runs")?;
        let child = Command::new("strace")
            .args(["-f", "-q", "-p", &pid.to_string(), "-e", &format!("trace={CALLS}")])
            .args(["-e", &format!("inject={CALLS}:{inject}"), "-o"])
            .arg(&report)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("strace: {e}"))?;
        let mut tracer = Tracer { child, report };
        let attached = || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            let traced = |task: std::fs::DirEntry| {
                let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
                !status.contains("TracerPid:\t0\n")
            };
            tasks.flatten().all(traced).then_some(())
        };
        wait_until(&format!("strace traces member {id}"), PATIENCE, || {
            if let Ok(Some(status)) = tracer.child.try_wait() {
                // The first call may have failed already, and ended the member and with it the tracer.
                if tracer.injected() > 0 {
                    return Some(Ok(()));
                }
                return Some(Err(format!("strace ended with {status}: may this process trace others?")));
            }
            attached().map(Ok)
        })?;
        Ok(tracer)
    }

    /// How many calls were changed.
    fn injected(&self) -> usize {
        let report = std::fs::read(&self.report).unwrap_or_default();
        let report = String::from_utf8_lossy(&report);
        report.lines().filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)")).count()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SIGTERM lets it detach; SIGKILL would take the traced process along.
        if let Ok(None) = self.child.try_wait() {
            let pid = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

struct Failing {
    id: u64,
    tracer: Tracer,
    log: usize,
}

/// One of the next calls fails, and all that follow: a disk that is gone.
pub(super) fn error(cluster: &mut Cluster, victims: &[u64], rng: &mut Rng) -> Result<Box<dyn Fault>, String> {
    let id = victims[0];
    let log = cluster.slot_mut(id).member.log().len();
    let first = 1 + rng.below(8);
    let also_later = rng.pick(&["", "+"]);
    let tracer = Tracer::attach(cluster, id, &format!("error=EIO:when={first}{also_later}"))?;
    Ok(Box::new(Failing { id, tracer, log }))
}

impl Fault for Failing {
    fn end(self: Box<Self>, cluster: &mut Cluster) -> Result<String, String> {
        let Failing { id, tracer, log } = *self;
        let member = &mut cluster.slot_mut(id).member;
        let what = format!("member {id} stops after an EIO");
        let status = wait_until(&what, PATIENCE, || member.try_exit());
        member.wait_exit();
        let injected = tracer.injected();
        drop(tracer);
        let said = member.log().split_off(log);
        let reason = said.lines().rev().find(|line| line.starts_with("kvd: ")).unwrap_or_default().to_owned();
        if injected == 0 {
            return Err(format!("member {id} ended with {status}, and no call had failed: {reason}"));
        }
        if status.success() || !reason.contains("os error 5") || !reason.contains('/') {
            return Err(format!("member {id} had an EIO, ended with {status} and said: {reason:?}"));
        }
        cluster.restart(id);
        Ok(format!("{injected} calls got EIO; {reason}"))
    }
}

struct Slow {
    id: u64,
    tracer: Tracer,
}

/// Every write and sync takes 20 to 220 ms longer.
pub(super) fn delay(cluster: &mut Cluster, victims: &[u64], rng: &mut Rng) -> Result<Box<dyn Fault>, String> {
    let id = victims[0];
    let micros = 20_000 + rng.below(200_000);
    let tracer = Tracer::attach(cluster, id, &format!("delay_enter={micros}"))?;
    Ok(Box::new(Slow { id, tracer }))
}

impl Fault for Slow {
    fn end(self: Box<Self>, _: &mut Cluster) -> Result<String, String> {
        let what = format!("a slow write at member {}", self.id);
        let delayed = wait_until(&what, PATIENCE, || Some(self.tracer.injected()).filter(|n| *n > 0));
        Ok(format!("{delayed} calls of member {} delayed", self.id))
    }
}
