//! `kvctl wal` and `kvctl snap` on directories that the libraries made, whole and damaged.
//!
//! `BLESS=1 cargo test -p kvctl --test files` rewrites the golden texts in `tests/golden`; look at the difference.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking, its helpers too

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use clap::Parser;
use kvctl::{Cli, Error};
use kvd_raftpb::node::{Batch, Identity, Member, MemberChange, Membership, NodeState, Session};
use kvd_snap::Snapshotter;
use kvd_vfs::{Disk, RealDisk};
use kvd_wal::{Options, SnapshotRecord, Wal};
use prost::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState, SnapshotMetadata,
};
use serde_json::{Value, json};

const SEGMENT: u64 = 8 << 10;

fn disk() -> Disk {
    Arc::new(RealDisk::new())
}

fn options() -> Options {
    Options { segment_bytes: SEGMENT, prepare_ahead: false, ..Options::default() }
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (term, vote, commit);
    state
}

fn entry(index: u64, term: u64, data: Vec<u8>) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term) = (index, term);
    entry.data = data.into();
    entry
}

/// An entry with puts, in the bytes of `crates/kvstore/proto/command.proto`.
fn puts(index: u64, term: u64, puts: &[(&str, &[u8])]) -> Entry {
    let field = |tag: u8, bytes: &[u8]| {
        let mut out = vec![tag];
        prost::encoding::encode_varint(bytes.len() as u64, &mut out);
        out.extend_from_slice(bytes);
        out
    };
    let commands = (index..)
        .zip(puts)
        .map(|(counter, (key, value))| kvd_raftpb::node::Command {
            counter,
            payload: field(0x0a, &[field(0x0a, key.as_bytes()), field(0x12, value)].concat()).into(),
        })
        .collect();
    entry(index, term, Batch { member: 1, boot: 1, floor: 0, commands, announcement: None }.encode_to_vec())
}

/// A learner joins.
fn add_learner(index: u64, term: u64) -> Entry {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(ConfChangeType::AddLearnerNode);
    single.node_id = 4;
    let mut change = ConfChangeV2::default();
    change.set_changes(vec![single].into());
    let member = Member { id: 4, peer_urls: vec!["http://127.0.0.1:4".to_owned()], ..Member::default() };
    let context = MemberChange { proposer: 1, boot: 1, members: vec![member], ..MemberChange::default() };
    let mut entry = entry(index, term, kvd_raftpb::codec::encode_conf_change(&change));
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry.context = context.encode_to_vec().into();
    entry
}

/// A member's directory as kvd makes it, but with small segments: a first snapshot, entries 2 to 9 in two terms, of which
/// a leader replaced one, and a snapshot at 6. It is left open.
fn member() -> (tempfile::TempDir, Wal) {
    let home = tempfile::tempdir().unwrap();
    let snapshotter = Snapshotter::open(disk(), &home.path().join("snap")).unwrap();
    save_snapshot(&snapshotter, 1, 1);
    let identity = Identity { cluster_id: 0xfeed_0123, member_id: 1 }.encode_to_vec();
    let first = (SnapshotRecord { index: 1, term: 1 }, hard_state(1, 0, 1));
    let mut wal = Wal::create(disk(), &home.path().join("wal"), &identity, Some(first), options()).unwrap();
    let mut save = |entries: &[Entry], state: HardState| wal.save(entries, Some(&state), true).unwrap();
    save(&[entry(2, 2, Vec::new())], hard_state(2, 1, 1));
    save(
        &[puts(3, 2, &[("a key", b"a value"), ("k\u{e4}", b"\xff\x00")]), puts(4, 2, &[("lost", b"")])],
        hard_state(2, 1, 3),
    );
    save(&[puts(4, 3, &[("big", &[7; 3000])])], hard_state(3, 2, 3));
    save(&[puts(5, 3, &[("1", b""), ("2", b""), ("3", b""), ("4", b"")])], hard_state(3, 2, 4));
    save(&[add_learner(6, 3)], hard_state(3, 2, 6));
    save_snapshot(&snapshotter, 3, 6);
    wal.save_snapshot(SnapshotRecord { index: 6, term: 3 }).unwrap();
    let mut save = |entries: &[Entry], state: HardState| wal.save(entries, Some(&state), true).unwrap();
    save(&[entry(7, 3, b"nobody knows".to_vec())], hard_state(3, 2, 6));
    save(&[puts(8, 3, &[("big", &[9; 3000])])], hard_state(3, 2, 7));
    save(&[puts(9, 3, &[("last", b"value")])], hard_state(3, 2, 8));
    assert_eq!(wal.segments(), 2);
    (home, wal)
}

fn save_snapshot(snapshotter: &Snapshotter, term: u64, index: u64) {
    let mut metadata = SnapshotMetadata::default();
    (metadata.term, metadata.index) = (term, index);
    metadata.set_conf_state(ConfState::from((vec![1, 2, 3], vec![4])));
    let member = |id: u64| Member {
        id,
        peer_urls: vec![format!("http://127.0.0.1:{id}")],
        boot: id,
        learner: id == 4,
        ..Member::default()
    };
    let membership =
        Membership { cluster_id: 0xfeed_0123, members: (1..=4).map(member).collect(), removed: vec![9] };
    let session = Session { member: 1, boot: 1, floor: 7, results: Vec::new() };
    let head = NodeState { membership: Some(membership), sessions: vec![session] }.encode_to_vec();
    let body = [&(head.len() as u32).to_le_bytes()[..], &head, b"the store"].concat();
    snapshotter.save(&metadata, &mut |out| out.write_all(&body)).unwrap();
}

/// Runs kvctl on a path; the path does not show in what it answers.
fn kvctl(args: &[&str], path: &Path) -> (u8, String, String) {
    let (mut out, mut all) = (Vec::new(), vec!["kvctl"]);
    all.extend(args);
    all.push(path.to_str().unwrap());
    let result = kvctl::run(Cli::parse_from(all), &mut out);
    let (code, error) = match &result {
        Ok(()) => (0, String::new()),
        Err(error) => (error.exit_code(), error.to_string()),
    };
    let scrub = |text: &str| text.replace(path.to_str().unwrap(), "DIR");
    (code, scrub(&String::from_utf8(out).unwrap()), scrub(&error))
}

fn kvctl_json(args: &[&str], path: &Path) -> (u8, Value, String) {
    let (code, out, error) = kvctl(&[args, &["-w", "json"]].concat(), path);
    assert_eq!(out.lines().count(), 1, "one object: {out}");
    (code, serde_json::from_str(&out).unwrap(), error)
}

#[track_caller]
fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(&path).unwrap(), "{name}; see the head of this file");
}

/// The segments, ascending.
fn segments(home: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(home.join("wal")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = names.filter(|path| path.extension().is_some_and(|e| e == "wal")).collect();
    found.sort();
    found
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_log_that_was_closed_is_told_in_full() {
    let (home, wal) = member();
    wal.close().unwrap();
    let (code, out, _) = kvctl(&["wal", "dump"], home.path());
    assert_eq!(code, 0);
    golden("dump.txt", &out);
    golden(
        "dump-values.txt",
        &kvctl(&["wal", "dump", "--values=escaped", "--value-bytes", "8"], home.path()).1,
    );
    golden("dump.jsonl", &kvctl(&["wal", "dump", "-w", "json"], home.path()).1);
    let (code, out, _) = kvctl(&["wal", "verify"], home.path());
    assert_eq!(code, 0);
    golden("verify.txt", &out);
    assert_eq!(kvctl(&["wal", "dump"], &home.path().join("wal")), kvctl(&["wal", "dump"], home.path()));
}

#[test]
fn snapshots_are_told_in_full() {
    let (home, _wal) = member();
    let (code, out, _) = kvctl(&["snap", "inspect"], home.path());
    assert_eq!(code, 0);
    golden("snap-inspect.txt", &out);
    let (code, out, _) = kvctl(&["snap", "verify"], &home.path().join("snap"));
    assert_eq!(code, 0);
    golden("snap-verify.txt", &out);
    let (code, json, _) = kvctl_json(&["snap", "inspect"], home.path());
    assert_eq!((code, &json["verdict"]), (0, &json!("good")));
    let newest = &json["files"][1];
    assert_eq!(
        (&newest["index"], &newest["state"], &newest["voters"]),
        (&json!(6), &json!("good"), &json!([1, 2, 3]))
    );
    assert_eq!(newest["node"]["cluster_id"], "00000000feed0123");
    assert_eq!(newest["node"]["members"][3]["peer_urls"], json!(["http://127.0.0.1:4"]));
    // A backup, under a name of its own.
    let backup = home.path().join("backup");
    fs::copy(home.path().join("snap/0000000000000003-0000000000000006.snap"), &backup).unwrap();
    assert_eq!(kvctl_json(&["snap", "verify"], &backup).1["files"][0]["index"], 6);
}

#[test]
fn every_record_is_one_object_and_the_end_is_the_last() {
    let (home, _wal) = member();
    let lines = |args: &[&str]| -> Vec<Value> {
        let (code, out, error) = kvctl(&[&["wal", "dump", "-w", "json"], args].concat(), home.path());
        assert_eq!(code, 0, "{error}");
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines(&[]);
    let end = all.last().unwrap();
    assert_eq!((&end["kind"], &end["closed"], &end["torn"]), (&json!("end"), &json!(false), &Value::Null));
    let indexes = |lines: &[Value]| -> Vec<u64> {
        lines
            .iter()
            .filter(|line| line["kind"] == "entry")
            .map(|line| line["index"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(indexes(&all), [2, 3, 4, 4, 5, 6, 7, 8, 9]);
    // Bounds are included; only what has an index can be within them.
    assert_eq!(indexes(&lines(&["--from", "4", "--to", "5"])), [4, 4, 5]);
    assert_eq!(indexes(&lines(&["--from", "5", "--to", "4"])), [0u64; 0]);
    assert!(
        lines(&["--from", "8"]).iter().all(|line| ["entry", "end"].contains(&line["kind"].as_str().unwrap()))
    );
    let kinds = |args: &[&str]| -> Vec<String> {
        lines(args).iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(&["--kinds", "snapshot,link"]), ["link", "snapshot", "snapshot", "link", "end"]);
    // As many records as there are, and one fewer and one more.
    let records = all.len() - 1;
    for limit in [0, 1, records - 1, records, records + 1] {
        let shown = lines(&["--limit", &limit.to_string()]);
        let printed = shown.iter().filter(|line| line["kind"] != "end").count();
        assert_eq!(printed, limit.min(records), "{limit}");
    }
    let put = &lines(&["--values=hex", "--value-bytes", "2", "--kinds", "entry", "--from", "9"])[0];
    let command = &put["batch"]["commands"][0];
    assert_eq!(
        (&command["key"], &command["value"], &command["value_bytes"]),
        (&json!("last"), &json!("7661"), &json!(5))
    );
}

#[test]
fn an_open_log_is_good_and_said_to_be_open() {
    let (home, wal) = member();
    let (code, json, _) = kvctl_json(&["wal", "verify"], home.path());
    assert_eq!((code, &json["verdict"], &json["open"]), (0, &json!("good"), &json!(true)));
    assert_eq!(json["identity"]["cluster_id"], "00000000feed0123");
    assert_eq!(json["opens_at"], json!({ "index": 6, "term": 3, "last_index": 9, "last_term": 3 }));
    // A write of which half is there.
    let last = segments(home.path()).pop().unwrap();
    let end = json["end"]["offset"].as_u64().unwrap() as usize;
    let head: Vec<u8> = fs::read(&last).unwrap()[..64].to_vec();
    edit(&last, |bytes| bytes[end..end + 64].copy_from_slice(&head));
    let (code, json, _) = kvctl_json(&["wal", "verify"], home.path());
    assert_eq!((code, &json["verdict"]), (0, &json!("good")));
    assert_eq!(json["end"]["under_way"], "a batch that belongs elsewhere");
    drop(wal);
    let (code, json, error) = kvctl_json(&["wal", "verify"], home.path());
    assert_eq!((code, &json["verdict"], &json["open"]), (1, &json!("damaged"), &json!(false)));
    assert!(error.contains("0000000000000001-0000000000000008.wal is corrupt at offset"), "{error}");
}

#[test]
fn a_torn_tail_is_told_with_what_opening_does() {
    let (home, wal) = member();
    drop(wal);
    let last = segments(home.path()).pop().unwrap();
    let end = kvctl_json(&["wal", "verify"], home.path()).1["end"]["offset"].as_u64().unwrap() as usize;
    // The batch of entry 8 has 7 sectors, that of 9 has one. Without the latter, the former is the last; it loses one.
    edit(&last, |bytes| {
        bytes[end - 512..end].fill(0);
        bytes[end - 1024..end - 512].fill(0);
    });
    let offset = end - 512 - 7 * 512;
    let (code, json, error) = kvctl_json(&["wal", "verify"], home.path());
    assert_eq!((code, &json["verdict"]), (1, &json!("torn")), "{error}");
    assert_eq!(json["end"]["torn"]["offset"], offset);
    assert!(
        error.contains(&format!("is torn at offset {offset}: a sector of zeros within a batch")),
        "{error}"
    );
    assert!(error.contains("starting the member cuts it"), "{error}");
    golden("verify-torn.txt", &kvctl(&["wal", "verify"], home.path()).1);
    let (code, out, dump_error) = kvctl(&["wal", "dump"], home.path());
    assert_eq!((code, &dump_error), (1, &error));
    let told = format!(
        "the log ends in 0000000000000001-0000000000000008.wal at offset {offset}, and a torn write follows"
    );
    assert!(out.lines().last().unwrap().starts_with(&told), "{out}");

    let at = SnapshotRecord { index: 6, term: 3 };
    let (wal, replay) = Wal::open(disk(), &home.path().join("wal"), at, options()).unwrap();
    assert_eq!(replay.torn.unwrap().offset, offset as u64);
    drop(wal);
    let (code, json, _) = kvctl_json(&["wal", "verify"], home.path());
    assert_eq!(
        (code, &json["opens_at"]["last_index"], &json["end"]["offset"]),
        (0, &json!(7), &json!(offset))
    );
}

#[test]
fn damage_is_told_with_file_and_offset_and_what_came_before_it_is_shown() {
    let (home, wal) = member();
    drop(wal);
    let files = segments(home.path());
    for (file, at, offset) in [(0, 100, 0), (0, 700, 512), (0, 3000, 1536), (1, 40, 0), (1, 600, 512)] {
        edit(&files[file], |bytes| bytes[at] ^= 1);
        let (code, out, error) = kvctl(&["wal", "verify"], home.path());
        assert_eq!(code, 1);
        let name = files[file].file_name().unwrap().to_str().unwrap();
        assert!(error.contains(&format!("{name} is corrupt at offset {offset}: ")), "{error}");
        assert!(error.contains("restore the file, or remove this member"), "what next: {error}");
        assert!(out.ends_with("verdict     damaged\n"), "{out}");
        let (code, out, dump_error) = kvctl(&["wal", "dump"], home.path());
        assert_eq!((code, dump_error), (1, error));
        assert_eq!(out.contains("member 1 of cluster"), (file, offset) != (0, 0), "{out}");
        edit(&files[file], |bytes| bytes[at] ^= 1);
    }
    fs::rename(&files[0], home.path().join("elsewhere")).unwrap();
    fs::copy(&files[1], home.path().join("wal/0000000000000003-0000000000000009.wal")).unwrap();
    let (code, json, error) = kvctl_json(&["wal", "verify"], home.path());
    assert_eq!((code, &json["verdict"]), (1, &json!("damaged")));
    assert!(error.contains("segment 2 of the log in DIR/wal is missing"), "{error}");
}

#[test]
fn a_newer_version_is_named_and_is_no_damage() {
    let (home, wal) = member();
    drop(wal);
    edit(&segments(home.path())[1], |bytes| {
        bytes[516] = 2;
        let crc = crc32(&bytes[512..572]);
        bytes[572..576].copy_from_slice(&crc.to_le_bytes());
    });
    let (code, json, error) = kvctl_json(&["wal", "verify"], home.path());
    assert_eq!((code, &json["verdict"]), (2, &json!("unreadable")));
    assert!(error.contains("at offset 512 has format version 2, this program reads up to 1"), "{error}");
    assert_eq!(kvctl(&["wal", "dump"], home.path()).0, 2);

    let snapshot = home.path().join("snap/0000000000000003-0000000000000006.snap");
    edit(&snapshot, |bytes| {
        bytes[8] = 2;
        let crc = crc32(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let (code, json, _) = kvctl_json(&["snap", "verify"], home.path());
    assert_eq!(
        (code, &json["verdict"], &json["files"][1]["state"]),
        (2, &json!("unreadable"), &json!("unreadable"))
    );
}

/// CRC-32 (IEEE), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    !crc
}

#[test]
fn snapshots_and_the_log_are_compared() {
    let (home, wal) = member();
    wal.close().unwrap();
    let snapshotter = Snapshotter::open(disk(), &home.path().join("snap")).unwrap();
    save_snapshot(&snapshotter, 3, 8);
    let told = |json: &Value| -> Vec<(u64, bool, bool)> {
        let snapshots = json["snapshots"].as_array().unwrap().iter();
        snapshots
            .map(|s| {
                (s["index"].as_u64().unwrap(), s["recorded"].as_bool().unwrap(), !s["file_bytes"].is_null())
            })
            .collect()
    };
    let (code, json, _) = kvctl_json(&["wal", "verify"], home.path());
    assert_eq!((code, told(&json)), (0, vec![(1, true, true), (6, true, true), (8, false, true)]));
    assert_eq!(json["opens_at"]["index"], 6);
    let text = kvctl(&["wal", "verify"], home.path()).1;
    assert!(text.contains("index 8, term 3: not on record, so the next start removes it"), "{text}");

    let path = |id: &str| home.path().join(format!("snap/{id}.snap"));
    fs::remove_file(path("0000000000000003-0000000000000006")).unwrap();
    let (code, json, _) = kvctl_json(&["wal", "verify"], home.path());
    assert_eq!(
        (code, &json["opens_at"]["index"], &json["opens_at"]["last_index"]),
        (0, &json!(1), &json!(9))
    );
    fs::remove_file(path("0000000000000001-0000000000000001")).unwrap();
    let (code, json, error) = kvctl_json(&["wal", "verify"], home.path());
    assert_eq!((code, &json["verdict"], &json["opens_at"]), (1, &json!("damaged"), &Value::Null));
    assert!(error.contains("restore its file, or remove this member"), "{error}");
    // A log alone says nothing of files.
    let alone = tempfile::tempdir().unwrap();
    for file in segments(home.path()) {
        fs::copy(&file, alone.path().join(file.file_name().unwrap())).unwrap();
    }
    let (code, json, _) = kvctl_json(&["wal", "verify"], alone.path());
    assert_eq!((code, told(&json)), (0, vec![(1, true, false), (6, true, false)]));
}

#[test]
fn damaged_snapshots_are_told_apart_from_those_that_were_set_aside() {
    let (home, _wal) = member();
    let good = home.path().join("snap/0000000000000001-0000000000000001.snap");
    let bad = home.path().join("snap/0000000000000003-0000000000000006.snap");
    edit(&bad, |bytes| bytes[90] ^= 1);
    fs::write(home.path().join("snap/0000000000000003-0000000000000008.0.tmp"), b"kvd-snap").unwrap();
    let (code, out, error) = kvctl(&["snap", "verify"], home.path());
    assert_eq!(code, 1);
    assert_eq!(
        error,
        "damaged snapshots: 1; a member that starts sets them aside and uses an older one, with more of its log"
    );
    golden("snap-verify-damaged.txt", &out);
    assert_eq!(kvctl(&["snap", "verify"], &bad).0, 1);
    assert_eq!(kvctl(&["snap", "verify"], &good).0, 0);

    let broken = bad.with_extension("snap.broken");
    fs::rename(&bad, &broken).unwrap();
    let (code, json, _) = kvctl_json(&["snap", "inspect"], home.path());
    let states: Vec<&str> =
        json["files"].as_array().unwrap().iter().map(|f| f["state"].as_str().unwrap()).collect();
    assert_eq!((code, states), (0, vec!["good", "broken", "temporary"]));
    assert_eq!(kvctl(&["snap", "verify"], &broken).0, 1, "it was asked about");
}

#[test]
fn where_nothing_is_the_answer_says_what_was_looked_for() {
    let empty = tempfile::tempdir().unwrap();
    for (args, wanted) in
        [(["wal", "dump"], "log"), (["wal", "verify"], "log"), (["snap", "verify"], "snapshots")]
    {
        let (code, out, error) = kvctl(&args, empty.path());
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(error.starts_with(&format!("found no {wanted} in DIR, where ")), "{error}");
    }
    let (code, _, error) = kvctl(&["snap", "inspect"], &empty.path().join("none"));
    assert_eq!((code, error.as_str()), (2, "cannot read DIR"));
}

#[test]
fn who_reads_no_further_gets_no_complaint() {
    let (home, mut wal) = member();
    let entries: Vec<Entry> = (10..4000).map(|index| puts(index, 3, &[("key", b"value")])).collect();
    wal.save(&entries, None, true).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvctl"))
        .args(["wal", "dump"])
        .arg(home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("segment 0000000000000000"), "{line}");
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    for args in [
        &["wal", "dump"][..],
        &["wal", "dump", "--kinds", "none", "D"],
        &["wal", "dump", "--values=b", "D"],
        &["wal", "dump", "--limit", "-1", "D"],
    ] {
        let error = Cli::try_parse_from([&["kvctl"], args].concat()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{args:?}");
    }
    let broken_pipe = Error::Local(std::io::ErrorKind::BrokenPipe.into());
    assert_eq!((broken_pipe.exit_code(), Error::NotReady(1).exit_code()), (0, 1));
}
