//! Processes that are killed or stopped.

use std::os::unix::process::ExitStatusExt;

use rustix::process::Signal;

use super::Fault;
use crate::cluster::Cluster;

struct Killed(Vec<u64>);

pub(super) fn kill(cluster: &mut Cluster, victims: &[u64]) -> Result<Box<dyn Fault>, String> {
    // All signals first: nobody sees the others fall.
    for id in victims {
        cluster.slot_mut(*id).member.signal(Signal::KILL);
    }
    for id in victims {
        let status = cluster.slot_mut(*id).member.wait_exit();
        if status.signal() != Some(Signal::KILL.as_raw()) {
            return Err(format!("member {id} was killed and ended with {status}"));
        }
    }
    Ok(Box::new(Killed(victims.to_vec())))
}

impl Fault for Killed {
    fn end(self: Box<Self>, cluster: &mut Cluster) -> Result<String, String> {
        for id in &self.0 {
            cluster.restart(*id);
        }
        Ok(format!("members {:?} ended by SIGKILL", self.0))
    }
}

struct Paused {
    id: u64,
    used: u64,
}

/// Processor time that a process has used, in clock ticks.
fn processor_time(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    // Behind the name, which ends with the last parenthesis, utime and stime are the 12th and 13th fields.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    match (number(11), number(12)) {
        (Some(user), Some(system)) => Ok(user + system),
        _ => Err(format!("{path}: {stat}")),
    }
}

pub(super) fn pause(cluster: &mut Cluster, victims: &[u64]) -> Result<Box<dyn Fault>, String> {
    let id = victims[0];
    let member = &cluster.slot_mut(id).member;
    member.pause();
    let used = processor_time(member.pid().ok_or("it runs")?)?;
    Ok(Box::new(Paused { id, used }))
}

impl Fault for Paused {
    fn end(self: Box<Self>, cluster: &mut Cluster) -> Result<String, String> {
        let member = &cluster.slot_mut(self.id).member;
        let used = processor_time(member.pid().ok_or("it ran")?)?;
        member.resume();
        match used == self.used {
            true => Ok(format!("member {} was stopped and used no processor time", self.id)),
            false => Err(format!("member {} ran while it was stopped", self.id)),
        }
    }
}
