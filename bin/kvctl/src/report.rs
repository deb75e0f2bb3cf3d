//! What a measurement found, as a table and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::bench::{Bench, Clients, Protocol, Timing};
use crate::{Endpoint, Operation};

/// Longest latency that is told apart from longer ones: an hour, in microseconds.
const MAX_MICROS: u64 = 3_600_000_000;

/// Percentiles that are reported: name in the table, name in JSON, value.
const PERCENTILES: [(&str, &str, f64); 5] = [
    ("p50", "p50", 50.0),
    ("p90", "p90", 90.0),
    ("p99", "p99", 99.0),
    ("p99.9", "p99_9", 99.9),
    ("max", "max", 100.0),
];

/// Counts of one measurement. Latencies are kept in microseconds, to three significant digits.
#[derive(Debug, Clone)]
pub struct Report {
    endpoints: Vec<String>,
    bench: Bench,
    /// Seconds that were measured.
    seconds: f64,
    puts: Histogram<u64>,
    gets: Histogram<u64>,
    absent: u64,
    errors: BTreeMap<String, u64>,
    /// What was counted since the last look at it, and how many errors there had been then; only if somebody looks.
    recent: Option<(Histogram<u64>, u64)>,
}

impl Report {
    /// A report of nothing yet.
    pub fn new(endpoints: &[Endpoint], bench: &Bench) -> Report {
        Report {
            endpoints: endpoints.iter().map(Endpoint::to_string).collect(),
            bench: bench.clone(),
            seconds: bench.timing().map_or(0.0, |timing| timing.seconds),
            puts: histogram(),
            gets: histogram(),
            absent: 0,
            errors: BTreeMap::new(),
            recent: None,
        }
    }

    /// Counts an acknowledged request.
    pub fn acknowledge(&mut self, operation: Operation, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MAX_MICROS).clamp(1, MAX_MICROS);
        match operation {
            Operation::Put => self.puts.saturating_record(micros),
            Operation::Get => self.gets.saturating_record(micros),
        }
        if let Some((recent, _)) = &mut self.recent {
            recent.saturating_record(micros);
        }
    }

    /// Of the acknowledged reads, counts one that found nothing.
    pub fn absent(&mut self) {
        self.absent += 1;
    }

    /// Counts errors under their status code or their cause.
    pub fn error(&mut self, kind: &str, count: u64) {
        match self.errors.get_mut(kind) {
            Some(so_far) => *so_far += count,
            None if count > 0 => {
                self.errors.insert(kind.to_owned(), count);
            }
            None => {}
        }
    }

    /// States how long it took, where that was not known before.
    pub fn took(&mut self, time: Duration) {
        self.seconds = time.as_secs_f64();
    }

    /// From now on [`Report::recent`] tells something.
    pub fn watch(&mut self) {
        self.recent = Some((histogram(), 0));
    }

    /// One line about what came since the last call, which should be a second ago.
    pub fn recent(&mut self) -> String {
        let errors: u64 = self.errors.values().sum();
        let Some((recent, errors_before)) = &mut self.recent else { return String::new() };
        let [p50, p99] = [50.0, 99.0].map(|percentile| millis(recent.value_at_percentile(percentile)));
        let line =
            format!("{:>8}/s  p50 {p50} ms  p99 {p99} ms  {} errors", recent.len(), errors - *errors_before);
        recent.reset();
        *errors_before = errors;
        line
    }

    /// How many requests were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.puts.len() + self.gets.len()
    }

    /// Acknowledged requests in a second.
    pub fn per_second(&self) -> f64 {
        self.rate_of(self.acknowledged())
    }

    fn rate_of(&self, count: u64) -> f64 {
        if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 }
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

    /// What was measured, in a line.
    fn heading(&self) -> String {
        let Clients { clients, pipeline, protocol, keys, value_bytes, .. } = self.bench.clients();
        let mut parts = vec![format!("{clients} clients at {}", self.endpoints.join(" "))];
        if let Some(Protocol::Redis) = protocol {
            parts.push("Redis's protocol".to_owned());
        }
        if *pipeline > 1 {
            parts.push(format!("up to {pipeline} requests in flight each"));
        }
        if self.bench.read_percent() < 100 {
            parts.push(format!("{value_bytes}-byte values"));
        }
        parts.push(format!("{keys} keys"));
        if let Some(Timing { seconds, warmup, rate, zipf }) = self.bench.timing() {
            parts.extend(zipf.map(|exponent| format!("Zipf {exponent}")));
            parts.extend(rate.map(|rate| format!("{rate} requests a second arrive")));
            parts.push(format!("{seconds} s after {warmup} s of warm-up"));
        } else {
            parts.push(format!("{:.1} s", self.seconds));
        }
        if self.bench.stale() {
            parts.push("stale reads".to_owned());
        }
        parts.join(", ")
    }

    /// The kinds of request that this load has, with what was counted.
    fn kinds(&self) -> Vec<(&'static str, &Histogram<u64>)> {
        match self.bench.read_percent() {
            0 => vec![("put", &self.puts)],
            100 => vec![("get", &self.gets)],
            _ => vec![("put", &self.puts), ("get", &self.gets)],
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let kinds = self.kinds();
        let row = |name: &str, unit: &str, cell: &dyn Fn(&Histogram<u64>) -> String| {
            let cells =
                kinds.iter().map(|(_, of)| format!(" {:>width$}{unit}", cell(of), width = 12 - unit.len()));
            format!("\n{name:<12}{}", cells.collect::<String>())
        };
        let mut out = self.heading();
        let rate = match kinds.as_slice() {
            [(name, _)] => format!("{name}/s"),
            kinds => {
                out.push_str(&format!("\n{:<12}", ""));
                out.extend(kinds.iter().map(|(name, _)| format!(" {name:>12}")));
                "per second".to_owned()
            }
        };
        out.push_str(&row("acknowledged", "", &|of| of.len().to_string()));
        out.push_str(&row(&rate, "", &|of| format!("{:.0}", self.rate_of(of.len()))));
        for (name, _, percentile) in PERCENTILES {
            out.push_str(&row(name, " ms", &|of| millis(of.value_at_percentile(percentile))));
        }
        if self.absent > 0 {
            out.push_str(&format!("\n{} reads found nothing: fill the keys first", self.absent));
        }
        out + &format!("\n{}\n", self.errors_in_words())
    }

    /// For programs: one object, latencies in microseconds.
    pub fn json(&self) -> serde_json::Value {
        let Clients { clients, pipeline, keys, value_bytes, .. } = self.bench.clients();
        let mut all = self.puts.clone();
        // Fails for other bounds only, and they are the same.
        let _ = all.add(&self.gets);
        let mut json = serde_json::json!({
            "load": self.bench.name(),
            "endpoints": self.endpoints,
            "clients": clients,
            "pipeline": pipeline,
            "keys": keys,
            "value_bytes": value_bytes,
            "seconds": self.seconds,
            "acknowledged": self.acknowledged(),
            "per_second": self.per_second(),
            "latency_us": latencies(&all),
            "absent": self.absent,
            "errors": self.errors,
        });
        if let Some(Timing { warmup, rate, zipf, .. }) = self.bench.timing() {
            json["warmup_seconds"] = (*warmup).into();
            json["rate"] = (*rate).into();
            json["zipf"] = (*zipf).into();
        }
        if let kinds @ [_, _] = self.kinds().as_slice() {
            json["read_percent"] = self.bench.read_percent().into();
            for (name, of) in kinds {
                json[name] = serde_json::json!({
                    "acknowledged": of.len(),
                    "per_second": self.rate_of(of.len()),
                    "latency_us": latencies(of),
                });
            }
        }
        json
    }
}

fn histogram() -> Histogram<u64> {
    #[expect(
        clippy::expect_used,
        reason = "fails only for bounds or digits out of range, which are constant here"
    )]
    Histogram::new_with_bounds(1, MAX_MICROS, 3).expect("1 < an hour, at most 5 digits")
}

fn latencies(of: &Histogram<u64>) -> serde_json::Value {
    PERCENTILES
        .iter()
        .map(|&(_, name, percentile)| (name.to_owned(), of.value_at_percentile(percentile).into()))
        .collect::<serde_json::Map<String, serde_json::Value>>()
        .into()
}

fn millis(micros: u64) -> String {
    format!("{:.2}", micros as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::load;

    fn report(line: &str) -> Report {
        Report::new(&["http://a:1".parse().unwrap(), "http://b:2".parse().unwrap()], &load(line))
    }

    const PUT: &str = "put --clients 8 --seconds 2 --warmup 1 --keys 10";

    /// 1 ms, 2 ms, ... 1000 ms.
    fn thousand(report: &mut Report, operation: Operation) {
        for n in 1..=1000 {
            report.acknowledge(operation, Duration::from_millis(n));
        }
    }

    #[test]
    fn the_table_reads_like_this() {
        let mut report = report(PUT);
        thousand(&mut report, Operation::Put);
        for kind in ["503", "429", "503"] {
            report.error(kind, 1);
        }
        report.error("404", 0);
        assert_eq!(
            report.table(),
            "8 clients at http://a:1 http://b:2, 256-byte values, 10 keys, 2 s after 1 s of warm-up\n\
             acknowledged         1000\n\
             put/s                 500\n\
             p50             500.22 ms\n\
             p90             900.10 ms\n\
             p99             990.21 ms\n\
             p99.9          1000.45 ms\n\
             max            1000.45 ms\n\
             errors: 2 x 503, 1 x 429\n"
        );
    }

    #[test]
    fn a_mix_has_a_column_for_each_kind() {
        let mut report = report(
            "mixed --clients 1 --pipeline 8 --rate 100 --seconds 2 --warmup 0 --keys 10 --zipf 0.99 --stale",
        );
        thousand(&mut report, Operation::Put);
        report.acknowledge(Operation::Get, Duration::from_millis(1));
        report.absent();
        assert_eq!(
            report.table(),
            "1 clients at http://a:1 http://b:2, up to 8 requests in flight each, 256-byte values, 10 keys, Zipf 0.99, \
             100 requests a second arrive, 2 s after 0 s of warm-up, stale reads\n\
             \x20                     put          get\n\
             acknowledged         1000            1\n\
             per second            500            0\n\
             p50             500.22 ms      1.00 ms\n\
             p90             900.10 ms      1.00 ms\n\
             p99             990.21 ms      1.00 ms\n\
             p99.9          1000.45 ms      1.00 ms\n\
             max            1000.45 ms      1.00 ms\n\
             1 reads found nothing: fill the keys first\n\
             no errors\n"
        );
        let json = report.json();
        assert_eq!((&json["put"]["acknowledged"], &json["get"]["acknowledged"]), (&1000.into(), &1.into()));
        assert_eq!(json["acknowledged"], 1001);
        assert_eq!(json["rate"], 100.0);
    }

    #[test]
    fn json_has_the_same_numbers() {
        let mut report = report(PUT);
        thousand(&mut report, Operation::Put);
        report.error("503", 1);
        let json = report.json();
        assert_eq!(json["load"], "put");
        assert_eq!(json["acknowledged"], 1000);
        assert_eq!(json["per_second"], 500.0);
        assert_eq!(json["errors"]["503"], 1);
        assert_eq!(json["value_bytes"], 256);
        for (name, wanted) in [
            ("p50", 500_000.0),
            ("p90", 900_000.0),
            ("p99", 990_000.0),
            ("p99_9", 999_000.0),
            ("max", 1_000_000.0),
        ] {
            let got = json["latency_us"][name].as_f64().unwrap();
            // Three digits, and at p99.9 of a thousand one step of rounding.
            assert!((got - wanted).abs() <= wanted / 500.0, "{name}: {got}, not {wanted}");
        }
    }

    #[test]
    fn nothing_measured_is_no_division_by_zero() {
        let mut report = report("put --seconds 0");
        assert_eq!((report.acknowledged(), report.per_second()), (0, 0.0));
        assert!(report.table().contains("no errors"));
        assert_eq!(report.recent(), "");
        report.watch();
        assert!(report.recent().contains(" 0/s"));
    }

    #[test]
    fn a_look_tells_what_came_since_the_last_one() {
        let mut report = report(PUT);
        report.error("503", 5);
        report.watch();
        report.recent();
        report.error("503", 2);
        thousand(&mut report, Operation::Put);
        assert_eq!(report.recent(), "    1000/s  p50 500.22 ms  p99 990.21 ms  2 errors");
        assert_eq!(report.recent(), "       0/s  p50 0.00 ms  p99 0.00 ms  0 errors");
        assert_eq!(report.acknowledged(), 1000);
    }

    #[test]
    fn latencies_beyond_the_bounds_are_kept_at_the_bounds() {
        let mut report = report(PUT);
        report.acknowledge(Operation::Put, Duration::ZERO);
        report.acknowledge(Operation::Put, Duration::from_secs(100_000));
        assert_eq!(report.acknowledged(), 2);
        assert_eq!(report.puts.min(), 1);
        assert!(report.puts.max() >= MAX_MICROS);
    }
}
