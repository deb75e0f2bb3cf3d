//! Whoever adds and removes members: one change at a time, asked for at any member, until there is an answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kvd_node::{ChangeOutcome, Error, MembershipChange, Refusal};

use crate::fault::Fault;
use crate::member::{Member, Stage};
use crate::plan::{MS, SECOND};
use crate::world::{Event, World};

/// The most members at a time, and that there ever are.
const MOST: usize = 7;
const MOST_EVER: usize = 14;

type Answer = Pin<Box<dyn Future<Output = Result<ChangeOutcome, Error>>>>;

/// What the operator is at.
pub(crate) struct Task {
    change: MembershipChange,
    subject: usize,
    /// Whether it must be refused: the subject was removed.
    hopeless: bool,
    /// Who is being asked, which process of it, and the answer to come.
    asked: Option<(usize, u64, Answer)>,
    /// What to do next.
    then: Option<usize>,
    /// Tells its events from those of the task before.
    number: u64,
}

impl World {
    /// Makes a place for a new member.
    fn new_place(&mut self) -> Option<usize> {
        let count = self.members.iter().filter(|member| member.stage != Stage::Out).count();
        if count >= MOST || self.members.len() >= MOST_EVER {
            return None;
        }
        let (id, election_seed) = (self.members.len() as u64 + 1, self.rng.number());
        self.members.push(Member::new(id, false, election_seed));
        Some(self.members.len() - 1)
    }

    fn addition(subject: usize) -> MembershipChange {
        let id = subject as u64 + 1;
        MembershipChange::Add { id, peer_urls: vec![format!("http://member{id}:1")] }
    }

    fn begin_task(&mut self, change: MembershipChange, subject: usize, hopeless: bool, then: Option<usize>) {
        self.tasks += 1;
        let number = self.tasks;
        self.task = Some(Task { change, subject, hopeless, asked: None, then, number });
        self.at(self.now + MS, Event::Operate { task: number });
    }

    /// Adds a member.
    pub(crate) fn add_member(&mut self) -> bool {
        if self.task.is_some() {
            return false;
        }
        let Some(m) = self.new_place() else { return false };
        self.tell(0, format_args!("the operator adds member {}", m + 1));
        self.begin_task(Self::addition(m), m, false, None);
        true
    }

    /// Removes any member that the others can do without, running or not.
    pub(crate) fn remove_member(&mut self) -> bool {
        let candidates: Vec<usize> = (0..self.members.len())
            .filter(|m| self.members[*m].counts() && self.members[*m].rotten.is_none())
            .filter(|m| self.can_do_without(*m))
            .collect();
        let counting = self.members.iter().filter(|member| member.counts()).count();
        if self.task.is_some() || candidates.is_empty() || counting < 3 {
            return false;
        }
        let m = self.rng.pick(&candidates);
        self.tell(0, format_args!("the operator removes member {}", m + 1));
        self.begin_task(MembershipChange::Remove { id: m as u64 + 1 }, m, false, None);
        true
    }

    /// Removes a member that does not come back, and adds another.
    pub(crate) fn replace(&mut self, m: usize) -> bool {
        if self.task.is_some() || !self.can_do_without(m) {
            return false;
        }
        let Some(new) = self.new_place() else { return false };
        self.begin_task(MembershipChange::Remove { id: m as u64 + 1 }, m, false, Some(new));
        true
    }

    /// Asks somebody, if nobody is being asked.
    pub(crate) fn operate(&mut self, number: u64) {
        let Some(task) = self.task.as_ref().filter(|task| task.number == number) else { return };
        let again = self.now + self.rng.within(100 * MS..SECOND);
        if let Some((asked, ..)) = &task.asked {
            // It may be gone.
            self.poll_operator(*asked);
            self.at(again, Event::Operate { task: number });
            return;
        }
        let running: Vec<usize> = (0..self.members.len())
            .filter(|m| self.members[*m].running.is_some() && self.members[*m].counts())
            .collect();
        self.at(again, Event::Operate { task: number });
        if running.is_empty() {
            return;
        }
        let m = self.rng.pick(&running);
        let Some(run) = &self.members[m].running else { return };
        let Some(task) = &mut self.task else { return };
        let answer = run.handle.change_membership(task.change.clone(), Duration::from_secs(3));
        task.asked = Some((m, self.members[m].life, Box::pin(answer)));
        self.wake(m);
    }

    /// Looks for the operator's answer at a member, or whether that member is gone.
    pub(crate) fn poll_operator(&mut self, m: usize) {
        let Some(task) = &mut self.task else { return };
        let Some((asked, life, answer)) = &mut task.asked else { return };
        if *asked != m {
            return;
        }
        let answer = if self.members[m].life == *life {
            match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => return,
                Poll::Ready(answer) => answer,
            }
        } else {
            Err(Error::Stopped)
        };
        task.asked = None;
        self.changed(answer);
    }

    fn changed(&mut self, answer: Result<ChangeOutcome, Error>) {
        let Some(task) = &self.task else { return };
        let (m, hopeless) = (task.subject, task.hopeless);
        let id = m as u64 + 1;
        match (answer, &task.change) {
            (Ok(outcome), _) if hopeless => {
                self.fail(format!("configuration: member {id} was removed and is added again: {outcome:?}"));
            }
            (Ok(_), MembershipChange::Add { .. }) => {
                self.tell(0, format_args!("member {id} is added"));
                self.happened(Fault::Join);
                self.members[m].stage = Stage::In;
                self.restart_later(m);
                self.finish_task();
            }
            (Ok(_) | Err(Error::Refused(Refusal::Removed(_))), MembershipChange::Remove { .. }) => {
                self.tell(0, format_args!("member {id} is removed"));
                self.happened(Fault::Leave);
                self.members[m].stage = Stage::Out;
                self.finish_task();
                // It must not come back under its id, however soon somebody tries.
                if self.task.is_none() && self.rng.permille(500) {
                    self.begin_task(Self::addition(m), m, true, None);
                }
            }
            (Err(Error::Refused(refusal)), _) => {
                if !hopeless {
                    self.tell(0, format_args!("the change is refused: {refusal}"));
                    self.count("membership changes refused");
                    if self.members[m].stage == Stage::Asked {
                        self.members[m].stage = Stage::Out;
                    }
                }
                self.finish_task();
            }
            // It is asked for again.
            (Err(_), _) => {}
        }
    }

    fn finish_task(&mut self) {
        let Some(task) = self.task.take() else { return };
        if let Some(new) = task.then {
            self.begin_task(Self::addition(new), new, false, None);
        }
    }
}
