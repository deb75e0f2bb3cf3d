//! A log as it should be: a script of calls, and what must be recovered after each.

use std::path::Path;

use bytes::Bytes;
use kvd_vfs::MemDisk;
use kvd_wal::{Options, ReadBack, Save, SnapshotRecord, TornTail, Wal, recorded_snapshots};
use raft::eraftpb::{Entry, HardState};

use crate::crash::Attempt;
use crate::plant::{self, Plant};
use crate::run::Counts;

pub(crate) const METADATA: &[u8] = b"cluster 7, member 1";
pub(crate) const BEGINNING: SnapshotRecord = SnapshotRecord { index: 0, term: 0 };

pub(crate) fn dir() -> &'static Path {
    Path::new("/m/wal")
}

pub(crate) fn options(segment_bytes: u64) -> Options {
    Options { segment_bytes, prepare_ahead: false, ..Options::default() }
}

pub(crate) fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (term, vote, commit);
    state
}

/// An entry whose data is told from any other's, has sectors of zeros if it is long, and the beginning of a batch.
pub(crate) fn entry(index: u64, term: u64, len: usize) -> Entry {
    let byte = |i: usize| (i as u64 * 7 + index * 31 + term) as u8;
    let mut data: Vec<u8> = (0..len).map(byte).collect();
    if len > 1700 {
        data[300..1600].fill(0);
    }
    for at in (100..len.saturating_sub(4)).step_by(509) {
        data[at..at + 4].copy_from_slice(b"kvdW");
    }
    with_data(index, term, data)
}

pub(crate) fn with_data(index: u64, term: u64, data: Vec<u8>) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term, entry.data) = (index, term, Bytes::from(data));
    entry
}

/// A call on a log.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Save {
        entries: Vec<Entry>,
        hard_state: HardState,
        must_sync: bool,
    },
    Record(SnapshotRecord),
    /// All of it in one write.
    Group {
        snapshot: SnapshotRecord,
        entries: Vec<Entry>,
        hard_state: HardState,
    },
    Release(u64),
    Close,
}

pub(crate) fn save(entries: Vec<Entry>, hard_state: HardState) -> Call {
    Call::Save { entries, hard_state, must_sync: true }
}

/// What a log holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Held {
    /// From index 1 on.
    pub(crate) entries: Vec<Entry>,
    pub(crate) hard_state: HardState,
    pub(crate) snapshots: Vec<SnapshotRecord>,
}

impl Held {
    fn replace(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.entries.truncate(entry.index as usize - 1);
            self.entries.push(entry.clone());
        }
    }

    /// The newest snapshot that counts.
    fn newest(&self) -> SnapshotRecord {
        let commit = self.hard_state.commit;
        self.snapshots.iter().filter(|s| s.index <= commit).max().copied().unwrap_or(BEGINNING)
    }
}

/// Calls, and what is durable after each.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) segment_bytes: u64,
    calls: Vec<Call>,
    /// `held[n]` is durable after n calls. One more than calls.
    held: Vec<Held>,
    /// The last hard state that was given, durable or not.
    given: HardState,
}

impl Script {
    pub(crate) fn new(segment_bytes: u64) -> Script {
        Script { segment_bytes, calls: Vec::new(), held: vec![Held::default()], given: HardState::default() }
    }

    pub(crate) fn push(&mut self, call: Call) {
        let mut held = self.now().clone();
        match &call {
            Call::Save { entries, hard_state, must_sync } => {
                let elects = (hard_state.term, hard_state.vote) != (self.given.term, self.given.vote);
                self.given = hard_state.clone();
                held.replace(entries);
                if *must_sync || elects || !entries.is_empty() {
                    held.hard_state = self.given.clone();
                }
            }
            Call::Record(snapshot) => {
                held.snapshots.push(*snapshot);
                held.hard_state = self.given.clone();
            }
            Call::Group { snapshot, entries, hard_state } => {
                held.snapshots.push(*snapshot);
                held.replace(entries);
                self.given = hard_state.clone();
                held.hard_state = hard_state.clone();
            }
            Call::Close => held.hard_state = self.given.clone(),
            Call::Release(_) => {}
        }
        self.calls.push(call);
        self.held.push(held);
    }

    pub(crate) fn with(mut self, calls: impl IntoIterator<Item = Call>) -> Script {
        calls.into_iter().for_each(|call| self.push(call));
        self
    }

    /// The log is created with that.
    pub(crate) fn begin_with(&mut self, snapshot: SnapshotRecord, hard_state: HardState) {
        self.held[0] =
            Held { entries: Vec::new(), hard_state: hard_state.clone(), snapshots: vec![snapshot] };
        self.given = hard_state;
    }

    /// The first calls alone.
    pub(crate) fn first(&self, calls: usize) -> Script {
        let (calls, held) = (self.calls[..calls].to_vec(), self.held[..=calls].to_vec());
        Script { calls, held, ..self.clone() }
    }

    /// How many calls there are.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// What is durable after all of them.
    pub(crate) fn now(&self) -> &Held {
        &self.held[self.calls.len()]
    }

    /// Makes a new log and does all of it. How many calls returned; `None` if there is no log.
    pub(crate) fn create_and_play(&self, plant: Option<Plant>, memory: &MemDisk) -> Option<usize> {
        let disk = plant::disk(plant, memory, None);
        let options = options(self.segment_bytes);
        let wal = Wal::create(disk, dir(), METADATA, None, options).ok()?;
        Some(self.play(wal, 0))
    }

    /// Does the calls from one on. How many have returned then, with those before.
    pub(crate) fn play(&self, wal: Wal, from: usize) -> usize {
        let mut wal = Some(wal);
        for (call, n) in self.calls.iter().zip(0..).skip(from) {
            let Some(open) = &mut wal else { return n };
            let result = match call {
                Call::Save { entries, hard_state, must_sync } => {
                    open.save(entries, Some(hard_state), *must_sync)
                }
                Call::Record(snapshot) => open.save_snapshot(*snapshot),
                Call::Group { snapshot, entries, hard_state } => open.save_group(&[Save {
                    snapshot: Some(*snapshot),
                    entries,
                    hard_state: Some(hard_state),
                    must_sync: true,
                }]),
                Call::Release(index) => open.release_to(*index),
                Call::Close => wal.take().map_or(Ok(()), Wal::close),
            };
            if result.is_err() {
                return n;
            }
        }
        self.len()
    }
}

/// What a log was opened with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recovered {
    pub(crate) at: SnapshotRecord,
    pub(crate) entries: Vec<Entry>,
    pub(crate) hard_state: HardState,
    pub(crate) torn: Option<TornTail>,
}

impl Recovered {
    /// In a few words: the entries are long.
    fn brief(&self) -> String {
        let state = &self.hard_state;
        format!(
            "{} entries behind {}, term {} vote {} commit {}, torn {:?}",
            self.entries.len(),
            self.at.index,
            state.term,
            state.vote,
            state.commit,
            self.torn.as_ref().map(|torn| torn.offset)
        )
    }
}

/// The length of segments that are made after a crash, in bytes. Small, for the sake of speed.
const AFTERWARDS: u64 = 4096;

/// Opens a log at its newest snapshot, as a member does.
pub(crate) fn recover(plant: Option<Plant>, memory: &MemDisk) -> kvd_wal::Result<(Wal, Recovered)> {
    let disk = plant::disk(plant, memory, None);
    let at = recorded_snapshots(&disk, dir())?.last().copied().unwrap_or(BEGINNING);
    let (wal, replay) = Wal::open(disk, dir(), at, options(AFTERWARDS))?;
    let (entries, hard_state, torn) = (replay.entries, replay.hard_state, replay.torn);
    if replay.metadata != METADATA {
        panic!("other metadata: {:?}", replay.metadata);
    }
    Ok((wal, Recovered { at, entries, hard_state, torn }))
}

fn said<T>(what: &str, result: kvd_wal::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// Whether an opened log holds exactly that.
pub(crate) fn holds(found: &Recovered, held: &Held) -> bool {
    let at = held.newest();
    let behind = held.entries.iter().filter(|entry| entry.index > at.index);
    found.at == at && found.hard_state == held.hard_state && found.entries.iter().eq(behind)
}

/// Opens an image and holds the oracle against it: it must be what was held after `least` calls, or after one of those
/// up to `most`. Then: the same image gives the same again; what was returned is durable; the log takes another entry.
pub(crate) fn check(
    plant: Option<Plant>,
    image: &MemDisk,
    script: &Script,
    (least, most): (usize, usize),
    counts: &mut Counts<'_>,
) -> Result<Recovered, String> {
    let least = if plant == Some(Plant::ExpectsTooMuch) { most } else { least };
    let open = |memory: &MemDisk| recover(plant, memory);
    let (twin, (wal, found)) = (image.fork(), said("cannot be opened", open(image))?);
    let Some(calls) = (least..=most).rev().find(|n| holds(&found, &script.held[*n])) else {
        return Err(format!("acknowledged were {least} of {most} calls; recovered: {}", found.brief()));
    };
    counts.count(if calls > least {
        "recovered what was under way"
    } else {
        "recovered what was acknowledged"
    });
    if found.torn.is_some() {
        counts.count("torn tails cut");
    }
    if said("cannot be opened a second time", open(&twin))?.1 != found {
        return Err("the same image gave something else the second time".to_owned());
    }
    reads_back(&wal, &found)?;
    drop(wal);
    image.crash_losing_all_unsynced();
    let (mut wal, again) = said("cannot be opened after it was opened", open(image))?;
    let settled = Recovered { torn: None, ..found };
    if again != settled {
        return Err(format!(
            "what was recovered was not durable: {}, then {}",
            settled.brief(),
            again.brief()
        ));
    }
    let next = entry(wal.last_index() + 1, settled.hard_state.term.max(1), 600);
    said("takes no more entries", wal.save(std::slice::from_ref(&next), None, true))?;
    drop(wal);
    image.crash_losing_all_unsynced();
    let (_, appended) = said("cannot be opened after an append", open(image))?;
    let (last, before) = appended.entries.split_last().ok_or("nothing was appended")?;
    if *last != next || *before != settled.entries || appended.hard_state != settled.hard_state {
        return Err(format!("after an append: {}", appended.brief()));
    }
    Ok(settled)
}

fn reads_back(wal: &Wal, found: &Recovered) -> Result<(), String> {
    let (Some(first), Some(last)) = (found.entries.first(), found.entries.last()) else { return Ok(()) };
    match wal.reader().read(first.index, last.index + 1, u64::MAX) {
        Ok(ReadBack::Entries(entries)) if entries == found.entries => Ok(()),
        other => Err(format!("entries {}..={} are read back as {other:?}", first.index, last.index)),
    }
}

/// The oracle for work that plays a script from `from` on, on a log that is there.
pub(crate) fn check_played(
    plant: Option<Plant>,
    image: &MemDisk,
    script: &Script,
    attempt: &Attempt<usize>,
    counts: &mut Counts<'_>,
) -> Result<(), String> {
    let done = attempt.outcome;
    if attempt.finished && done < script.len() {
        return Err(format!("call {} failed, and the power was on", done + 1));
    }
    check(plant, image, script, (done, script.len().min(done + 1)), counts).map(drop)
}
