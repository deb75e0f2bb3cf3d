//! What a measurement found, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::{BenchPut, Endpoint};

/// Longest latency that is told apart from longer ones: an hour, in microseconds.
const MAX_MICROS: u64 = 3_600_000_000;

/// Percentiles that are reported: name in the table, name in JSON, value.
const PERCENTILES: [(&str, &str, f64); 3] =
    [("p50", "p50", 50.0), ("p99", "p99", 99.0), ("p99.9", "p99_9", 99.9)];

/// Counts of one measurement. Latencies are kept in microseconds, to three significant digits.
#[derive(Debug, Clone)]
pub struct Report {
    endpoints: Vec<String>,
    flags: BenchPut,
    latency: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

impl Report {
    /// A report of nothing yet.
    pub fn new(endpoints: &[Endpoint], flags: &BenchPut) -> Report {
        #[expect(
            clippy::expect_used,
            reason = "fails only for bounds or digits out of range, which are constant here"
        )]
        let latency = Histogram::new_with_bounds(1, MAX_MICROS, 3).expect("1 < an hour, at most 5 digits");
        Report {
            endpoints: endpoints.iter().map(Endpoint::to_string).collect(),
            flags: flags.clone(),
            latency,
            errors: BTreeMap::new(),
        }
    }

    /// Counts an acknowledged write.
    pub fn acknowledge(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MAX_MICROS);
        self.latency.saturating_record(micros.clamp(1, MAX_MICROS));
    }

    /// Counts an error under its status code or its cause.
    pub fn error(&mut self, kind: &str) {
        match self.errors.get_mut(kind) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(kind.to_owned(), 1);
            }
        }
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.latency.len()
    }

    /// Acknowledged writes in a second.
    pub fn per_second(&self) -> f64 {
        if self.flags.seconds > 0.0 { self.acknowledged() as f64 / self.flags.seconds } else { 0.0 }
    }

    /// The errors, most frequent first.
    pub fn errors_in_words(&self) -> String {
        let mut errors: Vec<(&String, &u64)> = self.errors.iter().collect();
        errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        match errors.as_slice() {
            [] => "no errors".to_owned(),
            errors => {
                let list: Vec<String> =
                    errors.iter().map(|(kind, count)| format!("{count} x {kind}")).collect();
                format!("errors: {}", list.join(", "))
            }
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let BenchPut { clients, seconds, warmup, value_bytes, keys, .. } = self.flags;
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{clients} clients at {}, {value_bytes}-byte values, {keys} keys, {seconds} s after {warmup} s of warm-up",
            self.endpoints.join(" ")
        );
        let _ = writeln!(out, "acknowledged {:>12}", self.acknowledged());
        let _ = writeln!(out, "put/s        {:>12.0}", self.per_second());
        for (name, _, percentile) in PERCENTILES {
            let _ =
                writeln!(out, "{name:<12} {:>9} ms", millis(self.latency.value_at_percentile(percentile)));
        }
        let _ = writeln!(out, "{:<12} {:>9} ms", "max", millis(self.latency.max()));
        let _ = writeln!(out, "{}", self.errors_in_words());
        out
    }

    /// For programs: one object, latencies in microseconds.
    pub fn json(&self) -> serde_json::Value {
        let BenchPut { clients, seconds, warmup, value_bytes, keys, .. } = self.flags;
        let mut latency: serde_json::Map<String, serde_json::Value> = PERCENTILES
            .iter()
            .map(|&(_, name, percentile)| {
                (name.to_owned(), self.latency.value_at_percentile(percentile).into())
            })
            .collect();
        latency.insert("max".to_owned(), self.latency.max().into());
        serde_json::json!({
            "endpoints": self.endpoints,
            "clients": clients,
            "seconds": seconds,
            "warmup_seconds": warmup,
            "value_bytes": value_bytes,
            "keys": keys,
            "acknowledged": self.acknowledged(),
            "per_second": self.per_second(),
            "latency_us": latency,
            "errors": self.errors,
        })
    }
}

fn millis(micros: u64) -> String {
    format!("{:.2}", micros as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let flags =
            BenchPut { clients: 8, seconds: 2.0, warmup: 1.0, value_bytes: 256, keys: 10, json: false };
        Report::new(&["http://a:1".parse().unwrap(), "http://b:2".parse().unwrap()], &flags)
    }

    /// 1 ms, 2 ms, ... 1000 ms.
    fn thousand() -> Report {
        let mut report = report();
        for n in 1..=1000 {
            report.acknowledge(Duration::from_millis(n));
        }
        report
    }

    #[test]
    fn the_table_reads_like_this() {
        let mut report = thousand();
        for kind in ["503", "429", "503"] {
            report.error(kind);
        }
        assert_eq!(
            report.table(),
            "8 clients at http://a:1 http://b:2, 256-byte values, 10 keys, 2 s after 1 s of warm-up\n\
             acknowledged         1000\n\
             put/s                 500\n\
             p50             500.22 ms\n\
             p99             990.21 ms\n\
             p99.9          1000.45 ms\n\
             max            1000.45 ms\n\
             errors: 2 x 503, 1 x 429\n"
        );
    }

    #[test]
    fn json_has_the_same_numbers() {
        let mut report = thousand();
        report.error("503");
        let json = report.json();
        assert_eq!(json["acknowledged"], 1000);
        assert_eq!(json["per_second"], 500.0);
        assert_eq!(json["errors"]["503"], 1);
        assert_eq!(json["value_bytes"], 256);
        for (name, wanted) in
            [("p50", 500_000.0), ("p99", 990_000.0), ("p99_9", 999_000.0), ("max", 1_000_000.0)]
        {
            let got = json["latency_us"][name].as_f64().unwrap();
            // Three digits, and at p99.9 of a thousand one step of rounding.
            assert!((got - wanted).abs() <= wanted / 500.0, "{name}: {got}, not {wanted}");
        }
    }

    #[test]
    fn nothing_measured_is_no_division_by_zero() {
        let mut flags = report().flags;
        flags.seconds = 0.0;
        let report = Report::new(&[], &flags);
        assert_eq!((report.acknowledged(), report.per_second()), (0, 0.0));
        assert!(report.table().contains("no errors"));
    }

    #[test]
    fn latencies_beyond_the_bounds_are_kept_at_the_bounds() {
        let mut report = report();
        report.acknowledge(Duration::ZERO);
        report.acknowledge(Duration::from_secs(100_000));
        assert_eq!(report.acknowledged(), 2);
        assert_eq!(report.latency.min(), 1);
        assert!(report.latency.max() >= MAX_MICROS);
    }
}
