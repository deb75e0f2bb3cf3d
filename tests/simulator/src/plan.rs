//! What a seed decides before anything happens: the cluster's shape, its limits, and which faults it will see.
//!
//! A plan can be written down ([`fmt::Display`]) and read again ([`Plan::parse`]): that is how a minimised run is replayed,
//! whose plan is no seed's.

use std::fmt;

use crate::fault::Fault;
use crate::rng::Rng;
use crate::trace::Micros;

/// One millisecond.
pub(crate) const MS: Micros = 1000;
/// One second.
pub(crate) const SECOND: Micros = 1000 * MS;

/// How one simulation is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Number of members at the beginning, all voters.
    pub members: u64,
    /// Number of clients, each with one operation at a time.
    pub clients: u64,
    /// Number of keys that they share.
    pub keys: u64,
    /// The longest value in bytes.
    pub value_bytes: u64,
    /// Longest pause of a client between two operations.
    pub think: Micros,
    /// See `kvd_node::Config::snapshot_bytes`.
    pub snapshot_bytes: u64,
    /// See `kvd_node::Config::catch_up_bytes`.
    pub catch_up_bytes: u64,
    /// See `kvd_node::Config::log_cache_bytes`.
    pub log_cache_bytes: u64,
    /// See `kvd_node::Config::segment_bytes`.
    pub segment_bytes: u64,
    /// See `kvd_node::Config::lease_reads`: 1 for true.
    pub lease_reads: u64,
    /// How long there are faults and clients.
    pub duration: Micros,
    /// Longest time between two faults.
    pub calm: Micros,
    /// The faults, in the order in which each is tried for the first time.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let members = rng.pick(&[3, 3, 3, 3, 3, 3, 5, 5, 1]);
        let lease_reads = u64::from(members > 1 && rng.permille(200));
        let snapshot_bytes = rng.pick(&[600, 2000, 8000, 64 << 20]);
        let mut plan = Self {
            members,
            clients: rng.within(2..11),
            keys: rng.within(1..9),
            value_bytes: rng.pick(&[16, 40, 300, 2000]),
            think: rng.pick(&[5, 20, 100, 500]) * MS,
            snapshot_bytes,
            catch_up_bytes: rng.pick(&[0, 500, 5000]).min(snapshot_bytes),
            segment_bytes: rng.pick(&[4096, 8192, 32_768]),
            duration: rng.within(10..40) * SECOND,
            calm: rng.pick(&[300, 1000, 3000]) * MS,
            faults: Vec::new(),
            log_cache_bytes: rng.pick(&[0, 0, 2000, 10_000, 32 << 20]),
            lease_reads,
        };
        plan.faults = Fault::ALL.iter().copied().filter(|fault| plan.permits(*fault)).collect();
        rng.shuffle(&mut plan.faults);
        let most = plan.faults.len().min(16) as u64;
        plan.faults.truncate(rng.within(2..most + 1) as usize);
        plan
    }

    /// Whether a fault can happen at all, and may.
    pub(crate) fn permits(&self, fault: Fault) -> bool {
        // Without snapshots of one's own none is sent, unless somebody joins.
        let snapshots = self.snapshot_bytes < 1 << 20;
        self.members >= fault.needs()
            && (self.lease_reads == 0 || fault.spares_the_lease())
            && (snapshots || !matches!(fault, Fault::BrokenSnapshots | Fault::SnapshotInterrupted))
    }

    /// The numbers by name, times in milliseconds.
    fn numbers(&mut self) -> [(&'static str, &mut u64, u64); 12] {
        [
            ("members", &mut self.members, 1),
            ("clients", &mut self.clients, 1),
            ("keys", &mut self.keys, 1),
            ("value_bytes", &mut self.value_bytes, 1),
            ("think_ms", &mut self.think, MS),
            ("snapshot_bytes", &mut self.snapshot_bytes, 1),
            ("catch_up_bytes", &mut self.catch_up_bytes, 1),
            ("log_cache_bytes", &mut self.log_cache_bytes, 1),
            ("segment_bytes", &mut self.segment_bytes, 1),
            ("lease_reads", &mut self.lease_reads, 1),
            ("duration_ms", &mut self.duration, MS),
            ("calm_ms", &mut self.calm, MS),
        ]
    }

    /// Changes what `text` names, in the form in which a plan is written; the rest stays.
    ///
    /// # Errors
    /// The first word that makes no sense.
    pub fn parse(mut self, text: &str) -> Result<Self, String> {
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: like members=3"))?;
            if name == "faults" {
                let names = value.split(',').filter(|name| !name.is_empty());
                let faults = names.map(|name| Fault::named(name).ok_or_else(|| format!("no fault {name}")));
                self.faults = faults.collect::<Result<_, _>>()?;
                continue;
            }
            let value: u64 = value.parse().map_err(|error| format!("{word}: {error}"))?;
            let mut numbers = self.numbers();
            let number = numbers.iter_mut().find(|(known, ..)| *known == name);
            let (_, number, unit) = number.ok_or_else(|| format!("a plan has no {name}"))?;
            **number = value.checked_mul(*unit).ok_or_else(|| format!("{word}: too large"))?;
        }
        if self.members == 0 || self.keys == 0 || self.value_bytes == 0 {
            return Err("members, keys and value_bytes are at least 1".into());
        }
        Ok(self)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, number, unit) in self.clone().numbers() {
            write!(f, "{name}={} ", *number / unit)?;
        }
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        write!(f, "faults={}", faults.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        for seed in 0..200 {
            let plan = Plan::draw(&mut Rng::new(seed));
            let other = Plan::draw(&mut Rng::new(seed + 1000));
            assert_eq!(other.parse(&plan.to_string()), Ok(plan));
        }
    }

    #[test]
    fn what_a_plan_does_not_have_is_refused() {
        let plan = Plan::draw(&mut Rng::new(1));
        for bad in ["members", "members=x", "colour=1", "faults=Kill,Fire", "members=0"] {
            assert!(plan.clone().parse(bad).is_err(), "{bad}");
        }
        assert_eq!(plan.clone().parse("faults=").map(|plan| plan.faults), Ok(Vec::new()));
    }

    #[test]
    fn a_plan_has_no_fault_that_cannot_happen() {
        for seed in 0..500 {
            let plan = Plan::draw(&mut Rng::new(seed));
            assert!(plan.faults.iter().all(|fault| plan.permits(*fault)), "{plan}");
            assert!(plan.faults.len() >= 2, "{plan}");
        }
    }
}
