//! How a member stops: no new requests, an answer for those in flight, a successor, the end.

use std::time::Duration;

use crate::core::{Core, Exit};
use crate::state_machine::StateMachine;

/// Where a member is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// Waits for the requests in flight, at most until then.
    Draining(Duration),
    /// Was leader, and waits for a successor, at most until then.
    HandingOver(Duration),
    Over(Exit),
}

impl<S: StateMachine> Core<S> {
    pub(crate) fn begin_shutdown(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Draining(self.now + self.config.shutdown_grace);
        }
    }

    fn nobody_waits(&self) -> bool {
        self.tracker.is_empty() && !self.changes.is_waited_for() && self.reads.waiting() == 0
    }

    /// Goes on to the next phase if this one is done, and says whether it did.
    pub(crate) fn advance_shutdown(&mut self) -> bool {
        let next = match self.phase {
            Phase::Draining(until) if self.now >= until || self.nobody_waits() => {
                if self.is_leader() && self.hand_over() {
                    Phase::HandingOver(self.now + self.config.shutdown_grace)
                } else {
                    Phase::Over(Exit::Shutdown)
                }
            }
            Phase::HandingOver(until) if self.now >= until || !self.is_leader() => {
                Phase::Over(Exit::Shutdown)
            }
            Phase::Running | Phase::Draining(_) | Phase::HandingOver(_) | Phase::Over(_) => return false,
        };
        self.phase = next;
        true
    }
}
