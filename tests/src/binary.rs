//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of an up-to-date `kvd`.
///
/// `KVD_BIN` names it; else cargo builds it, once for each test process and in the target directory and with the
/// profile that the test itself was built with. Cargo does nothing if it is up to date.
///
/// # Panics
/// If the build fails.
pub fn kvd() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("KVD_BIN") {
        Some(path) => std::fs::canonicalize(&path).unwrap_or_else(|e| panic!("KVD_BIN={path:?}: {e}")),
        None => build(),
    })
}

fn build() -> PathBuf {
    // TARGET/PROFILE/deps/this-test
    let test = std::env::current_exe().expect("the path of the running test");
    let output = test.parent().and_then(Path::parent).expect("TARGET/PROFILE above deps/");
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
    output.join("kvd")
}
