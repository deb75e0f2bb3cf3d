//! What CI runs: every kind of fault, several at once, every failpoint, and two planted bugs that must be caught.

use std::path::Path;
use std::time::Instant;

use crate::clients::Plant;
use crate::failpoints;
use crate::faults::Kind;
use crate::run::{Settings, Verdict, run};

/// Runs everything, in about four minutes. `print` is told of every run. True if all is well.
pub fn everything(seed: u64, keep: &Path, print: impl Fn(&Settings, &Verdict)) -> bool {
    use Kind::*;
    let begun = Instant::now();
    let plan: [(&[Kind], u64, u64); 4] = [
        (&[Kill, KillSeveral, KillAll, Pause], 3, 12),
        (&[DiskError, DiskDelay, FullDisk, PowerLoss, PowerLossAll], 3, 20),
        (&[Partition, OneWay, SlowLink, Clock, Membership], 3, 20),
        (Kind::all(), 5, 40),
    ];
    let settings = |number: u64, kinds: &[Kind], members, seconds, plant| Settings {
        seed: seed + number,
        seconds,
        members,
        kinds: kinds.to_vec(),
        plant,
        keep: keep.to_owned(),
    };
    let mut well = true;
    for (number, (kinds, members, seconds)) in (0..).zip(plan) {
        let settings = settings(number, kinds, members, seconds, None);
        let verdict = run(&settings);
        print(&settings, &verdict);
        well &= verdict.passed();
    }
    for (number, plant) in (10..).zip([Plant::StaleRead, Plant::LostWrite]) {
        let settings = settings(number, &[Kill], 3, 1, Some(plant));
        let verdict = run(&settings);
        let caught = verdict.report.as_ref().is_some_and(|report| !report.violations.is_empty());
        match caught && verdict.failures.is_empty() {
            true => println!("planted {plant:?}: caught"),
            false => {
                println!("planted {plant:?}: NOT CAUGHT");
                print(&settings, &verdict);
                well = false;
            }
        }
        // What was caught on purpose is of no further interest.
        if let Some(directory) = verdict.history.as_deref().and_then(Path::parent)
            && let Err(error) = std::fs::remove_dir_all(directory)
        {
            println!("{}: {error}", directory.display());
            well = false;
        }
    }
    let visited = failpoints::visit(seed, keep);
    println!("{visited}");
    println!("{:.0} s", begun.elapsed().as_secs_f64());
    well && visited.passed()
}
