//! A save that is cut off: every subset of its sectors, at every place of a segment.

use kvd_vfs::{MemDisk, SECTOR};
use kvd_wal::{SnapshotRecord, Wal};

use crate::crash::{self, Bounds};
use crate::log::{self, Call, METADATA, Script, dir, entry, hard_state, options, save};
use crate::plant;
use crate::run::{Section, Sink, Unit};

/// Sectors of a segment.
const SEGMENT: u64 = 32;

pub(crate) const SAVES: Section = Section {
    name: "log-saves",
    about: "saves of 1 to 12 sectors, and longer ones, cut off at every step: every subset of the sectors",
    units: |_| {
        let sizes = (1..=12).chain([13, 17, 30, 200]);
        let cases = sizes.flat_map(|sectors| Place::ALL.map(|place| (sectors, place)));
        cases
            .map(|(sectors, place)| Box::new(move |sink: &mut Sink<'_>| case(sink, sectors, place)) as Unit)
            .collect()
    },
};

/// Where the save begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind the head of the segment.
    Start,
    /// Where it replaces entries, and brings a new term, vote and snapshot record.
    Middle,
    /// So that it ends with the segment.
    End,
    /// Where it does not fit: it goes behind the head of a new segment.
    Cut,
}

impl Place {
    const ALL: [Place; 4] = [Place::Start, Place::Middle, Place::End, Place::Cut];
}

fn case(sink: &mut Sink<'_>, sectors: u64, place: Place) {
    // The head takes the first sector.
    let before = match place {
        Place::Start => 0,
        Place::Middle => 5,
        Place::End => match SEGMENT.checked_sub(1 + sectors) {
            Some(before) => before,
            None => return,
        },
        Place::Cut => SEGMENT - sectors.min(SEGMENT - 1),
    };
    // A longer one gets a segment of its own length, which is a cut.
    if place != Place::Cut && 1 + before + sectors > SEGMENT {
        return;
    }
    let mut script = Script::new(SEGMENT * SECTOR as u64);
    for n in 1..=before {
        script.push(save(vec![of_sectors(n, 1, 1)], hard_state(1, 1, 0)));
    }
    let done = script.len();
    script.push(match place {
        Place::Middle => Call::Group {
            snapshot: SnapshotRecord { index: 2, term: 1 },
            entries: vec![of_sectors(before - 1, 2, sectors)],
            hard_state: hard_state(2, 3, 2),
        },
        _ => save(vec![of_sectors(before + 1, 1, sectors)], hard_state(1 + sectors % 2, 1, before)),
    });
    let built = prepared(&script, done);
    let Some(base) = sink.setup("base", built) else { return };
    let (plant, bounds) = (sink.settings.plant, Bounds::full(sink));
    let name = format!("{sectors}-{place:?}").to_lowercase();
    let work = |memory: &MemDisk| {
        let disk = plant::disk(plant, memory, None);
        let opened = Wal::open(disk, dir(), log::BEGINNING, options(script.segment_bytes));
        opened.map_or(done, |(wal, _)| script.play(wal, done))
    };
    crash::at_every_step(sink, &name, &base, bounds, &work, &|image, attempt, counts| {
        log::check_played(plant, image, &script, attempt, counts)
    });
}

/// An entry whose save, with a hard state or not, takes so many sectors.
fn of_sectors(index: u64, term: u64, sectors: u64) -> raft::eraftpb::Entry {
    entry(index, term, 448 + 511 * (sectors as usize - 1) - 100)
}

/// A disk with the first calls on it.
fn prepared(script: &Script, calls: usize) -> Result<MemDisk, String> {
    let disk = MemDisk::new();
    let options = options(script.segment_bytes);
    let wal = Wal::create(disk.disk(), dir(), METADATA, None, options).map_err(|e| e.to_string())?;
    let played = script.first(calls).play(wal, 0);
    disk.crash_losing_all_unsynced();
    if played == calls { Ok(disk) } else { Err(format!("call {played} of {calls} failed")) }
}
