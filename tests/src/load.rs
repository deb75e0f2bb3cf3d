//! Writers that remember what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::http::Client;
use crate::{Member, PATIENCE, wait_until};

/// Threads that write without pause until they are told to end.
///
/// Writer `w` counts `n` up from 0 and puts `n` under a key of its own, `w-n`, and under the key that all its turns
/// share, `last-w`. It begins with member `w` modulo their number and moves on to the next one when a request fails.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Writer>>,
}

/// What one writer did.
#[derive(Debug, Default)]
struct Writer {
    number: usize,
    /// The turns whose `w-n` was acknowledged.
    acknowledged: Vec<u64>,
    /// The last turn whose `last-w` was acknowledged.
    last_acknowledged: Option<u64>,
    /// The last turn whose `last-w` was sent, acknowledged or not.
    last_sent: Option<u64>,
}

/// What all writers did.
#[derive(Debug)]
pub struct History {
    writers: Vec<Writer>,
}

impl Writers {
    /// Starts `count` writers to the given members' client ports.
    pub fn start(count: usize, members: &[Member]) -> Writers {
        let ports: Vec<u16> = members.iter().map(Member::client_port).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let threads = (0..count)
            .map(|number| {
                let (ports, stop, acknowledged) =
                    (ports.clone(), Arc::clone(&stop), Arc::clone(&acknowledged));
                std::thread::spawn(move || write(number, &ports, &stop, &acknowledged))
            })
            .collect();
        Writers { stop, acknowledged, threads }
    }

    /// Waits until `count` more writes were acknowledged.
    pub fn wait_for_more(&self, count: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        wait_until(&format!("{count} more writes are acknowledged"), PATIENCE, || {
            (self.acknowledged.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Ends the writers after their current request.
    pub fn finish(mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        History { writers: threads.into_iter().map(|t| t.join().expect("a writer does not panic")).collect() }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn write(number: usize, ports: &[u16], stop: &AtomicBool, acknowledged: &AtomicU64) -> Writer {
    let mut done = Writer { number, ..Writer::default() };
    let mut at = number;
    let mut client = Client::new(ports[at % ports.len()]);
    for turn in 0.. {
        for key in [format!("{number}-{turn}"), format!("last-{number}")] {
            if stop.load(Ordering::Relaxed) {
                return done;
            }
            let shared = key.starts_with("last");
            if shared {
                done.last_sent = Some(turn);
            }
            if matches!(client.put(&key, turn.to_string()), Ok(answer) if answer.status == 204) {
                acknowledged.fetch_add(1, Ordering::Relaxed);
                match shared {
                    true => done.last_acknowledged = Some(turn),
                    false => done.acknowledged.push(turn),
                }
            } else {
                at += 1;
                client = Client::new(ports[at % ports.len()]);
                std::thread::sleep(Duration::from_millis(5)); // no busy loop while nobody listens
            }
        }
    }
    done
}

impl History {
    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.writers.iter().map(|w| w.acknowledged.len()).sum()
    }

    /// Reads everything at `member`, linearizably: every acknowledged write is there, and no shared key went back.
    pub fn check(&self, member: &Member) {
        let mut client = member.client();
        let mut read = |key: &str| {
            let answer =
                client.get(key).unwrap_or_else(|e| panic!("GET {key} at member {}: {e}", member.id()));
            match answer.status {
                200 => Some(answer.text()),
                404 => None,
                status => panic!("GET {key} at member {}: {status} {}", member.id(), answer.text()),
            }
        };
        for writer in &self.writers {
            for turn in &writer.acknowledged {
                let key = format!("{}-{turn}", writer.number);
                let value = read(&key);
                assert_eq!(
                    value,
                    Some(turn.to_string()),
                    "acknowledged write of {key} at member {}",
                    member.id()
                );
            }
            let value = read(&format!("last-{}", writer.number)).map(|v| v.parse::<u64>().expect("a number"));
            assert!(
                value >= writer.last_acknowledged && value <= writer.last_sent,
                "last-{} at member {} is {value:?}, acknowledged was {:?}, sent {:?}",
                writer.number,
                member.id(),
                writer.last_acknowledged,
                writer.last_sent
            );
        }
    }
}
