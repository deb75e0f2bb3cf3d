//! The command line.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use kvd_crash_images::{Outcome, Plant, SECTIONS, Section, Settings, run};

/// Opens every disk image that a crash or damage can leave of kvd's log, snapshots and members, and checks what comes of
/// it. The exit code is that of a failure if one image does not do as it should.
#[derive(Debug, Parser)]
struct Args {
    /// Only this section; may be given several times. --list has them.
    #[arg(short, long, value_name = "NAME", value_parser = section)]
    section: Vec<Chosen>,
    /// Only the image of this name, with one section, and with the seed and the samples of the run that named it.
    #[arg(short, long, value_name = "NAME")]
    image: Option<String>,
    /// Draws the samples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Of the damage that is enumerated (lengths, bits, sectors), open every n-th image only.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// How many subsets of pending changes to draw where there are too many to try them all.
    #[arg(long, value_name = "N", default_value_t = Settings::default().samples)]
    samples: u64,
    /// Threads.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Plant a bug: the exit code is then still that of a failure if it is caught.
    #[arg(long, value_name = "NAME", value_parser = plant)]
    plant: Option<Plant>,
    /// List the sections.
    #[arg(long)]
    list: bool,
}

/// A section, as the command line knows it.
#[derive(Clone, Copy)]
struct Chosen(&'static Section);

impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

fn section(name: &str) -> Result<Chosen, String> {
    let found = SECTIONS.iter().find(|section| section.name == name).map(Chosen);
    found.ok_or_else(|| {
        format!("there are: {}", SECTIONS.iter().map(|s| s.name).collect::<Vec<_>>().join(", "))
    })
}

fn plant(name: &str) -> Result<Plant, String> {
    let found = Plant::ALL.into_iter().find(|plant| plant.to_string() == name);
    found.ok_or_else(|| format!("there are: {}", Plant::ALL.map(|plant| plant.to_string()).join(", ")))
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for section in SECTIONS {
            println!("{:<20} {}", section.name, section.about);
        }
        return ExitCode::SUCCESS;
    }
    let sections: Vec<&Section> = match args.section.is_empty() {
        true => SECTIONS.iter().collect(),
        false => args.section.iter().map(|chosen| chosen.0).collect(),
    };
    let settings = Settings {
        seed: args.seed,
        every: args.every,
        samples: args.samples,
        jobs: args.jobs.into(),
        only: args.image.clone(),
        plant: args.plant,
    };
    let begun = Instant::now();
    let outcomes = run(&sections, &settings);
    let (mut images, mut failed) = (0, 0);
    for (section, outcome) in sections.iter().zip(&outcomes) {
        print(section, outcome, &args);
        images += outcome.images;
        failed += outcome.failed;
    }
    println!(
        "{images} images in {:.1} s, seed {}: {failed} failed",
        begun.elapsed().as_secs_f64(),
        args.seed
    );
    if images == 0 {
        println!("no image was opened: there is none of that name, seed and number of samples");
        return ExitCode::FAILURE;
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(section: &Section, outcome: &Outcome, args: &Args) {
    let counts: Vec<String> = outcome.counts.iter().map(|(what, n)| format!("{what} {n}")).collect();
    println!(
        "{:<20} {:>7} images, {:>3} failed, {:>5.1} s of work: {}",
        section.name,
        outcome.images,
        outcome.failed,
        outcome.time.as_secs_f64(),
        counts.join("; ")
    );
    for failure in &outcome.failures {
        println!("FAILED {}: {}", failure.image, failure.what);
        println!("  {}", command(section, &failure.image, args));
    }
}

fn command(section: &Section, image: &str, args: &Args) -> String {
    let mut command = format!(
        "cargo run --release -p kvd-crash-images -- --section {} --image {image} --seed {} --samples {}",
        section.name, args.seed, args.samples
    );
    if let Some(plant) = args.plant {
        command += &format!(" --plant {plant}");
    }
    command
}
