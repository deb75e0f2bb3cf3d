//! Whoever adds and removes members: one change at a time, asked for at any member, until there is an answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kvd_node::{ChangeOutcome, Error, MembershipChange, MembershipRequest, Refusal, Role};

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
    /// Who is to come and who is to go, together.
    add: Option<usize>,
    remove: Option<usize>,
    /// Whether it must be refused: who is to come was removed.
    hopeless: bool,
    /// Who is being asked, which process of it, and the answer to come.
    asked: Option<(usize, u64, Answer)>,
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

    fn begin_task(&mut self, add: Option<usize>, remove: Option<usize>, hopeless: bool) {
        self.tasks += 1;
        let number = self.tasks;
        self.task = Some(Task { add, remove, hopeless, asked: None, number });
        self.at(self.now + MS, Event::Operate { task: number });
    }

    /// Adds a member.
    pub(crate) fn add_member(&mut self) -> bool {
        if self.task.is_some() {
            return false;
        }
        let Some(m) = self.new_place() else { return false };
        self.tell(0, format_args!("the operator adds member {}", m + 1));
        self.begin_task(Some(m), None, false);
        true
    }

    /// Removes any member that the others can do without, running or not.
    pub(crate) fn remove_member(&mut self) -> bool {
        let Some(m) = self.dispensable() else { return false };
        self.tell(0, format_args!("the operator removes member {}", m + 1));
        self.begin_task(None, Some(m), false);
        true
    }

    /// Replaces any member that the others can do without.
    pub(crate) fn replace_member(&mut self) -> bool {
        let Some(m) = self.dispensable() else { return false };
        self.replace(m)
    }

    fn dispensable(&mut self) -> Option<usize> {
        let candidates: Vec<usize> = (0..self.members.len())
            .filter(|m| self.members[*m].counts() && self.members[*m].rotten.is_none())
            .filter(|m| self.can_do_without(*m))
            .collect();
        let counting = self.members.iter().filter(|member| member.counts()).count();
        let any = self.task.is_none() && !candidates.is_empty() && counting >= 3;
        any.then(|| self.rng.pick(&candidates))
    }

    /// Asks that another member lead.
    pub(crate) fn transfer_leadership(&mut self) -> bool {
        let leads = |m: &usize| {
            let run = self.members[*m].running.as_ref();
            run.is_some_and(|run| run.handle.status().role == Role::Leader)
        };
        let Some(leader) = (0..self.members.len()).find(leads) else { return false };
        let (voters, _) = self.invariants.configuration.newest();
        let to = Some(self.rng.pick(&voters)).filter(|_| self.rng.permille(700));
        let Some(run) = &self.members[leader].running else { return false };
        // Whether it comes to that is seen in who leads.
        drop(run.handle.transfer_leadership(to, Duration::from_secs(3)));
        self.tell(leader as u64 + 1, format_args!("is asked to let {to:?} lead"));
        self.happened(Fault::Transfer);
        self.wake(leader);
        true
    }

    /// Removes a member and adds another, as one change.
    pub(crate) fn replace(&mut self, m: usize) -> bool {
        if self.task.is_some() || !self.can_do_without(m) {
            return false;
        }
        let Some(new) = self.new_place() else { return false };
        self.tell(0, format_args!("the operator replaces member {} by {}", m + 1, new + 1));
        self.begin_task(Some(new), Some(m), false);
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
        let remove = task.remove.map(|m| MembershipChange::Remove { id: m as u64 + 1 });
        let add = task.add.map(|m| {
            let id = m as u64 + 1;
            MembershipChange::Add { id, peer_urls: vec![format!("http://member{id}:1")] }
        });
        let request = MembershipRequest { changes: remove.into_iter().chain(add).collect(), force: None };
        let answer = run.handle.change_members(request, Duration::from_secs(3));
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
        let (add, remove, hopeless) = (task.add, task.remove, task.hopeless);
        let removed = remove.map(|m| m as u64 + 1);
        match answer {
            Ok(outcome) if hopeless => {
                self.fail(format!("configuration: {add:?} was removed and is added again: {outcome:?}"));
            }
            Ok(_) => self.made(add, remove),
            // The answer to an earlier attempt was lost.
            Err(Error::Refused(Refusal::Removed(id))) if Some(id) == removed => self.made(add, remove),
            Err(Error::Refused(refusal)) => {
                self.task = None;
                if !hopeless {
                    self.tell(0, format_args!("the change is refused: {refusal}"));
                    self.count("membership changes refused");
                    if let Some(m) = add {
                        self.members[m].stage = Stage::Out;
                    }
                    // A member that was to be given up is not.
                    if let Some(m) = remove.filter(|m| self.members[*m].refused) {
                        self.bring_back(m);
                        self.restart_later(m);
                    }
                }
            }
            // It is asked for again.
            Err(_) => {}
        }
    }

    /// A change was made.
    fn made(&mut self, add: Option<usize>, remove: Option<usize>) {
        self.task = None;
        self.tell(0, format_args!("the change is made"));
        match (add, remove) {
            (Some(_), Some(_)) => self.happened(Fault::Replace),
            (Some(_), None) => self.happened(Fault::Join),
            _ => self.happened(Fault::Leave),
        }
        if let Some(m) = add {
            self.members[m].stage = Stage::In;
            self.restart_later(m);
        }
        if let Some(m) = remove {
            self.members[m].stage = Stage::Out;
            // It must not come back under its id, however soon somebody tries.
            if self.rng.permille(500) {
                self.begin_task(Some(m), None, true);
            }
        }
    }
}
