//! A member's clock: the time since its process began, as its ticks tell it.
//!
//! What a member may rely on (`kvd_node::Node::run`): the time never goes back. It may stand still, jump ahead, and run
//! too fast or too slow; and ticks, which come once in a while by this clock, come late with it.

use crate::plan::MS;
use crate::trace::Micros;

/// Time between two ticks.
pub(crate) const TICK: Micros = 100 * MS;

/// The rate of a clock that is right, in thousandths.
const RIGHT: u64 = 1000;

/// A clock.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// What it showed at some moment of the world.
    shown: Micros,
    at: Micros,
    /// Thousandths of the world's time.
    rate: u64,
    /// The end of the last time in which it was wrong; 0 if it never was.
    pub(crate) wrong_until: Micros,
    /// Whether a tick came of that.
    pub(crate) felt: bool,
}

impl Clock {
    /// The clock of a process that begins now.
    pub(crate) fn new(now: Micros) -> Self {
        Self { shown: 0, at: now, rate: RIGHT, wrong_until: 0, felt: false }
    }

    /// What it shows.
    pub(crate) fn read(&self, now: Micros) -> Micros {
        self.shown + (now - self.at) * self.rate / RIGHT
    }

    /// Jumps ahead.
    pub(crate) fn jump(&mut self, by: Micros, now: Micros) {
        self.set_rate(self.rate, now);
        self.shown += by;
        self.wrong_until = self.wrong_until.max(now);
    }

    /// Stands still until then, and shows the right time afterwards.
    pub(crate) fn stop(&mut self, until: Micros, now: Micros) {
        self.set_rate(0, now);
        self.wrong_until = self.wrong_until.max(until);
        self.felt = false;
    }

    /// Runs at that rate until then.
    pub(crate) fn drift(&mut self, rate: u64, until: Micros, now: Micros) {
        self.set_rate(rate, now);
        self.wrong_until = self.wrong_until.max(until);
        self.felt = false;
    }

    /// Is right again, if it is time; after a stop it makes up for that.
    pub(crate) fn mend(&mut self, now: Micros) {
        if now >= self.wrong_until && self.rate != RIGHT {
            let missed = if self.rate == 0 { now - self.at } else { 0 };
            self.set_rate(RIGHT, now);
            self.shown += missed;
        }
    }

    /// Whether it is wrong at the moment.
    pub(crate) fn is_wrong(&self) -> bool {
        self.rate != RIGHT
    }

    /// How long until it has gone on by a tick, in the world's time. Not while it stands still.
    pub(crate) fn next_tick(&self) -> Option<Micros> {
        (TICK * RIGHT).checked_div(self.rate)
    }

    fn set_rate(&mut self, rate: u64, now: Micros) {
        (self.shown, self.at, self.rate) = (self.read(now), now, rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SECOND;

    #[test]
    fn a_clock_never_goes_back() {
        let mut clock = Clock::new(5 * SECOND);
        assert_eq!(clock.read(7 * SECOND), 2 * SECOND);
        clock.stop(10 * SECOND, 8 * SECOND);
        assert_eq!((clock.read(9 * SECOND), clock.next_tick()), (3 * SECOND, None));
        clock.mend(9 * SECOND);
        assert!(clock.is_wrong(), "not yet");
        clock.mend(10 * SECOND);
        assert_eq!((clock.read(10 * SECOND), clock.next_tick()), (5 * SECOND, Some(TICK)));
        clock.drift(200, 20 * SECOND, 10 * SECOND);
        assert_eq!((clock.read(15 * SECOND), clock.next_tick()), (6 * SECOND, Some(5 * TICK)));
        clock.mend(20 * SECOND);
        assert_eq!(clock.read(21 * SECOND), 8 * SECOND, "what it lost it has lost");
        clock.jump(60 * SECOND, 21 * SECOND);
        assert_eq!(clock.read(22 * SECOND), 69 * SECOND);
    }
}
