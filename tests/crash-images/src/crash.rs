//! Power loss at every step of some work, and every outcome of it.
//!
//! The name of an image is `CASE/STEP/OUTCOME`: the work, the changing disk operation in the middle of which the power
//! went (one more than there are for none), and what survived of the changes that were not synced. Up to
//! [`EXHAUSTIVE`] of them that is a digit for each, 1 for those that survived; beyond, `none`, `all`, `only7`, `but7`, and
//! `r0`, `r1`, ... for subsets that were drawn. `kill` is the process killed there, with the power on.

use kvd_vfs::MemDisk;

use crate::rng::Rng;
use crate::run::{Counts, Sink};

/// Every subset of so many changes is tried, of more only a sample.
pub(crate) const EXHAUSTIVE: u32 = 12;

/// How thoroughly a case is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Every subset of up to so many changes.
    pub(crate) exhaustive: u32,
    /// So many drawn ones beyond.
    pub(crate) samples: u64,
    /// Each change alone, and all but each, beyond.
    pub(crate) single: bool,
}

impl Bounds {
    pub(crate) fn full(sink: &Sink<'_>) -> Bounds {
        Bounds { exhaustive: EXHAUSTIVE, samples: sink.settings.samples, single: true }
    }

    /// For an image within an image, or one that is dear.
    pub(crate) fn few(exhaustive: u32, samples: u64) -> Bounds {
        Bounds { exhaustive, samples, single: false }
    }
}

/// What `work` did on the disk when the power went at some step, or when it did not.
pub(crate) struct Attempt<T> {
    /// What it returned.
    pub(crate) outcome: T,
    /// Whether the power stayed on to its end.
    pub(crate) finished: bool,
}

/// What is asked of an image.
pub(crate) type Check<'a, T> = &'a dyn Fn(&MemDisk, &Attempt<T>, &mut Counts<'_>) -> Result<(), String>;

/// Does `work` on copies of `base`, with the power going at each of its steps in turn, and gives every outcome to
/// `check`.
pub(crate) fn at_every_step<T>(
    sink: &mut Sink<'_>,
    case: &str,
    base: &MemDisk,
    bounds: Bounds,
    work: &dyn Fn(&MemDisk) -> T,
    check: Check<'_, T>,
) {
    let mut step = 1;
    while !at_step(sink, case, base, step, bounds, work, check) {
        step += 1;
    }
}

/// As [`at_every_step`], at one of them. Whether the work was finished before it.
pub(crate) fn at_step<T>(
    sink: &mut Sink<'_>,
    case: &str,
    base: &MemDisk,
    step: u64,
    bounds: Bounds,
    work: &dyn Fn(&MemDisk) -> T,
    check: Check<'_, T>,
) -> bool {
    let disk = base.fork();
    disk.power_off_at(step);
    let outcome = work(&disk);
    let attempt = Attempt { outcome, finished: !disk.is_off() };
    let name = |survived: &str| format!("{case}/{step}/{survived}");
    sink.image(|| name("kill"), |counts| check(&disk.fork(), &attempt, counts));
    outcomes(&disk, bounds, sink.settings.seed ^ step, &mut |image, survived| {
        sink.image(|| name(survived), |counts| check(image, &attempt, counts));
    });
    attempt.finished
}

/// Every outcome of a power loss now, or as many as the bounds say, each with its name.
fn outcomes(disk: &MemDisk, bounds: Bounds, seed: u64, each: &mut dyn FnMut(&MemDisk, &str)) {
    let mut changes = 0;
    disk.fork().crash_choosing(&mut || {
        changes += 1;
        true
    });
    if changes <= bounds.exhaustive {
        return exhaustive(disk, each);
    }
    let mut sample = |name: &str, survives: &mut dyn FnMut(u32) -> bool| {
        let image = disk.fork();
        let mut n = 0;
        image.crash_choosing(&mut || {
            n += 1;
            survives(n - 1)
        });
        each(&image, name);
    };
    sample("none", &mut |_| false);
    sample("all", &mut |_| true);
    for n in (0..changes).filter(|_| bounds.single) {
        sample(&format!("only{n}"), &mut |m| m == n);
        sample(&format!("but{n}"), &mut |m| m != n);
    }
    for i in 0..bounds.samples {
        let mut rng = Rng::new(seed.wrapping_mul(0x1_0001).wrapping_add(i));
        // Some samples keep most, some lose most.
        let of_eight = 1 + rng.below(7);
        sample(&format!("r{i}"), &mut |_| rng.below(8) < of_eight);
    }
}

/// Walks the tree of choices: which changes matter depends on those before.
fn exhaustive(disk: &MemDisk, each: &mut dyn FnMut(&MemDisk, &str)) {
    let mut path: Vec<bool> = Vec::new();
    loop {
        let image = disk.fork();
        let mut asked = 0;
        image.crash_choosing(&mut || {
            if asked == path.len() {
                path.push(false);
            }
            asked += 1;
            path[asked - 1]
        });
        path.truncate(asked);
        let name: String = path.iter().map(|survived| if *survived { '1' } else { '0' }).collect();
        each(&image, if name.is_empty() { "-" } else { &name });
        while path.last() == Some(&true) {
            path.pop();
        }
        match path.last_mut() {
            Some(last) => *last = true,
            None => return,
        }
    }
}
