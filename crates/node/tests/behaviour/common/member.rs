//! One member of a [`super::World`]: the real core, log and snapshots over a disk in memory. The effects that its core
//! asks for wait in queues until the world, or the test, lets them happen.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use kvd_node::driver::{
    Ask, Attended, Core, Done, Fetch, Frozen, LogReader, Outside, Parts, Restored, Write, discard, load,
    read_back,
};
use kvd_node::{Config, Exit, Fatal, Handle, Home, Membership, Start};
use kvd_snap::Snapshotter;
use kvd_vfs::{Lock, MemDisk};
use kvd_wal::{Save, SnapshotRecord, Wal};
use raft::eraftpb::{Message, SnapshotMetadata};

use super::describe;
use super::journal::{self, Journal};

/// Where a member lives on its disk.
pub(crate) const DIR: &str = "/member";

/// What the core asked for and nobody has done yet, and what it did since the start as lines of text.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) sent: Vec<Message>,
    pub(crate) writes: VecDeque<Write>,
    pub(crate) saves: VecDeque<(SnapshotMetadata, Frozen<journal::Frozen>)>,
    pub(crate) loads: VecDeque<Message>,
    pub(crate) fetches: VecDeque<Fetch>,
    pub(crate) discard: Option<(u64, u64)>,
    pub(crate) membership: Option<Arc<Membership>>,
    pub(crate) asks: Vec<Ask>,
    pub(crate) lines: Vec<String>,
}

impl Outside<Journal> for Effects {
    fn send(&mut self, messages: Vec<Message>) {
        for message in &messages {
            self.lines.push(format!("send to {}: {}", message.to, describe::message(message)));
        }
        self.sent.extend(messages);
    }

    fn write(&mut self, write: Write) {
        self.lines.push(describe::write(&write));
        self.writes.push_back(write);
    }

    fn save_snapshot(&mut self, metadata: SnapshotMetadata, state: Frozen<journal::Frozen>) {
        self.lines.push(format!("save snapshot {}@{}", metadata.index, metadata.term));
        self.saves.push_back((metadata, state));
    }

    fn load_snapshot(&mut self, message: Message) {
        let metadata = message.get_snapshot().get_metadata();
        self.lines.push(format!("load snapshot {}@{}", metadata.index, metadata.term));
        self.loads.push_back(message);
    }

    fn fetch_entries(&mut self, fetch: Fetch) {
        self.lines.push(format!("read back from {} on", fetch.low));
        self.fetches.push_back(fetch);
    }

    fn discard_older(&mut self, newest: (u64, u64)) {
        self.lines.push(format!("discard what is older than {}@{}", newest.1, newest.0));
        self.discard = Some(newest);
    }

    fn ask(&mut self, ask: Ask) {
        self.lines.push(format!("ask {}", ask.to));
        self.asks.push(ask);
    }

    fn members_changed(&mut self, membership: &Arc<Membership>) {
        let members = membership.members.iter().map(|m| {
            let mark = if m.learner { "?" } else { "" };
            format!("{}{mark}{}", m.id, if m.leaving { "-" } else { "" })
        });
        let members = members.collect::<Vec<_>>().join(" ");
        self.lines.push(format!("members {members}, removed {:?}", membership.removed));
        self.membership = Some(membership.clone());
    }
}

/// The parts of a member that runs. In the order in which they are to be dropped.
pub(crate) struct Running {
    pub(crate) core: Core<Journal>,
    pub(crate) inbox: Attended<Restored<journal::Commands>>,
    pub(crate) wal: Wal,
    pub(crate) reader: LogReader,
    pub(crate) snapshotter: Snapshotter,
    _lock: Box<dyn Lock>,
    pub(crate) effects: Effects,
}

/// What the disk is not to do for the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    pub(crate) writes: bool,
    pub(crate) saves: bool,
    pub(crate) loads: bool,
    pub(crate) fetches: bool,
}

pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) config: Config,
    pub(crate) start: Start,
    pub(crate) disk: MemDisk,
    pub(crate) held: Held,
    pub(crate) journal: Journal,
    pub(crate) handle: Handle,
    /// `None` while it is down.
    pub(crate) running: Option<Running>,
    /// How its last run ended, if it was not by a crash.
    pub(crate) ended: Option<Result<Exit, Fatal>>,
    /// The member list that its transport was last told.
    pub(crate) told: Option<Arc<Membership>>,
}

fn open(
    disk: &MemDisk,
    config: &Config,
    start: &Start,
    journal: &Journal,
) -> Result<(Handle, Running), Fatal> {
    let home = Home::open(disk.disk(), Path::new(DIR))?;
    let node = home.start(config.clone(), start, journal.clone())?;
    let handle = node.handle();
    let Parts { core, inbox, shown: _, wal, snapshotter, lock } = node.into_parts();
    let reader = wal.reader();
    Ok((handle, Running { core, inbox, wal, reader, snapshotter, _lock: lock, effects: Effects::default() }))
}

impl Member {
    pub(crate) fn new(config: Config, start: Start) -> Self {
        let (disk, journal) = (MemDisk::new(), Journal::default());
        let (handle, running) = open(&disk, &config, &start, &journal).expect("a new member opens");
        Self {
            id: config.id,
            config,
            start,
            disk,
            held: Held::default(),
            journal,
            handle,
            running: Some(running),
            ended: None,
            told: None,
        }
    }

    /// Starts again what is down, from its disk alone.
    pub(crate) fn restart(&mut self) -> Result<(), Fatal> {
        assert!(self.running.is_none(), "member {} runs", self.id);
        self.journal = Journal::default();
        let (handle, running) = open(&self.disk, &self.config, &self.start, &self.journal)?;
        (self.handle, self.running, self.ended) = (handle, Some(running), None);
        (self.held, self.told) = (Held::default(), None);
        Ok(())
    }

    /// Loses power, and whatever was not synced.
    pub(crate) fn crash(&mut self) {
        self.disk.crash_losing_all_unsynced();
        self.running = None;
    }

    #[track_caller]
    pub(crate) fn run(&self) -> &Running {
        self.running.as_ref().expect("the member runs")
    }

    /// Whether something waits for the next turn.
    pub(crate) fn has_arrivals(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.running
            .as_ref()
            .is_some_and(|running| running.core.has_more() || running.inbox.poll_arrival(&mut cx).is_ready())
    }

    /// Gives the core a turn, with a tick if it is given the time. Returns what it sent.
    pub(crate) fn turn(&mut self, tick: Option<Duration>) -> Vec<Message> {
        let Some(running) = self.running.as_mut() else { return Vec::new() };
        let (load, reads) = running.core.load();
        let (arrivals, _) = running.inbox.take(load, reads);
        let ended = running.core.turn(arrivals, tick, &mut running.effects);
        if let Some(membership) = running.effects.membership.take() {
            self.told = Some(membership);
        }
        let sent = std::mem::take(&mut running.effects.sent);
        match ended.transpose() {
            None => sent,
            Some(ended) => {
                let error = match ended {
                    Ok(Exit::Removed) => kvd_node::Error::Removed,
                    _ => kvd_node::Error::Stopped,
                };
                running.core.fail_all(&error, "this member stopped before it was applied");
                if ended.is_ok() {
                    while self.disk_step() {}
                    self.close();
                }
                self.running = None;
                self.ended = Some(ended);
                sent
            }
        }
    }

    fn close(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let unsaved = running.core.take_unsaved();
        running.wal.save(&[], unsaved.as_ref(), false).expect("the last save");
        running.wal.close().expect("close");
    }

    /// Lets the disk do one thing that is not held: `false` if there is none. What it did is told to the inbox.
    pub(crate) fn disk_step(&mut self) -> bool {
        let held = self.held;
        let Some(running) = self.running.as_mut() else { return false };
        let Running { wal, reader, snapshotter, inbox, effects, .. } = running;
        if !held.writes && !effects.writes.is_empty() {
            let write = effects.writes.pop_front().expect("there is one");
            effects.lines.push(format!("durable {}", write.seq));
            let snapshot = write.snapshot.as_ref().map(|s| SnapshotRecord { index: s.index, term: s.term });
            let save = Save {
                snapshot,
                entries: &write.entries,
                hard_state: write.hard_state.as_ref(),
                must_sync: true,
            };
            inbox.done(match wal.save_group(&[save]) {
                Ok(()) => Done::Written(write.seq),
                Err(error) => Done::Failed(error.into()),
            });
        } else if !held.saves && !effects.saves.is_empty() {
            let (metadata, state) = effects.saves.pop_front().expect("there is one");
            effects.lines.push(format!("saved {}@{}", metadata.index, metadata.term));
            let mut state = Some(state);
            let saved = snapshotter.save(&metadata, &mut |out| state.take().expect("once").write(out));
            inbox.done(match saved {
                Ok(bytes) => Done::SnapshotSaved { metadata: Box::new(metadata), bytes },
                Err(error) if error.is_no_space() => Done::SnapshotNotSaved,
                Err(error) => Done::Failed(error.into()),
            });
        } else if !held.loads && !effects.loads.is_empty() {
            let message = effects.loads.pop_front().expect("there is one");
            let metadata = message.get_snapshot().get_metadata();
            effects.lines.push(format!("loaded {}@{}", metadata.index, metadata.term));
            inbox.done(match load::<Journal>(snapshotter, metadata) {
                Ok(restored) => Done::SnapshotLoaded { message: Box::new(message), restored },
                Err(_) => Done::SnapshotRejected,
            });
        } else if !held.fetches && !effects.fetches.is_empty() {
            let fetch = effects.fetches.pop_front().expect("there is one");
            inbox.done(read_back(reader, fetch));
        } else if let Some(newest) = effects.discard.take() {
            if let Some(oldest) = discard(snapshotter, newest).expect("discard") {
                wal.release_to(oldest).expect("release");
            }
        } else {
            return false;
        }
        true
    }
}
