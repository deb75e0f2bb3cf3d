//! Power loss at every kind of moment, from seeds.
//!
//! The oracle: what was acknowledged is within what is recovered, which is within what was submitted; bytes are
//! identical, without a gap; term and vote never go back; the commit index never goes back behind a sync, nor ahead of
//! the log.

use kvd_vfs::{MemDisk, Op};
use kvd_wal::{Replay, SnapshotRecord, Wal, recorded_snapshots};
use raft::eraftpb::{Entry, HardState};

use crate::support::*;

/// As many as take a second or two. `KVD_SEEDS=from..to` runs others.
const SEEDS: std::ops::Range<u64> = 0..3000;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = self.0 ^ (self.0 >> 33);
        x.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 16
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a log should hold.
#[derive(Debug, Clone, Default)]
struct Model {
    /// The snapshot that a leader sent last: the log begins behind it.
    base: SnapshotRecord,
    entries: Vec<Entry>,
    state: HardState,
    /// The commit index that is durable.
    durable_commit: u64,
    snapshots: Vec<SnapshotRecord>,
}

impl Model {
    fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    fn apply(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.entries.truncate((entry.index - self.base.index - 1) as usize);
            self.entries.push(entry.clone());
        }
    }

    fn term(&self, index: u64) -> u64 {
        match index.checked_sub(self.base.index + 1) {
            Some(i) => self.entries[i as usize].term,
            None => self.base.term,
        }
    }
}

/// What was under way when the power went.
#[derive(Debug, Clone, Default)]
struct InFlight {
    entries: Vec<Entry>,
    state: Option<HardState>,
    snapshot: Option<SnapshotRecord>,
}

struct Run {
    seed: u64,
    rng: Rng,
    disk: MemDisk,
    model: Model,
    in_flight: InFlight,
}

impl Run {
    fn new(seed: u64) -> Run {
        let disk = MemDisk::new();
        disk.seed_faults(seed);
        Run { seed, rng: Rng(seed), disk, model: Model::default(), in_flight: InFlight::default() }
    }

    fn play(&mut self) {
        if self.rng.one_in(4) {
            self.disk.power_off_at(1 + self.rng.below(15));
        }
        let mut wal = match Wal::create(self.disk.disk(), dir(), METADATA, None, options(2048)) {
            Ok(wal) => wal,
            Err(_) => {
                self.disk.crash(self.seed);
                if Wal::exists(&self.disk.disk(), dir()).unwrap() {
                    self.recover()
                } else {
                    create(&self.disk, 2048)
                }
            }
        };
        for round in 0..6 {
            match self.rng.below(6) {
                5 => self.disk.fail_nth(Op::SyncDir, 1 + self.rng.below(2), MemDisk::EIO),
                0 => self.disk.fail_nth(Op::Sync, 1 + self.rng.below(8), MemDisk::EIO),
                1 => self.disk.fail_nth(Op::Write, 1 + self.rng.below(8), MemDisk::EIO),
                2 => {}
                _ => self.disk.power_off_at(1 + self.rng.below(40)),
            }
            for _ in 0..4 + self.rng.below(12) {
                self.in_flight = InFlight::default();
                if self.step(&mut wal).is_err() {
                    break;
                }
            }
            // The process ends; mostly the power goes too.
            drop(wal);
            self.disk.clear_faults();
            if self.disk.is_off() || !self.rng.one_in(3) {
                let seed = self.rng.next() ^ round;
                if self.rng.one_in(4) { self.disk.crash_losing_all_unsynced() } else { self.disk.crash(seed) }
            }
            wal = self.recover();
        }
    }

    fn step(&mut self, wal: &mut Wal) -> kvd_wal::Result<()> {
        match self.rng.below(12) {
            0 => {
                let range = self.model.state.commit.max(1);
                let index = self.model.base.index.max(1 + self.rng.below(range));
                if index > self.model.state.commit || index > self.model.last() {
                    return Ok(());
                }
                let snapshot = snapshot(index, self.model.term(index));
                self.in_flight.snapshot = Some(snapshot);
                wal.save_snapshot(snapshot)?;
                self.model.snapshots.push(snapshot);
                self.model.durable_commit = self.model.state.commit;
            }
            1 => {
                let newest = self.model.snapshots.iter().max().copied().unwrap_or_default();
                wal.release_to(newest.index)?;
            }
            2 => {
                wal.sync()?;
                self.model.durable_commit = self.model.state.commit;
            }
            _ => self.save(wal)?,
        }
        self.in_flight = InFlight::default();
        Ok(())
    }

    fn save(&mut self, wal: &mut Wal) -> kvd_wal::Result<()> {
        let mut state = self.model.state.clone();
        if self.rng.one_in(4) {
            state.term += 1;
            state.vote = self.rng.below(4);
        }
        let mut entries = Vec::new();
        if !self.rng.one_in(4) {
            let (low, last) = (self.model.state.commit.max(self.model.base.index), self.model.last());
            let back = if self.rng.one_in(5) { self.rng.below(last - low + 1) } else { 0 };
            state.term = state.term.max(1);
            let from = last + 1 - back;
            for index in from..from + 1 + self.rng.below(4) {
                let len = if self.rng.one_in(4) { self.rng.below(3000) } else { self.rng.below(200) };
                entries.push(entry(index, state.term, len as usize));
            }
        }
        let last = entries.last().map_or(self.model.last(), |entry| entry.index);
        if last > state.commit {
            state.commit += self.rng.below(last - state.commit + 1);
        }
        let must_sync = self.rng.one_in(2);
        self.in_flight = InFlight { entries: entries.clone(), state: Some(state.clone()), snapshot: None };
        wal.save(&entries, Some(&state), must_sync)?;
        let urgent = (state.term, state.vote) != (self.model.state.term, self.model.state.vote);
        if must_sync || urgent || !entries.is_empty() {
            self.model.durable_commit = state.commit;
        }
        self.model.apply(&entries);
        self.model.state = state;
        Ok(())
    }

    fn recover(&mut self) -> Wal {
        if self.rng.one_in(3) {
            self.disk.power_off_at(1 + self.rng.below(12));
            let at = self.newest_recorded();
            let opened = try_open_at(&self.disk, at);
            let off = self.disk.is_off();
            drop(opened);
            assert!(off || !self.disk.is_off());
            let seed = self.rng.next();
            self.disk.crash(seed);
        }
        let at = self.newest_recorded();
        let (wal, replay) = try_open_at(&self.disk, at).unwrap_or_else(|e| panic!("seed {}: {e}", self.seed));
        self.check(at, &replay);
        if self.rng.one_in(4) {
            // What was recovered is durable, even if the power goes before anything else is written.
            drop(wal);
            self.disk.crash_losing_all_unsynced();
            let (wal, again) = try_open_at(&self.disk, at).unwrap();
            assert!(again.torn.is_none());
            assert_eq!(
                (again.entries, again.hard_state),
                (replay.entries, replay.hard_state),
                "seed {}",
                self.seed
            );
            return wal;
        }
        wal
    }

    fn newest_recorded(&self) -> SnapshotRecord {
        let recorded = recorded_snapshots(&self.disk.disk(), dir())
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        let Some(&newest) = recorded.last() else {
            panic!(
                "seed {}: no snapshot to open {:?} at; {:?}",
                self.seed,
                segments(&self.disk),
                self.model.snapshots
            );
        };
        let acknowledged =
            self.model.snapshots.iter().filter(|s| s.index <= self.model.durable_commit).max().copied();
        assert!(
            newest >= acknowledged.unwrap_or_default(),
            "seed {}: {newest:?} {acknowledged:?}",
            self.seed
        );
        newest
    }

    /// The oracle. Afterwards the model is what was recovered.
    fn check(&mut self, at: SnapshotRecord, replay: &Replay) {
        let (seed, model, in_flight) = (self.seed, &self.model, &self.in_flight);
        assert_eq!(replay.metadata, METADATA);
        let behind = |model: &Model| {
            let skip = at.index.saturating_sub(model.base.index) as usize;
            model.entries.get(skip..).unwrap_or_default().to_vec()
        };
        // Acknowledged, and a prefix of what was under way.
        let recovered = (0..=in_flight.entries.len()).find_map(|prefix| {
            let mut model = model.clone();
            model.apply(&in_flight.entries[..prefix]);
            (behind(&model) == replay.entries).then_some((prefix, model))
        });
        let Some((prefix, mut now)) = recovered else {
            panic!("seed {seed}: recovered {:?} at {at:?}", replay.entries.len());
        };
        let submitted = in_flight.state.as_ref().unwrap_or(&model.state);
        let state = &replay.hard_state;
        let vote = |state: &HardState| (state.term, state.vote);
        assert!(
            vote(state) == vote(&model.state) || vote(state) == vote(submitted),
            "seed {seed}: {state:?}"
        );
        if prefix > 0 {
            assert_eq!(state.term, submitted.term, "seed {seed}: an entry without its term");
        }
        assert!(
            state.commit >= model.durable_commit && state.commit <= submitted.commit,
            "seed {seed}: {state:?}"
        );
        assert!(state.commit <= now.last(), "seed {seed}: committed beyond the log");
        now.state = state.clone();
        now.durable_commit = state.commit;
        now.snapshots.extend(in_flight.snapshot.filter(|snapshot| *snapshot == at));
        self.model = now;
        self.in_flight = InFlight::default();
    }
}

#[test]
fn acknowledged_is_within_recovered_is_within_submitted() {
    let seeds = match std::env::var("KVD_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("KVD_SEEDS=from..to");
            from.parse().unwrap()..to.parse().unwrap()
        }
        Err(_) => SEEDS,
    };
    for seed in seeds {
        Run::new(seed).play();
    }
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let bytes = |seed| {
        let mut run = Run::new(seed);
        run.play();
        let paths = segments(&run.disk);
        paths.iter().map(|path| read(&run.disk, path)).collect::<Vec<_>>()
    };
    for seed in 0..20 {
        assert_eq!(bytes(seed), bytes(seed));
    }
}
