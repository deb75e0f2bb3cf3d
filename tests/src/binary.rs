//! The binary under test.

use std::fs;
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
    BINARY.get_or_init(|| match std::env::var_os("KVD_BIN") {
        Some(path) => fs::canonicalize(&path).unwrap_or_else(|e| panic!("KVD_BIN={path:?}: {e}")),
        None => build(),
    })
}

fn build() -> PathBuf {
    // TARGET/PROFILE/deps/this-test
    let test = std::env::current_exe().expect("the path of the running test");
    let output = test.parent().and_then(Path::parent).expect("TARGET/PROFILE above deps/");
    let binary = output.join("kvd");
    if is_up_to_date(&binary) {
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
        .args(["build", "--quiet", "--package", "kvd", "--bin", "kvd", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo, which started this test, can be started again");
    assert!(status.success(), "cargo build --package kvd: {status}");
    binary
}

/// Whether the binary is younger than each file it was made from. Cargo lists those beside it, in `kvd.d`:
/// `BINARY: SOURCE SOURCE ...`, with spaces in names escaped by a backslash; what cannot be read counts as newer.
fn is_up_to_date(binary: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    let Some(built) = modified(binary) else { return false };
    let Ok(list) = fs::read_to_string(binary.with_extension("d")) else { return false };
    let Some((_, sources)) = list.lines().next().and_then(|line| line.split_once(": ")) else { return false };
    let is_older = |path: &Path| modified(path).is_some_and(|time: SystemTime| time <= built);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    sources.split(' ').all(|source| is_older(Path::new(source)))
        && is_older(&workspace.join("Cargo.lock"))
        && is_older(&workspace.join("Cargo.toml"))
}
