//! The recovery decision table of `kvd_wal::damage`, row by row: on real bytes, and against the document.

use kvd_vfs::MemDisk;
use kvd_wal::damage::{Finding, TABLE, Verdict};
use kvd_wal::{Error, verify};

use crate::support::*;

const SECTOR: usize = 512;

/// A log whose segment 0 has its head in sector 0, entry 1 in sectors 1 to 3, entry 2 in 4 to 6, then zeros. `durable`:
/// segment 1 follows, and its head says that everything in segment 0 was durable. Damage goes to entry 2.
fn log(durable: bool) -> MemDisk {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 8 * SECTOR as u64);
    for index in 1..=2 {
        wal.save(&[entry(index, 1, 1300)], None, true).unwrap();
    }
    if durable {
        wal.save(&[entry(3, 1, 1300)], None, true).unwrap();
    }
    drop(wal);
    assert_eq!(segments(&disk).len(), 1 + usize::from(durable));
    assert_eq!(data_end(&read(&disk, &segments(&disk)[0])), 7 * SECTOR);
    disk
}

/// Makes the place of entry 2 look like that.
fn make(finding: Finding, bytes: &mut Vec<u8>) {
    let mut zero = |from: usize, to: usize| bytes[from * SECTOR..to * SECTOR].fill(0);
    match finding {
        Finding::Zeros => zero(4, 8),
        Finding::ZerosThenMore => zero(4, 5),
        Finding::Incomplete => bytes.truncate(6 * SECTOR + 100),
        Finding::ZeroSector => zero(5, 6),
        Finding::BadChecksum => bytes[5 * SECTOR + 100] ^= 1,
        Finding::BadHeader => bytes[4 * SECTOR + 20] ^= 1,
        Finding::Misplaced => bytes.copy_within(SECTOR..4 * SECTOR, 4 * SECTOR),
    }
}

/// What opening the log, and looking at it, make of it. Corruption names the place, and what was found.
fn verdict(disk: &MemDisk, finding: Finding) -> Verdict {
    let path = segments(disk).remove(0);
    let before = read(disk, &path);
    let looked = verify(&disk.disk(), dir(), BEGINNING);
    match try_open(disk) {
        Ok((_, replay)) => {
            assert_eq!(replay.entries, [entry(1, 1, 1300)], "{finding:?}: what is above stays");
            match (replay.torn, looked.unwrap().torn) {
                (None, None) => Verdict::End,
                (Some(torn), Some(seen)) => {
                    assert_eq!((torn.finding, torn.offset), (finding, 4 * SECTOR as u64));
                    assert_eq!((seen.finding, seen.offset, seen.copy), (finding, torn.offset, None));
                    assert!(disk.read_file(&torn.copy.unwrap()).unwrap() == before[..torn.end as usize]);
                    Verdict::Torn
                }
                other => panic!("{finding:?}: opening and looking disagree: {other:?}"),
            }
        }
        Err(Error::Corrupt { file, offset, finding: found, .. }) => {
            assert_eq!((&file, offset, found), (&path, 4 * SECTOR as u64, finding));
            assert!(matches!(looked, Err(Error::Corrupt { .. })));
            assert!(read(disk, &path) == before, "{finding:?}: nothing was changed");
            Verdict::Corrupt
        }
        Err(other) => panic!("{finding:?}: {other}"),
    }
}

#[test]
fn every_row_of_the_decision_table_holds_on_real_bytes() {
    for (finding, durable, want) in TABLE {
        let disk = log(durable);
        edit(&disk, &segments(&disk)[0], |bytes| make(finding, bytes));
        assert_eq!(verdict(&disk, finding), want, "{finding:?}, durable: {durable}");
    }
}

/// The same, where a later header of the same segment is the evidence. A file cannot end, or be zeros to its end, and
/// have one: those two findings are known to have been durable from the next segment alone.
#[test]
fn a_later_header_is_evidence_as_good_as_the_next_segment() {
    let has_one = |finding| !matches!(finding, Finding::Zeros | Finding::Incomplete);
    for (finding, _, want) in TABLE.into_iter().filter(|row| row.1 && has_one(row.0)) {
        let disk = MemDisk::new();
        let mut wal = create(&disk, 16 * SECTOR as u64);
        for index in 1..=3 {
            wal.save(&[entry(index, 1, 1300)], None, true).unwrap();
        }
        drop(wal);
        let path = segments(&disk).remove(0);
        edit(&disk, &path, |bytes| {
            let behind = bytes.split_off(7 * SECTOR);
            bytes.resize(8 * SECTOR, 0);
            make(finding, bytes);
            bytes.truncate(7 * SECTOR);
            bytes.extend(behind);
        });
        match try_open(&disk).unwrap_err() {
            Error::Corrupt { finding: found, known_durable, .. } => {
                // Header 3 says so; where its own batch begins, everything before was durable.
                assert_eq!((found, known_durable), (finding, Some(7 * SECTOR as u64)));
                assert_eq!(want, Verdict::Corrupt);
            }
            other => panic!("{finding:?}: {other}"),
        }
    }
}

#[test]
fn the_document_has_the_same_table() {
    let document = include_str!("../../../../docs/wal-format.md");
    let rows: Vec<Vec<&str>> = document
        .lines()
        .skip_while(|line| !line.starts_with("| found | nothing says it was durable |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let verdict = |words: &str| match words {
        "the log ends" => Verdict::End,
        "torn" => Verdict::Torn,
        "corrupt" => Verdict::Corrupt,
        other => panic!("no verdict: {other}"),
    };
    let written: Vec<Verdict> = rows.iter().flat_map(|row| [verdict(row[1]), verdict(row[2])]).collect();
    assert_eq!(written, TABLE.map(|(_, _, verdict)| verdict), "rows in the order of the findings");
    let phrases = ["zeros to the end", "something behind it", "cuts short", "a sector of zeros within"];
    let phrases = phrases.into_iter().chain(["no sector of zeros", "neither a header", "of another segment"]);
    for (row, phrase) in rows.iter().zip(phrases) {
        assert!(row[0].contains(phrase), "{:?} is not about {phrase}", row[0]);
    }
}
