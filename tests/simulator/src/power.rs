//! Processes that end without being asked: killed, or with the power gone, between operations or in their middle.

use crate::fault::Fault;
use crate::member::End;
use crate::world::World;

impl World {
    /// Ends a member's process, perhaps in the middle of something. `false` if it has none.
    pub(crate) fn end_abruptly(&mut self, m: usize, end: End) -> bool {
        let Some(run) = &self.members[m].running else { return false };
        let helpers: Vec<u64> = run.helpers.keys().copied().collect();
        self.members[m].disk.clear_faults();
        self.members[m].disk.power_off_at(self.rng.within(1..12));
        let busy = match self.rng.within(0..3) {
            0 if !helpers.is_empty() => {
                let helper = self.rng.pick(&helpers);
                drop(self.do_help(m, helper));
                true
            }
            0 | 1 => matches!(self.do_log_job(m), Err(_) | Ok(Some(_))),
            _ => false,
        };
        let when = match (busy, self.members[m].disk.is_off()) {
            (true, true) => "in the middle of a write",
            (true, false) => "after a write that it did not acknowledge",
            _ => "between writes",
        };
        self.end_now(m, end, when);
        true
    }

    fn end_now(&mut self, m: usize, end: End, when: &str) {
        let id = self.members[m].id;
        match end {
            End::PowerLoss => {
                self.tell(id, format_args!("loses power {when}"));
                self.members[m].disk.crash(self.rng.number());
            }
            End::Kill => {
                self.tell(id, format_args!("is killed {when}"));
                self.members[m].disk = self.members[m].disk.fork();
            }
        }
        self.count(match (end, when) {
            (End::PowerLoss, "in the middle of a write") => "power losses in the middle of a write",
            (End::PowerLoss, _) => "power losses between writes",
            (End::Kill, "in the middle of a write") => "kills in the middle of a write",
            (End::Kill, _) => "kills between writes",
        });
        self.end_process(m);
        self.restart_later(m);
    }

    /// After an operation of the disk: the process may have ended in its middle.
    pub(crate) fn notice_power_loss(&mut self, m: usize) {
        if !self.members[m].disk.is_off() || self.members[m].running.is_none() {
            return;
        }
        let (end, fault) = self.members[m].end_armed.take().unwrap_or((End::PowerLoss, Fault::PowerLoss));
        self.happened(fault);
        self.end_now(m, end, "in the middle of a write");
    }

    /// The power went while the log was being closed.
    pub(crate) fn power_has_gone(&mut self, m: usize) {
        let (end, fault) = self.members[m].end_armed.take().unwrap_or((End::PowerLoss, Fault::PowerLoss));
        self.happened(fault);
        match end {
            End::PowerLoss => self.members[m].disk.crash(self.rng.number()),
            End::Kill => self.members[m].disk = self.members[m].disk.fork(),
        }
    }

    /// A snapshot is about to be written, received or read: in its middle the process ends, if it is to.
    pub(crate) fn arm_interruption(&mut self, m: usize) {
        if let Some(end) = self.members[m].interrupt_snapshot.take() {
            self.members[m].end_armed = Some((end, Fault::SnapshotInterrupted));
            self.members[m].disk.power_off_at(self.rng.within(1..8));
        }
    }
}
