//! Damage to a log at rest: every length, every bit, sectors of zeros, segments that are missing.
//!
//! The oracle knows where the batches lie (it reads the headers' lengths by docs/wal-format.md itself) and says for each
//! damage what must follow: refused with the file and the offset of the batch, or one of the cases that the document
//! lists under "What stays undetectable". Anything else is a failure, a new silent case above all.

use std::ops::Range;
use std::path::PathBuf;

use kvd_vfs::{MemDisk, Rot, SECTOR, Vfs};
use kvd_wal::{Error, Wal, verify};

use crate::log::{self, BEGINNING, Call, Script, dir, entry, hard_state, options, save, with_data};
use crate::plant::{self, Plant};
use crate::rng::Rng;
use crate::run::{Counts, Section, Settings, Sink, shared};

/// Bytes of the single log.
const BYTES: u64 = 64 << 10;
/// Segments of the other one.
const SMALL: u64 = 6 << 10;

pub(crate) const TRUNCATIONS: Section = Section {
    name: "log-truncations",
    about: "a log of 64 KiB, cut to every length",
    units: |_| shared(BYTES, truncations),
};

pub(crate) const FLIPS: Section = Section {
    name: "log-flips",
    about: "a log of 64 KiB, every bit flipped",
    units: |_| shared(BYTES * 8, flips),
};

pub(crate) const ZEROS: Section = Section {
    name: "log-zeros",
    about: "a log of 64 KiB, every run of sectors zeroed, and every pair",
    units: |_| shared(BYTES / SECTOR as u64, zeros),
};

pub(crate) const SEGMENTS: Section = Section {
    name: "log-segments",
    about: "a log of several segments: every length, a bit of every byte, every run of sectors, each segment missing",
    units: |_| shared(SMALL, several_at),
};

/// What is done to one segment.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Length(usize, u64),
    Flip(usize, u64),
    /// Sectors from one to another, without the last.
    Zeros(usize, u64, u64),
    /// Two sectors.
    Two(usize, u64, u64),
    Missing(usize),
}

/// A log at rest, and what is where in it.
struct AtRest {
    disk: MemDisk,
    script: Script,
    segments: Vec<Layout>,
    plant: Option<Plant>,
}

/// A segment: its batches by the calls that wrote them.
struct Layout {
    path: PathBuf,
    batches: Vec<Range<u64>>,
    len: u64,
    /// How many calls were written before it.
    calls: usize,
}

impl Layout {
    fn end(&self) -> u64 {
        self.batches.last().map_or(0, |batch| batch.end)
    }

    /// Where the batch begins that a byte lies in, or would.
    fn start_of(&self, byte: u64) -> u64 {
        self.batches.iter().find(|batch| batch.contains(&byte)).map_or(self.end(), |batch| batch.start)
    }

    /// How many calls are in the log up to an offset.
    fn calls_below(&self, offset: u64) -> usize {
        // The head is nobody's call.
        self.calls + self.batches.iter().skip(1).filter(|batch| batch.end <= offset).count()
    }
}

/// What must follow.
#[derive(Debug, Clone, PartialEq)]
enum Expected {
    /// [`Error::Corrupt`] in that segment, at that offset.
    Corrupt(usize, u64),
    /// [`Error::MissingSegment`].
    Missing(u64),
    /// [`Error::SnapshotNotRecorded`], when opened at the beginning.
    BeginningIsGone,
    /// Opened with so many calls in it; cut at that offset if it is torn.
    Opened { calls: usize, torn: Option<u64> },
}

/// Batches of many sizes, entries that replace others, votes, a snapshot record, and values of zeros and of copies of
/// the log. About two sectors are left.
fn single(settings: &Settings) -> Result<AtRest, String> {
    let mut script = Script::new(BYTES).with([
        save(vec![entry(1, 1, 40), entry(2, 1, 3000), entry(3, 1, 0)], hard_state(1, 1, 0)),
        save(vec![], hard_state(2, 3, 0)),
        save(vec![entry(3, 2, 700), entry(4, 2, 700)], hard_state(2, 3, 2)),
        save(vec![with_data(5, 2, vec![0; 9000])], hard_state(2, 3, 4)),
        Call::Record(kvd_wal::SnapshotRecord { index: 3, term: 2 }),
        save((5..=14).map(|index| entry(index, 3, 130)).collect(), hard_state(3, 0, 5)),
    ]);
    let copy = {
        let memory = MemDisk::new();
        script.create_and_play(None, &memory).ok_or("cannot be created")?;
        let path = dir().join("0000000000000000-0000000000000000.wal");
        memory.read_file(&path).map_err(|e| e.to_string())?[..16_000].to_vec()
    };
    script.push(save(vec![with_data(15, 3, copy), entry(16, 3, 1)], hard_state(3, 2, 9)));
    for index in 17..=24 {
        let len = [10, 449, 1200, 5000][index as usize % 4];
        script.push(save(vec![entry(index, 4, len)], hard_state(4, 1, index - 2)));
    }
    // Nothing is behind the last one, and it takes several sectors.
    let used = at_rest(script.clone(), settings)?.segments[0].end();
    let room = (BYTES - used) as usize - 3 * SECTOR;
    script.push(save(vec![entry(25, 4, room - 4000)], hard_state(4, 1, 24)));
    script.push(save(vec![entry(26, 4, 3300)], hard_state(5, 2, 25)));
    at_rest(script, settings)
}

fn several(settings: &Settings) -> Result<AtRest, String> {
    let script = Script::new(SMALL).with((1..=12).map(|index| {
        let len = [2200, 300, 900][index as usize % 3];
        save(vec![entry(index, 1 + index / 5, len)], hard_state(1 + index / 5, 2, index - 1))
    }));
    at_rest(script, settings)
}

fn at_rest(script: Script, settings: &Settings) -> Result<AtRest, String> {
    let disk = MemDisk::new();
    if script.create_and_play(None, &disk) != Some(script.len()) {
        return Err("the script fails".to_owned());
    }
    disk.crash_losing_all_unsynced();
    let mut segments: Vec<Layout> = Vec::new();
    for name in disk.list(dir()).map_err(|e| e.to_string())?.iter().filter(|name| name.ends_with(".wal")) {
        let path = dir().join(name);
        let bytes = disk.read_file(&path).map_err(|e| e.to_string())?;
        let calls = segments.last().map_or(0, |before| before.calls_below(u64::MAX));
        segments.push(Layout { path, batches: batches(&bytes), len: bytes.len() as u64, calls });
    }
    let calls = segments.last().map(|last| last.calls_below(u64::MAX));
    if calls != Some(script.len()) {
        return Err(format!("{} calls made {calls:?} batches", script.len()));
    }
    Ok(AtRest { disk, script, segments, plant: settings.plant })
}

/// Where batches lie, by the lengths in their headers.
fn batches(bytes: &[u8]) -> Vec<Range<u64>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while bytes.get(at..at + 4) == Some(b"kvdW") {
        let length =
            u32::from_le_bytes([bytes[at + 32], bytes[at + 33], bytes[at + 34], bytes[at + 35]]) as usize;
        let end = at + SECTOR + length.saturating_sub(448).div_ceil(511) * SECTOR;
        found.push(at as u64..end as u64);
        at = end;
    }
    found
}

impl AtRest {
    /// The oracle.
    fn expected(&self, damage: Damage) -> Expected {
        let (Damage::Length(n, _)
        | Damage::Flip(n, _)
        | Damage::Zeros(n, ..)
        | Damage::Two(n, ..)
        | Damage::Missing(n)) = damage;
        let all = Expected::Opened { calls: self.script.len(), torn: None };
        let (segment, is_last) = (&self.segments[n], n + 1 == self.segments.len());
        let opened = |to: u64, torn: bool| Expected::Opened {
            calls: segment.calls_below(to),
            torn: torn.then_some(to),
        };
        let sectors = match damage {
            Damage::Missing(0) => return Expected::BeginningIsGone,
            // Undetectable, case 3: a last segment that was deleted.
            Damage::Missing(_) if is_last => {
                return Expected::Opened { calls: segment.calls, torn: None };
            }
            Damage::Missing(n) => return Expected::Missing(n as u64),
            Damage::Flip(_, bit) => {
                return match bit / 8 {
                    byte if byte < segment.end() => Expected::Corrupt(n, segment.start_of(byte)),
                    // Its end is in the next one's head; what is behind is nobody's.
                    _ if !is_last => all,
                    byte if byte < segment.end() + SECTOR as u64 => Expected::Corrupt(n, segment.end()),
                    // Undetectable, case 5: rot in zeros behind the end.
                    _ => opened(segment.end(), true),
                };
            }
            Damage::Length(_, len) if len >= segment.end() => return all,
            Damage::Length(_, len) if !is_last || len < segment.batches[0].end => {
                return Expected::Corrupt(n, segment.start_of(len));
            }
            // Undetectable, cases 1 and 3: the end of the file is lost, within a batch or at its bound.
            Damage::Length(_, len) => {
                let cut = segment.start_of(len);
                return opened(cut, cut < len);
            }
            Damage::Zeros(_, from, to) => (from..to).collect(),
            Damage::Two(_, one, other) => vec![one, other],
        };
        let zeroed = |sector: u64| sectors.contains(&(sector / SECTOR as u64));
        let is_hit = |batch: &&Range<u64>| (batch.start..batch.end).step_by(SECTOR).any(zeroed);
        let Some(hit) = segment.batches.iter().find(is_hit) else { return all };
        let evidence = segment.batches.iter().any(|batch| batch.start > hit.start && !zeroed(batch.start));
        if evidence || !is_last || hit.start == 0 {
            return Expected::Corrupt(n, hit.start);
        }
        // Undetectable, cases 1 and 3: zeros, and no header behind them.
        let anything_behind = (hit.start..segment.end()).step_by(SECTOR).any(|sector| !zeroed(sector));
        opened(hit.start, anything_behind)
    }

    fn apply(&self, damage: Damage) -> std::io::Result<MemDisk> {
        let image = self.disk.fork();
        let path = |n: usize| &self.segments[n].path;
        match damage {
            Damage::Length(n, len) => {
                let mut bytes = image.read_file(path(n))?;
                bytes.truncate(len as usize);
                image.overwrite_file(path(n), bytes)?;
            }
            Damage::Flip(n, bit) => image.rot(path(n), Rot::Bit(bit))?,
            Damage::Zeros(n, from, to) => {
                for sector in from..to {
                    image.rot(path(n), Rot::Sector(sector))?;
                }
            }
            Damage::Two(n, one, other) => {
                image.rot(path(n), Rot::Sector(one))?;
                image.rot(path(n), Rot::Sector(other))?;
            }
            Damage::Missing(n) => {
                image.remove_file(path(n))?;
                image.sync_dir(dir())?;
            }
        }
        Ok(image)
    }

    fn check(&self, damage: Damage, counts: &mut Counts<'_>) -> Result<(), String> {
        let image = self.apply(damage).map_err(|error| format!("cannot be damaged: {error}"))?;
        let disk = plant::disk(self.plant, &image, Some(&self.disk));
        let operations = image.operations();
        let looked = verify(&disk, dir(), BEGINNING);
        if image.operations() != operations {
            return Err("looking has changed something".to_owned());
        }
        let opened = Wal::open(disk, dir(), BEGINNING, options(self.script.segment_bytes));
        let expected = self.expected(damage);
        let refused = match (looked, opened) {
            (Ok(_), Ok((wal, replay))) => {
                drop(wal);
                let Expected::Opened { calls, torn } = expected else {
                    let n = replay.entries.len();
                    return Err(format!("a silent case: opened with {n} entries instead of {expected:?}"));
                };
                counts.count(if torn.is_some() { "opened, a tail cut" } else { "opened" });
                if replay.torn.map(|torn| torn.offset) != torn {
                    return Err(format!("cut elsewhere, or not: {expected:?}"));
                }
                // That was the first opening. The rest is as after any crash, on the damaged image anew.
                let image = self.apply(damage).map_err(|error| error.to_string())?;
                return log::check(self.plant, &image, &self.script, (calls, calls), counts).map(drop);
            }
            (Err(looked), Err(opened)) if looked.to_string() == opened.to_string() => opened,
            (looked, opened) => {
                return Err(format!("verify: {:?}; open: {:?}", looked.err(), opened.err()));
            }
        };
        counts.count("refused");
        if image.operations() != operations {
            return Err("refused, but something was changed".to_owned());
        }
        let as_expected = match (&expected, &refused) {
            (Expected::Corrupt(n, at), Error::Corrupt { file, offset, .. }) => {
                (&self.segments[*n].path, at) == (file, offset)
            }
            (Expected::Missing(n), Error::MissingSegment { missing, .. }) => n == missing,
            (Expected::BeginningIsGone, Error::SnapshotNotRecorded { index: 0, .. }) => true,
            _ => false,
        };
        if as_expected { Ok(()) } else { Err(format!("expected {expected:?}, not: {refused}")) }
    }

    fn image(&self, sink: &mut Sink<'_>, damage: Damage) {
        sink.image(|| name(damage), |counts| self.check(damage, counts));
    }
}

fn name(damage: Damage) -> String {
    match damage {
        Damage::Length(n, len) => format!("{n}/length{len}"),
        Damage::Flip(n, bit) => format!("{n}/bit{bit}"),
        Damage::Zeros(n, from, to) => format!("{n}/zeros{from}..{to}"),
        Damage::Two(n, one, other) => format!("{n}/zeros{one}+{other}"),
        Damage::Missing(n) => format!("{n}/missing"),
    }
}

fn truncations(sink: &mut Sink<'_>, lengths: Range<u64>) {
    let Some(log) = sink.setup("log", single(sink.settings)) else { return };
    thinned(sink.settings, lengths).for_each(|len| log.image(sink, Damage::Length(0, len)));
}

fn flips(sink: &mut Sink<'_>, bits: Range<u64>) {
    let Some(log) = sink.setup("log", single(sink.settings)) else { return };
    thinned(sink.settings, bits).for_each(|bit| log.image(sink, Damage::Flip(0, bit)));
}

fn zeros(sink: &mut Sink<'_>, sectors: Range<u64>) {
    let Some(log) = sink.setup("log", single(sink.settings)) else { return };
    for from in thinned(sink.settings, sectors) {
        for to in from + 1..=BYTES / SECTOR as u64 {
            log.image(sink, Damage::Zeros(0, from, to));
            if to > from + 1 {
                log.image(sink, Damage::Two(0, from, to - 1));
            }
        }
    }
}

fn several_at(sink: &mut Sink<'_>, offsets: Range<u64>) {
    let Some(log) = sink.setup("log", several(sink.settings)) else { return };
    for (n, segment) in log.segments.iter().enumerate() {
        for at in thinned(sink.settings, offsets.start..offsets.end.min(segment.len)) {
            log.image(sink, Damage::Length(n, at));
            let bit = Rng::new(sink.settings.seed ^ at << 8 ^ n as u64).below(8);
            log.image(sink, Damage::Flip(n, at * 8 + bit));
            if at % SECTOR as u64 == 0 {
                for to in at / SECTOR as u64 + 1..=segment.len / SECTOR as u64 {
                    log.image(sink, Damage::Zeros(n, at / SECTOR as u64, to));
                }
            }
        }
        if offsets.start == 0 {
            log.image(sink, Damage::Missing(n));
        }
    }
}

fn thinned(settings: &Settings, range: Range<u64>) -> impl Iterator<Item = u64> + use<> {
    let every = settings.every;
    range.filter(move |n| n % every == 0)
}
