//! The tracker under arbitrary sequences of calls, as its one caller sees it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// A command comes, with a time-out in milliseconds.
    Push(u64),
    /// The next batch is taken by raft, or refused.
    Propose { taken: bool },
    /// The log applies the batch that raft took so many batches ago, whether or not it was applied before.
    Apply(usize),
    /// So many milliseconds pass.
    Pass(u64),
    /// Another leader.
    Again,
    /// The member stops.
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..5000).prop_map(Step::Push),
        4 => any::<bool>().prop_map(|taken| Step::Propose { taken }),
        4 => (0_usize..6).prop_map(Step::Apply),
        2 => (0_u64..2000).prop_map(Step::Pass),
        1 => Just(Step::Again),
        1 => Just(Step::Fail),
    ]
}

struct Waiter {
    answer: oneshot::Receiver<Result<Applied, Error>>,
    got: Option<Result<Applied, Error>>,
    deadline: Duration,
    /// Whether raft ever took a batch with it.
    proposed: bool,
}

struct Model {
    tracker: Tracker,
    now: Duration,
    /// The counter of a waiter is its place.
    waiters: Vec<Waiter>,
    /// What raft took: the counters of each batch.
    taken: Vec<Vec<u64>>,
    floor: u64,
    failed: bool,
}

impl Model {
    fn new() -> Self {
        let mut tracker = Tracker::new(1, 1, None);
        tracker.heard();
        let (now, floor, failed) = (Duration::ZERO, 0, false);
        Self { tracker, now, waiters: Vec::new(), taken: Vec::new(), floor, failed }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Push(timeout) => {
                let timeout = Duration::from_millis(timeout);
                let (reply, answer) = oneshot::channel();
                self.tracker.push(Proposal { payload: Bytes::from_static(b"xy"), timeout, reply }, self.now);
                let deadline = self.now + timeout;
                self.waiters.push(Waiter { answer, got: None, deadline, proposed: false });
            }
            Step::Propose { taken } => {
                let Some((data, mark)) = self.tracker.next_batch() else { return };
                let batch = Batch::decode(data.as_slice()).unwrap();
                let counters: Vec<u64> = batch.commands.iter().map(|command| command.counter).collect();
                assert!(counters.is_sorted_by(|a, b| a < b), "each once: {counters:?}");
                assert!(self.floor <= batch.floor, "the floor goes back");
                self.floor = batch.floor;
                for &counter in &counters {
                    assert!(counter >= batch.floor, "what is below the floor is given up");
                    let waiter = &mut self.waiters[counter as usize];
                    assert!(waiter.got.is_none(), "{counter} has its answer and is proposed all the same");
                    waiter.proposed |= taken;
                }
                let waits = |counter: usize| self.waiters[counter].got.is_none();
                assert!(
                    (0..self.floor as usize).all(|counter| !waits(counter)),
                    "the floor is above a waiter"
                );
                if taken {
                    self.tracker.proposed(mark, self.now);
                    self.taken.push(counters);
                }
            }
            Step::Apply(back) => {
                let Some(at) = self.taken.len().checked_sub(back + 1) else { return };
                for &counter in &self.taken[at] {
                    let applied = Applied { index: counter + 100, response: Bytes::new() };
                    self.tracker.resolve(counter, &applied, self.now);
                }
            }
            Step::Pass(time) => {
                self.now += Duration::from_millis(time);
                self.tracker.expire(self.now);
                self.tracker.retry_if_due(self.now);
            }
            Step::Again => self.tracker.propose_again(),
            Step::Fail => {
                self.tracker.fail_all(Error::Stopped, Error::Unknown { reason: "stopped" });
                self.failed = true;
            }
        }
    }

    /// Collects the answers, and checks each.
    fn look(&mut self) {
        for (counter, waiter) in self.waiters.iter_mut().enumerate() {
            // A second answer is impossible: the tracker gives its end of the channel away with the first.
            let Ok(answer) = waiter.answer.try_recv() else {
                assert!(waiter.got.is_some(), "{counter} lost its answer");
                continue;
            };
            let Some(answer) = answer else {
                assert!(self.now < waiter.deadline, "{counter} is overdue");
                continue;
            };
            match &answer {
                Ok(applied) => {
                    assert_eq!(applied.index, counter as u64 + 100, "another's answer");
                    assert!(waiter.proposed);
                }
                Err(Error::NoLeader) => assert!(!waiter.proposed && self.now >= waiter.deadline),
                Err(Error::Stopped) => assert!(!waiter.proposed && self.failed),
                Err(Error::Unknown { .. }) => assert!(waiter.proposed),
                Err(other) => panic!("{other}"),
            }
            assert!(waiter.got.replace(answer).is_none());
        }
        let open: BTreeSet<u64> =
            (0..).zip(&self.waiters).filter(|(_, w)| w.got.is_none()).map(|(c, _)| c).collect();
        assert_eq!(self.tracker.open_counters().into_iter().collect::<BTreeSet<_>>(), open);
        assert_eq!(self.tracker.load(), Load { count: open.len(), bytes: 2 * open.len() });
    }
}

proptest! {
    #[test]
    fn every_waiter_gets_one_true_answer_and_no_counter_is_used_twice(steps in prop::collection::vec(step(), 0..120)) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
            model.look();
        }
        model.step(&Step::Fail);
        model.look();
        prop_assert!(model.waiters.iter().all(|waiter| waiter.got.is_some()));
        prop_assert!(model.tracker.is_empty());
    }
}
