//! What goes wrong, and when. Each fault of the plan is tried once before any is tried twice; those that have not happened
//! yet are tried more often.

use kvd_vfs::{MemDisk, Op};

use crate::fault::Fault;
use crate::machine;
use crate::member::End;
use crate::net::Trouble;
use crate::oracle;
use crate::plan::{MS, SECOND};
use crate::trace::Micros;
use crate::world::{Event, World};

impl World {
    /// Tries the next fault.
    pub(crate) fn nemesis(&mut self) {
        if self.healed || self.plan.faults.is_empty() {
            return;
        }
        let untried: Vec<Fault> = self.of_plan(|w, fault| !w.tried.contains_key(&fault));
        let missed = self.missed();
        let fault = match (untried.first(), missed.is_empty() || self.rng.permille(500)) {
            (Some(first), _) => *first,
            (None, false) => self.rng.pick(&missed),
            (None, true) => self.rng.pick(&self.plan.faults),
        };
        *self.tried.entry(fault).or_default() += 1;
        let begun = self.bring_about(fault);
        // Early enough for all of the plan.
        let time = self.plan.duration.saturating_sub(self.now) / (untried.len() as u64 + 1);
        let calm = if untried.is_empty() { self.plan.calm } else { self.plan.calm.min(time).max(20 * MS) };
        let next = if begun { self.rng.within(calm / 4..calm) } else { 20 * MS };
        self.at(self.now + next, Event::Nemesis);
    }

    /// The faults of the plan that have not happened.
    pub(crate) fn missed(&self) -> Vec<Fault> {
        self.of_plan(|w, fault| !w.faults.contains_key(&fault))
    }

    fn of_plan(&self, which: impl Fn(&Self, Fault) -> bool) -> Vec<Fault> {
        self.plan.faults.iter().copied().filter(|fault| which(self, *fault)).collect()
    }

    fn somebody(&mut self) -> Option<usize> {
        let running: Vec<usize> =
            (0..self.members.len()).filter(|m| self.members[*m].running.is_some()).collect();
        (!running.is_empty()).then(|| self.rng.pick(&running))
    }

    fn a_while(&mut self) -> Micros {
        self.rng.within(200 * MS..self.rng.clone().pick(&[SECOND, 3 * SECOND, 8 * SECOND]))
    }

    /// Brings a fault about, or sees to it that it comes. `false` if it cannot be at the moment.
    fn bring_about(&mut self, fault: Fault) -> bool {
        let lasts = self.a_while();
        match fault {
            Fault::PowerLossOfAll => return self.all_lose_power(),
            Fault::Isolate | Fault::Split | Fault::OneWay | Fault::Bridge => {
                let Some(cut) = self.cut(fault) else { return false };
                return self.announce(fault, Trouble::Cut(cut), lasts);
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
            Fault::Join => return self.add_member(),
            Fault::Leave => return self.remove_member(),
            Fault::Replace => return self.replace_member(),
            Fault::Transfer => return self.transfer_leadership(),
            Fault::Rot => return self.let_rot(),
            _ => {}
        }
        let Some(m) = self.somebody() else { return false };
        let id = self.members[m].id;
        self.tell(id, format_args!("{fault}"));
        match fault {
            Fault::PowerLoss if self.rng.permille(500) => {
                self.end_abruptly(m, End::PowerLoss);
                self.happened(fault);
            }
            // In the middle of whatever it does next with its disk.
            Fault::PowerLoss => self.end_in_a_moment(m, End::PowerLoss, fault),
            Fault::PowerLossAtStart => {
                self.end_abruptly(m, End::PowerLoss);
                self.members[m].power_off_at_start = Some(self.rng.within(1..30));
            }
            Fault::Kill if self.rng.permille(500) => {
                self.end_abruptly(m, End::Kill);
                self.happened(fault);
            }
            Fault::Kill => self.end_in_a_moment(m, End::Kill, fault),
            Fault::Shutdown => {
                if let Some(run) = &self.members[m].running {
                    run.handle.shutdown();
                }
                self.wake(m);
            }
            Fault::Pause => {
                let member = &mut self.members[m];
                member.paused_until = member.paused_until.max(self.now + lasts);
                member.pause_felt = false;
            }
            Fault::SlowDisk => {
                self.members[m].slow_until = self.now + lasts;
                self.members[m].slow_felt = false;
            }
            Fault::FailedSync => {
                let op = self.rng.pick(&[Op::Sync, Op::Sync, Op::Write]);
                self.members[m].disk.seed_faults(self.rng.number());
                self.members[m].disk.fail_nth(op, self.rng.within(1..6), MemDisk::EIO);
                self.members[m].may_stop = true;
            }
            Fault::FullDisk => self.fill_disk(m, lasts),
            Fault::ClockJump | Fault::ClockDrift => self.disturb_clock(m, fault, lasts),
            Fault::SnapshotInterrupted => {
                self.members[m].interrupt_snapshot = Some(self.rng.pick(&[End::Kill, End::PowerLoss]));
            }
            _ => return false,
        }
        true
    }

    /// The verdict over the whole history.
    pub(crate) fn judge(&self) -> Result<(), String> {
        oracle::judge(&self.clients.history, &machine::lock(&self.notes))
    }

    fn all_lose_power(&mut self) -> bool {
        let mut any = false;
        for m in 0..self.members.len() {
            any |= self.end_abruptly(m, End::PowerLoss);
        }
        if any {
            self.happened(Fault::PowerLossOfAll);
        }
        any
    }

    fn end_in_a_moment(&mut self, m: usize, end: End, fault: Fault) {
        let n = self.rng.within(1..40);
        self.members[m].disk.power_off_at(n);
        self.members[m].end_armed = Some((end, fault));
    }

    fn fill_disk(&mut self, m: usize, lasts: Micros) {
        let room = self.rng.within(0..2 * self.plan.segment_bytes);
        let member = &mut self.members[m];
        member.disk.set_capacity(Some(member.disk.used() + room));
        member.full = true;
        self.at(self.now + lasts, Event::Room { member: m });
    }

    /// Somebody makes room on a disk.
    pub(crate) fn make_room(&mut self, m: usize) {
        self.note_failures(m);
        let member = &mut self.members[m];
        let id = member.id;
        member.disk.set_capacity(None);
        member.full = false;
        // What failed for want of room is being reported to the member, perhaps.
        member.may_stop = true;
        self.tell(id, format_args!("has room on its disk"));
    }

    fn disturb_clock(&mut self, m: usize, fault: Fault, lasts: Micros) {
        let (now, until) = (self.now, self.now + lasts);
        let rate = self.rng.pick(&[200, 500, 2000, 5000]);
        let jump = self.rng.pick(&[SECOND, 20 * SECOND, 3600 * SECOND]);
        let stops = self.rng.permille(500);
        let clock = &mut self.members[m].clock;
        match fault {
            Fault::ClockDrift => clock.drift(rate, until, now),
            _ if stops => clock.stop(until, now),
            _ => {
                clock.jump(jump, now);
                self.happened(fault);
            }
        }
    }

    /// A member has had a tick of a clock that is or was wrong.
    pub(crate) fn clock_felt(&mut self, m: usize) {
        let clock = &mut self.members[m].clock;
        let fault = if clock.is_wrong() { Fault::ClockDrift } else { Fault::ClockJump };
        if !std::mem::replace(&mut clock.felt, true) {
            self.happened(fault);
        }
    }

    fn announce(&mut self, fault: Fault, trouble: Trouble, lasts: Micros) -> bool {
        self.tell(0, format_args!("{fault}: {trouble:?}"));
        self.trouble(fault, trouble, lasts);
        true
    }

    /// Some directed links.
    fn cut(&mut self, fault: Fault) -> Option<Vec<(u64, u64)>> {
        let members: Vec<u64> =
            self.members.iter().filter(|member| member.running.is_some()).map(|member| member.id).collect();
        if members.len() < 2 {
            return None;
        }
        let all: Vec<(u64, u64)> = members
            .iter()
            .flat_map(|a| members.iter().map(move |b| (*a, *b)))
            .filter(|(a, b)| a != b)
            .collect();
        Some(match fault {
            Fault::Isolate => {
                let alone = self.rng.pick(&members);
                all.into_iter().filter(|(a, b)| *a == alone || *b == alone).collect()
            }
            Fault::Split | Fault::Bridge => {
                let both = (fault == Fault::Bridge).then(|| self.rng.pick(&members));
                let mut side = self.rng.number();
                // One on each side at least.
                let mut ends = members.iter().filter(|id| Some(**id) != both);
                let (first, last) = (*ends.next()?, *ends.next_back()?);
                side = side & !(1 << first) | 1 << last;
                let crosses = |(a, b): &(u64, u64)| (side >> a) & 1 != (side >> b) & 1;
                let sees_all = |(a, b): &(u64, u64)| Some(*a) == both || Some(*b) == both;
                all.into_iter().filter(|link| crosses(link) && !sees_all(link)).collect()
            }
            _ => {
                let one = self.rng.pick(&all);
                all.into_iter().filter(|link| *link == one || self.rng.permille(250)).collect()
            }
        })
    }
}
