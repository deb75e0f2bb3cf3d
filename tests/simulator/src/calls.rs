//! Calls: what a member asks the leader for, and the answer. A call is a connection of its own, so it arrives or breaks.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use kvd_node::driver::{Ask, Done};
use kvd_raftpb::peers::{BoxFuture, CallError, PeerHandler as _};

use crate::plan::{MS, SECOND};
use crate::world::{Event, World};

/// A process: the member's place, and which of its lives.
type Process = (usize, u64);

/// A call that is being answered.
pub(crate) struct Call {
    from: Process,
    to: Process,
    number: u64,
    answer: BoxFuture<Result<Bytes, CallError>>,
}

impl World {
    /// A member calls another.
    pub(crate) fn call(&mut self, m: usize, ask: Ask) {
        let from = (m, self.members[m].life);
        let at = self.now + self.delay();
        self.at(at, Event::Called { from, ask: Box::new(ask) });
    }

    /// A call arrives, if there is somebody.
    pub(crate) fn called(&mut self, from: Process, ask: Ask) {
        let (caller, to) = (from.0 as u64 + 1, ask.to);
        let receiver = (to - 1) as usize;
        let reaches = !self.is_cut(caller, to) && !self.is_turned_away(caller, to);
        match &self.members[receiver].running {
            Some(run) if reaches => {
                self.count("calls to the leader");
                let Some(run) = &self.members[receiver].running else { return };
                let answer = run.handle.answer(caller, ask.request, ask.limit);
                let to = (receiver, self.members[receiver].life);
                self.calls.push(Call { from, to, number: ask.number, answer });
                self.wake(receiver);
            }
            _ => self.answer_call(from, ask.number, Err(CallError::not_done("it is not there"))),
        }
    }

    fn answer_call(&mut self, from: Process, number: u64, answer: Result<Bytes, CallError>) {
        let late = if answer.is_ok() { self.delay() } else { self.rng.within(MS..SECOND) };
        self.at(self.now + late, Event::CallEnds { from, number, answer: Box::new(answer) });
    }

    /// An answer arrives, or word that there is none.
    pub(crate) fn call_ends(&mut self, from: Process, number: u64, answer: Result<Bytes, CallError>) {
        let (m, life) = from;
        if self.members[m].life != life {
            return;
        }
        if let Some(run) = &self.members[m].running {
            run.inbox.done(Done::Answered { number, answer });
        }
        self.wake(m);
    }

    /// Looks at the calls that a member answers.
    pub(crate) fn poll_calls(&mut self, m: usize) {
        let mut context = Context::from_waker(Waker::noop());
        let mut at = 0;
        while at < self.calls.len() {
            let life = self.members[m].life;
            let call = &mut self.calls[at];
            if call.to.0 != m {
                at += 1;
                continue;
            }
            let answer = match call.answer.as_mut().poll(&mut context) {
                _ if call.to.1 != life => Err(CallError::unknown("the other side is gone")),
                Poll::Pending => {
                    at += 1;
                    continue;
                }
                Poll::Ready(answer) => answer,
            };
            let Call { from, to, number, .. } = self.calls.remove(at);
            let cut = self.is_cut(to.0 as u64 + 1, from.0 as u64 + 1);
            let answer = if cut { Err(CallError::unknown("the connection broke")) } else { answer };
            self.answer_call(from, number, answer);
        }
    }
}
