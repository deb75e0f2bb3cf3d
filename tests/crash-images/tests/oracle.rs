//! The checks hold on a part of the images, and would find something.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use kvd_crash_images::{Outcome, Plant, SECTIONS, Settings, run};

/// Few enough for a test; every length, bit and sector is for `.ci/run images`.
fn some() -> Settings {
    Settings { every: 997, samples: 2, ..Settings::default() }
}

fn outcome(section: &str, settings: &Settings) -> Outcome {
    let section = SECTIONS.iter().find(|s| s.name == section).unwrap();
    run(&[section], settings).remove(0)
}

#[test]
fn every_section_has_images_and_they_do_as_they_should() {
    // The saves alone are most of the images.
    let sections: Vec<_> = SECTIONS.iter().filter(|section| section.name != "log-saves").collect();
    for (section, outcome) in sections.iter().zip(run(&sections, &some())) {
        assert!(outcome.images > 0, "{}: {:?}", section.name, outcome.failures);
        assert_eq!(outcome.failed, 0, "{}: {:?}", section.name, outcome.failures);
    }
}

#[test]
fn a_run_does_the_same_images_twice_and_with_any_number_of_threads() {
    for section in ["log-names", "member-life"] {
        let (one, two) = (outcome(section, &some()), outcome(section, &Settings { jobs: 2, ..some() }));
        assert_eq!((one.images, &one.counts), (two.images, &two.counts), "{section}");
    }
}

#[test]
fn planted_bugs_are_caught_where_they_would_do_harm() {
    for (plant, sections) in [
        (
            Plant::HidesDamage,
            &["log-truncations", "log-flips", "log-segments", "snap-truncations", "snap-flips"][..],
        ),
        (Plant::SkipsSync, &["log-names", "snap-names", "member-first-boot", "member-life"]),
        (Plant::SkipsSyncDir, &["log-names", "snap-names", "member-first-boot", "member-life"]),
        (Plant::ExpectsTooMuch, &["log-names", "snap-names", "member-life"]),
    ] {
        for section in sections {
            let outcome = outcome(section, &Settings { plant: Some(plant), ..some() });
            assert!(outcome.failed > 0, "{plant} in {section}: {:?}", outcome.counts);
        }
    }
}

#[test]
fn a_failure_names_an_image_that_fails_alone() {
    let planted = Settings { plant: Some(Plant::SkipsSyncDir), ..some() };
    let failure = outcome("log-names", &planted).failures.remove(0);
    let alone = outcome("log-names", &Settings { only: Some(failure.image.clone()), ..planted });
    assert_eq!((alone.images, alone.failed), (1, 1));
    assert_eq!((&alone.failures[0].image, &alone.failures[0].what), (&failure.image, &failure.what));
}
