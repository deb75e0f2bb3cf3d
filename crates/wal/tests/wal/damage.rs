//! Damage on real bytes, and what opening the log makes of it.

use std::path::Path;

use kvd_vfs::{MemDisk, Vfs};
use kvd_wal::damage::Finding;
use kvd_wal::{Error, verify};

use crate::support::*;

const SECTOR: usize = 512;

/// What opening says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Opened, with that many entries, nothing cut.
    Clean(usize),
    /// Opened, with that many entries, a torn tail cut.
    Torn(usize, Finding),
    /// Refused, at that sector.
    Corrupt(usize, Finding),
}

/// One segment: head in sector 0, entry 1 in sector 1, entry 2 in sectors 2..=4, entry 3 in sectors 5..=8, then zeros.
fn log() -> (MemDisk, Vec<u8>) {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 16 * SECTOR as u64);
    for (index, len) in [(1, 100), (2, 1300), (3, 1800)] {
        wal.save(&[entry(index, 1, len)], None, true).unwrap();
    }
    drop(wal);
    let bytes = read(&disk, &segments(&disk)[0]);
    assert_eq!((data_end(&bytes), bytes.len()), (9 * SECTOR, 16 * SECTOR));
    (disk, bytes)
}

fn outcome(disk: &MemDisk) -> Outcome {
    let before = read(disk, &segments(disk)[0]);
    let verified = verify(&disk.disk(), dir(), BEGINNING);
    assert_eq!(read(disk, &segments(disk)[0]), before, "verify only reads");
    match try_open(disk) {
        Ok((wal, replay)) => {
            assert_eq!(verified.unwrap().torn.map(|t| t.offset), replay.torn.as_ref().map(|t| t.offset));
            let n = replay.entries.len();
            for (entry, index) in replay.entries.iter().zip(1..) {
                assert_eq!(entry.index, index);
            }
            drop(wal);
            let (_, again) = open(disk);
            assert!(again.torn.is_none() && again.entries == replay.entries, "a cut is final");
            replay.torn.map_or(Outcome::Clean(n), |torn| Outcome::Torn(n, torn.finding))
        }
        Err(Error::Corrupt { file, offset, finding, .. }) => {
            assert!(verified.is_err());
            assert_eq!(file, segments(disk)[0]);
            assert_eq!(read(disk, &file), before, "nothing was changed");
            Outcome::Corrupt(offset as usize / SECTOR, finding)
        }
        Err(other) => panic!("{other}"),
    }
}

fn zero(bytes: &mut [u8], from: usize, sectors: usize) {
    bytes[from * SECTOR..(from + sectors) * SECTOR].fill(0);
}

/// A row: what is done to the bytes, and what follows.
type Row = (&'static str, fn(&mut Vec<u8>), Outcome);

const TABLE: &[Row] = {
    use Finding::*;
    use Outcome::*;
    &[
        ("nothing", |_| {}, Clean(3)),
        // The last batch: nothing tells that it was durable.
        ("last batch: all of it zeros", |b| zero(b, 5, 4), Clean(2)),
        ("last batch: first sector zeros", |b| zero(b, 5, 1), Torn(2, ZerosThenMore)),
        ("last batch: second sector zeros", |b| zero(b, 6, 1), Torn(2, ZeroSector)),
        ("last batch: middle sectors zeros", |b| zero(b, 6, 2), Torn(2, ZeroSector)),
        ("last batch: last sector zeros", |b| zero(b, 8, 1), Torn(2, ZeroSector)),
        ("last batch: only the last sector there", |b| zero(b, 5, 3), Torn(2, ZerosThenMore)),
        (
            "last batch: a sector zeros, another flipped",
            |b| (zero(b, 6, 1), b[7 * SECTOR] ^= 1).0,
            Torn(2, ZeroSector),
        ),
        ("last batch: header flipped", |b| b[5 * SECTOR + 9] ^= 4, Corrupt(5, BadHeader)),
        (
            "last batch: header flipped, sector zeros",
            |b| (zero(b, 6, 1), b[5 * SECTOR] ^= 1).0,
            Corrupt(5, BadHeader),
        ),
        (
            "last batch: header bytes zeros, sector not",
            |b| b[5 * SECTOR..5 * SECTOR + 64].fill(0),
            Corrupt(5, BadHeader),
        ),
        ("last batch: payload flipped", |b| b[7 * SECTOR + 100] ^= 128, Corrupt(5, BadChecksum)),
        ("last batch: a mark flipped", |b| b[7 * SECTOR] ^= 1, Corrupt(5, BadChecksum)),
        ("last batch: padding flipped", |b| b[9 * SECTOR - 1] ^= 1, Corrupt(5, BadChecksum)),
        (
            "last batch: sector swapped in",
            |b| b.copy_within(6 * SECTOR..7 * SECTOR, 7 * SECTOR),
            Corrupt(5, BadChecksum),
        ),
        (
            "last batch: replaced by an older one",
            |b| b.copy_within(SECTOR..2 * SECTOR, 5 * SECTOR),
            Corrupt(5, Misplaced),
        ),
        // Below what a later header says was durable.
        ("middle batch: all of it zeros", |b| zero(b, 2, 3), Corrupt(2, ZerosThenMore)),
        ("middle batch: first sector zeros", |b| zero(b, 2, 1), Corrupt(2, ZerosThenMore)),
        ("middle batch: last sector zeros", |b| zero(b, 4, 1), Corrupt(2, ZeroSector)),
        ("middle batch: header flipped", |b| b[2 * SECTOR + 63] ^= 1, Corrupt(2, BadHeader)),
        ("middle batch: payload flipped", |b| b[3 * SECTOR + 1] ^= 1, Corrupt(2, BadChecksum)),
        (
            "middle batch zeros, last batch torn",
            |b| (zero(b, 2, 1), zero(b, 6, 3)).0,
            Corrupt(2, ZerosThenMore),
        ),
        ("two batches zeros, last one there", |b| zero(b, 1, 4), Corrupt(1, ZerosThenMore)),
        ("middle and last batch zeros", |b| zero(b, 2, 7), Clean(1)),
        (
            "middle batch torn, last header gone too",
            |b| (zero(b, 3, 1), zero(b, 5, 1)).0,
            Torn(1, ZeroSector),
        ),
        // The head: a segment has its name only when its head is durable.
        ("head: zeros", |b| zero(b, 0, 1), Corrupt(0, ZerosThenMore)),
        ("head: everything zeros", |b| b.fill(0), Corrupt(0, Zeros)),
        ("head: flipped", |b| b[100] ^= 1, Corrupt(0, BadChecksum)),
        ("head: file empty", |b| b.clear(), Corrupt(0, Zeros)),
        ("head: file cut within it", |b| b.truncate(300), Corrupt(0, Incomplete)),
        // Behind the end.
        ("behind: a byte in the next sector", |b| b[9 * SECTOR + 5] = 1, Corrupt(9, BadHeader)),
        ("behind: a byte further on", |b| b[11 * SECTOR + 5] = 1, Torn(3, ZerosThenMore)),
        ("behind: last byte of the file", |b| *b.last_mut().unwrap() = 1, Torn(3, ZerosThenMore)),
        // The file's length.
        ("file: without slack", |b| b.truncate(9 * SECTOR), Clean(3)),
        ("file: one byte too short", |b| b.truncate(9 * SECTOR - 1), Torn(2, Incomplete)),
        ("file: a byte of slack", |b| b.truncate(9 * SECTOR + 1), Clean(3)),
        ("file: last batch cut off", |b| b.truncate(5 * SECTOR), Clean(2)),
        ("file: one byte of the last batch left", |b| b.truncate(5 * SECTOR + 1), Torn(2, Incomplete)),
        ("file: cut within the middle batch", |b| b.truncate(3 * SECTOR + 7), Torn(1, Incomplete)),
    ]
};

#[test]
fn the_corruption_table() {
    for (name, damage, want) in TABLE {
        let (disk, mut bytes) = log();
        damage(&mut bytes);
        disk.overwrite_file(&segments(&disk)[0], bytes).unwrap();
        assert_eq!(outcome(&disk), *want, "{name}");
    }
}

#[test]
fn the_last_record_longer_than_the_file_is_torn_and_cut() {
    let (disk, bytes) = log();
    let path = segments(&disk).remove(0);
    disk.overwrite_file(&path, bytes[..7 * SECTOR + 100].to_vec()).unwrap();
    let (mut wal, replay) = open(&disk);
    let torn = replay.torn.unwrap();
    assert_eq!((torn.offset, torn.end, torn.finding), (5 * 512, 7 * 512 + 100, Finding::Incomplete));
    wal.save(&[entry(3, 2, 1800)], None, true).unwrap();
    drop(wal);
    assert_eq!(open(&disk).1.entries[2], entry(3, 2, 1800));
}

#[test]
fn a_file_that_ends_at_any_byte_of_the_last_record_is_cut_there() {
    let (_, bytes) = log();
    for end in 5 * SECTOR..=9 * SECTOR {
        let (disk, _) = log();
        disk.overwrite_file(&segments(&disk)[0], bytes[..end].to_vec()).unwrap();
        let want = match end {
            e if e == 5 * SECTOR => Outcome::Clean(2),
            e if e == 9 * SECTOR => Outcome::Clean(3),
            _ => Outcome::Torn(2, Finding::Incomplete),
        };
        assert_eq!(outcome(&disk), want, "end {end}");
    }
}

#[test]
fn a_last_record_written_up_to_any_byte_is_torn_unless_a_sector_is_halved() {
    // The disk writes whole sectors. A byte further, and a sector is neither old nor new: nothing that a crash does.
    let (_, bytes) = log();
    for end in 5 * SECTOR..9 * SECTOR {
        let (disk, _) = log();
        let mut torn = bytes.clone();
        torn[end..].fill(0);
        disk.overwrite_file(&segments(&disk)[0], torn.clone()).unwrap();
        let want = match end {
            _ if torn == bytes => Outcome::Clean(3),
            e if e == 5 * SECTOR => Outcome::Clean(2),
            e if e < 5 * SECTOR + 64 => Outcome::Corrupt(5, Finding::BadHeader),
            e if e <= 8 * SECTOR => Outcome::Torn(2, Finding::ZeroSector),
            _ => Outcome::Corrupt(5, Finding::BadChecksum),
        };
        assert_eq!(outcome(&disk), want, "end {end}");
    }
}

#[test]
fn every_subset_of_the_last_records_sectors_is_torn_cut_and_appended_to() {
    let (_, bytes) = log();
    for subset in 0..16u32 {
        let (disk, _) = log();
        let path = segments(&disk).remove(0);
        let mut torn = bytes.clone();
        for sector in (0..4).filter(|sector| subset >> sector & 1 == 0) {
            zero(&mut torn, 5 + sector, 1);
        }
        disk.overwrite_file(&path, torn.clone()).unwrap();
        let (mut wal, replay) = open(&disk);
        let whole = subset == 15;
        assert_eq!(replay.entries.len(), if whole { 3 } else { 2 });
        assert_eq!(replay.torn.is_some(), !whole && subset != 0);
        if let Some(torn_tail) = replay.torn {
            let copy = torn_tail.copy.unwrap();
            assert!(copy.to_str().unwrap().ends_with(".wal.broken"));
            assert_eq!(read(&disk, &copy), torn[..torn_tail.end as usize], "the copy is of before the cut");
            let now = read(&disk, &path);
            assert!(now[5 * SECTOR..].iter().all(|b| *b == 0));
        }
        // A shorter record than the one that was torn: nothing of that one shines through.
        let next = replay.entries.len() as u64 + 1;
        wal.save(&[entry(next, 2, 10)], None, true).unwrap();
        disk.crash_losing_all_unsynced();
        let (_, again) = open(&disk);
        assert!(again.torn.is_none());
        assert_eq!(again.entries.last(), Some(&entry(next, 2, 10)));
    }
}

#[test]
fn one_broken_copy_is_kept_the_newest() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    let mut last = None;
    for round in 0..3 {
        let from = 1 + round * 2;
        wal.save(&entries(from..=from + 1, 1, 1000), None, true).unwrap();
        drop(wal);
        let path = segments(&disk).pop().unwrap();
        edit(&disk, &path, |bytes| {
            let end = data_end(bytes);
            bytes[end - 2 * SECTOR..end - SECTOR].fill(0);
        });
        let (opened, replay) = open(&disk);
        last = replay.torn.unwrap().copy;
        wal = opened;
        wal.save(&entries(from..=from + 1, 1, 1000), None, true).unwrap();
    }
    let names = disk.list(dir()).unwrap();
    let broken: Vec<_> =
        names.iter().filter(|name| name.contains(".broken")).map(|n| dir().join(n)).collect();
    assert_eq!(broken, [last.unwrap()]);
}

#[test]
fn damage_in_a_sealed_segment_is_corruption_whatever_it_looks_like() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    for index in 1..=4 {
        wal.save(&[entry(index, 1, 1500)], None, true).unwrap();
    }
    drop(wal);
    let path = segments(&disk).remove(0);
    let good = read(&disk, &path);
    let end = data_end(&good);
    assert!(segments(&disk).len() > 1 && end < good.len());
    let check = |bytes: Vec<u8>| {
        disk.overwrite_file(&path, bytes).unwrap();
        verify(&disk.disk(), dir(), BEGINNING)
    };
    for sector in 0..end / SECTOR {
        let mut bytes = good.clone();
        zero(&mut bytes, sector, 1);
        match check(bytes).unwrap_err() {
            Error::Corrupt { file, known_durable: Some(durable), .. } => {
                assert_eq!((file.as_path(), durable), (path.as_path(), end as u64));
            }
            other => panic!("{other}"),
        }
    }
    for cut in [0, 1, 512, end - 512, end - 1] {
        assert!(matches!(check(good[..cut].to_vec()).unwrap_err(), Error::Corrupt { .. }), "cut to {cut}");
    }
    check(good[..end].to_vec()).unwrap();
    let mut rotten_slack = good.clone();
    rotten_slack[end + 3] = 1;
    check(rotten_slack).unwrap();
}

#[test]
fn a_closed_log_knows_that_its_last_record_was_durable() {
    let (disk, _) = log();
    let (wal, _) = open(&disk);
    wal.close().unwrap();
    let path = segments(&disk).remove(0);
    let good = read(&disk, &path);
    for sector in 5..9 {
        let mut bytes = good.clone();
        zero(&mut bytes, sector, 1);
        disk.overwrite_file(&path, bytes).unwrap();
        match try_open(&disk).unwrap_err() {
            Error::Corrupt { offset, known_durable, .. } => {
                assert_eq!((offset, known_durable), (5 * 512, Some(9 * 512)));
            }
            other => panic!("{other}"),
        }
    }
    assert!(verify(&disk.disk(), dir(), BEGINNING).unwrap_err().to_string().contains("nothing was changed"));
}

#[test]
fn every_flipped_bit_is_refused_or_harmless() {
    let (_, good) = log();
    let (disk, _) = log();
    let path = segments(&disk).remove(0);
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        disk.overwrite_file(&path, bytes).unwrap();
        match verify(&disk.disk(), dir(), BEGINNING) {
            Ok(report) => assert!(report.last_index == 3 && bit / 8 >= 10 * SECTOR, "bit {bit}"),
            Err(Error::Corrupt { .. }) => assert!(bit / 8 < 10 * SECTOR, "bit {bit}"),
            Err(other) => panic!("bit {bit}: {other}"),
        }
    }
}

#[test]
fn a_payload_of_zeros_or_of_headers_is_no_damage_and_hides_none() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 1 << 20);
    let mut zeros = entry(1, 1, 0);
    zeros.data = vec![0; 10_000].into();
    let mut headers = entry(2, 1, 0);
    headers.data = read(&disk, &segments(&disk)[0])[..20_000].to_vec().into();
    wal.save(&[zeros.clone(), headers.clone()], None, true).unwrap();
    drop(wal);
    assert_eq!(open(&disk).1.entries, [zeros, headers]);
    let path = segments(&disk).remove(0);
    // A flip among the zeros is rot, although the payload is full of zeros: the marks are not.
    edit(&disk, &path, |bytes| bytes[3000] ^= 1);
    match try_open(&disk).unwrap_err() {
        Error::Corrupt { offset: 512, finding: Finding::BadChecksum, .. } => {}
        other => panic!("{other}"),
    }
}

/// Makes header and checksum of the batch in a sector good again after an edit.
fn reseal(bytes: &mut [u8], sector: usize) {
    let batch = &mut bytes[sector * SECTOR..(sector + 1) * SECTOR];
    let crc = crc32fast::hash(&batch[64..]);
    batch[36..40].copy_from_slice(&crc.to_le_bytes());
    let own = crc32fast::hash(&batch[..60]);
    batch[60..64].copy_from_slice(&own.to_le_bytes());
}

#[test]
fn a_newer_version_and_an_unknown_record_are_refused_by_name() {
    let (disk, good) = log();
    let path = segments(&disk).remove(0);
    for sector in [0, 1] {
        let mut bytes = good.clone();
        bytes[sector * SECTOR + 4] = 2;
        reseal(&mut bytes, sector);
        disk.overwrite_file(&path, bytes).unwrap();
        let error = try_open(&disk).unwrap_err();
        assert!(matches!(error, Error::UnsupportedVersion { found: 2, supported: 1, .. }), "{error}");
        assert!(error.to_string().contains("format version 2"), "{error}");
    }
    let mut bytes = good.clone();
    bytes[SECTOR + 64] = 77;
    reseal(&mut bytes, 1);
    disk.overwrite_file(&path, bytes).unwrap();
    match try_open(&disk).unwrap_err() {
        Error::UnknownRecord { file, offset: 512, kind: 77 } => assert_eq!(file, path),
        other => panic!("{other}"),
    }
}

#[test]
fn records_that_make_no_sense_are_refused_without_a_panic() {
    let (disk, good) = log();
    let path = segments(&disk).remove(0);
    type Spoil = fn(&mut [u8]);
    let cases: [(usize, Spoil); 5] = [
        (1, |b| b[64 + 1] = 255),
        (1, |b| b[64 + 4] = 255),
        (1, |b| b[64 + 5] = 0xff),
        (1, |b| b[64] = 1),
        (0, |b| b[64] = 2),
    ];
    for (sector, spoil) in cases {
        let mut bytes = good.clone();
        spoil(&mut bytes[sector * SECTOR..]);
        reseal(&mut bytes, sector);
        disk.overwrite_file(&path, bytes).unwrap();
        let error = try_open(&disk).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
    }
}

#[test]
fn other_metadata_in_a_later_segment_is_refused() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    for index in 1..=2 {
        wal.save(&[entry(index, 1, 3000)], None, true).unwrap();
    }
    drop(wal);
    let path = segments(&disk).remove(1);
    edit(&disk, &path, |bytes| {
        let at = bytes.windows(METADATA.len()).position(|w| w == METADATA).unwrap();
        bytes[at] = b'C';
        reseal(bytes, 0);
        // The chain goes on from the head.
        let own: [u8; 4] = bytes[60..64].try_into().unwrap();
        bytes[SECTOR + 40..SECTOR + 44].copy_from_slice(&own);
        let crc = crc32fast::hash(&bytes[SECTOR..SECTOR + 60]);
        bytes[SECTOR + 60..SECTOR + 64].copy_from_slice(&crc.to_le_bytes());
    });
    match try_open(&disk).unwrap_err() {
        Error::MetadataMismatch { file } => assert_eq!(file, path),
        other => panic!("{other}"),
    }
}

#[test]
fn a_cut_that_is_interrupted_is_resumed() {
    let (_, good) = log();
    let mut torn = good.clone();
    zero(&mut torn, 7, 1);
    for step in 1.. {
        let (disk, _) = log();
        disk.overwrite_file(&segments(&disk)[0], torn.clone()).unwrap();
        disk.power_off_at(step);
        let first = try_open(&disk);
        let done = !disk.is_off();
        drop(first);
        for seed in 0..20 {
            disk.crash(step * 100 + seed);
            let (_, replay) = open(&disk);
            assert_eq!(replay.entries.len(), 2);
        }
        if done {
            assert!(step > 5);
            break;
        }
    }
}

#[test]
fn no_directory_is_made_by_looking() {
    let disk = MemDisk::new();
    let _ = verify(&disk.disk(), Path::new("/none"), BEGINNING);
    assert_eq!(disk.list(Path::new("/")).unwrap(), [""; 0]);
}
