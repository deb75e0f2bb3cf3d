//! What goes wrong, and when. Each fault of the plan happens once before any happens twice.

use crate::machine;
use crate::net::Trouble;
use crate::oracle;
use crate::plan::{Fault, MS, SECOND};
use crate::trace::Micros;
use crate::world::{Event, World};
use kvd_vfs::{MemDisk, Op};

impl World {
    /// Brings about the next fault.
    pub(crate) fn nemesis(&mut self) {
        if self.healed {
            return;
        }
        let mut due = self.plan.faults.iter().filter(|fault| !self.faults.contains_key(fault));
        let (first, left) = (due.next().copied(), due.count() as u64 + 1);
        let fault = first.unwrap_or_else(|| self.rng.pick(&self.plan.faults));
        let happened = self.bring_about(fault);
        if happened {
            *self.faults.entry(fault).or_default() += 1;
        }
        // Early enough for all of the plan.
        let calm = self.plan.calm.min(self.plan.duration.saturating_sub(self.now) / (left + 1)).max(20 * MS);
        let next = if happened { self.rng.within(calm / 4..calm) } else { 10 * MS };
        self.at(self.now + next, Event::Nemesis);
    }

    fn somebody(&mut self) -> Option<usize> {
        let running: Vec<usize> =
            (0..self.members.len()).filter(|m| self.members[*m].running.is_some()).collect();
        (!running.is_empty()).then(|| self.rng.pick(&running))
    }

    fn a_while(&mut self) -> Micros {
        self.rng.within(200 * MS..self.rng.clone().pick(&[SECOND, 3 * SECOND, 8 * SECOND]))
    }

    fn bring_about(&mut self, fault: Fault) -> bool {
        let lasts = self.a_while();
        match fault {
            Fault::PowerLossOfAll => {
                let mut any = false;
                for m in 0..self.members.len() {
                    any |= self.members[m].running.is_some();
                    self.lose_power(m);
                }
                return any;
            }
            Fault::Isolate | Fault::Split | Fault::OneWay => {
                let cut = self.cut(fault);
                self.tell(0, format_args!("{fault}: {cut:?}"));
                self.trouble(Trouble::Cut(cut), lasts);
                return true;
            }
            Fault::Loss => {
                let chance = self.rng.pick(&[20, 100, 400]);
                return self.announce(fault, Trouble::Loss(chance), lasts);
            }
            Fault::Duplicates => return self.announce(fault, Trouble::Duplicates(200), lasts),
            Fault::Reordering => return self.announce(fault, Trouble::Reordering, lasts),
            Fault::Delay => {
                let most = self.rng.pick(&[20, 200, 1500]) * MS;
                return self.announce(fault, Trouble::Delay(most), lasts);
            }
            Fault::BrokenSnapshots => {
                return self.announce(fault, Trouble::BrokenSnapshots(500), 4 * lasts);
            }
            _ => {}
        }
        let Some(m) = self.somebody() else { return false };
        let id = self.members[m].id;
        self.tell(id, format_args!("{fault}"));
        match fault {
            Fault::PowerLoss if self.rng.permille(500) => self.lose_power(m),
            // In the middle of whatever it does next with its disk.
            Fault::PowerLoss => self.members[m].disk.power_off_at(self.rng.within(1..40)),
            Fault::PowerLossAtStart => {
                self.lose_power(m);
                self.members[m].power_off_at_start = Some(self.rng.within(1..30));
            }
            Fault::Kill => self.kill(m),
            Fault::Shutdown => {
                if let Some(run) = &self.members[m].running {
                    run.handle.shutdown();
                }
                self.wake(m);
            }
            Fault::Pause => {
                let until = &mut self.members[m].paused_until;
                *until = (*until).max(self.now + lasts);
            }
            Fault::SlowDisk => self.members[m].slow_until = self.now + lasts,
            Fault::FailedSync => {
                let op = self.rng.pick(&[Op::Sync, Op::Sync, Op::Write]);
                self.members[m].disk.seed_faults(self.rng.number());
                self.members[m].disk.fail_nth(op, self.rng.within(1..6), MemDisk::EIO);
                self.members[m].may_stop = true;
            }
            _ => return false,
        }
        true
    }

    fn announce(&mut self, fault: Fault, trouble: Trouble, lasts: Micros) -> bool {
        self.tell(0, format_args!("{fault}: {trouble:?}"));
        self.trouble(trouble, lasts);
        true
    }

    /// Some directed links.
    fn cut(&mut self, fault: Fault) -> Vec<(u64, u64)> {
        let members = self.plan.members;
        let all = (1..=members).flat_map(|a| (1..=members).map(move |b| (a, b))).filter(|(a, b)| a != b);
        let all: Vec<(u64, u64)> = all.collect();
        match fault {
            Fault::Isolate => {
                let alone = self.rng.within(1..members + 1);
                all.into_iter().filter(|(a, b)| *a == alone || *b == alone).collect()
            }
            Fault::Split => {
                let side = self.rng.within(1..(1 << members) - 1);
                all.into_iter().filter(|(a, b)| (side >> (a - 1)) & 1 != (side >> (b - 1)) & 1).collect()
            }
            _ => {
                let one = self.rng.pick(&all);
                all.into_iter().filter(|link| *link == one || self.rng.permille(250)).collect()
            }
        }
    }

    fn kill(&mut self, m: usize) {
        // What the log was at may be done without anybody being told.
        if self.rng.permille(500) {
            let _ = self.do_log_job(m);
        }
        self.members[m].disk.clear_faults();
        self.end_process(m);
        self.restart_later(m);
    }

    /// Takes the power away, perhaps in the middle of something.
    pub(crate) fn lose_power(&mut self, m: usize) {
        let Some(run) = &self.members[m].running else { return };
        self.members[m].disk.clear_faults();
        let helpers: Vec<u64> = run.helpers.keys().copied().collect();
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
        let (id, off) = (self.members[m].id, self.members[m].disk.is_off());
        let when = match (busy, off) {
            (true, true) => "in the middle of a write",
            (true, false) => "after a write that it did not acknowledge",
            _ => "between writes",
        };
        self.tell(id, format_args!("loses power {when}"));
        self.count(if off { "power losses in the middle of a write" } else { "power losses between writes" });
        self.members[m].disk.crash(self.rng.number());
        self.end_process(m);
        self.restart_later(m);
    }

    /// After an operation of the disk: the power may have gone in its middle.
    pub(crate) fn notice_power_loss(&mut self, m: usize) {
        let id = self.members[m].id;
        if self.members[m].disk.is_off() && self.members[m].running.is_some() {
            self.tell(id, format_args!("loses power in the middle of a write"));
            self.count("power losses in the middle of a write");
            self.members[m].disk.crash(self.rng.number());
            self.end_process(m);
            self.restart_later(m);
        }
    }

    /// The verdict over the whole history.
    pub(crate) fn judge(&self) -> Result<(), String> {
        oracle::judge(&self.clients.history, &machine::lock(&self.notes))
    }
}
