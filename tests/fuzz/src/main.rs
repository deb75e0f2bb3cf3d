//! The libFuzzer binary. `tests/fuzz/run` builds and calls it; `KVD_FUZZ` names the target.
#![no_main]

use std::sync::OnceLock;

use kvd_fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<&Target> = OnceLock::new();

fn chosen() -> &'static Target {
    let name = std::env::var("KVD_FUZZ").unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("KVD_FUZZ={name:?} is no target; there are: {}", names.join(" "));
        std::process::exit(2)
    })
}

fuzz_target!(
    init: {
        TARGET.get_or_init(chosen);
    },
    |input: &[u8]| TARGET.get_or_init(chosen).run(input)
);
