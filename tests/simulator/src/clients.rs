//! Clients: each does one operation at a time, at any member, and writes down what it was told.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use kvd_kvstore::{Age, Consistency, Deleted, Door as _, Error, Reading, Service, Written};

use crate::clock::TICK;
use crate::history::{Asked, Op, Told};
use crate::plan::{MS, SECOND};
use crate::trace::Micros;
use crate::world::{Event, World};

/// The time-out of a client that is in no hurry, in milliseconds: longer than any simulation.
const PATIENT: u64 = 600_000;

/// How late an answer may be: some ticks.
const GRACE: Micros = SECOND;

/// What was told, and how old the state may be that a stale read showed.
type Answer = Result<(Told, Option<Duration>), Error>;

struct InFlight {
    op: usize,
    member: usize,
    timeout: Micros,
    answer: Pin<Box<dyn Future<Output = Answer>>>,
}

/// The clients and everything that they did.
pub struct Clients {
    /// Everything that was asked, in order.
    pub history: Vec<Op>,
    in_flight: Vec<InFlight>,
    values: u64,
    /// Counts every question and every answer: the order of real time.
    moments: u64,
    farewell: Option<Vec<usize>>,
    number: usize,
}

impl Clients {
    /// So many clients.
    pub fn new(number: usize) -> Self {
        Self { history: Vec::new(), in_flight: Vec::new(), values: 0, moments: 0, farewell: None, number }
    }

    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// Whether everybody has had an answer, and the last operations were served.
    pub(crate) fn farewell_done(&self) -> bool {
        let served = |op: &usize| matches!(self.history[*op].told, Some(Told::Put(_) | Told::Read(_)));
        self.in_flight.is_empty() && self.farewell.as_ref().is_some_and(|ops| ops.iter().all(served))
    }
}

impl World {
    /// A client begins its next operation.
    pub(crate) fn invoke(&mut self, client: usize) {
        if self.healed {
            return;
        }
        let m = self.rng.index(self.members.len());
        if self.members[m].running.is_none() {
            // Refused connections tell nothing.
            self.next(client);
            return;
        }
        let key = Bytes::from(format!("k{}", self.rng.within(0..self.plan.keys)));
        let asked = match self.rng.within(0..100) {
            0..50 => Asked::Put { value: self.value(), key },
            50..60 => Asked::Delete { key },
            60..90 => Asked::Read { key },
            _ => Asked::StaleRead { key },
        };
        // Some wait for as long as it takes: what gets lost without a word would keep them for ever.
        let timeout = self.rng.pick(&[300, 1000, 1000, 5000, 5000, PATIENT]);
        let op = self.ask(client, m, asked, Duration::from_millis(timeout));
        if self.rng.permille(30) {
            let at = self.now + self.rng.within(0..SECOND);
            self.at(at, Event::GiveUp { op });
        }
    }

    fn value(&mut self) -> Bytes {
        self.clients.values += 1;
        let mut value = format!("v{}", self.clients.values).into_bytes();
        let len = self.rng.within(0..self.plan.value_bytes) as usize;
        value.resize(value.len().max(len), b'.');
        value.into()
    }

    fn ask(&mut self, client: usize, m: usize, asked: Asked, timeout: Duration) -> usize {
        let Some(service) = self.service(m) else { return self.clients.history.len() };
        let op = self.clients.history.len();
        self.tell(m as u64 + 1, format_args!("client {client} asks #{op}: {asked}"));
        let service = service.with_timeout(timeout);
        let answer = answer(service, asked.clone());
        let moment = self.clients.moment();
        let member = m as u64 + 1;
        let life = self.members[m].life;
        self.clients.history.push(Op {
            client,
            member,
            life,
            asked,
            called: moment,
            returned: None,
            told: None,
            returned_at: 0,
            age: None,
        });
        let timeout = timeout.as_micros() as Micros;
        self.clients.in_flight.push(InFlight { op, member: m, timeout, answer });
        self.at(self.now + timeout + GRACE, Event::Overdue { op });
        // A process that stands still looks at it later.
        self.at(self.now, Event::Poll { member: m, life });
        op
    }

    /// Every request has an answer by its deadline, if the member's process could run.
    pub(crate) fn overdue(&mut self, op: usize) {
        let Some(waiting) = self.clients.in_flight.iter().find(|waiting| waiting.op == op) else { return };
        let member = &self.members[waiting.member];
        // Deadlines are of the member's clock, and begin when its process takes the request.
        let resumed = member.paused_until.max(member.clock.wrong_until);
        let resumed = if resumed > 0 { resumed + waiting.timeout + GRACE } else { 0 };
        if resumed > self.now {
            self.at(resumed, Event::Overdue { op });
        } else {
            self.fail(format!("deadline: operation #{op} has no answer in time"));
        }
    }

    /// Looks for answers at a member.
    pub(crate) fn poll_clients(&mut self, m: usize) {
        let mut context = Context::from_waker(Waker::noop());
        let mut at = 0;
        while at < self.clients.in_flight.len() {
            let waiting = &mut self.clients.in_flight[at];
            if waiting.member != m {
                at += 1;
                continue;
            }
            match waiting.answer.as_mut().poll(&mut context) {
                Poll::Pending => at += 1,
                Poll::Ready(answer) => {
                    let done = self.clients.in_flight.remove(at);
                    self.answered(done, answer);
                }
            }
        }
    }

    fn answered(&mut self, done: InFlight, answer: Answer) {
        let mut age = None;
        let told = match answer {
            Ok((told, stated)) => {
                let member = &self.members[done.member];
                // A process that stood still shows the bound that it had before, until its next tick.
                let resumed = member.paused_until == 0 || self.now > member.paused_until + 2 * TICK;
                let right = member.clock.wrong_until == 0 && resumed;
                age = stated.filter(|_| right).map(|age| age.as_micros() as Micros);
                told
            }
            Err(Error::Unknown { .. }) => Told::Nothing,
            Err(error @ (Error::Overloaded | Error::NoLeader | Error::Stopped | Error::Removed)) => {
                Told::NotDone(error.to_string())
            }
            Err(error) => {
                self.fail(format!("answers: operation #{} was answered with: {error}", done.op));
                return;
            }
        };
        if age.is_some() {
            self.count("stale reads that said how old they were");
        }
        self.clients.history[done.op].age = age;
        self.note(done.op, told);
    }

    fn note(&mut self, op: usize, told: Told) {
        let moment = self.clients.moment();
        self.count(match &told {
            Told::Put(_) | Told::Delete(_) => "writes acknowledged",
            Told::Read(_) => "reads answered",
            Told::NotDone(_) => "requests refused",
            Told::Nothing => "outcomes unknown",
        });
        let entry = &mut self.clients.history[op];
        let (client, member) = (entry.client, entry.member);
        entry.returned = Some(moment);
        entry.returned_at = self.now;
        self.trace.add(
            crate::trace::Level::Story,
            self.now,
            member,
            format_args!("client {client} is told #{op}: {told}"),
        );
        entry.told = Some(told);
        if client < self.clients.number {
            self.next(client);
        }
    }

    fn next(&mut self, client: usize) {
        let at = self.now + self.rng.within(MS..self.plan.think.max(2 * MS));
        self.at(at, Event::Invoke { client });
    }

    /// The client closes its connection.
    pub(crate) fn give_up(&mut self, op: usize) {
        if let Some(at) = self.clients.in_flight.iter().position(|waiting| waiting.op == op) {
            self.clients.in_flight.remove(at);
            self.note(op, Told::Nothing);
        }
    }

    /// A member's process ended: its connections are closed.
    pub(crate) fn hang_up(&mut self, m: usize) {
        while let Some(at) = self.clients.in_flight.iter().position(|waiting| waiting.member == m) {
            let waiting = self.clients.in_flight.remove(at);
            self.note(waiting.op, Told::Nothing);
        }
    }

    /// At the end every member must serve a write and a read of each key.
    pub(crate) fn farewell(&mut self) {
        if !self.clients.in_flight.is_empty() || self.clients.farewell_done() {
            return;
        }
        let client = self.clients.number;
        let mut ops = Vec::new();
        for m in (0..self.members.len()).filter(|m| self.members[*m].counts()).collect::<Vec<_>>() {
            let (key, value) = (Bytes::from("farewell"), self.value());
            ops.push(self.ask(client, m, Asked::Put { key, value }, Duration::from_secs(5)));
            for k in 0..self.plan.keys {
                let key = Bytes::from(format!("k{k}"));
                ops.push(self.ask(client, m, Asked::Read { key }, Duration::from_secs(5)));
            }
        }
        self.clients.farewell = Some(ops);
    }
}

fn answer(service: Service, asked: Asked) -> Pin<Box<dyn Future<Output = Answer>>> {
    Box::pin(async move {
        let told = match asked {
            Asked::Put { key, value } => service
                .put(key, value)
                .await
                .map(|Written { revision, version }| Told::Put((revision, version)))?,
            Asked::Delete { key } => service
                .delete(key)
                .await
                .map(|Deleted { revision, existed }| Told::Delete((revision, existed)))?,
            Asked::Read { key } => read(service.get(key, Consistency::Linearizable).await?).0,
            Asked::StaleRead { key } => return Ok(read(service.get(key, Consistency::Stale).await?)),
        };
        Ok((told, None))
    })
}

fn read(Reading { revision, record, age }: Reading) -> (Told, Option<Duration>) {
    let age = if let Age::AtMost(age) = age { Some(age) } else { None };
    (Told::Read((revision, record)), age)
}
