//! `kvctl wal` and `kvctl snap` on the directory of a real member: running, stopped, killed, damaged.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use kvd_tests::{Cluster, Member, Writers, kvctl};
use serde_json::Value;

/// What kvctl answered.
struct Answer {
    code: i32,
    out: String,
    error: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {} {}", self.out, self.error))
    }

    #[track_caller]
    fn good(self) -> Answer {
        assert_eq!(self.code, 0, "{}\n{}", self.error, self.out);
        self
    }
}

fn ask(args: &[&str], dir: &Path) -> Answer {
    let output = Command::new(kvctl()).args(args).arg(dir).output().unwrap();
    Answer {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}

fn verify(member: &Member) -> Answer {
    ask(&["wal", "verify", "-w", "json"], &member.data_dir())
}

fn last_segment(member: &Member) -> PathBuf {
    let names = fs::read_dir(member.data_dir().join("wal")).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|e| e == "wal")).max().unwrap()
}

fn edit(path: &Path, change: impl FnOnce(&mut [u8])) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_member_is_inspected_while_it_runs_and_after_it_stopped_and_was_killed() {
    let mut cluster = Cluster::start(1);
    cluster.member(1).put("key", "value");
    let running = verify(cluster.member(1)).good().json();
    assert_eq!((&running["open"], &running["identity"]["member_id"]), (&true.into(), &1.into()));
    let dump = ask(&["wal", "dump"], &cluster.member(1).data_dir()).good();
    assert!(dump.out.contains("put \"key\" (5 bytes)"), "{}", dump.out);
    let snapshots = ask(&["snap", "inspect"], &cluster.member(1).data_dir()).good();
    assert!(snapshots.out.contains(&cluster.member(1).peer_url()), "{}", snapshots.out);

    cluster.member_mut(1).stop();
    let stopped = verify(cluster.member(1)).good().json();
    assert_eq!((&stopped["open"], &stopped["end"]["closed"]), (&false.into(), &true.into()));

    cluster.member_mut(1).start();
    cluster.member(1).put("key", "other");
    cluster.member_mut(1).kill();
    let killed = verify(cluster.member(1)).good().json();
    assert_eq!((&killed["open"], &killed["end"]["closed"]), (&false.into(), &false.into()));

    // What kvctl says of a directory is what kvd does with it: a torn tail is cut, damage is refused.
    let path = last_segment(cluster.member(1));
    let end = killed["end"]["offset"].as_u64().unwrap() as usize;
    let mark: Vec<u8> = fs::read(&path).unwrap()[end - 512..end].to_vec();
    edit(&path, |bytes| bytes[end + 512..end + 1024].copy_from_slice(&mark));
    let torn = verify(cluster.member(1));
    assert_eq!((torn.code, &torn.json()["verdict"]), (1, &"torn".into()), "{}", torn.error);
    assert!(torn.error.contains(&format!("is torn at offset {end}")), "{}", torn.error);
    cluster.member_mut(1).start();
    assert_eq!(cluster.member(1).get("key").as_deref(), Some(&b"other"[..]));
    cluster.member_mut(1).stop();
    verify(cluster.member(1)).good();

    edit(&path, |bytes| bytes[700] ^= 1);
    let damaged = verify(cluster.member(1));
    assert_eq!((damaged.code, &damaged.json()["verdict"]), (1, &"damaged".into()));
    assert!(damaged.error.contains("is corrupt at offset 512"), "{}", damaged.error);
    cluster.member_mut(1).spawn();
    assert!(!cluster.member_mut(1).wait_exit().success());
    let log = cluster.member(1).log();
    assert!(log.contains("is corrupt at offset 512"), "{log}");
}

#[test]
fn a_member_under_load_is_never_called_damaged() {
    // Large values fill segments, so that some are cut, released and recycled meanwhile; small ones make many batches.
    kvctl(); // built before the clock runs
    let flags = ["--snapshot-bytes", "4000000"];
    let cluster = Cluster::start_with(1, &flags);
    let member = cluster.member(1);
    let writers = Writers::start(4, cluster.members());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = member.client();
            let value = "v".repeat(1 << 20);
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // A refusal under load is no matter here.
                if client.put(&format!("large-{}", turn % 4), &value).is_err() {
                    client = member.client();
                }
            }
        });
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let begin = std::time::Instant::now();
            for round in 1.. {
                let answer = verify(member).good().json();
                assert_eq!(answer["open"], true);
                ask(&["snap", "verify"], &member.data_dir()).good();
                let dump =
                    ask(&["wal", "dump", "-w", "json", "--kinds", "hard-state,snapshot"], &member.data_dir());
                let dump = dump.good();
                assert!(dump.out.lines().last().is_some_and(|line| line.contains("\"kind\":\"end\"")));
                let released = answer["segments"][0]["sequence"].as_u64().unwrap();
                if round >= 20 && released >= 2 {
                    return;
                }
                assert!(
                    begin.elapsed() < 4 * kvd_tests::PATIENCE,
                    "{released} segments released in {round} rounds"
                );
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = checked {
            std::panic::resume_unwind(panic);
        }
    });
    drop(writers);
}
