//! Reading beside the process that has the log open: it cuts, releases and recycles segments under the reader's hands.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kvd_vfs::{Disk, File, Lock, MemDisk, OpenMode, RealDisk, Vfs};
use kvd_wal::damage::Finding;
use kvd_wal::scan::{Record, Scan, Step, is_open};
use kvd_wal::{Error, LogReader, Options, ReadBack, Wal, recorded_snapshots, survey, verify};
use raft::eraftpb::Entry;

use crate::support::*;

/// A disk for a reader. Before each of its looks at the real one (a listing, an opening, a read) something else happens.
#[derive(Clone)]
struct Meddled {
    disk: MemDisk,
    meddler: Arc<Mutex<Meddler>>,
}

struct Meddler {
    looks: u64,
    /// Is told the number of the look that comes, from 1.
    act: Box<dyn FnMut(u64) + Send>,
}

impl std::fmt::Debug for Meddled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddled")
    }
}

impl Meddled {
    fn new(disk: &MemDisk, act: impl FnMut(u64) + Send + 'static) -> Meddled {
        let meddler = Meddler { looks: 0, act: Box::new(act) };
        Meddled { disk: disk.clone(), meddler: Arc::new(Mutex::new(meddler)) }
    }

    fn disk(&self) -> Disk {
        Arc::new(self.clone())
    }

    fn looks(&self) -> u64 {
        self.meddler.lock().unwrap().looks
    }

    fn look(&self) {
        let mut meddler = self.meddler.lock().unwrap();
        meddler.looks += 1;
        let look = meddler.looks;
        (meddler.act)(look);
    }
}

impl Vfs for Meddled {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        unreachable!("a reader changes nothing")
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.look();
        self.disk.list(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        assert_eq!(mode, OpenMode::Read, "a reader changes nothing");
        self.look();
        Ok(Box::new(MeddledFile { file: self.disk.open(path, mode)?, disk: self.clone() }))
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        unreachable!("a reader changes nothing")
    }
    fn remove_file(&self, _: &Path) -> io::Result<()> {
        unreachable!("a reader changes nothing")
    }
    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        unreachable!("a reader changes nothing")
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        unreachable!("a reader changes nothing")
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn lock(&self, _: &Path) -> io::Result<Box<dyn Lock>> {
        unreachable!("a reader takes no lock")
    }
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.look();
        self.disk.is_locked(path)
    }
}

#[derive(Debug)]
struct MeddledFile {
    file: Box<dyn File>,
    disk: Meddled,
}

impl File for MeddledFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.look();
        self.file.read_at(buf, offset)
    }
    fn write_all_at(&mut self, _: &[u8], _: u64) -> io::Result<()> {
        unreachable!("a reader changes nothing")
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&mut self, _: u64) -> io::Result<()> {
        unreachable!("a reader changes nothing")
    }
    fn sync_data(&mut self) -> io::Result<()> {
        unreachable!("a reader changes nothing")
    }
}

/// A member that goes on: each turn saves entries, takes a snapshot behind the last one and releases what it can, so that
/// segments are cut, renamed away, filled with zeros and used again.
struct Member {
    wal: Wal,
    last: u64,
}

impl Member {
    fn new(disk: &MemDisk) -> Member {
        let mut member = Member { wal: create(disk, 4096), last: 0 };
        for _ in 0..16 {
            member.save();
        }
        member.snapshot(3);
        member
    }

    fn save(&mut self) {
        let entries = entries(self.last + 1..=self.last + 3, 1, 300);
        self.last += 3;
        self.wal.save(&entries, Some(&hard_state(1, 1, self.last)), true).unwrap();
    }

    fn snapshot(&mut self, index: u64) {
        self.wal.save_snapshot(snapshot(index, 1)).unwrap();
    }

    fn turn(&mut self) {
        let index = self.last;
        self.snapshot(index);
        for _ in 0..12 {
            self.save();
        }
        self.wal.release_to(index).unwrap();
        // The spare files become segments.
        for _ in 0..12 {
            self.save();
        }
    }
}

/// The entries that a scan found behind the last gap, each compared with what was saved.
fn scan(disk: &Disk) -> Result<Vec<Entry>, Error> {
    let mut scan = Scan::open(disk.clone(), dir())?;
    let mut found: Vec<Entry> = Vec::new();
    let mut last_place = (0, 0);
    while let Some(step) = scan.step()? {
        match step {
            Step::Batch(batch) => {
                assert!((batch.sequence, batch.end) > last_place, "batches come in order");
                last_place = (batch.sequence, batch.end);
                for record in batch.records() {
                    if let Record::Entry(found_entry) = record? {
                        assert_eq!(found_entry, entry(found_entry.index, 1, 300));
                        found.push(found_entry);
                    }
                }
            }
            Step::Released(released) => {
                assert!(released.next > released.from);
                found.clear();
            }
        }
    }
    let end = scan.end().unwrap();
    assert!(end.torn.is_none() && !end.closed, "{end:?}");
    Ok(found)
}

/// Runs `read` with the member taking a turn before look `n`, and before every further one up to `more` later, for every
/// `n` that there is.
fn at_every_look(more: u64, mut read: impl FnMut(&Disk, u64)) {
    for n in 1.. {
        let disk = MemDisk::new();
        let mut member = Member::new(&disk);
        let last = member.last;
        let meddled = Meddled::new(&disk, move |look| {
            if (n..=n + more).contains(&look) {
                member.turn();
            }
        });
        read(&meddled.disk(), last);
        if meddled.looks() < n {
            assert!(n > 10, "only {n} looks");
            return;
        }
    }
}

#[test]
fn segments_that_are_released_and_recycled_at_any_moment_are_no_damage() {
    for more in [0, 1, 5] {
        at_every_look(more, |disk, last| {
            let found = scan(disk).unwrap();
            let indexes: Vec<u64> = found.iter().map(|entry| entry.index).collect();
            assert!(indexes.windows(2).all(|pair| pair[1] == pair[0] + 1), "{indexes:?}");
            assert!(*indexes.last().unwrap() >= last, "all that was there when it began");
        });
        at_every_look(more, |disk, last| {
            let survey = survey(disk, dir()).unwrap();
            assert!(survey.error.is_none(), "{survey:?}");
            assert!(survey.entries.unwrap().1 >= last);
            assert!(survey.hard_state.commit >= last);
        });
        at_every_look(more, |disk, _| {
            recorded_snapshots(disk, dir()).unwrap();
            assert_eq!(Wal::read_metadata(disk, dir()).unwrap(), METADATA);
        });
        at_every_look(more, |disk, last| match verify(disk, dir(), snapshot(3, 1)) {
            Ok(report) => assert!(report.last_index >= last && report.torn.is_none()),
            Err(Error::Released { index: 3, .. } | Error::SnapshotNotRecorded { index: 3, .. }) => {}
            Err(error) => panic!("{error}"),
        });
    }
}

#[test]
fn a_reader_of_another_process_s_log_says_what_went() {
    at_every_look(0, |disk, last| {
        let mut reader = LogReader::open(disk.clone(), dir()).unwrap();
        let mut index = 1;
        while index <= last {
            match reader.read(index, last + 1, 500).unwrap() {
                ReadBack::Entries(entries) => {
                    assert!(!entries.is_empty(), "entry {index} was there");
                    for found in entries {
                        assert_eq!(found, entry(index, 1, 300));
                        index += 1;
                    }
                }
                ReadBack::Gone { first_index } => {
                    assert!(first_index > index);
                    index = first_index;
                }
            }
        }
    });
}

/// A log that is open, the bytes of its segment before and after one more save, and where that begins.
fn half_written(segment_bytes: u64) -> (MemDisk, Wal, PathBuf, Vec<u8>, Vec<u8>, usize) {
    let disk = MemDisk::new();
    let mut wal = create(&disk, segment_bytes);
    wal.save(&entries(1..=2, 1, 300), None, true).unwrap();
    let path = segments(&disk)[0].clone();
    let before = read(&disk, &path);
    wal.save(&entries(3..=5, 1, 700), None, true).unwrap();
    let after = read(&disk, &path);
    let offset = data_end(&before);
    assert_eq!(data_end(&after) - offset, 5 * 512);
    (disk, wal, path, before, after, offset)
}

#[test]
fn a_write_that_is_under_way_is_the_end_while_somebody_has_the_log_open() {
    let (disk, wal, path, before, after, offset) = half_written(32 * 512);
    let end = data_end(&after);
    let put = |written: &dyn Fn(usize) -> bool| {
        let bytes = (0..before.len()).map(|at| if written(at) { after[at] } else { before[at] });
        disk.overwrite_file(&path, bytes.collect()).unwrap();
        let mut scan = Scan::open(disk.disk(), dir()).unwrap();
        while scan.step().unwrap().is_some() {}
        let seen = scan.end().unwrap().clone();
        assert_eq!(seen.torn, None);
        seen
    };
    // Sectors in any order, then bytes in order, which leaves a part of a sector.
    for subset in 0u32..32 {
        let seen = put(&|at| at < offset || (at < end && subset >> ((at - offset) / 512) & 1 == 1));
        let whole = subset == 31;
        assert_eq!(seen.offset, if whole { end } else { offset } as u64, "{subset:05b}");
        assert_eq!(seen.under_way.is_none(), whole || subset == 0, "{subset:05b} {:?}", seen.under_way);
    }
    // In whole words, as a copy goes: a header is there or not.
    for written in (offset..end - 512).step_by(8) {
        let seen = put(&|at| at < written);
        assert_eq!((seen.offset, seen.under_way.is_some()), (offset as u64, written > offset), "{written}");
    }
    // Once nobody has it open, the same bytes are torn, or corrupt: as opening it says.
    disk.overwrite_file(&path, [&after[..offset + 512], &before[offset + 512..]].concat()).unwrap();
    assert!(is_open(&disk.disk(), dir()).unwrap());
    assert_eq!(verify(&disk.disk(), dir(), BEGINNING).unwrap().under_way, Some(Finding::ZeroSector));
    drop(wal);
    assert!(!is_open(&disk.disk(), dir()).unwrap());
    let report = verify(&disk.disk(), dir(), BEGINNING).unwrap();
    assert_eq!((report.under_way, report.torn.map(|torn| torn.offset)), (None, Some(offset as u64)));
    disk.overwrite_file(&path, [&after[..offset + 520], &before[offset + 520..]].concat()).unwrap();
    assert!(verify(&disk.disk(), dir(), BEGINNING).is_ok(), "a sector of zeros is left: torn");
    disk.overwrite_file(&path, [&after[..end - 500], &before[end - 500..]].concat()).unwrap();
    assert!(matches!(verify(&disk.disk(), dir(), BEGINNING), Err(Error::Corrupt { .. })));
}

#[test]
fn a_write_that_is_finished_between_two_looks_is_no_damage() {
    // Half of a batch at first. Before look n it is whole, and another one follows, which says that it was durable; or
    // the log is closed, and nobody has it open any more.
    for (cut, close) in
        [1, 40, 64, 512, 520, 1024, 2560].into_iter().flat_map(|cut| [(cut, false), (cut, true)])
    {
        for n in 1.. {
            let (disk, wal, path, before, after, offset) = half_written(1 << 20);
            let half = offset + cut;
            disk.overwrite_file(&path, [&after[..half], &before[half..]].concat()).unwrap();
            let (beneath, file, whole, mut wal) = (disk.clone(), path.clone(), after.clone(), Some(wal));
            let meddled = Meddled::new(&disk, move |look| {
                if look == n {
                    beneath.overwrite_file(&file, whole.clone()).unwrap();
                    let mut open = wal.take().unwrap();
                    match close {
                        true => open.close().unwrap(),
                        false => {
                            open.save(&[entry(6, 1, 10)], None, true).unwrap();
                            wal = Some(open);
                        }
                    }
                }
            });
            let report = verify(&meddled.disk(), dir(), BEGINNING).unwrap();
            assert!([2, 5, 6].contains(&report.last_index) && report.torn.is_none(), "{cut} {n}: {report:?}");
            if meddled.looks() < n {
                assert!(n > 3);
                break;
            }
        }
    }
}

#[test]
fn damage_beside_a_running_member_is_still_damage() {
    let disk = MemDisk::new();
    let member = Member::new(&disk);
    let files = segments(&disk);
    let last = files.last().unwrap();
    assert!(data_end(&read(&disk, last)) < 4096 - 1024, "there is room for one more");
    let flipped = |path: &PathBuf, at: usize| {
        let good = read(&disk, path);
        edit(&disk, path, |bytes| bytes[at] ^= 1);
        let result = verify(&disk.disk(), dir(), BEGINNING);
        disk.overwrite_file(path, good).unwrap();
        result.map(|report| report.under_way)
    };
    // In a segment that another one follows, in the head of the last, and in a batch with another one behind it.
    for (path, at) in [(&files[0], 600), (&files[1], 100), (last, 100)] {
        assert!(matches!(flipped(path, at), Err(Error::Corrupt { file, .. }) if file == *path), "{path:?}");
    }
    let mut member = member;
    while data_end(&read(&disk, last)) < 512 + 2 * 1024 {
        member.save();
    }
    let end = data_end(&read(&disk, last));
    assert_eq!(segments(&disk).last(), Some(last));
    match flipped(last, end - 1024 - 600) {
        Err(Error::Corrupt { known_durable: Some(_), .. }) => {}
        other => panic!("{other:?}"),
    }
    // The last batch may be under way, as far as can be seen. Stopped, it is damage.
    assert_eq!(flipped(last, end - 600).unwrap(), Some(Finding::BadChecksum));
    let (path, bytes) = (&files[1], read(&disk, &files[1]));
    disk.remove_file(path).unwrap();
    assert!(matches!(survey(&disk.disk(), dir()), Err(Error::MissingSegment { missing: 1, .. })));
    disk.open(path, OpenMode::CreateNew).unwrap();
    disk.overwrite_file(path, bytes).unwrap();
    drop(member);
    assert!(matches!(flipped(last, end - 600), Err(Error::Corrupt { .. })));
}

#[test]
fn a_survey_tells_what_every_segment_holds() {
    let disk = MemDisk::new();
    let mut member = Member::new(&disk);
    // A tail that a leader replaces.
    member.wal.save(&[entry(35, 2, 10)], Some(&hard_state(2, 1, 34)), true).unwrap();
    member.snapshot(40);
    member.wal.close().unwrap();
    let survey = survey(&disk.disk(), dir()).unwrap();
    assert_eq!((survey.metadata.as_ref(), survey.entries), (METADATA, Some((1, 35))));
    assert_eq!((survey.hard_state, survey.released), (hard_state(2, 1, 34), None));
    let snapshots: Vec<_> = survey.snapshots.iter().map(|s| (s.snapshot.index, s.committed)).collect();
    assert_eq!(snapshots, [(0, true), (3, true), (40, false)]);
    let names: Vec<PathBuf> = survey.segments.iter().map(|segment| segment.file.clone()).collect();
    assert_eq!(names, segments(&disk));
    for segment in &survey.segments {
        assert_eq!(segment.bytes as usize, data_end(&read(&disk, &segment.file)));
    }
    assert_eq!(survey.segments.iter().map(|segment| segment.entries).sum::<u64>(), 49);
    assert_eq!(survey.segments[0].indexes, Some((1, 9)));
    let end = survey.end.unwrap();
    assert!(end.closed && end.torn.is_none() && end.under_way.is_none());

    // Damage ends it, with what came before.
    edit(&disk, &names[2], |bytes| bytes[700] ^= 1);
    let survey = kvd_wal::survey(&disk.disk(), dir()).unwrap();
    assert!(matches!(survey.error, Some(Error::Corrupt { file, offset: 512, .. }) if file == names[2]));
    assert_eq!((survey.segments.len(), survey.entries, survey.end), (3, Some((1, 18)), None));
}

#[test]
fn a_scan_from_an_index_begins_with_the_last_segment_that_may_hold_it() {
    let disk = MemDisk::new();
    let _member = Member::new(&disk);
    let first = |index: u64| {
        let mut scan = Scan::from_index(disk.disk(), dir(), index).unwrap();
        match scan.step().unwrap() {
            Some(Step::Batch(batch)) => batch.file.to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let files = segments(&disk);
    assert_eq!((first(0), first(9), first(10)), (files[0].clone(), files[0].clone(), files[1].clone()));
    assert_eq!(first(u64::MAX), *files.last().unwrap());
    assert!(matches!(Scan::open(disk.disk(), Path::new("/none")), Err(Error::Absent { .. })));
}

#[test]
fn a_real_log_that_is_written_without_pause_is_never_called_damaged() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("wal");
    let disk: Disk = Arc::new(RealDisk::new());
    let options = Options { segment_bytes: 32 << 10, ..Options::default() };
    let mut wal = Wal::create(disk.clone(), &dir, METADATA, None, options).unwrap();
    let stop = AtomicBool::new(false);
    let released = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut next = 1;
            let mut released = 0;
            while !stop.load(Ordering::Relaxed) || released < 50 {
                for _ in 0..40 {
                    wal.save(&entries(next..=next + 4, 1, 400), Some(&hard_state(1, 1, next + 4)), true)
                        .unwrap();
                    next += 5;
                }
                wal.save_snapshot(snapshot(next - 1, 1)).unwrap();
                let before = wal.segments();
                wal.release_to(next - 20).unwrap();
                released += before - wal.segments();
            }
            released
        });
        for _ in 0..60 {
            let survey = survey(&disk, &dir).unwrap();
            assert!(survey.error.is_none(), "{:?}", survey.error);
            assert!(survey.end.unwrap().torn.is_none());
            let recorded = recorded_snapshots(&disk, &dir).unwrap();
            let Some(newest) = recorded.last() else { continue };
            match verify(&disk, &dir, *newest) {
                Ok(report) => assert!(report.torn.is_none()),
                Err(Error::Released { .. } | Error::SnapshotNotRecorded { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert!(released >= 50);
}
