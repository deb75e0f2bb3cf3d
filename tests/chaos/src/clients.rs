//! Clients: each asks one thing at a time, at any member, through any door, and writes down what it was told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvd_linearizability::{Action, Condition, Op, Outcome};

use crate::cluster::Address;
use crate::door::http::Http;
use crate::door::redis::Redis;
use crate::door::{Answer, Door, Told};
use crate::rng::Rng;

/// Keys that are in use at one time; each for [`EPOCH`]. So a key has some hundred operations, which the search can take.
const KEYS: u64 = 3;
const EPOCH: Duration = Duration::from_secs(1);

/// Between two operations of one client: a few hundred operations a second, most of them concurrent to others.
const THINK: u64 = 12_000; // microseconds at most

/// What clients did, so far.
#[derive(Debug)]
pub struct Recorder {
    begun: Instant,
    ops: Mutex<Vec<Op>>,
    wrong: Mutex<Vec<String>>,
    acknowledged: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            begun: Instant::now(),
            ops: Mutex::default(),
            wrong: Mutex::default(),
            acknowledged: AtomicU64::new(0),
        }
    }
}

impl Recorder {
    /// Nanoseconds since the beginning: one clock for all clients.
    pub fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// Asks through a door, and keeps what was told.
    pub fn ask(&self, door: &mut dyn Door, client: u64, key: &str, action: Action, tag: Option<u64>) -> Op {
        let called = self.now();
        let answer = door.ask(key, &action, tag);
        self.keep(Op::new(client, key, action, called), answer)
    }

    /// Keeps an operation with its answer.
    pub fn keep(&self, mut op: Op, answer: Answer) -> Op {
        match answer.note(&mut op, self.now()) {
            Ok(()) => {
                if op.outcome == Outcome::Ok && op.may_write() {
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                self.ops.lock().unwrap_or_else(PoisonError::into_inner).push(op.clone());
            }
            Err(wrong) => self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(wrong),
        }
        op
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// All operations.
    pub fn ops(&self) -> Vec<Op> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers that no healthy member gives.
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Clients that ask until they are told to end.
#[derive(Debug)]
pub struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts `count` clients. `conditions` says whether the HTTP door has conditional puts.
    pub fn start(
        count: u64,
        seed: u64,
        addresses: &Arc<Mutex<Vec<Address>>>,
        recorder: &Arc<Recorder>,
        conditions: bool,
    ) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (1..=count)
            .map(|number| {
                let client = Client {
                    number,
                    rng: Rng::new(seed ^ number << 32),
                    addresses: addresses.clone(),
                    recorder: recorder.clone(),
                    conditions,
                    door: None,
                    seen: HashMap::new(),
                    values: 0,
                };
                let stop = stop.clone();
                std::thread::spawn(move || client.run(&stop))
            })
            .collect();
        Clients { stop, threads }
    }

    /// Ends every client after the operation that it is in.
    pub fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client does not panic");
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Client {
    number: u64,
    rng: Rng,
    addresses: Arc<Mutex<Vec<Address>>>,
    recorder: Arc<Recorder>,
    conditions: bool,
    door: Option<Box<dyn Door>>,
    /// What it last read under a key, with its entity tag.
    seen: HashMap<String, (String, u64)>,
    values: u64,
}

impl Client {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.once();
            // Not to wait for anything: so many clients think for so long.
            std::thread::sleep(Duration::from_micros(self.rng.below(THINK)));
        }
    }

    fn once(&mut self) {
        if self.door.is_none() || self.rng.below(50) == 0 {
            self.door = self.any_door();
        }
        let (key, action, tag) = self.intent();
        let Some(door) = self.door.as_mut() else { return };
        if !door.can(&action) {
            self.door = None;
            return;
        }
        let op = self.recorder.ask(door.as_mut(), self.number, &key, action, tag);
        if let (Some(read), Some(tag)) = (&op.read, op.mod_revision) {
            self.seen.insert(key, (read.clone(), tag));
        }
        if matches!(op.outcome, Outcome::Fail | Outcome::Unknown) {
            self.door = None;
        }
    }

    fn any_door(&mut self) -> Option<Box<dyn Door>> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if addresses.is_empty() {
            return None;
        }
        let address = self.rng.pick(&addresses);
        Some(match self.rng.below(2) {
            0 => Box::new(Redis::new(address.redis)),
            _ => Box::new(Http::new(address.http, self.conditions)),
        })
    }

    fn intent(&mut self) -> (String, Action, Option<u64>) {
        let epoch = self.recorder.now() / EPOCH.as_nanos() as u64;
        self.values += 1;
        let value = format!("c{}-{}", self.number, self.values);
        let key = format!("r{epoch}-{}", self.rng.below(KEYS));
        let has_redis = self.door.as_ref().is_some_and(|door| door.can(&Action::Increment { by: 1 }));
        match self.rng.below(100) {
            0..20 if has_redis => match self.rng.below(4) {
                0 => (format!("l{epoch}"), Action::Append { value: format!("{value};") }, None),
                1 => (format!("l{epoch}"), Action::Get, None),
                2 => (format!("n{epoch}"), Action::Increment { by: 1 + self.rng.below(3) as i64 }, None),
                _ => (format!("n{epoch}"), Action::Get, None),
            },
            0..15 if self.conditions => match self.seen.get(&key).cloned() {
                Some((old, tag)) => {
                    (key, Action::Put { value, condition: Some(Condition::Value(old)) }, Some(tag))
                }
                None => (key, Action::Put { value, condition: Some(Condition::Absent) }, None),
            },
            0..48 => (key, Action::Put { value, condition: None }, None),
            48..58 => (key, Action::Delete, None),
            58..94 => (key, Action::Get, None),
            _ => (key, Action::StaleGet, None),
        }
    }
}

/// A bug that is planted in a run, to see it caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// A client is told what it had been told before the last write.
    StaleRead,
    /// An acknowledged write goes missing: it is deleted, and the history does not say so.
    LostWrite,
}

impl Plant {
    /// Plants it, under a key of its own.
    ///
    /// # Errors
    /// If the cluster did not serve one of the requests.
    pub fn plant(self, recorder: &Recorder, address: Address) -> Result<(), String> {
        let mut door = Http::new(address.http, false);
        let put = |value: &str| Action::Put { value: value.into(), condition: None };
        let served = |op: Op| match op.outcome {
            Outcome::Ok => Ok(op),
            _ => Err(format!("not planted: {op}")),
        };
        served(recorder.ask(&mut door, 0, "planted", put("planted-1"), None))?;
        match self {
            Plant::StaleRead => {
                let old = served(recorder.ask(&mut door, 0, "planted", Action::Get, None))?;
                served(recorder.ask(&mut door, 0, "planted", put("planted-2"), None))?;
                let told = Told {
                    existed: old.existed,
                    read: old.read,
                    revision: old.revision,
                    mod_revision: old.mod_revision,
                    number: None,
                };
                recorder.keep(Op::new(0, "planted", Action::Get, recorder.now()), Answer::Done(told));
            }
            Plant::LostWrite => match door.ask("planted", &Action::Delete, None) {
                Answer::Done(_) => {}
                other => return Err(format!("not planted: {other:?}")),
            },
        }
        Ok(())
    }
}
