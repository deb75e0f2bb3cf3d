//! Snapshot files: damaged at rest, and written, received, installed, set aside and removed with the power going at every
//! step.

use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use kvd_raftpb::peers::SnapshotStore as _;
use kvd_snap::{Damage as Found, Error, Snapshotter, verify};
use kvd_vfs::{MemDisk, Rot, SECTOR, Vfs as _};
use raft::eraftpb::SnapshotMetadata;

use crate::crash::{self, Attempt, Bounds};
use crate::plant::{self, Plant};
use crate::run::{Counts, Section, Settings, Sink, Unit, shared};

/// A file of about this many bytes, in chunks of [`CHUNK`].
const BYTES: u64 = 64 << 10;
const CHUNK: usize = 15_000;
/// Term and index of the snapshot that is damaged or written, and of the one before it.
const NEW: (u64, u64) = (3, 9);
const OLD: (u64, u64) = (2, 5);

pub(crate) const TRUNCATIONS: Section = Section {
    name: "snap-truncations",
    about: "a snapshot of 64 KiB in several chunks, cut to every length, and with bytes behind its end",
    units: |_| shared(BYTES, truncations),
};

pub(crate) const FLIPS: Section = Section {
    name: "snap-flips",
    about: "a snapshot of 64 KiB in several chunks, every bit flipped",
    units: |_| shared(BYTES * 8, flips),
};

pub(crate) const NAMES: Section = Section {
    name: "snap-names",
    about: "snapshots that are saved, received, replaced, removed and set aside, cut off at every step",
    units: |_| Work::ALL.map(|work| Box::new(move |sink: &mut Sink<'_>| steps(sink, work)) as Unit).into(),
};

fn dir() -> &'static Path {
    Path::new("/m/snap")
}

fn path((term, index): (u64, u64)) -> PathBuf {
    dir().join(format!("{term:016x}-{index:016x}.snap"))
}

fn metadata((term, index): (u64, u64)) -> SnapshotMetadata {
    let mut metadata = SnapshotMetadata::default();
    (metadata.term, metadata.index) = (term, index);
    metadata.mut_conf_state().voters = vec![1, 2, 3];
    metadata
}

/// A body with sectors of zeros, and nothing that chunks share.
fn body(len: usize) -> Vec<u8> {
    let mut body: Vec<u8> =
        (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    body.iter_mut().skip(2000).take(1500).for_each(|byte| *byte = 0);
    body
}

fn save(snapshotter: &Snapshotter, id: (u64, u64), body: &[u8]) -> kvd_snap::Result<u64> {
    snapshotter.save(&metadata(id), &mut |out| out.write_all(body))
}

fn read(snapshotter: &Snapshotter, id: (u64, u64)) -> Result<Vec<u8>, String> {
    let mut reader = snapshotter.read(id.0, id.1).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Two snapshots at rest, the newer one to be damaged.
struct AtRest {
    disk: MemDisk,
    /// Of the newer one.
    bytes: Vec<u8>,
    /// Where its parts begin, by docs/snap-format.md: prelude, header, each chunk, trailer.
    parts: Vec<u64>,
    body: Vec<u8>,
    plant: Option<Plant>,
}

impl AtRest {
    fn new(settings: &Settings) -> Result<AtRest, String> {
        let disk = MemDisk::new();
        let snapshotter = Snapshotter::open(disk.disk(), dir()).map_err(|e| e.to_string())?;
        save(&snapshotter, OLD, b"older").map_err(|e| e.to_string())?;
        let body = body(BYTES as usize - 200);
        save(&snapshotter, NEW, &body).map_err(|e| e.to_string())?;
        // One chunk was written. Others may write smaller ones: the same file, cut anew as the document says.
        let whole = disk.read_file(&path(NEW)).map_err(|e| e.to_string())?;
        let header = 20 + u32_at(&whole, 16) as usize + 4;
        let (bytes, parts) = rechunked(&whole[..header], &body);
        let mut sink = snapshotter.receive(NEW.0, NEW.1).map_err(|e| e.to_string())?;
        sink.write_all(&bytes).and_then(|()| sink.install()).map_err(|e| e.to_string())?;
        if read(&snapshotter, NEW)? != body {
            return Err("the body is not read back".to_owned());
        }
        disk.crash_losing_all_unsynced();
        Ok(AtRest { disk, bytes, parts, body, plant: settings.plant })
    }

    /// The part that begins at a byte or before.
    fn part_of(&self, byte: u64) -> u64 {
        self.parts.iter().rev().find(|part| **part <= byte).copied().unwrap_or(0)
    }

    fn check(
        &self,
        image: &MemDisk,
        expected: u64,
        is_thorough: bool,
        counts: &mut Counts<'_>,
    ) -> Result<(), String> {
        let disk = plant::disk(self.plant, image, Some(&self.disk));
        let operations = image.operations();
        let mut told = Vec::new();
        for _ in 0..2 {
            match verify(&disk, &path(NEW)) {
                Err(error @ Error::Corrupt { .. }) => {
                    let Error::Corrupt { path: file, offset, .. } = &error else { continue };
                    if (file, *offset) != (&path(NEW), expected) {
                        return Err(format!("expected damage at offset {expected}, not: {error}"));
                    }
                    told.push(error.to_string());
                }
                Err(other) => return Err(format!("neither good nor corrupt: {other}")),
                Ok(_) => return Err("a silent case: found good".to_owned()),
            }
        }
        if told[0] != told[1] || image.operations() != operations {
            return Err(format!("another answer the second time, or something was changed: {told:?}"));
        }
        counts.count("refused");
        if is_thorough { self.check_thoroughly(image, &disk, counts) } else { Ok(()) }
    }

    /// No damaged byte is handed out, to a reader or to a peer; the file is set aside, and the older one is taken.
    fn check_thoroughly(
        &self,
        image: &MemDisk,
        disk: &kvd_vfs::Disk,
        counts: &mut Counts<'_>,
    ) -> Result<(), String> {
        let snapshotter = Snapshotter::open(disk.clone(), dir()).map_err(|e| e.to_string())?;
        if let Ok(mut reader) = snapshotter.read(NEW.0, NEW.1) {
            let mut handed_out = Vec::new();
            if reader.read_to_end(&mut handed_out).is_ok() {
                return Err("a damaged body is read to its end".to_owned());
            }
            if !self.body.starts_with(&handed_out) {
                return Err("damaged bytes are handed out".to_owned());
            }
        }
        let (_, mut sent) = snapshotter.open(NEW.0, NEW.1).map_err(|e| e.to_string())?;
        if sent.read_to_end(&mut Vec::new()).is_ok() {
            return Err("a damaged file is sent to its end".to_owned());
        }
        let newest = snapshotter.newest_of(&[OLD, NEW]).map_err(|e| e.to_string())?;
        if newest != Some(metadata(OLD)) {
            return Err(format!("the older one should be taken, not {newest:?}"));
        }
        let names = image.list(dir()).map_err(|e| e.to_string())?;
        let new = format!("{:016x}-{:016x}.snap", NEW.0, NEW.1);
        if names.contains(&new) || !names.contains(&format!("{new}.broken")) {
            return Err(format!("the damaged file should be set aside: {names:?}"));
        }
        counts.count("set aside, the older one taken");
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A snapshot file with chunks of [`CHUNK`], and where its parts begin.
fn rechunked(header: &[u8], body: &[u8]) -> (Vec<u8>, Vec<u64>) {
    let crc = |pieces: &[&[u8]]| crc32fast::hash(&pieces.concat()).to_le_bytes();
    let mut bytes = header.to_vec();
    let mut parts = vec![0, 16];
    let mut chunks = 0u64;
    for chunk in body.chunks(CHUNK) {
        parts.push(bytes.len() as u64);
        let len = (chunk.len() as u32).to_le_bytes();
        bytes.extend([&len[..], &crc(&[&chunks.to_le_bytes(), &len, chunk]), chunk].concat());
        chunks += 1;
    }
    parts.push(bytes.len() as u64);
    let (none, whole) = ([0; 4], crc(&[&bytes]));
    let rest = [&(body.len() as u64).to_le_bytes()[..], &whole, b"pans-dvk"].concat();
    bytes.extend([&none[..], &crc(&[&chunks.to_le_bytes(), &none, &rest]), &rest].concat());
    (bytes, parts)
}

/// One in so many images is checked in every way that a file is read.
const THOROUGH: u64 = 16;

fn truncations(sink: &mut Sink<'_>, lengths: Range<u64>) {
    let Some(files) = sink.setup("files", AtRest::new(sink.settings)) else { return };
    let (every, end) = (sink.settings.every, files.bytes.len() as u64);
    for len in lengths.filter(|len| len % every == 0 && *len != end) {
        sink.image(
            || format!("length{len}"),
            |counts| {
                let image = files.disk.fork();
                let mut bytes = files.bytes.clone();
                bytes.resize(len as usize, 0);
                image.overwrite_file(&path(NEW), bytes).map_err(|e| e.to_string())?;
                // Behind the end: the offset is that of the first byte too many.
                let part = if len > end { end } else { files.part_of(len) };
                files.check(&image, part, len % (every * THOROUGH) == 0, counts)
            },
        );
    }
}

fn flips(sink: &mut Sink<'_>, bits: Range<u64>) {
    let Some(files) = sink.setup("files", AtRest::new(sink.settings)) else { return };
    let (every, end) = (sink.settings.every, files.bytes.len() as u64 * 8);
    for bit in bits.filter(|bit| bit % every == 0 && *bit < end) {
        sink.image(
            || format!("bit{bit}"),
            |counts| {
                let image = files.disk.fork();
                image.rot(&path(NEW), Rot::Bit(bit)).map_err(|e| e.to_string())?;
                files.check(&image, files.part_of(bit / 8), bit % (every * 8 * THOROUGH) < every, counts)
            },
        );
    }
}

/// What is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// A snapshot is saved beside an older one.
    Save,
    /// One is received from a peer, in pieces, and installed.
    Receive,
    /// One is saved over a file of the same name.
    Replace,
    /// All but the newest two of five are removed.
    Retain,
    /// What the log never recorded is removed.
    Unrecorded,
    /// A damaged one is set aside.
    SetAside,
}

impl Work {
    const ALL: [Work; 6] =
        [Work::Save, Work::Receive, Work::Replace, Work::Retain, Work::Unrecorded, Work::SetAside];
}

/// The snapshots that are there before.
fn before(work: Work) -> Vec<(u64, u64)> {
    match work {
        Work::Save | Work::Receive => vec![OLD],
        Work::Replace | Work::Unrecorded | Work::SetAside => vec![OLD, NEW],
        Work::Retain => vec![(1, 1), (1, 2), (2, 4), OLD, NEW],
    }
}

/// Of each snapshot; a few sectors.
fn body_of(id: (u64, u64)) -> Vec<u8> {
    body(2400 + id.1 as usize)
}

fn steps(sink: &mut Sink<'_>, work: Work) {
    let built = prepared(work);
    let Some((base, received)) = sink.setup("base", built) else { return };
    let (plant, bounds) = (sink.settings.plant, Bounds::full(sink));
    let run = |memory: &MemDisk| -> Result<(), String> {
        let disk = plant::disk(plant, memory, None);
        let snapshotter = Snapshotter::open(disk, dir()).map_err(|e| e.to_string())?;
        let result = match work {
            Work::Save | Work::Replace => save(&snapshotter, NEW, &body_of(NEW)).map(drop),
            Work::Receive => {
                let mut sink = snapshotter.receive(NEW.0, NEW.1).map_err(|e| e.to_string())?;
                for piece in received.chunks(700) {
                    sink.write_all(piece).map_err(|e| e.to_string())?;
                }
                return sink.install().map_err(|e| e.to_string());
            }
            Work::Retain => snapshotter.retain(2).map(drop),
            Work::Unrecorded => snapshotter.remove_unrecorded(&[OLD]),
            Work::SetAside => snapshotter.newest_of(&[OLD, NEW]).map(drop),
        };
        result.map_err(|e| e.to_string())
    };
    let check = |image: &MemDisk, attempt: &Attempt<Result<(), String>>, counts: &mut Counts<'_>| {
        if let (true, Err(error)) = (attempt.finished, &attempt.outcome) {
            return Err(format!("failed, and the power was on: {error}"));
        }
        let twin = image.fork();
        let found = check_files(plant, image, work, attempt.outcome.is_ok(), counts)?;
        if check_files(plant, &twin, work, attempt.outcome.is_ok(), counts)? != found {
            return Err("the same image gave something else the second time".to_owned());
        }
        // It can be gone on with.
        run(image).map_err(|error| format!("cannot be done again: {error}"))?;
        image.crash_losing_all_unsynced();
        check_files(plant, image, work, true, counts).map(drop)
    };
    crash::at_every_step(sink, &format!("{work:?}").to_lowercase(), &base, bounds, &run, &check);
}

fn prepared(work: Work) -> Result<(MemDisk, Vec<u8>), String> {
    let disk = MemDisk::new();
    let snapshotter = Snapshotter::open(disk.disk(), dir()).map_err(|e| e.to_string())?;
    for id in [NEW].into_iter().chain(before(work)) {
        save(&snapshotter, id, &body_of(id)).map_err(|e| e.to_string())?;
    }
    let received = disk.read_file(&path(NEW)).map_err(|e| e.to_string())?;
    if !before(work).contains(&NEW) {
        disk.remove_file(&path(NEW)).map_err(|e| e.to_string())?;
        disk.sync_dir(dir()).map_err(|e| e.to_string())?;
    }
    if work == Work::SetAside {
        disk.rot(&path(NEW), Rot::Bit(SECTOR as u64 * 8)).map_err(|e| e.to_string())?;
    }
    disk.crash_losing_all_unsynced();
    Ok((disk, received))
}

/// The oracle: each final name is absent or has the whole; what was acknowledged is there; what must stay is there.
fn check_files(
    plant: Option<Plant>,
    image: &MemDisk,
    work: Work,
    done: bool,
    counts: &mut Counts<'_>,
) -> Result<Vec<(u64, u64)>, String> {
    let done = done || plant == Some(Plant::ExpectsTooMuch);
    let disk = plant::disk(plant, image, None);
    let snapshotter = Snapshotter::open(disk.clone(), dir()).map_err(|e| e.to_string())?;
    let names = image.list(dir()).map_err(|e| e.to_string())?;
    if let Some(orphan) = names.iter().find(|name| name.ends_with(".tmp")) {
        return Err(format!("{orphan} is left"));
    }
    let all: Vec<(u64, u64)> = [NEW].into_iter().chain(before(work)).collect();
    let mut whole: Vec<(u64, u64)> = Vec::new();
    for id in all.into_iter().filter(|id| names.iter().any(|name| path(*id) == dir().join(name))) {
        match verify(&disk, &path(id)) {
            Ok(_) if read(&snapshotter, id)? == body_of(id) => whole.push(id),
            Ok(_) => return Err(format!("{id:?} holds something else")),
            Err(Error::Corrupt { damage: Found::Chunk(0), .. }) if work == Work::SetAside && id == NEW => {}
            Err(error) => return Err(format!("a final name without the whole: {error}")),
        }
    }
    whole.sort_unstable();
    whole.dedup();
    let (must, may) = match work {
        Work::Save | Work::Receive if done => (vec![OLD, NEW], vec![OLD, NEW]),
        Work::Save | Work::Receive => (vec![OLD], vec![OLD, NEW]),
        Work::Replace => (vec![OLD, NEW], vec![OLD, NEW]),
        Work::Retain if done => (vec![OLD, NEW], vec![OLD, NEW]),
        Work::Retain => (vec![OLD, NEW], before(work)),
        Work::Unrecorded if done => (vec![OLD], vec![OLD]),
        Work::Unrecorded => (vec![OLD], vec![OLD, NEW]),
        Work::SetAside => (vec![OLD], vec![OLD]),
    };
    if !must.iter().all(|id| whole.contains(id)) || !whole.iter().all(|id| may.contains(id)) {
        return Err(format!("{whole:?} are there; at least {must:?}, at most {may:?} should be"));
    }
    if work == Work::SetAside {
        let aside = names.iter().any(|name| name.ends_with(".broken"));
        if done && !aside || aside == names.iter().any(|name| path(NEW) == dir().join(name)) {
            return Err(format!("the damaged file is set aside or not, and never both or gone: {names:?}"));
        }
    }
    counts.count(if done { "done" } else { "not done, or not yet" });
    Ok(whole)
}
