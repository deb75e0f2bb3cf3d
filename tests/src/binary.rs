//! The binaries under test.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// Path of an up-to-date `kvd`.
///
/// `KVD_BIN` names it. Else it is the one beside the test itself, in the same target directory and of the same profile:
/// `cargo test --workspace` builds it there, and if it is missing or older than its sources, cargo builds it now.
///
/// # Panics
/// If the build fails.
pub fn kvd() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| given_or_built("KVD_BIN", "kvd", "kvd", &[]))
}

/// Path of an up-to-date `kvctl`, beside the test itself; built like [`kvd`]. `KVCTL_BIN` names it.
///
/// # Panics
/// If the build fails.
pub fn kvctl() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| given_or_built("KVCTL_BIN", "kvctl", "kvctl", &[]))
}

/// Path of an up-to-date `kvd-failpoints`: kvd with `kvd_vfs::failpoint`s. As [`kvd`]; `KVD_FAILPOINTS_BIN` names it.
///
/// # Panics
/// If the build fails.
pub fn kvd_with_failpoints() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let features = ["--features", "failpoints"];
    BINARY.get_or_init(|| given_or_built("KVD_FAILPOINTS_BIN", "kvd", "kvd-failpoints", &features))
}

fn given_or_built(variable: &str, package: &str, name: &str, features: &[&str]) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => fs::canonicalize(&path).unwrap_or_else(|e| panic!("{variable}={path:?}: {e}")),
        None => build(package, name, features),
    }
}

fn build(package: &str, name: &str, features: &[&str]) -> PathBuf {
    // TARGET/PROFILE/deps/this-test, or TARGET/PROFILE/this-program
    let test = std::env::current_exe().expect("the path of the running test");
    let beside = test.parent().expect("a program is in a directory");
    let output =
        if beside.ends_with("deps") { beside.parent().expect("PROFILE above deps/") } else { beside };
    let binary = output.join(name);
    if is_up_to_date(package, &binary) {
        return binary;
    }
    let target = output.parent().expect("TARGET above PROFILE/");
    let profile = match output.file_name().and_then(|n| n.to_str()) {
        Some("debug") => "test", // both the dev and the test profile are put there
        Some(other) => other,
        None => panic!("{} has no profile directory", test.display()),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", package, "--bin", name, "--profile", profile, "--target-dir"])
        .arg(target)
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo, which started this test, can be started again");
    assert!(status.success(), "cargo build --package {name}: {status}");
    binary
}

/// Whether a binary is younger than everything that it could be made from.
fn is_up_to_date(name: &str, binary: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let own = format!("bin/{name}");
    let sources =
        ["Cargo.lock", "Cargo.toml", own.as_str(), "crates"].map(|name| newest(&workspace.join(name)));
    match (modified(binary), sources.into_iter().collect::<io::Result<Vec<_>>>()) {
        (Ok(built), Ok(changed)) => changed.into_iter().all(|time| time <= built),
        _ => false,
    }
}

/// When a file, or the newest one below a directory, was last changed. Tests and examples do not count.
fn newest(path: &Path) -> io::Result<SystemTime> {
    let metadata = fs::metadata(path)?;
    let mut newest = metadata.modified()?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if !["tests", "examples", "benches"].iter().any(|name| entry.file_name() == *name) {
                newest = newest.max(self::newest(&entry.path())?);
            }
        }
    }
    Ok(newest)
}
