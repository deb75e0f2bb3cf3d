//! The long forms, and their summary.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

/// A test that takes longer than CI has time for.
#[derive(Debug)]
pub(crate) struct Long {
    name: &'static str,
    /// Words, apart by blanks, run in the root of the project. `{seed}` becomes the seed, `{from}` and `{to}` the ends of
    /// the ten thousand seeds that are this night's.
    ///
    /// It exits with 0 if all is well, and its last line has its figures. What failed is in lines that begin with
    /// `FAILED`, each followed by the command that repeats it alone.
    command: &'static str,
}

/// All of them. A new one is a line here.
#[rustfmt::skip]
pub(crate) const LONG: &[Long] = &[
    Long { name: "crash-images", command: "cargo run --locked --release -q -p kvd-crash-images -- --seed {seed} --samples 2000 -j 2" },
    Long { name: "simulator", command: "cargo run --locked --release -q -p kvd-sim --features mutations -- --seeds {from}..{to} -j 2" },
    Long { name: "mutations", command: "cargo run --locked --release -q -p kvd-sim --features mutations -- gate --seeds 2000 -j 2" },
    Long { name: "again", command: ".ci/run again" },
    Long { name: "fuzz", command: "tests/fuzz/run --seconds 7200" },
    Long { name: "chaos", command: "cargo run --locked --release -q -p kvd-chaos -- --total-faults 10000 --seconds 60" },
];

/// For the command line.
pub(crate) fn named(name: &str) -> Result<&'static Long, String> {
    let found = LONG.iter().find(|long| long.name == name);
    found.ok_or_else(|| {
        format!("there are: {}", LONG.iter().map(|long| long.name).collect::<Vec<_>>().join(", "))
    })
}

pub(crate) fn list() {
    for long in LONG {
        println!("{:<14} {}", long.name, long.command);
    }
}

/// What came of one.
#[derive(Debug)]
struct Ran {
    name: &'static str,
    command: String,
    ok: bool,
    seconds: u64,
    output: String,
}

/// Runs some of them, or all if none is named. Whether all is well.
pub(crate) fn run(longs: &[&Long], seed: Option<u64>) -> io::Result<bool> {
    let seed = seed.unwrap_or_else(days);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = directory()?;
    fs::create_dir_all(&dir)?;
    // As of now: the tree may move on before the last one ends.
    let commit = commit(&root);
    let all: Vec<&Long> = LONG.iter().collect();
    let mut ran = Vec::new();
    for long in if longs.is_empty() { &all } else { longs } {
        println!("=== {}: {}", long.name, with_seed(long.command, seed));
        let one = run_one(long, seed, &root, &dir)?;
        println!("=== {} {} s: {}", if one.ok { "ok" } else { "FAILED" }, one.seconds, figures(&one.output));
        ran.push(one);
    }
    let path = dir.join("summary.md");
    fs::write(&path, summary(&ran, seed, &commit))?;
    println!("{}", path.display());
    Ok(ran.iter().all(|one| one.ok))
}

fn run_one(long: &Long, seed: u64, root: &Path, dir: &Path) -> io::Result<Ran> {
    let command = with_seed(long.command, seed);
    let mut words = command.split(' ');
    let log = dir.join(format!("{}.log", long.name));
    // Both go into one file as they come, so that a run that is watched, or interrupted, has its output there.
    let file = fs::File::create(&log)?;
    let begun = Instant::now();
    let status = Command::new(words.next().unwrap_or_default())
        .args(words)
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .map_err(|error| io::Error::other(format!("{command}: {error}")))?;
    let output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    Ok(Ran { name: long.name, command, ok: status.success(), seconds: begun.elapsed().as_secs(), output })
}

fn with_seed(command: &str, seed: u64) -> String {
    let from = seed.wrapping_mul(10_000);
    command
        .replace("{seed}", &seed.to_string())
        .replace("{from}", &from.to_string())
        .replace("{to}", &from.wrapping_add(10_000).to_string())
}

/// The last line.
fn figures(output: &str) -> &str {
    output.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no output").trim()
}

/// The lines that say what failed, each with the command that follows it.
fn failures(output: &str) -> Vec<&str> {
    let lines: Vec<&str> = output.lines().collect();
    let found = (0..lines.len()).filter(|at| lines[*at].starts_with("FAILED"));
    found.flat_map(|at| lines[at..lines.len().min(at + 2)].iter().copied()).collect()
}

fn summary(ran: &[Ran], seed: u64, commit: &str) -> String {
    let mut text =
        format!("# Nightly run\n\nCommit {commit}, seed {seed}: `cargo xtask nightly --seed {seed}`.\n\n");
    text += "| | result | seconds | figures |\n|---|---|---|---|\n";
    for one in ran {
        let result = if one.ok { "ok" } else { "**FAILED**" };
        // A table has one line a row, and bars of its own.
        let figures = figures(&one.output).replace('|', "/");
        let _ = writeln!(text, "| {} | {result} | {} | {figures} |", one.name, one.seconds);
    }
    for one in ran {
        let _ = writeln!(text, "\n## {}\n\n```sh\n{}\n```\n", one.name, one.command);
        let failures = failures(&one.output);
        match (failures.is_empty(), one.ok) {
            (false, _) => {
                let _ = writeln!(text, "```text\n{}\n```", failures.join("\n"));
            }
            (true, true) => text += "Nothing failed.\n",
            (true, false) => {
                let _ = writeln!(text, "It failed without saying what; its output is in `{}.log`.", one.name);
            }
        }
    }
    text
}

/// `target/nightly`, wherever the target directory is: this program runs in `target/release`.
fn directory() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(Path::parent);
    Ok(target.ok_or_else(|| io::Error::other("this program is in no target directory"))?.join("nightly"))
}

fn commit(root: &Path) -> String {
    let output = Command::new("git").args(["log", "-1", "--format=%h %s"]).current_dir(root).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown (no git)".to_owned(),
    }
}

fn days() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() / 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_night_has_seeds_of_its_own() {
        let command = "run --seed {seed} --seeds {from}..{to}";
        assert_eq!(with_seed(command, 0), "run --seed 0 --seeds 0..10000");
        assert_eq!(with_seed(command, 7), "run --seed 7 --seeds 70000..80000");
    }

    #[test]
    fn a_run_says_what_failed_and_how_to_repeat_it() {
        let dir = tempfile::tempdir().unwrap();
        let run = |name, command| run_one(&Long { name, command }, 7, dir.path(), dir.path()).unwrap();
        let (good, bad) = (run("good", "echo 12 images, seed {seed}"), run("bad", "cat failures"));
        assert!(good.ok && !bad.ok, "there is no such file");
        fs::write(dir.path().join("failures"), "FAILED 3: wrong\n  run 3\n9 done, 1 failed | x\n").unwrap();
        let mut bad = run("bad", "cat failures");
        bad.ok = false;
        let text = summary(&[good, bad, run("quiet", "false")], 7, "abc");
        for part in [
            "Commit abc, seed 7: `cargo xtask nightly --seed 7`.",
            "| good | ok | 0 | 12 images, seed 7 |",
            "| bad | **FAILED** | 0 | 9 done, 1 failed / x |",
            "| quiet | **FAILED** | 0 | no output |",
            "## good\n\n```sh\necho 12 images, seed 7\n```\n\nNothing failed.\n",
            "```text\nFAILED 3: wrong\n  run 3\n```",
            "its output is in `quiet.log`",
        ] {
            assert!(text.contains(part), "{part}\n--- in ---\n{text}");
        }
        assert!(
            run_one(&Long { name: "none", command: "no-such-program" }, 0, dir.path(), dir.path()).is_err()
        );
    }

    #[test]
    fn names_are_found_and_others_are_told_what_there_is() {
        for long in LONG {
            assert_eq!(named(long.name).unwrap().command, long.command);
        }
        assert!(named("nothing").unwrap_err().contains("simulator"));
    }
}
